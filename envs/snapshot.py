"""Saves environments between two steps, so that others, made alike in another process, go on exactly where they stood.

Our own batched environments give their state as data. Others are saved by their own `get_state` and `set_state`, or are
pickled; what is pickled is signed, and only what this user on this machine has signed is unpickled. Whether a copy acts
as the original does is tried out first, on two environments that are thrown away.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import cloudpickle
import numpy as np
from gymnasium.utils import EzPickle
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from costgrad.envs.errors import EnvError
from costgrad.envs.load import one_line
from costgrad.envs.stamp import sign, verify, why_unsigned

PURPOSE = "environment snapshot"
BEFORE, AFTER = 4, 12  # steps before and after the copy that is tried out
PATIENCE = 1.0  # seconds of stepping after which fewer do
METHODS = ("its state", "a pickle")  # in the order in which they are tried

# One environment


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Saves the attributes of an `EzPickle`, which by itself would save the arguments of its constructor only."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle):
            return object.__new__, (type(obj),), vars(obj), None, None, _fill
        return super().reducer_override(obj)


class _PicklerBeside(_Pickler):
    """Leaves out `base`, which is saved by its own `get_state`."""

    base: Any

    def persistent_id(self, obj: Any) -> str | None:
        return "base" if obj is self.base else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, base: Any) -> None:
        super().__init__(io.BytesIO(data))
        self._base = base

    def persistent_load(self, pid: Any) -> Any:
        return self._base


def _fill(obj: Any, attributes: dict[str, Any]) -> None:
    vars(obj).update(attributes)


def offers_state(env: Any) -> bool:
    """Whether an environment has `get_state` and `set_state`."""
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))


def save(holder: Any, method: str) -> bytes:
    """Pickles `holder.env`, and the global random states of this process.

    Args:
        holder: a wrapper of the environment.
        method: "its state" saves the innermost environment by its `get_state`, "a pickle" like the rest.
    """
    inner = holder.env
    file, state = io.BytesIO(), None
    pickler = _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
    if method == METHODS[0]:
        pickler = _PicklerBeside(file, protocol=pickle.HIGHEST_PROTOCOL)
        pickler.base = inner.unwrapped
        state = pickler.base.get_state()
    pickler.dump((inner, method, state, random.getstate(), np.random.get_state()))
    return file.getvalue()


def load(holder: Any, data: bytes) -> None:
    """Puts what `save` gave into the wrapper of an environment made alike."""
    base = holder.env.unwrapped
    inner, method, state, of_python, of_numpy = _Unpickler(data, base).load()
    if method == METHODS[0]:
        base.set_state(state)
    holder.env = inner
    random.setstate(of_python)
    np.random.set_state(of_numpy)


# Vector environments


def take(made: VectorWrapper, method: str) -> dict[str, Any]:
    """Saves N environments.

    Args:
        made: wraps a SyncVectorEnv or AsyncVectorEnv of `CheckedEnv`, or another VectorEnv.
        method: "data" of one of ours, or what `method_for` chose.

    Returns:
        numbers, text, arrays and bytes.
    """
    env: Any = made.env
    if method == "data":
        return {"data": env.get_state()}
    if isinstance(env, AsyncVectorEnv):
        saved = list(env.call("snapshot", method))
    elif isinstance(env, SyncVectorEnv):
        saved = [save(single, method) for single in env.envs]
    else:
        saved = [save(made, method)]
    return {"pickles": saved, "signature": sign(PURPOSE, _joined(saved))}


def put(made: VectorWrapper, snapshot: Mapping[str, Any]) -> None:
    """Restores what `take` gave in environments made alike, which were reset.

    Raises:
        EnvError: it was not saved by this user on this machine, or does not fit.
    """
    env: Any = made.env
    try:
        if "data" in snapshot:
            env.set_state(snapshot["data"])
            return
        saved = snapshot["pickles"]
        if not isinstance(saved, list) or not all(isinstance(data, bytes) for data in saved):
            raise EnvError("the environments' state is damaged")
        if not verify(PURPOSE, _joined(saved), snapshot["signature"]):
            raise EnvError("the environments' state was not saved by this user on this machine")
        holders = env.envs if isinstance(env, SyncVectorEnv) else [made]
        if len(saved) != (env.num_envs if isinstance(env, AsyncVectorEnv) else len(holders)):
            raise EnvError(f"the state of {len(saved)} environments cannot be set in {env.num_envs}")
        if isinstance(env, AsyncVectorEnv):
            env.set_attr("restored", saved)
        else:
            for holder, data in zip(holders, saved, strict=True):
                load(holder, data)
    except EnvError:
        raise
    except Exception as error:  # whatever the user's own classes raise
        raise EnvError(f"the environments' state cannot be restored: {one_line(error)}") from error


def _joined(saved: list[bytes]) -> bytes:
    """All of them, each after its length."""
    return b"".join(len(data).to_bytes(8, "big") + data for data in saved)


# Whether a copy acts as the original does


def method_for(make: Callable[[], Any]) -> tuple[str | None, str, int]:
    """How environments are saved so that they go on exactly.

    Args:
        make: makes a `CheckedEnv`, or N environments in a VectorWrapper.

    Returns:
        "its state" or "a pickle" and ""; or None and the reason why neither does. And how many steps that took, of each
        environment.
    """
    if reason := why_unsigned():
        return None, f"this user has no key to sign its state with ({reason})", 0
    steps: list[int] = []
    for method in METHODS:
        if wrong := _try_out(make, method, steps):
            reason = wrong or reason
        elif wrong is not None:
            return method, "", sum(steps)
    return None, reason, sum(steps)


def _try_out(make: Callable[[], Any], method: str, counts: list[int]) -> str | None:
    """What goes wrong with a copy; "" if nothing, None where the environment does not offer this method.

    Adds how many steps it takes to `counts`.
    """
    made: list[Any] = []
    with _global_random_states_kept():
        try:
            made.append(make())
            one = made[0]
            if method == METHODS[0] and not offers_state(one.unwrapped):
                return None
            one.reset(seed=0)
            deadline = time.perf_counter() + PATIENCE
            counts.append(_play(one, BEFORE, 0, deadline)[1])
            try:
                saved = save(one, method)
            except Exception as error:
                return f"its state cannot be saved: {one_line(error)}"
            made.append(make())
            made[1].reset(seed=1)
            seen, steps = _play(one, AFTER, 1, deadline + PATIENCE)
            counts.append(2 * steps)
            load(made[1], saved)
            again, _ = _play(made[1], steps, 1)
        except Exception as error:
            return f"a copy of it fails: {one_line(error)}"
        finally:
            for env in made:
                with contextlib.suppress(Exception):
                    env.close()
    return "" if _same(seen, again) else "a copy of it acts differently"


def _play(env: Any, steps: int, seed: int, deadline: float = math.inf) -> tuple[list[Any], int]:
    """What an environment says in `steps` steps, after the deadline in 2, and in a reset; how many steps it took."""
    space = deepcopy(env.action_space)
    space.seed(seed)
    many, said, taken = isinstance(env, VectorEnv), [], 0
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP) if many else AutoresetMode.DISABLED
    while taken < steps and (taken < 2 or time.perf_counter() < deadline):
        obs, reward, terminated, truncated, _ = env.step(space.sample())
        said.append(deepcopy((obs, reward, terminated, truncated)))
        if mode is AutoresetMode.DISABLED and (done := np.logical_or(terminated, truncated)).any():
            said.append(deepcopy(env.reset(options={"reset_mask": done}) if many else env.reset())[0])
        taken += 1
    said.append(deepcopy(env.reset())[0])
    return said, taken


def _same(a: Any, b: Any) -> bool:
    """Whether two observations, or tuples of such, are equal to the bit, NaN included."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(_same, a, b))
    x, y = np.asarray(a), np.asarray(b)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() if x.dtype != object else a == b


@contextlib.contextmanager
def _global_random_states_kept() -> Iterator[None]:
    """What is tried out here leaves Python's and NumPy's global random numbers as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
