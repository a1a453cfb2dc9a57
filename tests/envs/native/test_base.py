"""The base of batched environments, with a small task: modes, time limit, seeds, infos, state, against sync."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from costgrad.envs import EnvError
from costgrad.envs.native.base import NativeVectorEnv
from tests.twins import assert_all_equal, assert_equal, assert_same, assert_same_info, everything

MODES = list(AutoresetMode)


class Walk(gymnasium.Env):
    """A place that the action moves; it starts from a normal number, and has much to say about it."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, size: int = 2, render_mode: str | None = None) -> None:
        self.size, self.render_mode, self.closed = size, render_mode, False
        self.observation_space, self.action_space = Box(-np.inf, np.inf, (size,)), Box(-1.0, 1.0, (size,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.standard_normal(self.size) * (options or {}).get("scale", 1.0)
        return self.place.astype(np.float32), {"sum": self.place.sum(), "start": self.place[0], "drawn": self.place}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = self.place + action
        info = {"sum": self.place.sum(), "far": bool(abs(self.place[0]) > 1), "pair": np.stack([self.place, action])}
        return self.place.astype(np.float32), -self.place.sum(), bool(abs(self.place[0]) > 2.5), False, info

    def render(self) -> np.ndarray:
        return np.full((2, 3, 3), self.place[0])

    def close(self) -> None:
        self.closed = True


class Walks(NativeVectorEnv):
    """Many of them."""

    def __init__(self, num_envs: int, limit: int | None = None, mode: Any = "SameStep", **kwargs: Any) -> None:
        super().__init__(Walk(**kwargs), num_envs, limit, mode)
        self.place = np.zeros((num_envs, self.twin.size))

    def _start(self, rows: np.ndarray, options: dict[str, Any] | None) -> dict[str, np.ndarray]:
        scale = (options or {}).get("scale", 1.0)
        for i in rows:
            self.place[i] = self.rngs[i].standard_normal(self.twin.size) * scale
        place = self.place[rows]
        return {"sum": place.sum(1), "start": place[:, 0].copy(), "drawn": place.copy()}

    def _advance(self, actions: np.ndarray, skipped: np.ndarray | None) -> Any:
        self.place += actions
        info = {"sum": self.place.sum(1), "far": np.abs(self.place[:, 0]) > 1}
        info["pair"] = np.stack([self.place, actions], axis=1)
        return self._observe(slice(None)), -self.place.sum(1), np.abs(self.place[:, 0]) > 2.5, info

    def _observe(self, rows: Any) -> np.ndarray:
        return self.place[rows].astype(np.float32)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"place": self.place}

    def _pose(self, i: int) -> None:
        self.twin.place = self.place[i].copy()


def twins(n: int, limit: int | None, mode: AutoresetMode) -> tuple[SyncVectorEnv, Walks]:
    def one() -> gymnasium.Env:
        return Walk() if limit is None else gymnasium.wrappers.TimeLimit(Walk(), limit)

    return SyncVectorEnv([one] * n, autoreset_mode=mode), Walks(n, limit, mode)


def noise(n: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return lambda obs: rng.uniform(-1, 1, (n, 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [1, 2, 6, None])
def test_equal_to_sync(mode: AutoresetMode, limit: int | None) -> None:
    sync, ours = twins(5, limit, mode)
    ends = assert_same(sync, ours, noise(5), 200)
    assert ends > 20
    assert ours.metadata["autoreset_mode"] is mode


@given(n=st.integers(1, 257), limit=st.integers(1, 5), mode=st.sampled_from(MODES), seed=st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_equal_to_sync_for_any_num_envs(n: int, limit: int, mode: AutoresetMode, seed: int) -> None:
    assert_same(*twins(n, limit, mode), noise(n), 12, seed)


def test_the_comparison_can_fail() -> None:
    sync, _ = twins(3, 6, MODES[1])
    for wrong in (Walks(3, 5), Walks(3, None), Walks(3, 6, "NextStep")):
        with pytest.raises(AssertionError):
            assert_same(sync, wrong, noise(3), 30)


def test_spaces_and_metadata_are_the_twins() -> None:
    env = Walks(4, 9, size=3)
    assert env.single_observation_space == Walk(3).observation_space and env.observation_space.shape == (4, 3)
    assert env.single_action_space == Walk(3).action_space and env.action_space.shape == (4, 3)
    assert env.metadata["render_fps"] == 7 and env.metadata["render_modes"] == ["rgb_array"]
    assert Walk.metadata["render_modes"] == ["rgb_array", "human"] and env.max_episode_steps == 9


# Seeds and resets


def test_seeds_are_those_of_single_environments() -> None:
    sync, ours = twins(3, None, MODES[1])
    for seed in (5, [9, 2, 7], [None, 4, None], None):
        assert_equal(sync.reset(seed=seed)[0], ours.reset(seed=seed)[0])
    assert_equal(ours.reset(seed=5)[0][2], Walk().reset(seed=7)[0])
    sync.reset(seed=5)
    assert [rng.bit_generator.state for rng in sync.np_random] == [rng.bit_generator.state for rng in ours.np_random]


def test_a_row_does_not_depend_on_num_envs() -> None:
    few, many = Walks(2, 6), Walks(9, 6)
    few.reset(seed=4)
    many.reset(seed=4)
    for _ in range(60):
        action = np.random.default_rng(0).uniform(-1, 1, (9, 2))
        for a, b in zip(few.step(action[:2])[:4], many.step(action)[:4], strict=True):
            assert_equal(a, b[:2])


def test_unseeded_environments_differ_from_each_other_and_from_run_to_run() -> None:
    first, second = Walks(3).reset()[0], Walks(3).reset()[0]
    assert len(np.unique(np.concatenate([first, second])[:, 0])) == 6


@pytest.mark.parametrize("mode", MODES)
def test_some_can_be_reset_with_seeds_and_options_and_the_others_continue(mode: AutoresetMode) -> None:
    sync, ours = twins(4, 5, mode)
    rng, ended = np.random.default_rng(2), np.zeros(4, bool)
    sync.reset(seed=1)
    ours.reset(seed=1)
    for step in range(60):
        mask = rng.random(4) < 0.4
        if mode is AutoresetMode.DISABLED:
            mask |= ended
        if mask.any():
            options: dict[str, Any] = {"reset_mask": mask, "scale": 0.5} if step % 2 else {"reset_mask": mask}
            seed = [None, 7, None, step] if step % 3 == 0 else None
            theirs, told = sync.reset(seed=seed, options=dict(options)), ours.reset(seed=seed, options=options)
            assert "reset_mask" in options  # what we are given stays as it is
            assert_equal(theirs[0], told[0])
            assert_same_info(theirs[1], told[1])
        action = rng.uniform(-1, 1, (4, 2))
        said, told = sync.step(action), ours.step(action)
        for a, b in zip(said[:4], told[:4], strict=True):
            assert_equal(a, b)
        ended = said[2] | said[3]


# State


@pytest.mark.parametrize("mode", MODES)
def test_a_restored_state_continues_bit_for_bit(mode: AutoresetMode) -> None:
    env, other = Walks(5, 6, mode), Walks(5, 6, mode)
    env.reset(seed=3)
    everything(env, 17)
    while mode is AutoresetMode.NEXT_STEP and not env._ended.any():  # pending resets are part of what is kept
        everything(env, 1)
    state = env.get_state()
    before = copy.deepcopy(state)
    future = everything(env, 40)
    assert_same_state(state, before)  # a copy: later steps leave it alone
    env.set_state(state)
    assert_all_equal(everything(env, 40), future)
    other.set_state(pickle.loads(pickle.dumps(state)))  # elsewhere, never reset
    assert_all_equal(everything(other, 40), future)
    assert_same_state(state, before)
    json.dumps(state["generators"])  # a checkpoint can hold it


def assert_same_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert {k: v for k, v in a.items() if k != "arrays"} == {k: v for k, v in b.items() if k != "arrays"}
    assert_all_equal(list(a["arrays"].values()), list(b["arrays"].values()))


def test_a_state_of_another_number_is_refused() -> None:
    env = Walks(3)
    env.reset(seed=0)
    with pytest.raises(EnvError, match="num_envs 3 cannot be set here: it must be 4"):
        Walks(4).set_state(env.get_state())
    with pytest.raises(EnvError, match="of kind Other"):
        env.set_state(env.get_state() | {"kind": "Other"})


def test_returned_arrays_are_new_and_never_written_again() -> None:
    env, reference = Walks(4, 3), Walks(4, 3)
    kept = [env.reset(seed=0)[0]]
    reference.reset(seed=0)
    copies = [kept[0].copy()]
    for _ in range(12):
        for fresh in told(env.step(np.ones((4, 2)))):
            kept.append(fresh)
            copies.append(fresh.copy())
        reference.step(np.ones((4, 2)))
    assert_all_equal(kept, copies)
    for array in told(env.step(np.ones((4, 2)))):
        array[...] = 1
    reference.step(np.ones((4, 2)))
    assert_same_state(env.get_state(), reference.get_state())


def told(step: tuple[Any, ...]) -> list[np.ndarray]:
    """All arrays of a step."""
    *arrays, info = step
    values = [*info.values(), *info.get("final_info", {}).values()]
    return [*arrays, *(value for value in values if isinstance(value, np.ndarray))]


# Mistakes


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 1)), r"actions are float64 of shape \(3, 1\): they must be float32 of shape \(3, 2\)"),
        (np.zeros((2, 2)), r"of shape \(2, 2\)"),
        (0.5, r"of shape \(\)"),
        ([["a", "b"]] * 3, "actions are <U1"),
        (np.zeros((3, 2), bool), "actions are bool"),
        (np.zeros((3, 2), np.float16), "actions are float16"),
        (np.zeros((3, 2), object), "actions are object"),
        (np.array([[0, 0], [0, np.nan], [np.nan, 0]]), r"environment 1 got action \[ 0. nan\]: it must be finite"),
        (np.array([[0, 0], [0, 0], [-np.inf, 0]]), "environment 2 got action"),
    ],
)
def test_an_invalid_action_is_refused_before_any_row_is_stepped(actions: Any, message: str) -> None:
    env = Walks(3, 4)
    env.reset(seed=0)
    env.step(np.zeros((3, 2)))
    before = env.get_state()
    with pytest.raises(EnvError, match=message):
        env.step(actions)
    assert_same_state(env.get_state(), before)


