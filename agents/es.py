"""ES: evolution strategies as a scalable alternative (Salimans et al. 2017, 1703.03864), known as OpenAI-ES.

Gradient-free: the centre of a cloud of candidates descends the slope that the cloud shows. Candidates come in mirrored
pairs, costs count by their ranks alone, and Adam with weight decay takes the step.

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
from costgrad.rl.evolution.search import centered_ranks, directions, mirrored, pairs, slope
from costgrad.rl.optim import Optimizer
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class ESConfig(SearchConfig):
    """Settings of ES; every one is a flag of the command train."""

    directions: int = 16
    """Mirrored pairs of candidates per generation."""
    sigma: float = 0.1
    """Standard deviation of the candidates around the centre, per parameter."""
    learning_rate: float = 0.05
    """Learning rate of Adam."""
    decay_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it."""
    beta1: float = 0.9
    """Decay rate of Adam's mean gradient."""
    l2: float = 0.005
    """Weight decay: factor of the penalty l2/2 |w|^2 on the weights."""
    hidden: tuple[int, ...] = (32, 32)


class ES(AgentMixin):
    """ES; `AgentMixin` documents the arguments."""

    config_class = ESConfig

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: ESConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or ESConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, noise = spawn_seeds(seed, 2)
        self.policies = Policies(self.codec, c.hidden, c.activation, c.normalize_obs, weights)
        self.actor = self.policies.actor  # the centre's network
        self.population = Population(self.policies, c.episodes, noise)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.steps = self.updates = 0
        self.optimizer = Optimizer(
            self.policies.actor, "adam", c.learning_rate, l2=c.l2, decay_steps=c.decay_steps, beta1=c.beta1
        )
        self.parts["optimizer"] = self.optimizer
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
        """One step of Adam when a generation has been played (algorithm 1, with ranks for costs)."""
        if not self.population.done:
            return {}
        c = self.config
        plus, minus = pairs(centered_ranks(self.population.cost))
        gradient = slope(plus, minus, directions(self.population.candidates, c.sigma)) / np.float32(2 * c.sigma)
        self.optimizer.anneal(self.steps)
        norm = self.optimizer.apply(self.policies.split(torch.from_numpy(gradient)))
        self.updates += 1
        metrics = {**self.population.metrics, "gradient_norm": norm}
        self._ask()
        return metrics
