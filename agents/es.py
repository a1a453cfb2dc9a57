"""ES: evolution strategies as a scalable alternative (Salimans et al. 2017, 1703.03864), known as OpenAI-ES.

Gradient-free: the centre of a cloud of candidates descends the slope that the cloud shows. Candidates come in mirrored
pairs, costs count by their ranks alone, and Adam with weight decay takes the step.

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
from costgrad.rl.evolution.search import centered_ranks, directions, mirrored, pairs, slope
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.optim import Optimizer
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class ESConfig:
    """Settings of ES; every one is a flag of scripts/train.py."""

    directions: int = 16
    """Mirrored pairs of a generation."""
    sigma: float = 0.1
    """How far a candidate stands from the centre, in each parameter."""
    learning_rate: float = 0.05
    """Learning rate of Adam."""
    decay_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it."""
    beta1: float = 0.9
    """Of Adam: how much of the mean gradient a step keeps."""
    l2: float = 0.005
    """Weight decay: factor of the penalty l2/2 |w|^2 on weights."""
    episodes: int = 1
    """That each candidate plays."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers; none is a linear policy."""
    activation: Activation = "tanh"
    """Between the layers."""


class ES:
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
        """Fresh episodes start, perhaps in another number."""
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

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` says, by the centre, which never draws; `state` is handed back."""
        return self.policies.predict(obs), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future; the tensors are the live ones. Episodes under way are not in it."""
        meta = {"steps": self.steps, "updates": self.updates}
        return checkpoint.gather(self.parts), meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        checkpoint.hand_out(tensors, self.parts)
        self.steps, self.updates = meta["steps"], meta["updates"]

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> ES:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, ESConfig, device)
