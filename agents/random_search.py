"""Random search: normal steps from the best so far, kept where they cost less (Rastrigin 1963); their length adapts.

The plainest of the gradient-free agents, and what any other should beat. Costs are noisy, so the best plays again in
every generation, and the mean of all it has played is what others must beat: luck does not last.

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
from costgrad.rl.data import Step
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class RandomSearchConfig(SearchConfig):
    """Settings of random search; every one is a flag of the command train."""

    population: int = 8
    """Candidates per generation, beside the best so far."""
    sigma: float = 0.3
    """Initial standard deviation of the candidates around the best, per parameter."""
    shrink: float = 0.95
    """Factor on sigma after a generation without success; one with success divides by it."""
    normalize_obs: bool = False
    """Normalise observations to mean 0 and variance 1; the same parameters then do not stay the same policy."""


class RandomSearch(AgentMixin):
    """RandomSearch; `AgentMixin` documents the arguments."""

    config_class = RandomSearchConfig
    counters = ("steps", "updates", "sigma", "best_cost", "trials")
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
        """Called after every reset: candidates whose episode is unfinished play it again."""
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
