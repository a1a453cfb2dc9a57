"""ARS: augmented random search (Mania, Guy & Recht 2018, 1803.07055), version V2-t.

Gradient-free: a linear policy goes along the directions in which its episodes cost less. Observations are normalised,
the few directions that held the cheapest candidates count, and the step is measured in the deviation of their costs.

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
from costgrad.rl.errors import UserError
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.evolution.search import cheapest_pairs, directions, mirrored, pairs, slope
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.optim import annealed
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

TINY = 1e-8  # where all costs are alike, there is no direction to go


@settings
class ARSConfig:
    """Settings of ARS; every one is a flag of scripts/train.py."""

    directions: int = 8
    """Mirrored pairs of a generation."""
    top: int = 8
    """Pairs of these that count: those with the cheapest candidates."""
    sigma: float = 0.05
    """How far a candidate stands from the centre, in each parameter."""
    learning_rate: float = 0.02
    """Step along the mean direction, in units of the costs' deviation."""
    decay_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it."""
    episodes: int = 1
    """That each candidate plays."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers; none is a linear policy."""
    activation: Activation = "tanh"
    """Between the layers."""

    def check(self) -> None:
        """Raises UserError where settings do not fit one another."""
        if self.top > self.directions:
            raise UserError(f"top must be at most directions, {self.directions}, got {self.top}")


class ARS:
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
    def load(cls, path: str | Path, device: str = "cpu") -> ARS:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, ARSConfig, device)
