"""Batched classic control against gymnasium's single environments: bit for bit, in NumPy and in numba."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from costgrad.envs import EnvError
from costgrad.envs.native import classic, classic_rows
from costgrad.envs.native.classic import (
    Acrobot,
    CartPole,
    ClassicVectorEnv,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
)
from tests.twins import assert_all_equal, assert_equal, assert_same, everything

TASKS = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}
AHEAD = 16
CONTINUOUS = ["MountainCarContinuous-v0", "Pendulum-v1"]
SAME_STEP = AutoresetMode.SAME_STEP
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="the extra `numba` is missing")
KERNELS = ["numpy", pytest.param("numba", marks=needs_numba)]
every_task, every_kernel = pytest.mark.parametrize("env_id", TASKS), pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(autouse=True, scope="module")
def _little_is_drawn_ahead() -> Iterator[None]:
    """So that it is used up, and drawn again, within short tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classic, "AHEAD", AHEAD)
        yield


def sync_of(env_id: str, n: int, limit: int | None = None, mode: AutoresetMode = SAME_STEP, **kwargs: Any):
    def one() -> gymnasium.Env:
        return gymnasium.make(env_id, max_episode_steps=limit, disable_env_checker=True, **kwargs)

    return SyncVectorEnv([one] * n, autoreset_mode=mode)


def ours_of(env_id: str, n: int, limit: int | None = None, *args: Any, **kwargs: Any) -> ClassicVectorEnv:
    return TASKS[env_id](n, limit or gymnasium.spec(env_id).max_episode_steps, *args, **kwargs)


def player(env_id: str, n: int, scale: float = 1.0, dtype: Any = np.float32) -> Callable[[np.ndarray], np.ndarray]:
    """Even rows act at random; odd rows push the way they go, which is what gets up a hill or a pendulum."""
    rng, purposeful = np.random.default_rng(0), np.arange(n) % 2 == 1
    speed = {"Acrobot-v1": 4, "Pendulum-v1": 2}.get(env_id, 1)

    def act(obs: np.ndarray) -> np.ndarray:
        if env_id in CONTINUOUS:
            bound = 2.0 if env_id == "Pendulum-v1" else 1.0
            pushed = np.sign(obs[:, [speed]]) * bound
            return (scale * np.where(purposeful[:, None], pushed, rng.uniform(-bound, bound, (n, 1)))).astype(dtype)
        if env_id == "CartPole-v1":  # with the pole: it falls more slowly than at random
            return np.where(purposeful, obs[:, 2] + obs[:, 3] > 0, rng.integers(0, 2, n)).astype(np.int64)
        return np.where(purposeful, 1 + np.sign(obs[:, speed]), rng.integers(0, 3, n)).astype(np.int64)

    return act


def state_check(sync: SyncVectorEnv, ours: ClassicVectorEnv) -> Callable[[], None]:
    """Compares the states themselves; what gymnasium holds in float32 we hold in float64."""

    def check() -> None:
        states = [np.array(env.unwrapped.state, dtype=np.float64) for env in sync.envs]
        assert_equal(np.stack(states, axis=1), ours.state[: len(states[0])])

    return check


@every_kernel
@every_task
def test_equal_to_gymnasium_for_ten_thousand_steps(env_id: str, kernel: str) -> None:
    sync, ours = sync_of(env_id, 8), ours_of(env_id, 8, kernel=kernel)
    assert (sync.single_observation_space, sync.action_space) == (ours.single_observation_space, ours.action_space)
    ends = assert_same(sync, ours, player(env_id, 8), 1250, check=state_check(sync, ours))
    assert ends > 8  # by the task or by the clock


@pytest.mark.parametrize("limit", [1, 13])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@every_kernel
@every_task
def test_every_autoreset_mode_with_a_short_time_limit(
    env_id: str, kernel: str, mode: AutoresetMode, limit: int
) -> None:
    sync, ours = sync_of(env_id, 3, limit, mode), ours_of(env_id, 3, limit, None, mode, kernel=kernel)
    ends = assert_same(sync, ours, player(env_id, 3), 70, check=state_check(sync, ours))
    assert ends > (6 * AHEAD if limit == 1 else 12)  # 6 AHEAD: first states are drawn again
    assert ours.metadata["autoreset_mode"] is mode


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_kernel
@pytest.mark.parametrize("env_id", CONTINUOUS)
def test_actions_beyond_the_bounds_and_in_double_precision(env_id: str, kernel: str, dtype: Any) -> None:
    sync, ours = sync_of(env_id, 6), ours_of(env_id, 6, kernel=kernel)
    assert_same(sync, ours, player(env_id, 6, 1.7, dtype), 500, check=state_check(sync, ours))
    assert_same(sync, ours, player(env_id, 6, 0.99, dtype), 300, check=state_check(sync, ours))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_kernel
