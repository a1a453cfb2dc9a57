"""Environments go on from a snapshot as if they had never stopped; what cannot is known before, and said."""

from __future__ import annotations

import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from gymnasium.vector import SyncVectorEnv

from costgrad.envs.errors import EnvError
from costgrad.envs.make import MadeEnv, make
from costgrad.envs.snapshot import PURPOSE, _joined
from costgrad.envs.stamp import sign
from tests.contracts.user_envs import Counted, Parts, Vector


class Forgetful(Counted):
    """Its `get_state` leaves out its random numbers."""

    def get_state(self) -> Any:
        return self.place, self.t, self.goal, self.total

    def set_state(self, state: Any) -> None:
        self.place, self.t, self.goal, self.total = state


class Easy(Counted, EzPickle):
    """Pickles as the arguments of its constructor."""

    def __init__(self) -> None:
        Counted.__init__(self)
        EzPickle.__init__(self)


class GlobalRandom(Counted):
    """Draws from NumPy's and Python's global random numbers."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *rest = super().step(action)
        return obs, reward + np.random.normal() + random.random(), *rest


class Locked(Counted):
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


_drawn = iter(range(10**9))


class Outside(Counted):
    """Part of its state lies outside of it."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *rest = super().step(action)
        return obs, reward + 1e-3 * next(_drawn), *rest


class Fails(Counted):
    """Works for two steps."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.total == 2:
            raise RuntimeError("the licence has expired")
        return super().step(action)


def wrapped() -> gymnasium.Env:
    """With wrappers that have a state, one of them a lambda."""
    env: gymnasium.Env = gymnasium.wrappers.FrameStackObservation(Counted(), 2)
    return gymnasium.wrappers.TransformReward(env, lambda reward: reward / 2)


@pytest.fixture
def made() -> Iterator[Callable[..., MadeEnv]]:
    envs: list[MadeEnv] = []

    def build(*args: Any, **kwargs: Any) -> MadeEnv:
        envs.append(make(*args, **kwargs))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


def played(env: MadeEnv, steps: int, seed: int) -> list[Any]:
    env.action_space.seed(seed)
    said: list[Any] = []
    for _ in range(steps):
        obs, *rest = env.step(env.action_space.sample())[:4]
        said += [*(obs.values() if isinstance(obs, dict) else [obs]), *rest]
    return [np.array(part) for part in said]


EXACT = [
    *[("CartPole-v1", backend) for backend in ("native", "sync", "async")],
    *[("Hopper-v5", backend) for backend in ("native", "sync", "async")],
    *[(Counted, "sync"), (Counted, "async"), (Parts, "sync"), (Parts, "async"), (Vector, "native")],
    *[(Forgetful, "sync"), (Easy, "sync"), (GlobalRandom, "sync"), (GlobalRandom, "async"), (wrapped, "sync")],
    *[("costgrad/PointGoal-v0", "native"), ("costgrad/PointGoal-v0", "async")],
]


@pytest.mark.parametrize("env, backend", EXACT, ids=lambda each: getattr(each, "__name__", each))
def test_a_restored_environment_goes_on_exactly(made: Callable[..., MadeEnv], env: Any, backend: str) -> None:
    one, other = made(env, 2, backend=backend), made(env, 2, backend=backend)
    assert one.why_not_exact() == ""
    one.reset(seed=3)
    played(one, 50, seed=0)
    snapshot = one.snapshot()
    seen = played(one, 90, seed=1)
    other.reset(seed=99)
    other.restore(pickle.loads(pickle.dumps(snapshot)))  # nothing in it is shared with the first one
    again = played(other, 90, seed=1)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(seen, again, strict=True))
    other.reset(seed=99)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(seen, played(other, 90, seed=1), strict=True))


@pytest.mark.parametrize(
    "env, reason",
    [
        (Locked, "its state cannot be saved: TypeError"),
        (Outside, "a copy of it acts differently"),
        (Fails, "a copy of it fails: EnvError.*the licence has expired"),
    ],
)
def test_what_cannot_go_on_exactly_is_known_before(made: Callable[..., MadeEnv], env: Any, reason: str) -> None:
    one = made(env, 2, backend="sync")
    with pytest.raises(EnvError, match=reason):
        one.snapshot()
    assert one.why_not_exact()


def test_ready_environments_cannot_be_made_again(made: Callable[..., MadeEnv]) -> None:
    assert "cannot be made again" in made(SyncVectorEnv([Counted] * 2)).why_not_exact()


def test_trying_a_copy_out_leaves_the_global_random_numbers_alone(made: Callable[..., MadeEnv]) -> None:
    one = made(GlobalRandom, 2, backend="sync")
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tobytes()
    assert one.why_not_exact() == ""
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before


# What a file may do


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_what_this_user_has_not_signed_is_not_unpickled(
    made: Callable[..., MadeEnv], tmp_path: Path, backend: str
) -> None:
    one = made(Counted, 2, backend=backend)
    one.reset(seed=0)
    saved = one.snapshot()
    bad = [pickle.dumps(Canary(tmp_path / "canary"))] * 2
    for signature in (saved["signature"], None, "", "0" * 64, 3, sign("run environment", _joined(bad))):
        with pytest.raises(EnvError, match="was not saved by this user on this machine"):
            one.restore({"pickles": bad, "signature": signature})
    assert not (tmp_path / "canary").exists()
    with pytest.raises(EnvError, match="cannot be restored"):  # the control: signed, it is unpickled
        one.restore({"pickles": bad, "signature": sign(PURPOSE, _joined(bad))})
    if backend == "sync":
        assert (tmp_path / "canary").exists()


def test_another_key_does_not_open_it(
    made: Callable[..., MadeEnv], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(Counted, 1, backend="sync")
    one.reset(seed=0)
    saved = one.snapshot()
    one.restore(saved)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(EnvError, match="was not saved by this user"):
        one.restore(saved)


@pytest.mark.parametrize(
    "damage",
    [{}, {"pickles": 3}, {"pickles": [b""]}, {"pickles": None}, {"data": {}}, {"data": None}, {"signature": None}],
    ids=str,
)
def test_damaged_snapshots_are_refused(made: Callable[..., MadeEnv], damage: dict[str, Any]) -> None:
    for env, backend in ((Counted, "sync"), ("CartPole-v1", "native")):
        one = made(env, 2, backend=backend)
        one.reset(seed=0)
        with pytest.raises(EnvError):
            one.restore({key: value for key, value in {**one.snapshot(), **damage}.items() if key in damage})


def test_one_of_another_number_is_refused(made: Callable[..., MadeEnv]) -> None:
    for env, backend in ((Counted, "sync"), (Counted, "async"), ("CartPole-v1", "native")):
        one, other = made(env, 2, backend=backend), made(env, 3, backend=backend)
        one.reset(seed=0)
        other.reset(seed=0)
        with pytest.raises(EnvError, match="cannot be set"):
            other.restore(one.snapshot())
