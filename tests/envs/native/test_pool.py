"""envpool behind our interface: episode ends, final observations, seeds, and one-line errors."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from costgrad.envs import EnvError, make
from tests.twins import assert_all_equal, assert_equal, everything

pytest.importorskip("envpool", reason="the extra `envpool` is not installed")


def pool(env_id: str = "CartPole-v1", n: int = 3, **kwargs: object):
    return make(env_id, n, backend="envpool", env_kwargs=kwargs)


def test_a_row_that_ended_returns_its_final_obs_and_is_reset_by_the_next_step() -> None:
    env = pool(n=4, max_episode_steps=12)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP and env.backend == "envpool"
    env.reset(seed=0)
    length, waits, seen = np.zeros(4, int), np.zeros(4, bool), set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        obs, reward, terminated, truncated, _ = env.step(rng.integers(0, 2, 4))
        length = np.where(waits, 0, length + 1)
        out = (np.abs(obs[:, 2]) > 0.2095) | (np.abs(obs[:, 0]) > 2.4)
        assert_equal(reward, np.where(waits, 0.0, 1.0))
        assert_equal(truncated, length == 12)
        assert_equal(terminated, out & (length < 12))  # that of the last step is lost, as the docstring says
        assert (np.abs(obs[waits]) <= 0.05).all()
        seen |= {(bool(a), bool(b)) for a, b in zip(terminated, truncated, strict=True)}
        waits = terminated | truncated
    assert seen == {(False, False), (True, False), (False, True)}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_spaces_and_types_are_gymnasiums(env_id: str) -> None:
    ours, sync = pool(env_id), make(env_id, 3, backend="sync")
    for name in ("single_observation_space", "observation_space", "single_action_space", "action_space"):
        assert getattr(ours, name) == getattr(sync, name)
    assert_equal(ours.reset(seed=0)[0] * 0, sync.reset(seed=0)[0] * 0)
    action = sync.action_space.sample()
    for a, b in zip(ours.step(action)[:4], sync.step(action)[:4], strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


def test_row_i_is_seeded_with_seed_plus_i() -> None:
    env, one = pool(n=3), pool(n=1)
    first = env.reset(seed=5)[0]
    said = everything(env, 40)
    assert_equal(one.reset(seed=6)[0][0], first[1])
    assert_equal(env.reset(seed=5)[0], first)
    assert_all_equal(everything(env, 40), said)
    assert (env.reset()[0] != first).any()  # without a seed the streams go on
    assert (env.reset(seed=6)[0] != first).any()
    assert env.factory(2, 0).backend == "envpool" and env.factory(1, 0, "rgb_array").backend == "native"


def test_each_mistake_gets_one_line() -> None:
    with pytest.raises(EnvError, match="envpool has no 'costgrad/LQR-v0'"):
        pool("costgrad/LQR-v0")
    with pytest.raises(EnvError, match=r"envpool's Pendulum-v1 cannot be made: .*unexpected keyword argument 'g'"):
        pool("Pendulum-v1", g=3.0)
    with pytest.raises(EnvError, match="Pendulum-v1 does not take gravity"):
        pool("Pendulum-v1", gravity=3.0)
    env = pool("Pendulum-v1")
    with pytest.raises(EnvError, match="before reset"):
        env.step(env.action_space.sample())
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"environment 1 got action \[nan\]"):
        env.step(np.array([[0.0], [np.nan], [0.0]]))
    with pytest.raises(EnvError, match=r"of shape \(3,\)"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(EnvError, match="no options at a reset, got reset_mask"):
        env.reset(options={"reset_mask": np.ones(3, bool)})
    env.close()