def test_every_dtype_of_continuous_mountain_car(kernel: str, dtype: Any, first: bool) -> None:
    """One step from states on both sides of each bound, the goal's place to the bit among them."""
    rng = np.random.default_rng(0)
    place, speed = rng.uniform(-1.2, 0.6, 6000), rng.uniform(-0.07, 0.07, 6000)
    action = rng.uniform(-4.0, 4.0, (6000, 1)).astype(dtype)  # beyond 1 it becomes a Python number
    place[-500:] = -1.2 - speed[-500:]
    # As fast as may be, to where float32 is fine enough to tell a speed of 0.07 from its float32.
    place[3000:4000], speed[3000:4000] = rng.uniform(0.06, 0.08, 1000), rng.uniform(-0.07, -0.069, 1000)
    action[3000:4000] /= 4
    # From 41 neighbours each: some arrive at the goal, to the bit.
    v, a = np.repeat(rng.uniform(0.01, 0.06, 50), 41), np.repeat(rng.uniform(-2.0, 2.0, 50), 41).astype(dtype)
    start = 0.45 - v
    for _ in range(20):
        start = 0.45 - (v.astype(np.float32) + a.clip(-1, 1) * 0.0015 - 0.0025 * np.cos(3 * start))
    bits = start.astype(np.float32).view(np.int32) + np.tile(np.arange(-20, 21, dtype=np.int32), 50)
    place[: len(v)], speed[: len(v)], action[: len(v), 0] = bits.view(np.float32), v, a
    ours = ours_of("MountainCarContinuous-v0", 6000, kernel=kernel)
    ours.reset(seed=0)
    states = np.stack([place, speed], axis=1) if first else np.stack([place, speed], axis=1).astype(np.float32)
    ours.state[:], ours.elapsed[:] = states.T, 0 if first else 1
    _, reward, terminated, _, info = ours.step(action)
    single: Any = gymnasium.make("MountainCarContinuous-v0", disable_env_checker=True).unwrapped
    said = []
    for state, act in zip(states, action, strict=True):
        single.state = state
        said.append(single.step(act)[:3])
    assert_equal(np.stack([obs for obs, _, _ in said]), info["final_obs"])
    assert [r for _, r, _ in said] == reward.tolist()
    assert [t for _, _, t in said] == terminated.tolist()
    places, speeds = info["final_obs"].T
    assert (places[terminated] == np.float32(0.45)).any()
    assert (np.abs(speeds) == np.float32(0.07)).sum() > 20 and (places == np.float32(-1.2)).sum() > 5


def test_the_comparison_can_fail() -> None:
    for wrong in (CartPole(2, 499), CartPole(2, 500, None, "NextStep"), CartPole(2, 500, sutton_barto_reward=True)):
        with pytest.raises(AssertionError):
            assert_same(sync_of("CartPole-v1", 2), wrong, lambda obs: (obs[:, 2] + obs[:, 3] > 0).astype(np.int64), 600)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Pendulum-v1", {"g": 9.81}),
        ("MountainCar-v0", {"goal_velocity": 0.03}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.06}),
    ],
)
@every_kernel
def test_constructor_arguments(env_id: str, kwargs: dict[str, Any], kernel: str) -> None:
    sync, ours = sync_of(env_id, 4, **kwargs), ours_of(env_id, 4, kernel=kernel, **kwargs)
    assert_same(sync, ours, player(env_id, 4), 400)
    with pytest.raises(AssertionError):  # they make a difference
        assert_same(sync, ours_of(env_id, 4, kernel=kernel), player(env_id, 4), 400)


@every_kernel
@every_task
def test_reset_options_are_gymnasiums(env_id: str, kernel: str) -> None:
    sync, ours = sync_of(env_id, 3, 4), ours_of(env_id, 3, 4, kernel=kernel)
    name, wide = ("x_init", 0.5) if env_id == "Pendulum-v1" else ("low", -3.0 if env_id == "Acrobot-v1" else -0.55)
    options: dict[str, Any] = {name: wide, "y_init": 0.1}
    play = player(env_id, 3)
    for seed, given_options in ((3, options), (None, options), (None, None), (None, {"reset_mask": None} | options)):
        if given_options and "reset_mask" in given_options:
            given_options = given_options | {"reset_mask": np.array([True, False, True])}
        obs = sync.reset(seed=seed, options=given_options and dict(given_options))[0]
        assert_equal(obs, ours.reset(seed=seed, options=given_options)[0])
        for _ in range(2 * AHEAD):  # what starts by itself starts within the usual bounds
            action = play(obs)
            said, told = sync.step(action), ours.step(action)
            assert_equal(said[0], told[0])
    assert [rng.bit_generator.state for rng in sync.np_random] == [rng.bit_generator.state for rng in ours.np_random]
    for wrong in ({name: "x"}, {"low": 1.0, "high": 0.0}) if name == "low" else ({name: "x"},):
        with pytest.raises(ValueError):
            ours.reset(options=wrong)


