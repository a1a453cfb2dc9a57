"""Environments of the package envpool, which steps them in its own threads."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from costgrad.envs.build import guard
from costgrad.envs.errors import EnvError
from costgrad.envs.native.actions import as_array, check_values

Array = np.ndarray


class PoolVectorEnv(VectorEnv[Any, Any, Any]):
    """N environments of envpool with gymnasium's spaces: the same tasks, but not bit-equal, with other random streams.

    A row that ended is reset by the next step, which ignores its action (NEXT_STEP). Row i is seeded with seed + i.

    Limitations of envpool (1.2): an episode that terminates in the last step before the time limit is only reported as
    truncated; no reset of single rows or with options; no rendering. `info` is envpool's own, without masks.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, name: str, single: gymnasium.Env[Any, Any], num_envs: int, seed: int, kwargs: Mapping[str, Any]
    ) -> None:
        """Makes the environments.

        Args:
            name: gymnasium's id, which envpool must know too.
            single: gymnasium's environment of that id, for its spaces.
            num_envs: N.
            seed: of the first `reset` without a seed.
            kwargs: envpool's arguments, such as `max_episode_steps`.
        Raises:
            EnvError: envpool is not installed, does not know the id or an argument, or has other spaces.
        """
        try:
            import envpool
        except ImportError as error:
            raise EnvError("backend 'envpool' needs envpool: pip install 'costgrad[envpool]'") from error
        known = envpool.list_all_envs()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f": it has {' or '.join(near)}" if near else ""
            raise EnvError(f"envpool has no '{name}'{hint}; use another backend")
        self.num_envs, self._seed = num_envs, seed
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._shape = (num_envs, *(self.single_action_space.shape or ()))
        self._pool: Any = None  # made by `reset`

        def make_pool(seeds: list[int]) -> Any:
            made = envpool.make_gymnasium(name, num_envs=num_envs, env_seed=[s % 2**31 for s in seeds], **kwargs)
            for ours, theirs in (
                (self.single_observation_space, made.observation_space),
                (self.single_action_space, made.action_space),
            ):
                if (type(theirs), theirs.shape) != (type(ours), ours.shape):
                    raise EnvError(f"envpool's {name} has {theirs} where gymnasium's has {ours}; use another backend")
            return made

        self._make_pool = partial(_quietly, f"envpool's {name}", make_pool)
        self._make_pool(list(range(num_envs)))  # raises here, not at the first reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Starts all episodes: obs [N, *obs_shape] and info. Without a seed the random streams continue."""
        if options:
            raise EnvError(f"envpool takes no options at a reset, got {', '.join(options)}")
        if seed is not None or self._pool is None:  # envpool takes seeds only in its constructor
            first = self._seed if seed is None else seed
            self._pool = self._make_pool([first + i for i in range(self.num_envs)])
        obs, info = self._pool.reset()
        return self._obs(obs), info

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step: obs [N, *obs_shape], reward, terminated, truncated [N], info. Raises EnvError."""
        if self._pool is None:
            raise EnvError("step was called before reset: call reset first")
        given = as_array(actions, self._shape, self.single_action_space)
        check_values(given, self.single_action_space)
        obs, reward, terminated, truncated, info = self._pool.step(given)
        return self._obs(obs), reward.astype(np.float64), terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Stops its threads."""
        self._pool = None

    def _obs(self, obs: Array) -> Array:
        return obs.astype(self.single_observation_space.dtype, copy=False)


def _quietly(name: str, call: Callable[..., Any], *args: Any) -> Any:
    """Calls envpool without the warnings of its spaces about rounding. Raises EnvError instead of its exceptions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return guard(name, call, *args)
