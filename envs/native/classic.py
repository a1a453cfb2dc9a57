"""Batched versions of gymnasium's classic control, bit-equal and much faster."""

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

AHEAD = 128  # initial states drawn from a generator at once: a reset then takes an index instead of a call
_ROOM = 2**17  # maximum over all rows, which bounds the memory to some megabytes
# Vector steps in NumPy before "auto" loads numba's code. Their extra time is about the time to load it, 0.6 s: shorter
# runs save the loading, longer ones pay at most twice.
PATIENCE = 10_000
_GYMNASIUM = "gymnasium.envs.classic_control."
_MOST = float(np.finfo(np.float64).max)
_loaded: set[type[ClassicVectorEnv]] = set()  # classes whose numba code is loaded in this process


class ClassicVectorEnv(NativeVectorEnv):
    """A row function of classic_rows.py for N rows, in NumPy or compiled by numba.

    Both give the same bits. A task defines the class attributes and `_draw`, and overrides other hooks where needed.
    """

    row: ClassVar[classic_rows.Row]
    argument: ClassVar[str | None] = None  # the constructor's argument beside the render mode
    state_size: ClassVar[int]  # S
    draws: ClassVar[int]  # number of random float64 per initial state

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
            max_episode_steps: time limit; None: no limit.
            render_mode: None or "rgb_array".
            autoreset_mode: when rows that ended are reset.
            kernel: "numpy", "numba", or "auto": numba if it is installed, after `PATIENCE` steps.
            kwargs: those of gymnasium's constructor.
        Raises:
            EnvError: kernel is "numba" and numba is not installed.
        """
        twin: Any = load_env_creator(self.entry_point)(render_mode=render_mode, **kwargs)
        super().__init__(twin, num_envs, max_episode_steps, autoreset_mode)
        (size,) = twin.observation_space.shape
        self.state = np.zeros((self.state_size, num_envs))  # [S, N]
        self.obs = np.zeros((num_envs, size), dtype=np.float32)  # the last observations
        self.ahead = max(1, min(AHEAD, _ROOM // num_envs))
        self.drawn = np.zeros((num_envs, self.ahead, self.state_size))  # initial states drawn ahead
        self.drawn_obs = np.zeros((num_envs, self.ahead, size), dtype=np.float32)  # and their observations
        self.used = np.full(num_envs, self.ahead)  # number of drawn states that were used
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
            installed = importlib.util.find_spec("numba") is not None
            self.engine += f", after {PATIENCE:,} steps numba" if installed else ": numba is not installed"
        if kernel == "numba" or (kernel == "auto" and type(self) in _loaded):
            self._load(must=kernel == "numba")

    @classmethod
    def declines(cls, kwargs: Mapping[str, Any]) -> str | None:
        """Declines arguments other than plain numbers, which may behave differently in gymnasium's formulas."""
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
            self._rows_to_reset()
        n, final = self.num_envs, self._final_obs
        obs, reward = np.empty(final.shape, np.float32), np.empty(n)
        terminated, truncated = np.empty(n, np.bool_), np.empty(n, np.bool_)
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        values, single = self._values(given)
        arguments = (
            *(self.state, self.obs, self.elapsed, self._ended, self.drawn, self.drawn_obs, self.used),
            *(values, single, *self._bounds, self._parameter, self._limit, same_step),
            *(obs, final, reward, terminated, truncated),
        )
        ended = self._step(*arguments)
        if ended == classic_rows.BAD_ACTION:
            check_values(given, self.single_action_space)  # raises
        if ended == classic_rows.EXHAUSTED:
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
        """Loads numba's code. Raises EnvError if it must and cannot."""
        try:
            self._step = classic_rows.compiled(type(self).row, self._discrete)
            _loaded.add(type(self))
            self.engine = "numba"
        except Exception as error:  # not installed, incompatible with this NumPy, no writable cache, ...
            if must:
                raise EnvError(f"kernel 'numba' is not available ({error}): pip install 'costgrad[numba]'") from error
            if not isinstance(error, ImportError):
                text = f"numba cannot be used, NumPy is used instead: {one_line(error)}"
                warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _values(self, actions: Array) -> tuple[Array, bool]:
        """Actions for the row functions, [N], and whether they were float32."""
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
        if options is not None:  # `reset` has set the generators back to the state of gymnasium's
            states = self._initial_states(np.stack([self._draw(self.rngs[i], 1, options) for i in rows.tolist()]))[:, 0]
            self.state[:, rows], self.obs[rows] = states.T, self._initial_obs(states)
            return {}
        self._draw_ahead(rows[self.used[rows] == self.ahead])
        index = self.used[rows]
        self.state[:, rows], self.obs[rows] = self.drawn[rows, index].T, self.drawn_obs[rows, index]
        self.used[rows] += 1
        return {}

    def _observe(self, rows: Array | slice) -> Array:
        return self.obs[rows].copy()

    def _arrays(self) -> dict[str, Array]:
        return {"state": self.state.T, "obs": self.obs}

    def _draw_ahead(self, rows: Array) -> None:
        """Draws `ahead` initial states for rows that have none left."""
        if len(rows):
            states = self._initial_states(np.stack([self._draw(self.rngs[i], self.ahead, None) for i in rows.tolist()]))
            self.drawn[rows], self.drawn_obs[rows], self.used[rows] = states, self._initial_obs(states), 0

    def _rewind_rngs(self, rows: Array) -> None:
        for i in rows.tolist():
            self.rngs[i].bit_generator.advance(-int(self.ahead - self.used[i]) * self.draws)
        self.used[rows] = self.ahead

    @abstractmethod
    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        """The random numbers of n resets of gymnasium, [n, draws]. Raises ValueError as gymnasium for wrong options."""

    def _read_argument(self) -> float:
        """The constructor's argument as the row function takes it."""
        return float(getattr(self.twin, self.argument)) if self.argument else 0.0

    def _initial_states(self, drawn: Array) -> Array:
        """Initial states from random numbers: [..., draws] -> [..., S], of the same dtype."""
        return drawn

    def _initial_obs(self, states: Array) -> Array:
        """Observations of initial states: [..., S] -> [..., O] float32."""
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
    """Acrobot-v1. Its initial states are rounded to float32, and their observations are computed in float32."""

    entry_point = _GYMNASIUM + "acrobot:AcrobotEnv"
    row, state_size, draws = classic_rows.acrobot, 4, 4

    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        return rng.uniform(*utils.maybe_parse_reset_bounds(options, -0.1, 0.1), size=(n, 4)).astype(np.float32)

    def _initial_obs(self, states: Array) -> Array:
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

    def _initial_states(self, drawn: Array) -> Array:
        return np.concatenate([drawn, np.zeros_like(drawn)], axis=-1)