# Any number of rows, with states of any age


@given(n=st.integers(1, 257), seed=st.integers(0, 2**31), limit=st.integers(1, 9), env_id=st.sampled_from(list(TASKS)))
@settings(max_examples=15, deadline=None)
def test_any_number_of_rows(n: int, seed: int, limit: int, env_id: str) -> None:
    for kernel in ("numpy", "numba") if importlib.util.find_spec("numba") else ("numpy",):
        assert_same(sync_of(env_id, n, limit), ours_of(env_id, n, limit, kernel=kernel), player(env_id, n), 10, seed)


def test_what_is_drawn_ahead_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for ahead in (1, 7, 128):
        monkeypatch.setattr(classic, "AHEAD", ahead)
        env = ours_of("Acrobot-v1", 3, 2)
        env.reset(seed=0)
        said.append(everything(env, 60))
        assert env.ahead == ahead
    assert_all_equal(said[0], said[1])
    assert_all_equal(said[0], said[2])
    assert 3 * CartPole(2**14).drawn.nbytes < 2**25  # and it does not fill the memory


@every_kernel
@every_task
def test_a_row_does_not_depend_on_num_envs(env_id: str, kernel: str) -> None:
    few, many = ours_of(env_id, 2, 2, kernel=kernel), ours_of(env_id, 11, 2, kernel=kernel)
    assert_equal(few.reset(seed=4)[0], many.reset(seed=4)[0][:2])
    play = player(env_id, 11)
    for _ in range(3 * AHEAD):
        action = play(many.obs)
        for a, b in zip(few.step(action[:2])[:4], many.step(action)[:4], strict=True):
            assert_equal(a, b[:2])


@needs_numba
@given(
    n=st.integers(1, 40),
    steps=st.integers(0, 90),
    mode=st.sampled_from(list(AutoresetMode)),
    env_id=st.sampled_from(list(TASKS)),
    kernels=st.permutations(["numpy", "numba"]),
)
@settings(max_examples=15, deadline=None)
def test_a_restored_state_continues_bit_for_bit_in_the_other_kernel(
    n: int, steps: int, mode: AutoresetMode, env_id: str, kernels: list[str]
) -> None:
    env, other = (ours_of(env_id, n, 7, None, mode, kernel=kernel) for kernel in kernels)
    env.reset(seed=n)
    everything(env, steps)
    state = env.get_state()
    before = copy.deepcopy(state)
    future = everything(env, 80)
    np.testing.assert_equal(state, before)  # a copy
    for again in (env, other):
        again.set_state(pickle.loads(pickle.dumps(state)))
        assert_all_equal(everything(again, 80), future)


def test_get_state_changes_nothing() -> None:
    asked, unasked = (ours_of("CartPole-v1", 3, 5, kernel="numpy") for _ in range(2))
    asked.reset(seed=0)
    unasked.reset(seed=0)
    for _ in range(50):
        assert_all_equal(everything(asked, 3), everything(unasked, 3))
        asked.get_state()


@every_kernel
@every_task
def test_returned_arrays_are_new_and_never_written_again(env_id: str, kernel: str) -> None:
    env, reference = (ours_of(env_id, 4, 3, kernel=kernel) for _ in range(2))
    kept, copies = [env.reset(seed=0)[0]], [reference.reset(seed=0)[0].copy()]
    play = player(env_id, 4)
    for _ in range(12):
        action = play(copies[0])
        *arrays, info = env.step(action)
        fresh = [*arrays, *(value for value in info.values() if isinstance(value, np.ndarray))]
        kept += fresh
        copies += [array.copy() for array in fresh]
        reference.step(action)
    assert_all_equal(kept, copies)
    for array in kept:
        array[...] = 1
    np.testing.assert_equal(env.get_state(), reference.get_state())


# Mistakes


