"""Whether a batched environment says what a SyncVectorEnv of gymnasium's single ones says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv


def assert_equal(a: Any, b: Any) -> None:
    """Two arrays of the same type, shape and numbers."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if a.tobytes() == b.tobytes():  # which is quick
        return
    np.testing.assert_array_equal(a, b)


def assert_same_info(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """The same entries and masks; `final_obs`, an object array of theirs, where its mask is set."""
    assert set(theirs) == set(ours)
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_same_info(value, ours[key])
        elif key == "final_obs":
            for i in np.flatnonzero(theirs["_final_obs"]):
                assert_equal(value[i], ours[key][i])
        else:
            assert_equal(value, ours[key])


def assert_same(
    theirs: VectorEnv,
    ours: VectorEnv,
    actions: Callable[[np.ndarray], np.ndarray],
    steps: int,
    seed: int = 3,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Steps both, and compares everything that they say.

    Args:
        theirs: a SyncVectorEnv.
        ours: the other one.
        actions: of an observation [N, *obs_shape], [N] or [N, A].
        steps: how many.
        seed: of the first reset.
        check: called after each step.
    Returns:
        how many episodes ended.
    """
    ends, (obs, info), (our_obs, our_info) = 0, theirs.reset(seed=seed), ours.reset(seed=seed)
    assert_equal(obs, our_obs)
    assert_same_info(info, our_info)
    for _ in range(steps):
        action = actions(obs)
        said, told = theirs.step(action), ours.step(action)
        for a, b in zip(said[:4], told[:4], strict=True):
            assert_equal(a, b)
        assert_same_info(said[4], told[4])
        check()
        obs, done = said[0], said[2] | said[3]
        ends += int(done.sum())
        if done.any() and ours.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            (obs, info), (our_obs, our_info) = (e.reset(options={"reset_mask": done.copy()}) for e in (theirs, ours))
            assert_equal(obs, our_obs)
            assert_same_info(info, our_info)
    return ends


def everything(env: VectorEnv, steps: int, seed: int = 7) -> list[np.ndarray]:
    """All that an environment says under random actions of a fixed seed, from where it stands."""
    env.action_space.seed(seed)
    said: list[np.ndarray] = []
    for _ in range(steps):
        *arrays, info = env.step(env.action_space.sample())
        said += arrays
        if info.get("_final_obs") is not None:
            said += [info["_final_obs"], np.stack([info["final_obs"][i] for i in np.flatnonzero(info["_final_obs"])])]
        done = arrays[2] | arrays[3]
        if done.any() and env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            said.append(env.reset(options={"reset_mask": done})[0])
    return said


def assert_all_equal(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    """Two results of `everything`."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert_equal(x, y)