class MountainCarContinuous(MountainCar):
    """MountainCarContinuous-v0."""

    entry_point = _GYMNASIUM + "continuous_mountain_car:Continuous_MountainCarEnv"
    row = classic_rows.mountain_car_continuous

    def _pose(self, i: int) -> None:
        self.twin.state = self.state[:, i].astype(np.float64 if self.elapsed[i] == 0 else np.float32)


class Pendulum(ClassicVectorEnv):
    """Pendulum-v1. The third state component is the last torque, for the renderer; NaN: none yet."""

    entry_point = _GYMNASIUM + "pendulum:PendulumEnv"
    row, argument, state_size, draws = classic_rows.pendulum, "g", 3, 2

    def _read_argument(self) -> float:
        return float(3 * self.twin.g / (2 * 1.0))

    def _draw(self, rng: np.random.Generator, n: int, options: dict[str, Any] | None) -> Array:
        given = options or {}
        corner = {"x_init": DEFAULT_X, "y_init": DEFAULT_Y}
        high = np.array([utils.verify_number_and_cast(given.get(key, corner[key])) for key in corner])
        return rng.uniform(-high, high, size=(n, 2))

    def _initial_states(self, drawn: Array) -> Array:
        return np.concatenate([drawn, np.full((*drawn.shape[:-1], 1), np.nan)], axis=-1)

    def _initial_obs(self, states: Array) -> Array:
        angle, speed = states[..., 0], states[..., 1]
        return np.stack([np.cos(angle), np.sin(angle), speed], axis=-1).astype(np.float32)

    def _pose(self, i: int) -> None:
        *state, torque = self.state[:, i]
        self.twin.state = np.array(state)
        self.twin.last_u = None if np.isnan(torque) else torque
