"""CMA-ES: evolution by covariance matrix adaptation (Hansen 2016, 1604.00772), by the package `cmaes`.

Gradient-free: candidates are drawn from a Gaussian whose mean, step size and covariance follow the cheaper half. Of
many parameters the covariance is kept diagonal (sep-CMA-ES, Ros & Hansen 2008), or it would be their number squared.

The file reads in the order of a generation: ask, play (rl/evolution/population.py), tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.agents.common import AgentMixin
from costgrad.agents.configs import SearchConfig
from costgrad.rl import checkpoint
from costgrad.rl.checks import tensor, within
from costgrad.rl.data import Step, to_numpy
from costgrad.rl.errors import UserError
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

MOVING = ("_mean", "_sigma", "_C", "_B", "_D", "_p_sigma", "_pc", "_g")  # what a search changes of its numbers


@settings
class CMAESConfig(SearchConfig):
    """Settings of CMA-ES; every one is a flag of the command train."""

    candidates: int = 0
    """Candidates per generation, 4 or more; 0 takes 4 + 3 ln P for P parameters."""
    sigma: float = 0.5
    """Initial standard deviation of each parameter."""
    separable_from: int = 500
    """Number of parameters from which on the covariance is diagonal (separable CMA-ES)."""

    def check(self) -> None:
        """Raises UserError where settings do not fit one another."""
        if 0 < self.candidates < 4:
            raise UserError(f"candidates must be 0 or at least 4, got {self.candidates}")


class CMAES(AgentMixin):
    """CMAES; `AgentMixin` documents the arguments."""

    config_class = CMAESConfig
    finds = "of mean and spread,"  # what it estimates, for drawings

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: CMAESConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        try:  # here, for it takes SciPy along: more than a second, which other agents need not wait for
            from cmaes import CMA, SepCMA
        except ImportError as error:
            raise UserError("cmaes needs a package: pip install 'costgrad[cma]'") from error
        self.config = c = config or CMAESConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, noise = spawn_seeds(seed, 2)
        self.policies = Policies(self.codec, c.hidden, c.activation, c.normalize_obs, weights)
        self.actor = self.policies.actor  # the centre's network
        self.population = Population(self.policies, c.episodes, noise)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.steps = self.updates = 0
        if self.policies.size < 2:
            raise UserError(f"CMAES searches among 2 parameters or more, the policy has {self.policies.size}")
        kind = SepCMA if self.policies.size >= c.separable_from else CMA
        mean = self.policies.center.astype(np.float64)
        self.search = kind(mean, c.sigma, seed=0, population_size=c.candidates or None)
        self._ask()

    def on_reset(self) -> None:
        """Called after every reset: candidates whose episode is unfinished play it again."""
        self.population.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: by a candidate each, or by the mean."""
        return self.population.act(obs) if explore else self.policies.best(obs)

    def observe(self, step: Step) -> None:
        """Counts what the step cost each candidate."""
        self.population.observe(step)
        self.steps += int(step.valid.sum())

    def _ask(self) -> None:
        """Candidates from the Gaussian; its noise is seeded anew each time, so that a seed is all of its state."""
        self.search.reseed_rng(int(torch.randint(2**31, (1,), generator=self.population.generator)))
        self.population.start(np.stack([self.search.ask() for _ in range(self.search.population_size)]))

    def update(self) -> dict[str, Tensor]:
        """Moves mean and covariance when a generation has been played."""
        if not self.population.done:
            return {}
        played = self.population.candidates.astype(np.float64)
        self.search.tell(list(zip(played, self.population.cost.tolist(), strict=True)))
        self.policies.move(self.search.mean.astype(np.float32))
        self.updates += 1
        metrics = self.population.metrics
        self._ask()
        return metrics

    def _numbers(self) -> dict[str, Any]:
        """Arrays and numbers of the package's object, by attribute: all but its noise, and a history that it reads not.

        Its own pickling makes the covariance symmetric, and so other by a rounding.
        """
        kept = {k: v for k, v in vars(self.search).items() if k != "_funhist_values"}
        return {k: v for k, v in kept.items() if isinstance(v, np.ndarray | float | int)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As of `AgentMixin`, and the numbers of the search."""
        tensors, meta = super().state()
        search = {f"search{name}": torch.as_tensor(np.array(v)) for name, v in self._numbers().items()}
        return tensors | search, meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Restores what `state` gave. Raises ValueError where it is of another search, or damaged."""
        super().load_state(tensors, meta)
        for name, now in self._numbers().items():
            like = torch.as_tensor(np.array(now))
            saved = tensor(tensors, f"search{name}", like.dtype, like.shape)
            value = to_numpy(saved)
            if name not in MOVING and not np.allclose(value, now):
                raise ValueError(f"its search has another {name.strip('_')} than a search among as many parameters")
            if name in ("_sigma", "_D"):
                within(saved, f"search{name}", 1e-300, 1e32)
            setattr(self.search, name, value.copy() if isinstance(now, np.ndarray) else type(now)(value))
