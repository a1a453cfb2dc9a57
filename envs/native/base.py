"""The base class of environments that step N rows at once and are bit-equal to N of gymnasium's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from costgrad.envs.errors import EnvError
from costgrad.envs.native.actions import as_array, check_values
from costgrad.envs.native.infos import of_all, of_rows, with_rows

Array = np.ndarray
Advance = tuple[Array, Array, Array, dict[str, Array]]  # obs [N, *obs_shape], reward [N], terminated [N], info


class NativeVectorEnv(VectorEnv[Any, Any, Any]):
    """N environments that return what a SyncVectorEnv of N single ones returns, including random streams and resets.

    Row i has its own generator `rngs[i]`: `reset(seed=s)` seeds it as gymnasium's single environment with seed s + i,
    whatever N is. All three autoreset modes of gymnasium are supported; `options` are those of the single environment,
    with `reset_mask` as in SyncVectorEnv.

    In SAME_STEP `info["final_obs"]` is a dense array [N, *obs_shape] of the next obs of every row. Gymnasium has an
    object array; for the rows of `info["_final_obs"]` [N], `info["final_obs"][i]` is the same.

    All returned arrays are new, but equal masks in `info` may be one array. An invalid action raises EnvError before
    any row is stepped: a wrong shape or dtype, not finite, or out of a Discrete's range. Actions beyond a Box are
    handled by the task as in gymnasium.

    A task defines the hooks `_start`, `_advance`, `_observe`, `_arrays` and `_pose`, which need not handle time limits,
    autoreset modes, seeds, masks or action checks, and a constructor that `make` calls as
    `task(num_envs, max_episode_steps=..., render_mode=..., **kwargs)` with the arguments of gymnasium's constructor.
    """

    entry_point: str  # of gymnasium's single environment: "module:Name"
    engine: str = ""  # description of the implementation that steps the rows
    twin: Any  # gymnasium's single environment, for its spaces, renderer and argument checks

    def __init__(
        self,
        twin: gymnasium.Env[Any, Any],
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        """N rows like `twin`.

        Args:
            twin: an unwrapped single environment of gymnasium, made with the render mode ("human" is not supported).
                It is closed together with this one, and never stepped.
            num_envs: N.
            max_episode_steps: truncates as gymnasium's TimeLimit does; None: no truncation.
            autoreset_mode: when rows that ended are reset.
        """
        self.twin, self.num_envs, self.render_mode = twin, num_envs, twin.render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        modes = [mode for mode in twin.metadata["render_modes"] if mode != "human"]
        self.metadata = {**twin.metadata, "render_modes": modes, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self.single_action_space = twin.observation_space, twin.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.max_episode_steps = max_episode_steps
        self._limit = np.iinfo(np.int64).max if max_episode_steps is None else max_episode_steps
        self._action_shape = (num_envs, *(twin.action_space.shape or ()))
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]
        self.elapsed = np.zeros(num_envs, dtype=np.int64)  # steps in the current episode
        self._ended = np.ones(num_envs, dtype=np.bool_)  # rows that need a reset; none in SAME_STEP
        self._was_reset = self._ready = False  # all rows were reset once; no row needs a reset

    # Hooks of a task

    @classmethod
    def declines(cls, kwargs: Mapping[str, Any]) -> str | None:
        """Why it cannot be bit-equal with these arguments of gymnasium's constructor; None if it is.

        `make` then uses SyncVectorEnv, and prints the reason.
        """
        return None

    @abstractmethod
    def _start(self, rows: Array, options: dict[str, Any] | None) -> dict[str, Array]:
        """Draws and sets the initial states of rows, row i from `rngs[i]` as gymnasium's `reset` does.

        Args:
            rows: [n] int64, ascending.
            options: those of `reset`; None without options or for autoresets.
        Returns:
            gymnasium's info of a reset, each entry [n, ...].
        """

    @abstractmethod
    def _advance(self, actions: Array, skipped: Array | None) -> Advance:
        """One step of every row.

        Args:
            actions: [N] int64 within the Discrete; or [N, A], finite, float32 or float64 as given.
            skipped: [N] bool, rows that are reset after this step and whose results are not used; None: no rows.
        Returns:
            new arrays: obs [N, *obs_shape] of the space's dtype, reward [N] float64, terminated [N] bool, and
            gymnasium's info without its masks, each entry [N, ...].
        """

    @abstractmethod
    def _observe(self, rows: Array | slice) -> Array:
        """The observations of n rows: a new array [n, *obs_shape]."""

    @abstractmethod
    def _arrays(self) -> dict[str, Array]:
        """The full state by name: the arrays themselves, each [N, ...], to be read and overwritten."""

    @abstractmethod
    def _pose(self, i: int) -> None:
        """Copies row i's state to `twin` for rendering."""

    def _rewind_rngs(self, rows: Array) -> None:
        """Called before `rngs[i]` are read or replaced: a task that has drawn ahead sets them back."""

    def _loaded(self) -> None:
        """Called after `set_state` has overwritten `_arrays`."""

    # VectorEnv interface

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The rows' generators, in the same state as gymnasium's."""
        self._rewind_rngs(np.arange(self.num_envs))
        return tuple(self.rngs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts all episodes, or those of `options["reset_mask"]` [N]: obs [N, *obs_shape] and info.

        Without a seed the random streams continue. Raises EnvError for a wrong mask or number of seeds.
        """
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        rows = np.flatnonzero(mask)
        if seed is not None or options:
            self._rewind_rngs(rows)
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
            if len(seeds) != self.num_envs:
                raise EnvError(f"seed has length {len(seeds)}: it must be one number, or {self.num_envs}")
            for i in rows.tolist():
                if seeds[i] is not None:
                    self.rngs[i], _ = seeding.np_random(seeds[i])
        reset_info = self._start(rows, options or None)
        self.elapsed[rows], self._ended[rows] = 0, False
        self._was_reset, self._ready = True, not self._ended.any()
        return self._observe(slice(None)), with_rows({}, reset_info, mask)

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step: obs [N, *obs_shape], reward, terminated, truncated [N], info. Raises EnvError."""
        actions = as_array(actions, self._action_shape, self.single_action_space)
        check_values(actions, self.single_action_space)
        restarted = None if self._ready else self._rows_to_reset()
        obs, reward, terminated, info = self._advance(actions, restarted)
        self.elapsed += 1
        truncated = self.elapsed >= self._limit
        if restarted is not None:
            reward[restarted], terminated[restarted], truncated[restarted] = 0.0, False, False
        done = terminated | truncated
        ended, final = bool(done.any()), dict[str, Any]()
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended[:], self._ready = done, not ended
        elif ended:
            restarted = done
            final = {"final_obs": obs.copy(), "_final_obs": done, "final_info": of_rows(info, done)}
            final["_final_info"] = done
        if restarted is not None:
            rows = np.flatnonzero(restarted)
            reset_info = self._start(rows, None)
            self.elapsed[rows] = 0
            obs[rows] = self._observe(rows)
            info = with_rows(info, reset_info, restarted) | final
        elif info:
            info = of_all(info, self.num_envs)
        return obs, reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """A copy of the full state, including generators, for `set_state` here or in another instance."""
        self._rewind_rngs(np.arange(self.num_envs))
        return {
            "kind": type(self).__name__,
            "num_envs": self.num_envs,
            "begun": self._was_reset,
            "generators": [rng.bit_generator.state for rng in self.rngs],
            "arrays": {key: array.copy() for key, array in self._all_arrays().items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state of `get_state`. Raises EnvError for another kind or num_envs."""
        for key, ours in (("kind", type(self).__name__), ("num_envs", self.num_envs)):
            if state[key] != ours:
                raise EnvError(f"a state of {key} {state[key]} cannot be set here: it must be {ours}")
        self._rewind_rngs(np.arange(self.num_envs))
        for rng, generator in zip(self.rngs, state["generators"], strict=True):
            rng.bit_generator.state = generator
        for key, array in self._all_arrays().items():
            array[...] = state["arrays"][key]
        self._was_reset, self._ready = state["begun"], not self._ended.any()
        self._loaded()

    def reseed(self, seed: int) -> None:
        """Reseeds the random streams, row i with seed + i; the states do not change."""
        self._rewind_rngs(np.arange(self.num_envs))
        for i in range(self.num_envs):
            self.rngs[i], _ = seeding.np_random(seed + i)

    def stop_clock(self) -> int | None:
        """Removes the time limit, for rollouts beyond it. Returns the limit."""
        self._limit = np.iinfo(np.int64).max
        return self.max_episode_steps

    def render(self) -> tuple[Any, ...]:
        """A frame of every row by gymnasium's renderer. Raises EnvError without a render mode."""
        if self.render_mode is None:
            raise EnvError(f"{type(self).__name__} was made without a render mode: give render_mode='rgb_array'")
        frames = []
        for i in range(self.num_envs):
            self._pose(i)
            frames.append(self.twin.render())
        return tuple(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the renderer."""
        if hasattr(self, "twin"):  # before 1.3 gymnasium closes even what was never finished
            self.twin.close()

    # Implementation

    def _all_arrays(self) -> dict[str, Array]:
        return {"elapsed": self.elapsed, "ended": self._ended, **self._arrays()}

    def _mask(self, mask: Any) -> Array:
        """The rows to reset, [N] bool. Raises EnvError."""
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise EnvError(f"reset_mask is {mask!r}: it must be a bool array of shape ({self.num_envs},)")
        if not mask.any():
            raise EnvError("reset_mask is False everywhere: it must name at least one environment")
        if not self._was_reset and not mask.all():
            raise EnvError("reset_mask leaves out environments that were never reset: reset all of them first")
        return mask

    def _rows_to_reset(self) -> Array:
        """The rows that this step resets, [N] bool. Raises EnvError if it must not."""
        if not self._was_reset:
            raise EnvError("step was called before reset: call reset first")
        if self.autoreset_mode is AutoresetMode.DISABLED:
            i = int(np.flatnonzero(self._ended)[0])
            raise EnvError(f"environment {i} has ended: reset it with options={{'reset_mask': ...}} before the step")
        return self._ended.copy()
