"""Environments such as users bring: with state of their own, Dict observations, or many at once."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Counted(gymnasium.Env):
    """A walk whose goal moves from episode to episode, and which counts all its steps."""

    observation_space = spaces.Box(-10, 10, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.goal, self.total = 1.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:  # each evaluation starts alike
            self.goal, self.total = 1.0, 0
        self.place, self.t, self.goal = float(self.np_random.normal()), 0, -self.goal
        return self._obs(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t, self.total = self.t + 1, self.total + 1
        noise = 0.05 * self.np_random.normal()
        self.place = float(np.clip(self.place + 0.2 * (int(action) - 1) + noise, -9, 9))
        cost = abs(self.place - self.goal) + 1e-4 * (self.total % 7)
        return self._obs(), -cost, cost < 0.05, self.t >= 40, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.place, self.goal, self.t / 40], np.float32)


class Parts(gymnasium.Env):
    """The same with continuous actions, observations in a Dict, and a state that it offers."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(-10, 10, (2,), np.float32), "lamp": spaces.Discrete(3), "clock": spaces.Box(0, 1)}
    )
    action_space = spaces.Box(np.float32([0, -3]), np.float32([5, -1]))

    def __init__(self) -> None:
        self.pipe = open(__file__)  # what no pickle takes # noqa: SIM115

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.t, self.lamp = self.np_random.normal(size=2), 0, int(self.np_random.integers(3))
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place = np.clip(self.place + 0.1 * (action - [2.5, -2]) + 0.02 * self.np_random.normal(size=2), -9, 9)
        self.lamp = int(self.np_random.integers(3))
        return self._obs(), -float(np.square(self.place).sum()), False, self.t >= 25, {}

    def get_state(self) -> Any:
        return self.place.copy(), self.t, self.lamp, self.np_random.bit_generator.state

    def set_state(self, state: Any) -> None:
        self.place, self.t, self.lamp, self.np_random.bit_generator.state = state

    def close(self) -> None:
        self.pipe.close()

    def _obs(self) -> dict[str, Any]:
        clock = np.array([self.t / 25], np.float32)
        return {"place": self.place.astype(np.float32), "lamp": self.lamp, "clock": clock}


class Vector(VectorEnv):
    """Many walks at once that reset in the step after an ending."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space = spaces.Box(-10, 10, (2,), np.float32)
    single_action_space = spaces.Discrete(3)

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs = num_envs
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.place, self.t = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.ended = np.ones(num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.t = self.np_random.normal(size=self.num_envs), np.zeros(self.num_envs, np.int64)
        self.ended = np.zeros(self.num_envs, bool)
        return self._obs(), {}

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.place = np.where(self.ended, self.np_random.normal(size=self.num_envs), self.place + 0.2 * (actions - 1))
        self.t = np.where(self.ended, 0, self.t + 1)
        reward = np.where(self.ended, 0.0, -np.abs(self.place))
        self.ended = self.t >= 30
        return self._obs(), reward, np.zeros(self.num_envs, bool), self.ended.copy(), {}

    def _obs(self) -> np.ndarray:
        return np.stack([np.clip(self.place, -10, 10), self.t / 30], 1).astype(np.float32)
