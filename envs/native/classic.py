"""Gymnasium's classic control as batches: the same numbers, bit by bit, for a small part of the time."""

from __future__ import annotations

import importlib.util
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.classic_control import utils
from gymnasium.envs.classic_control.pendulum import DEFAULT_X, DEFAULT_Y
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from costgrad.envs.errors import EnvError
from costgrad.envs.load import one_line
from costgrad.envs.native import classic_rows
from costgrad.envs.native.actions import as_array, check_values
from costgrad.envs.native.base import Advance, Array, NativeVectorEnv

AHEAD = 128  # first states drawn from a generator at once: an episode's end then costs an index, not a call
_ROOM = 2**17  # and of all rows together: what is drawn ahead takes some megabytes, however many rows there are
# Vector steps in NumPy before "auto" loads numba's code. They cost about as much above its steps as its loading does,
# 0.6 s: who stops earlier has saved that, and who goes on has paid it at most twice.
PATIENCE = 10_000
_GYMNASIUM = "gymnasium.envs.classic_control."
_MOST = float(np.finfo(np.float64).max)
_loaded: set[type[ClassicVectorEnv]] = set()  # whose numba code this process has


class ClassicVectorEnv(NativeVectorEnv):
    """One row function of classic_rows.py for N rows, through NumPy or in one call of numba's machine code.

    The two give the same bits. A task gives the class attributes, `_draw`, and what differs from the rest.
    """

    row: ClassVar[classic_rows.Row]
    argument: ClassVar[str | None] = None  # of the constructor, beside the render mode
    state_size: ClassVar[int]  # S
    draws: ClassVar[int]  # random numbers of a first state, float64 each

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        kernel: str = "auto",
        **kwargs: Any,
    ) -> None:
        """N rows.

        Args:
            num_envs: N.
            max_episode_steps: None: the clock ends no episode.
            render_mode: None or "rgb_array".
            autoreset_mode: what happens to a row that has ended.
            kernel: "numpy", "numba", or "auto": numba where it is installed, once `PATIENCE` steps have been done.
            kwargs: those of gymnasium's constructor.
        Raises:
            EnvError: numba is asked for and not installed.
        """
        twin: Any = load_env_creator(self.entry_point)(render_mode=render_mode, **kwargs)
        super().__init__(twin, num_envs, max_episode_steps, autoreset_mode)
        (size,) = twin.observation_space.shape
        self.state = np.zeros((self.state_size, num_envs))  # [S, N]
        self.obs = np.zeros((num_envs, size), dtype=np.float32)  # what was seen last
        self.ahead = max(1, min(AHEAD, _ROOM // num_envs))
        self.drawn = np.zeros((num_envs, self.ahead, self.state_size))  # first states drawn ahead, what is seen of them
        self.seen = np.zeros((num_envs, self.ahead, size), dtype=np.float32)
        self.used = np.full(num_envs, self.ahead)  # how many of them have been used
        self._final_obs = self.obs.copy()
        self._parameter = np.array([2.0, self._read_argument()])
        space = self.single_action_space
        self._discrete = isinstance(space, Discrete)
        self._bounds = (space.start, space.start + space.n - 1) if isinstance(space, Discrete) else (-_MOST, _MOST)
        if kernel not in ("auto", "numba", "numpy"):
            raise EnvError(f"kernel is {kernel!r}: it must be auto, numba or numpy")
        self._patience = PATIENCE if kernel == "auto" else 0  # vector steps until numba's code is loaded; 0: never
        self._step: Callable[..., int] | None = None
        self.engine = "NumPy"
        if kernel == "auto":
            there = importlib.util.find_spec("numba") is not None
            self.engine += f", after {PATIENCE:,} steps numba" if there else ": numba is not installed"
        if kernel == "numba" or (kernel == "auto" and type(self) in _loaded):
            self._load(must=kernel == "numba")

    @classmethod
    def declines(cls, kwargs: Mapping[str, Any]) -> str | None:
        """All but plain numbers: what others do in gymnasium's formulas is up to them."""
        if np.lib.NumpyVersion(np.__version__) < "2.0.0":
            return "under NumPy 1 gymnasium's float32 terms are of other types"
        odd = [f"{key}={value!r}" for key, value in kwargs.items() if not isinstance(value, (int, float))]
        return f"it takes plain numbers only, not {', '.join(odd)}" if odd else None

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step: obs [N, *obs_shape], reward, terminated, truncated [N], info. Raises EnvError."""
        if self._step is None:
            self._patience -= 1
            if self._patience == 0:
                self._load(must=False)
            return super().step(actions)
        given = as_array(actions, self._action_shape, self.single_action_space)
        if not self._ready:
            self._skipped()
        n, final = self.num_envs, self._final_obs
        obs, reward = np.empty(final.shape, np.float32), np.empty(n)
        terminated, truncated = np.empty(n, np.bool_), np.empty(n, np.bool_)
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        values, single = self._values(given)
        arguments = (
            *(self.state, self.obs, self.elapsed, self._ended, self.drawn, self.seen, self.used),
            *(values, single, *self._bounds, self._parameter, self._limit, same_step),
            *(obs, final, reward, terminated, truncated),
        )
        ended = self._step(*arguments)
        if ended == classic_rows.BAD_ACTION:
            check_values(given, self.single_action_space)  # raises
        if ended == classic_rows.DRY:
            self._draw_ahead(np.flatnonzero(self.used == self.ahead))
            ended = self._step(*arguments)
        if not same_step:
            self._ready = ended == 0
        elif ended:
            done = terminated | truncated
            info = {"final_obs": final.copy(), "_final_obs": done, "final_info": {}, "_final_info": done}
            return obs, reward, terminated, truncated, info
        return obs, reward, terminated, truncated, {}

    def _load(self, must: bool) -> None:
        """Takes up numba's code. Raises EnvError where it must and cannot."""
        try:
            self._step = classic_rows.compiled(type(self).row, self._discrete)
            _loaded.add(type(self))
            self.engine = "numba"
        except Exception as error:  # not installed, not made for this NumPy, no folder for the code, and what not
            if must:
                raise EnvError(f"kernel 'numba' is not there ({error}): pip install 'costgrad[numba]'") from error
            if not isinstance(error, ImportError):
                warnings.warn(f"numba cannot be used, NumPy goes on: {one_line(error)}", RuntimeWarning, stacklevel=3)

    def _values(self, actions: Array) -> tuple[Array, bool]:
        """Actions as the row functions take them, [N], and whether they are float32."""
        if self._discrete:
            return np.ascontiguousarray(actions), False
        return actions[:, 0].astype(np.float64), actions.dtype == np.float32

    def _advance(self, actions: Array, skipped: Array | None) -> Advance:
        obs, reward = np.empty(self._final_obs.shape, np.float32), np.empty(self.num_envs)
        terminated = np.empty(self.num_envs, np.bool_)
        values, single = self._values(actions)
        row = type(self).row
        reward[:], terminated[:] = row(self.state, values, obs.T, self.elapsed == 0, single, self._parameter)
        self.obs[:] = obs
        return obs, reward, terminated, {}

    def _start(self, rows: Array, options: dict[str, Any] | None) -> dict[str, Array]:
        if options is not None:  # the generators stand where gymnasium's do: `reset` has settled them
            states = self._first(np.stack([self._draw(self.rngs[i], 1, options) for i in rows.tolist()]))[:, 0]
            self.state[:, rows], self.obs[rows] = states.T, self._look(states)
            return {}
        self._draw_ahead(rows[self.used[rows] == self.ahead])
        taken = self.used[rows]
        self.state[:, rows], self.obs[rows] = self.drawn[rows, taken].T, self.seen[rows, taken]
        self.used[rows] += 1
        return {}

    def _observe(self, rows: Array | slice) -> Array:
        return self.obs[rows].copy()

    def _arrays(self) -> dict[str, Array]:
        return {"state": self.state.T, "obs": self.obs}

    def _draw_ahead(self, rows: Array) -> None:
        """Draws `ahead` first states for each of these rows, which have none left."""
        if len(rows):
            states = self._first(np.stack([self._draw(self.rngs[i], self.ahead, None) for i in rows.tolist()]))
            self.drawn[rows], self.seen[rows], self.used[rows] = states, self._look(states), 0

    def _settle(self, rows: Array) -> None:
        for i in rows.tolist():
            self.rngs[i].bit_generator.advance(-int(self.ahead - self.used[i]) * self.draws)
        self.used[rows] = self.ahead

    @abstractmethod
    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        """What n of gymnasium's resets draw, [n, draws]. Raises ValueError as gymnasium does for wrong options."""

    def _read_argument(self) -> float:
        """The constructor's argument as the row function takes it."""
        return float(getattr(self.twin, self.argument)) if self.argument else 0.0

    def _first(self, drawn: Array) -> Array:
        """First states of what was drawn: [..., draws] -> [..., S], of its type."""
        return drawn

    def _look(self, states: Array) -> Array:
        """What a reset shows of first states: [..., S] -> [..., O] float32."""
        return states.astype(np.float32)

    def _pose(self, i: int) -> None:
        self.twin.state = self.state[:, i].copy()


class CartPole(ClassicVectorEnv):
    """CartPole-v0 and -v1."""

    entry_point = _GYMNASIUM + "cartpole:CartPoleEnv"
    row, argument, state_size, draws = classic_rows.cartpole, "_sutton_barto_reward", 4, 4

    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        return rng.uniform(*utils.maybe_parse_reset_bounds(options, -0.05, 0.05), size=(n, 4))


class Acrobot(ClassicVectorEnv):
    """Acrobot-v1. Its first states are rounded to float32, and what is seen of them is computed in it."""

    entry_point = _GYMNASIUM + "acrobot:AcrobotEnv"
    row, state_size, draws = classic_rows.acrobot, 4, 4

    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        return rng.uniform(*utils.maybe_parse_reset_bounds(options, -0.1, 0.1), size=(n, 4)).astype(np.float32)

    def _look(self, states: Array) -> Array:
        t1, t2 = states[..., 0], states[..., 1]
        return np.stack([np.cos(t1), np.sin(t1), np.cos(t2), np.sin(t2), states[..., 2], states[..., 3]], axis=-1)

    def _pose(self, i: int) -> None:
        self.twin.state = self.state[:, i].astype(np.float32 if self.elapsed[i] == 0 else np.float64)


class MountainCar(ClassicVectorEnv):
    """MountainCar-v0."""

    entry_point = _GYMNASIUM + "mountain_car:MountainCarEnv"
    row, argument, state_size, draws = classic_rows.mountain_car, "goal_velocity", 2, 1

    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        return rng.uniform(*utils.maybe_parse_reset_bounds(options, -0.6, -0.4), size=(n, 1))

    def _first(self, drawn: Array) -> Array:
        return np.concatenate([drawn, np.zeros_like(drawn)], axis=-1)


class MountainCarContinuous(MountainCar):
    """MountainCarContinuous-v0."""

    entry_point = _GYMNASIUM + "continuous_mountain_car:Continuous_MountainCarEnv"
    row = classic_rows.mountain_car_continuous

    def _pose(self, i: int) -> None:
        self.twin.state = self.state[:, i].astype(np.float64 if self.elapsed[i] == 0 else np.float32)


class Pendulum(ClassicVectorEnv):
    """Pendulum-v1. The third component of its state is the last torque, which the renderer shows; NaN: none yet."""

    entry_point = _GYMNASIUM + "pendulum:PendulumEnv"
    row, argument, state_size, draws = classic_rows.pendulum, "g", 3, 2

    def _read_argument(self) -> float:
        return float(3 * self.twin.g / (2 * 1.0))

    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        given = options or {}
        corner = {"x_init": DEFAULT_X, "y_init": DEFAULT_Y}
        high = np.array([utils.verify_number_and_cast(given.get(key, corner[key])) for key in corner])
        return rng.uniform(-high, high, size=(n, 2))

    def _first(self, drawn: Array) -> Array:
        return np.concatenate([drawn, np.full((*drawn.shape[:-1], 1), np.nan)], axis=-1)

    def _look(self, states: Array) -> Array:
        angle, speed = states[..., 0], states[..., 1]
        return np.stack([np.cos(angle), np.sin(angle), speed], axis=-1).astype(np.float32)

    def _pose(self, i: int) -> None:
        *state, torque = self.state[:, i]
        self.twin.state = np.array(state)
        self.twin.last_u = None if np.isnan(torque) else torque