def test_whole_numbers_and_lists_are_taken() -> None:
    sync, ours = twins(2, None, MODES[1])
    sync.reset(seed=0)
    ours.reset(seed=0)
    for actions in (np.ones((2, 2), np.int32), [[0.5, 1], [1, 0.25]]):
        assert_equal(sync.step(np.asarray(actions))[1], ours.step(actions)[1])


def test_stepping_before_a_reset_or_past_an_end_is_refused() -> None:
    env = Walks(2, 1, AutoresetMode.DISABLED)
    with pytest.raises(EnvError, match="before reset"):
        env.step(np.zeros((2, 2)))
    with pytest.raises(EnvError, match="reset all of them first"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    env.step(np.zeros((2, 2)))
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(EnvError, match="environment 1 has ended"):
        env.step(np.zeros((2, 2)))


@pytest.mark.parametrize("mask", [[True, False], np.array([1, 0]), np.array([True]), np.zeros(2, bool)])
def test_a_wrong_mask_or_number_of_seeds_is_refused(mask: Any) -> None:
    env = Walks(2)
    with pytest.raises(EnvError, match="reset_mask"):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(EnvError, match="seed has length 3: it must be one number, or 2"):
        env.reset(seed=[1, 2, 3])


# Rendering


def test_the_twin_draws_each_row() -> None:
    env = Walks(3, render_mode="rgb_array")
    env.reset(seed=0)
    frames = env.render()
    assert [frame[0, 0, 0] for frame in frames] == env.place[:, 0].tolist()
    with pytest.raises(EnvError, match="without a render mode"):
        Walks(3).render()
    env.close()
    assert env.twin.closed
