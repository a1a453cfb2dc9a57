"""SPSA: simultaneous perturbation stochastic approximation (Spall 1992, IEEE TAC 37, 332-341).

Gradient-free: all parameters are moved at once, each by +c or -c, and two costs tell the slope along them all. Gains
fall as Spall's guidelines say (1998, IEEE TAES 34, 817-823), the first step's among them.

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
from costgrad.rl.evolution.search import directions, mirrored, pairs, slope
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class SPSAConfig(SearchConfig):
    """Settings of SPSA; every one is a flag of the command train."""

    directions: int = 4
    """Mirrored pairs of candidates per generation."""
    sigma: float = 0.1
    """Initial perturbation of each parameter: c."""
    first_step: float = 0.1
    """Initial step of a parameter, on average: a follows from the first gradient estimates that are not 0."""
    stability: float = 10.0
    """Updates by which the decay of the steps is delayed: A."""


class SPSA(AgentMixin):
    """SPSA; `AgentMixin` documents the arguments."""

    config_class = SPSAConfig
    counters = ("steps", "updates", "gain")

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: SPSAConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or SPSAConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, noise = spawn_seeds(seed, 2)
        self.policies = Policies(self.codec, c.hidden, c.activation, c.normalize_obs, weights)
        self.actor = self.policies.actor  # the centre's network
        self.population = Population(self.policies, c.episodes, noise)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.steps = self.updates = 0
        self.gain = 0.0  # a; 0 until a slope has been seen
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
        """Pairs at center +- c_k Delta, Delta of +1 and -1."""
        noise = np.sign(self.population.noise(self.config.directions))
        self.population.start(mirrored(self.policies.center, noise, self._sigma))

    @property
    def _sigma(self) -> float:
        """c_k = c / (k + 1)^0.101."""
        return self.config.sigma / (self.updates + 1) ** 0.101

    def update(self) -> dict[str, Tensor]:
        """One step when a generation has been played: center - a_k g, a_k = a / (k + 1 + A)^0.602."""
        if not self.population.done:
            return {}
        plus, minus = pairs(self.population.cost)
        # 1 / Delta is Delta; the mean over pairs averages the noise away.
        delta = np.sign(directions(self.population.candidates, self._sigma))
        gradient = slope(plus, minus, delta) / np.float32(2 * self._sigma)
        c, size = self.config, float(np.abs(gradient).mean())
        if self.gain == 0 and size > 0:
            self.gain = c.first_step * (self.updates + 1 + c.stability) ** 0.602 / size
        step = np.float32(self.gain / (self.updates + 1 + c.stability) ** 0.602) * gradient
        self.policies.move(self.policies.center - step)
        self.updates += 1
        metrics = {**self.population.metrics, "step_norm": torch.tensor(float(np.linalg.norm(step)))}
        self._ask()
        return metrics
