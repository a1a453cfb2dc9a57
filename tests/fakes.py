"""A tiny agent and tiny environments, whose numbers are known, for the tests of what stands around the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from costgrad.rl.data import Step
from costgrad.rl.spaces import Codec


@dataclass(frozen=True)
class FakeConfig:
    size: int = 3
    hidden: tuple[int, ...] = (4, 4)


class Fake:
    """Counts what it sees; its action says how often it was updated (0 or 1)."""

    keeps_episodes = True  # it has nothing of theirs

    def __init__(
        self, observation_space: Any, action_space: Any, config: FakeConfig, seed: int = 0, device: str = "cpu"
    ):
        self.codec, self.config = Codec(observation_space, action_space, device), config
        self.weights = torch.zeros(config.size)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = self.updates = 0
        self.seen: list[np.ndarray] = []  # observations, for the tests

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        self.seen.append(obs.copy())
        return torch.randint(0, 2, (len(obs),), generator=self.generator).numpy()

    def on_reset(self) -> None:
        pass

    def observe(self, step: Step) -> None:
        self.steps += int(step.valid.sum())

    def update(self) -> dict[str, Tensor]:
        self.updates += 1
        self.weights += 1
        return {"loss": torch.tensor(float(self.updates)), "twice": torch.tensor(2.0 * self.updates)}

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        return self.codec.predict(lambda o: np.zeros(len(o), dtype=np.int64), obs), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"weights": self.weights, "generator": self.generator.get_state()}
        return tensors, {"steps": self.steps, "updates": self.updates}

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.weights.copy_(tensors["weights"])
        self.generator.set_state(tensors["generator"])
        self.steps, self.updates = meta["steps"], meta["updates"]


class Countdown(gymnasium.Env):
    """An episode lasts as many steps as the first obs says, drawn from `lengths`; the reward is 1 a step.

    obs is [length, steps done]. Episodes of the fixed `lengths` are long or short by chance alone.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, lengths: tuple[int, ...] = (2, 40), render_mode: str | None = None):
        self.observation_space = spaces.Box(0, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.lengths, self.render_mode = lengths, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed_given = seed
        self.length, self.done = int(self.np_random.choice(self.lengths)), 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.done += 1
        return self._obs(), 1.0, self.done >= self.length, False, {}

    def render(self) -> np.ndarray:
        return np.full((32, 48, 3), self.done % 255, dtype=np.uint8)

    def _obs(self) -> np.ndarray:
        return np.array([self.length, self.done], dtype=np.float32)


class Remade(SyncVectorEnv):
    """A SyncVectorEnv that can be made again, as those of costgrad.envs.make."""

    name = "Countdown"

    def __init__(
        self, num_envs: int = 4, seed: int = 0, render_mode: str | None = None, cls: Any = Countdown, **kwargs: Any
    ):
        self.initial_seed, self._again = seed, (cls, kwargs)
        self.closed_by_us = False
        super().__init__(
            [lambda: cls(render_mode=render_mode, **kwargs)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
        )

    def factory(self, num_envs: int, seed: int, render_mode: str | None = None) -> VectorEnv:
        cls, kwargs = self._again
        return Remade(num_envs, seed, render_mode, cls, **kwargs)


def fake(env: VectorEnv, **config: Any) -> Fake:
    return Fake(env.single_observation_space, env.single_action_space, FakeConfig(**config))
