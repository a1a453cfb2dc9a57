"""ARS: augmented random search (Mania, Guy & Recht 2018, 1803.07055), version V2-t.

Gradient-free: a linear policy goes along the directions in which its episodes cost less. Observations are normalised,
the few directions that held the cheapest candidates count, and the step is measured in the deviation of their costs.

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
from costgrad.rl.errors import UserError
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.evolution.search import cheapest_pairs, directions, mirrored, pairs, slope
from costgrad.rl.optim import annealed
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

TINY = 1e-8  # where all costs are alike, there is no direction to go


@settings
class ARSConfig(SearchConfig):
    """Settings of ARS; every one is a flag of the command train."""

    directions: int = 8
    """Mirrored pairs of candidates per generation."""
    top: int = 8
    """Best pairs that the step is taken from: those with the cheapest candidates."""
    sigma: float = 0.05
    """Standard deviation of the candidates around the centre, per parameter."""
    learning_rate: float = 0.02
    """Step size, in units of the costs' standard deviation."""
    decay_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it."""

    def check(self) -> None:
        """Raises UserError where settings do not fit one another."""
        if self.top > self.directions:
            raise UserError(f"top must be at most directions, {self.directions}, got {self.top}")


class ARS(AgentMixin):
    """ARS; `AgentMixin` documents the arguments."""

    config_class = ARSConfig

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: ARSConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or ARSConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, noise = spawn_seeds(seed, 2)
        self.policies = Policies(self.codec, c.hidden, c.activation, c.normalize_obs, weights)
        self.actor = self.policies.actor  # the centre's network
        self.population = Population(self.policies, c.episodes, noise)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.steps = self.updates = 0
        self._ask()

    def on_reset(self) -> None:
        """Called after every reset: candidates whose episode is unfinished play it again."""
        self.population.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: by a candidate each, or by the centre."""
        return self.population.act(obs) if explore else self.policies.best(obs)

    def observe(self, step: Step) -> None:
        """Counts what the step cost each candidate."""
        self.population.observe(step)
        self.steps += int(step.valid.sum())

    def _ask(self) -> None:
        """Pairs on both sides of the centre."""
        noise = self.population.noise(self.config.directions)
        self.population.start(mirrored(self.policies.center, noise, self.config.sigma))

    def update(self) -> dict[str, Tensor]:
        """One step when a generation has been played (algorithm 2, lines 5 to 7)."""
        if not self.population.done:
            return {}
        c, (plus, minus) = self.config, pairs(self.population.cost)
        top = cheapest_pairs(plus, minus, c.top)
        plus, minus, noise = plus[top], minus[top], directions(self.population.candidates, c.sigma)[top]
        deviation = np.concatenate((plus, minus)).std() + TINY
        step = np.float32(annealed(c.learning_rate, self.steps, c.decay_steps) / deviation) * slope(plus, minus, noise)
        self.policies.move(self.policies.center - step)
        self.updates += 1
        metrics = {**self.population.metrics, "step_norm": torch.tensor(float(np.linalg.norm(step)))}
        self._ask()
        return metrics