@pytest.mark.parametrize(
    ("env_id", "actions", "message"),
    [
        ("CartPole-v1", [0, 1, 2], "environment 2 got action 2: it must be from 0 to 1"),
        ("CartPole-v1", [0, -1, 2], "environment 1 got action -1: it must be from 0 to 1"),
        ("Acrobot-v1", [3, 0, 0], "environment 0 got action 3: it must be from 0 to 2"),
        ("MountainCar-v0", np.array([0, 0, 2**63], np.uint64), "environment 2 got action"),
        ("CartPole-v1", [0.0, 1.0, 1.0], r"actions are float64 of shape \(3,\): they must be int64 of shape \(3,\)"),
        ("CartPole-v1", [True, False, True], "actions are bool"),
        ("CartPole-v1", [0, 1], r"of shape \(2,\)"),
        ("CartPole-v1", [[0], [1], [1]], r"of shape \(3, 1\)"),
        ("Pendulum-v1", [0.0, 1.0, 1.0], r"of shape \(3,\): they must be float32 of shape \(3, 1\)"),
        ("Pendulum-v1", [[0.0], [np.nan], [1.0]], r"environment 1 got action \[nan\]: it must be finite"),
        ("MountainCarContinuous-v0", [[0.0], [0.0], [-np.inf]], r"environment 2 got action \[-inf\]"),
    ],
)
@every_kernel
def test_an_invalid_action_is_refused_before_any_row_is_stepped(
    env_id: str, actions: Any, message: str, kernel: str
) -> None:
    env, reference = (ours_of(env_id, 3, kernel=kernel) for _ in range(2))
    for each in (env, reference):
        each.reset(seed=0)
        everything(each, 5)
    with pytest.raises(EnvError, match=message):
        env.step(actions)
    np.testing.assert_equal(env.get_state(), reference.get_state())
    with pytest.raises(EnvError, match="before reset"):
        ours_of(env_id, 3, kernel=kernel).step(env.action_space.sample())


@every_kernel
def test_whole_numbers_of_any_type_and_stride_are_taken(kernel: str) -> None:
    env, reference = ours_of("Acrobot-v1", 3, kernel=kernel), ours_of("Acrobot-v1", 3, kernel=kernel)
    env.reset(seed=0)
    reference.reset(seed=0)
    odd = [[0, 2, 1], np.array([0, 2, 1], np.uint8), np.array([0, 9, 2, 9, 1, 9])[::2], np.array([0, 2, 1], ">i4")]
    for actions in odd:
        assert_equal(env.step(actions)[0], reference.step(np.array([0, 2, 1]))[0])


# Kernels


@needs_numba
def test_auto_switches_to_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "PATIENCE", 40)
    monkeypatch.setattr(classic, "_loaded", set())
    env, numpy = ours_of("Pendulum-v1", 3, 7), ours_of("Pendulum-v1", 3, 7, kernel="numpy")
    assert env.engine == "NumPy, after 40 steps numba"
    env.reset(seed=1)
    numpy.reset(seed=1)
    assert_all_equal(everything(env, 39), everything(numpy, 39))
    assert env._step is None
    assert_all_equal(everything(env, 50), everything(numpy, 50))
    assert env._step is not None and numpy._step is None and env.engine == "numba"
    assert ours_of("Pendulum-v1", 2)._step is not None  # the next one has it from the start
    assert ours_of("CartPole-v1", 2)._step is None


def test_without_numba_numpy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "PATIENCE", 3)
    monkeypatch.setattr(classic, "_loaded", set())
    monkeypatch.setitem(sys.modules, "numba", None)
    classic_rows.compiled.cache_clear()
    classic_rows._register_with_numba.cache_clear()
    env = ours_of("Pendulum-v1", 3)
    env.reset(seed=1)
    everything(env, 9)
    assert env._step is None
    with pytest.raises(EnvError, match=r"kernel 'numba' is not available .*: pip install 'costgrad\[numba\]'"):
        ours_of("Pendulum-v1", 3, kernel="numba")
    with pytest.raises(EnvError, match="kernel is 'fast': it must be auto, numba or numpy"):
        ours_of("Pendulum-v1", 3, kernel="fast")


def test_a_failing_numba_is_a_warning_and_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(classic, "PATIENCE", 3)
    monkeypatch.setattr(classic, "_loaded", set())
    monkeypatch.setattr(classic_rows, "compiled", fails)
    env = ours_of("Pendulum-v1", 3)
    env.reset(seed=1)
    with pytest.warns(RuntimeWarning, match="numba cannot be used, NumPy is used instead: RuntimeError: cannot cache"):
        everything(env, 9)


# Rendering


@every_task
def test_frames_are_gymnasiums(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    sync = sync_of(env_id, 2, 6, render_mode="rgb_array")
    ours = ours_of(env_id, 2, 6, render_mode="rgb_array")
    obs, play = sync.reset(seed=0)[0], player(env_id, 2)
    ours.reset(seed=0)
    seen = []
    for _ in range(8):  # over the end of an episode
        for frame, our_frame in zip(sync.render(), ours.render(), strict=True):
            assert_equal(frame, our_frame)
            seen.append(frame)
        action = play(obs)
        obs = sync.step(action)[0]
        ours.step(action)
    assert len({frame.tobytes() for frame in seen}) > 3
    sync.close()
    ours.close()
