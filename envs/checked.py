"""Wrappers that check a user's environment: violations of gymnasium's interface become one-line errors."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space, logger, spaces
from gymnasium.error import Error
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from costgrad.envs.errors import EnvError
from costgrad.envs.load import one_line
from costgrad.envs.snapshot import load, save

_OURS = str(Path(__file__).parent) + os.sep  # within the libraries if installed
_LIBRARIES = tuple({sysconfig.get_path(key) + os.sep for key in ("stdlib", "purelib", "platlib")})


class CheckedEnv(gymnasium.Wrapper):
    """A single environment whose `reset` and `step` follow gymnasium's interface, or raise EnvError.

    An episode's final obs is returned as a copy, also if it is a dict: vector environments reset right after it, and an
    environment that reuses one array for every obs would overwrite it.

    Args:
        env: the environment.
        name: of the environment, for error messages.
    """

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        super().__init__(env)
        self._name = name
        self._space: Space[Any] = env.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the wrapped environment's. Raises EnvError if it raises, or does not return obs and info."""
        result = _call(self._name, "reset", self.env.reset, seed=seed, options=options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise EnvError(f"{self._name}.reset returned {_kind(result)}: it must return (obs, info), info a dict")
        _check_obs(self._name, "reset", self._space, result[0])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the wrapped environment's. Raises EnvError if it raises, or violates `gymnasium.Env.step`."""
        obs, reward, terminated, truncated, info = _five(self._name, _call(self._name, "step", self.env.step, action))
        _check_obs(self._name, "step", self._space, obs)
        if not isinstance(reward, float) and not _is_number(reward):
            raise EnvError(f"{self._name}.step returned reward {_kind(reward)}: it must be one number")
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool | np.bool_) and not (_is_number(value) and value in (0, 1)):
                raise EnvError(f"{self._name}.step returned {flag} {_kind(value)}: it must be True or False")
        if terminated or truncated:
            obs = deepcopy(obs)
        return obs, reward, terminated, truncated, info

    def snapshot(self, method: str) -> bytes:
        """Its state for `restored` of another one made alike, see envs/snapshot.py."""
        return save(self, method)

    @property
    def restored(self) -> None:
        """Set to a snapshot, also through `set_attr` of an AsyncVectorEnv: goes on from there."""

    @restored.setter
    def restored(self, snapshot: bytes) -> None:
        load(self, snapshot)

    def render(self) -> Any:
        """As the wrapped environment's. Raises EnvError if it raises, except gymnasium's error of a missing package."""
        return _call(self._name, "render", self.env.render)

    def close(self) -> None:
        """As the wrapped environment's. An exception is only a warning: results are not affected."""
        try:
            super().close()
        except Exception as error:
            logger.warn(f"{self._name}.close raised {one_line(error)}")


class CheckedVectorEnv(VectorWrapper):
    """The same for a user's own VectorEnv. Other attributes are those of the wrapped one.

    Args:
        env: the environments.
        name: of the environments, for error messages.
    """

    def __init__(self, env: VectorEnv, name: str) -> None:
        super().__init__(env)
        self._name = name
        self._space = batch_space(env.single_observation_space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the wrapped environments'. Raises EnvError if they raise, or do not return obs and info."""
        result = _call(self._name, "reset", self.env.reset, seed=seed, options=options)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise EnvError(f"{self._name}.reset returned {_kind(result)}: it must return (obs, info)")
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the wrapped environments'. Raises EnvError if they raise, or violate `VectorEnv.step`."""
        result = _five(self._name, _call(self._name, "step", self.env.step, actions))
        _check_obs(self._name, "step", self._space, result[0])
        return result

    def render(self) -> Any:
        """As the wrapped environments'. Raises EnvError if they raise."""
        return _call(self._name, "render", self.env.render)

    def close(self, **kwargs: Any) -> None:
        """As the wrapped environments'. An exception is only a warning."""
        try:
            super().close(**kwargs)
        except Exception as error:
            logger.warn(f"{self._name}.close raised {one_line(error)}")

    def __getattr__(self, key: str) -> Any:
        if key == "env":  # not set yet: avoids infinite recursion when an unfinished object is copied
            raise AttributeError(key)
        return getattr(self.env, key)


def _call(name: str, method: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls user code, and turns its exceptions into EnvError, except bugs of this library."""
    try:
        return call(*args, **kwargs)
    except EnvError:
        raise
    except (Exception, SystemExit) as error:
        frame = _user_frame(error)
        missing = method == "render" and isinstance(error, Error | ImportError)  # reported by the caller
        if missing or (frame is not None and _is_ours(frame)):
            raise
        where = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame is not None else ""
        raise EnvError(f"{name}.{method} raised {one_line(error)}{where}") from error


def _five(name: str, result: Any) -> Any:
    """Checks that `step` returned five values. Raises EnvError."""
    if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
        must = "(obs, reward, terminated, truncated, info), info a dict"
        raise EnvError(f"{name}.step returned {_kind(result)}: it must return {must}")
    return result


def _check_obs(name: str, method: str, space: Space[Any], obs: Any) -> None:
    """Raises EnvError if obs does not match the observation space."""
    if wrong := _misfit(space, obs, "obs"):
        raise EnvError(f"{name}.{method} returned {wrong}")


def _misfit(space: Space[Any], obs: Any, name: str) -> str:
    """What is wrong with the shape or dtype of an obs, "" if nothing; values are not checked."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or not obs.keys() >= space.keys():
            return f"{name} {_kind(obs)}: it must be a dict with {', '.join(map(str, space))}"
        return next(filter(None, (_misfit(part, obs[key], f"{name}[{key!r}]") for key, part in space.items())), "")
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n) - 1
        fits = _is_number(obs, "iu") and first <= obs <= last
        return "" if fits else f"{name} {_kind(obs)}: it must be a whole number from {first} to {last}"
    if isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
        shape = obs.shape if isinstance(obs, np.ndarray) else _shape(obs)
        if shape != space.shape:
            return f"{name} {_kind(obs)}: it must have shape {space.shape}, as the observation space says"
        dtype = (obs if isinstance(obs, np.ndarray) else np.asarray(obs)).dtype
        if dtype != space.dtype and not np.can_cast(dtype, space.dtype, "same_kind"):  # integers may be floats
            return f"{name} of dtype {dtype}: it must be {space.dtype}, as the observation space says"
    return ""


def _shape(value: Any, kinds: str = "biuf") -> tuple[int, ...] | None:
    """The shape of numbers of NumPy's `kinds` in an array, a list or alone; None for anything else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths; a tensor with its graph
        return None
    return array.shape if array.dtype.kind in kinds else None


def _is_number(value: Any, kinds: str = "biuf") -> bool:
    return _shape(value, kinds) == ()


def _kind(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(part).__name__ for part in value)})"
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(str, value)) or 'nothing'}"
    if value is None or np.isscalar(value):
        return repr(value)
    shape = _shape(value)
    return f"type {type(value).__name__}" + (f" of shape {shape}" if shape is not None else "")


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame outside of other libraries, user code or ours; None if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    known = (frame for frame in reversed(frames) if not frame.filename.startswith(_LIBRARIES) or _is_ours(frame))
    return next(known, None)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_OURS)
