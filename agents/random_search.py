"""Random search: normal steps from the best so far, kept where they cost less (Rastrigin 1963); their length adapts.

The plainest of the gradient-free agents, and what any other should beat. Costs are noisy, so the best plays again in
every generation, and the mean of all it has played is what others must beat: luck does not last.

The file reads in the order of a generation: ask, play (rl/evolution/population.py), tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.rl import checkpoint
from costgrad.rl.data import Step
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class RandomSearchConfig:
    """Settings of random search; every one is a flag of scripts/train.py."""

    population: int = 8
    """Candidates of a generation, beside the best so far."""
    sigma: float = 0.3
    """How far a candidate stands from the best at first, in each parameter."""
    shrink: float = 0.95
    """What a generation without success multiplies that by, and one with success divides it by."""
    episodes: int = 1
    """That each candidate plays."""
    normalize_obs: bool = False
    """Shift and scale observations to mean 0 and variance 1; the same parameters then do not stay the same policy."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers; none is a linear policy."""
    activation: Activation = "tanh"
    """Between the layers."""


class RandomSearch:
    """The agent; see `Agent` in rl/loop.py.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: its settings.
        seed: decides initial weights and noise.
        device: as for other agents; the search itself stays on the host.

    Raises:
        UserError: a space it cannot be trained on.
    """

    finds = "of the best so far,"  # what it estimates, for drawings

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: RandomSearchConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or RandomSearchConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, noise = spawn_seeds(seed, 2)
        self.policies = Policies(self.codec, c.hidden, c.activation, c.normalize_obs, weights)
        self.actor = self.policies.actor  # the centre's network
        self.population = Population(self.policies, c.episodes, noise)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.steps = self.updates = 0
        self.sigma = c.sigma
        self.best_cost, self.trials = 0.0, 0  # of the best so far, over so many generations
        self._ask()

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number."""
        self.population.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: by a candidate each, or by the best so far."""
        return self.population.act(obs) if explore else self.policies.best(obs)

    def observe(self, step: Step) -> None:
        """Counts what the step cost each candidate."""
        self.population.observe(step)
        self.steps += int(step.valid.sum())

    def _ask(self) -> None:
        """The best so far, and candidates round it."""
        noise = self.population.noise(self.config.population)
        best = self.policies.center
        self.population.start(np.concatenate((best[None], best + np.float32(self.sigma) * noise)))

    def update(self) -> dict[str, Tensor]:
        """Keeps the best when a generation has been played."""
        if not self.population.done:
            return {}
        c, (again, *others) = self.config, self.population.cost
        self.trials += 1
        self.best_cost += (float(again) - self.best_cost) / self.trials
        cheapest = int(np.argmin(others))
        if success := bool(others[cheapest] < self.best_cost):
            self.policies.move(self.population.candidates[1 + cheapest])
            self.best_cost, self.trials = float(others[cheapest]), 1
        self.sigma *= 1 / c.shrink if success else c.shrink
        self.updates += 1
        metrics = self.population.metrics | {"best_cost": torch.tensor(self.best_cost)}
        metrics |= {"sigma": torch.tensor(self.sigma)}
        self._ask()
        return metrics

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` says, by the best so far, which never draws; `state` is handed back."""
        return self.policies.predict(obs), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future; the tensors are the live ones. Episodes under way are not in it."""
        meta = {
            **{"steps": self.steps, "updates": self.updates, "sigma": self.sigma},
            **{"best_cost": self.best_cost, "trials": self.trials},
        }
        return checkpoint.gather(self.parts), meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        checkpoint.hand_out(tensors, self.parts)
        self.steps, self.updates, self.sigma = meta["steps"], meta["updates"], meta["sigma"]
        self.best_cost, self.trials = meta["best_cost"], meta["trials"]

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> RandomSearch:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, RandomSearchConfig, device)
