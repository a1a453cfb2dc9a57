"""Tasks written once for n rows: one row is a gymnasium.Env, many rows are a VectorEnv."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from costgrad.envs.errors import EnvError

Array = np.ndarray
Transition = tuple[Array, Array, Array]  # next_state [n, S], reward [n], terminated [n] bool


class BatchedTask(gymnasium.Env[Any, Any]):
    """An environment of one row. A task defines its spaces, `horizon`, and the three methods below."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    horizon: int | None = None  # time limit of an episode in steps; None: no limit
    horizon_terminates: bool = False  # whether the last step is terminated rather than truncated
    state: Array  # [1, S]
    elapsed: int

    @abstractmethod
    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """Draws n first states, [n, S]."""

    @abstractmethod
    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """One step: state [n, S], action [n, A] or [n] -> next_state [n, S], reward [n], terminated [n] bool."""

    @abstractmethod
    def observe(self, state: Array) -> Any:
        """The observation: state [n, S] -> obs [n, *obs_shape], a new array, or a dict of such."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode: obs [*obs_shape] and an empty info."""
        super().reset(seed=seed)
        self.state, self.elapsed = self.initial(self.np_random, 1), 0
        return _row(self.observe(self.state), 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step: obs [*obs_shape], reward, terminated, truncated, info."""
        self.state, reward, terminated = self.transition(self.state, np.asarray(action)[None], self.np_random)
        self.elapsed += 1
        timeout = self.horizon is not None and self.elapsed >= self.horizon
        ended = bool(terminated[0]) or (timeout and self.horizon_terminates)
        return _row(self.observe(self.state), 0), float(reward[0]), ended, timeout and not self.horizon_terminates, {}


class TaskVectorEnv(VectorEnv[Any, Any, Any]):
    """N rows of a `BatchedTask` that step in one call, with one random stream for all of them.

    A row that ended is reset in the same step (SAME_STEP): `info["final_obs"]` is an object array [N] that holds the
    last obs where `info["_final_obs"]` [N] is True. All returned arrays are new.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, task: Callable[..., BatchedTask], num_envs: int = 1, max_episode_steps: int | None = None, **kwargs: Any
    ) -> None:
        """`task(**kwargs)` defines spaces and dynamics; its exceptions are not caught.

        `max_episode_steps` truncates as gymnasium's TimeLimit does, in addition to the task's own time limit. Raises
        EnvError.
        """
        if max_episode_steps is not None and (not isinstance(max_episode_steps, int) or max_episode_steps < 1):
            raise EnvError(f"max_episode_steps is {max_episode_steps!r}: it must be a whole number of at least 1")
        self.task, self.num_envs = task(**kwargs), num_envs
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state: Array = np.zeros((num_envs, 0))  # [N, S]
        self.elapsed = np.zeros(num_envs, dtype=np.int64)
        self.limit = max_episode_steps
        self.clock = True  # whether time limits truncate episodes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts all episodes: obs [N, *obs_shape] and an empty info."""
        super().reset(seed=seed)
        self.state = self.task.initial(self.np_random, self.num_envs)
        self.elapsed[:] = 0
        return self.task.observe(self.state), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every row: obs [N, *obs_shape], reward, terminated, truncated [N], info."""
        task = self.task
        state, reward, terminated = task.transition(self.state, np.asarray(actions), self.np_random)
        self.elapsed += 1
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        if task.horizon is not None:
            timeout = self.elapsed >= task.horizon
            flags = (terminated | timeout, truncated) if task.horizon_terminates else (terminated, timeout)
            terminated, truncated = flags
        if self.limit is not None:
            truncated = truncated | (self.elapsed >= self.limit)
        truncated &= self.clock
        obs, info = task.observe(state), {}
        done = terminated | truncated
        if done.any():
            rows = np.flatnonzero(done)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in rows.tolist():
                final_obs[i] = _row(obs, i)
            info = {"final_obs": final_obs, "_final_obs": done}
            state = state.copy()  # a task may return its argument
            state[rows] = task.initial(self.np_random, len(rows))
            _put(obs, rows, task.observe(state[rows]))
            self.elapsed[rows] = 0
        self.state = state
        return obs, reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """A copy of the full state, including the generator, for `set_state` here or in another instance."""
        generator = self.np_random.bit_generator.state
        return {"state": self.state.copy(), "elapsed": self.elapsed.copy(), "generator": generator}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state of `get_state`. Raises EnvError for another num_envs."""
        if len(state["elapsed"]) != self.num_envs:
            raise EnvError(
                f"a state of num_envs {len(state['elapsed'])} cannot be set here: it must be {self.num_envs}"
            )
        self.state, self.elapsed = state["state"].copy(), state["elapsed"].copy()
        self.np_random.bit_generator.state = state["generator"]

    def reseed(self, seed: int) -> None:
        """Reseeds the random stream; the states do not change."""
        self.np_random, _ = seeding.np_random(seed)

    def stop_clock(self) -> int | None:
        """Removes the time limits, for rollouts beyond them. Returns the limit.

        With `horizon_terminates` the last step still terminates.
        """
        self.clock = False
        limits = [] if self.task.horizon is None or self.task.horizon_terminates else [self.task.horizon]
        return min(limits + ([] if self.limit is None else [self.limit]), default=None)


def _row(obs: Any, i: int) -> Any:
    """A copy of row i of an observation."""
    return {key: part[i].copy() for key, part in obs.items()} if isinstance(obs, dict) else obs[i].copy()


def _put(obs: Any, rows: Array, new: Any) -> None:
    """Replaces rows of an observation."""
    if isinstance(obs, dict):
        for key, part in obs.items():
            part[rows] = new[key]
    else:
        obs[rows] = new
