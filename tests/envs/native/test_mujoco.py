"""The MuJoCo tasks against gymnasium's single environments, bit for bit."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from costgrad.envs import EnvError, make
from costgrad.envs.native import mujoco_tasks
from costgrad.envs.native.mujoco_batch import MujocoVectorEnv
from costgrad.envs.native.mujoco_tasks import Ant, HalfCheetah, Hopper, Humanoid, Reacher
from tests.twins import assert_equal, assert_same, assert_same_info

mujoco: Any = pytest.importorskip("mujoco", reason="the extra `mujoco` is not installed")
pytest.importorskip("mujoco.batch", reason="this MuJoCo is older than 3.17")

NAMES = "Ant HalfCheetah Hopper Humanoid InvertedDoublePendulum InvertedPendulum Pusher Reacher Swimmer Walker2d"
TASKS: dict[str, type[MujocoVectorEnv]] = {f"{name}-v5": getattr(mujoco_tasks, name) for name in NAMES.split()}
CONTACTS = ("Ant-v5", "Humanoid-v5")  # whose obs end with contact forces
RENDERING = {"default_camera_config", "kwargs"}  # arguments that change pictures only

XML = """
<mujoco>
  <option timestep="0.01"><flag {flags}/></option>
  <worldbody>
    <geom type="plane" size="9 9 1"/>
    <body name="torso" pos="0 0 0.5"><freejoint/><geom size="0.2"/><site name="s"/>
      <body pos="0.3 0 0"><joint name="j" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.05"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="j" ctrlrange="-1 1" gear="5"/></actuator>
  {sensor}
</mujoco>
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes MUJOCO_LOG.TXT into the working folder, for half_cheetah.xml at every load."""
    monkeypatch.chdir(tmp_path)


def twins(env_id: str, n: int, limit: int | None = None, mode: str = "SAME_STEP", threads: int = 1, **kwargs: Any):
    """Gymnasium's environments and ours."""
    limit = limit or gymnasium.spec(env_id).max_episode_steps
    makers = [lambda: gymnasium.make(env_id, max_episode_steps=limit, disable_env_checker=True, **kwargs)] * n
    sync = SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
    ours = TASKS[env_id](n, max_episode_steps=limit, autoreset_mode=AutoresetMode[mode], num_threads=threads, **kwargs)
    assert (sync.single_observation_space, sync.action_space) == (ours.single_observation_space, ours.action_space)
    return sync, ours


def random_actions(env: SyncVectorEnv, scale: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    """Actions of a fixed seed, `scale` times the bounds, for `assert_same`."""
    env.action_space.seed(3)
    return lambda obs: (scale * env.action_space.sample()).astype(env.action_space.dtype)


def play(env: MujocoVectorEnv, steps: int, seed: int = 5) -> list[np.ndarray]:
    """All obs, rewards and flags under the actions of a fixed seed, [steps][N, obs + 3]."""
    env.action_space.seed(seed)
    said = []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        said.append(np.column_stack([obs, reward, terminated, truncated]))
    return said


# Equal to gymnasium


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
@pytest.mark.parametrize("env_id", TASKS)
def test_equal_to_gymnasium(env_id: str, mode: str) -> None:
    sync, ours = twins(env_id, 3, limit=20, mode=mode)
    assert assert_same(sync, ours, random_actions(sync, 1.3), 45) >= 6  # beyond the bounds too


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.3, 1.5])  # quiet enough to last, and beyond the bounds
@pytest.mark.parametrize("env_id", TASKS)
def test_equal_over_whole_episodes(env_id: str, scale: float) -> None:
    sync, ours = twins(env_id, 2, threads=2)
    assert assert_same(sync, ours, random_actions(sync, scale), ours.max_episode_steps + 50) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"])
def test_equal_without_a_time_limit(env_id: str) -> None:
    """A thousand steps, most of them lying on the floor: many contacts."""
    sync, ours = twins(env_id, 2, terminate_when_unhealthy=False)
    assert assert_same(sync, ours, random_actions(sync), 1010) == 2


@pytest.mark.parametrize("env_id", CONTACTS)
def test_contact_forces_are_not_0(env_id: str) -> None:
    """What the comparisons above would not show if nothing touched the ground in them."""
    env = TASKS[env_id](2, num_threads=1)
    size = env.derived["cfrc_ext"][0, 1:].size
    assert not env.reset(seed=0)[0][:, -size:].any()  # as gymnasium's are until the first step
    falling = np.stack([env.step(np.zeros(env.action_space.shape))[0][:, -size:] for _ in range(30)])
    assert (np.abs(falling).max((0, 2)) > 0.5).all()


def test_actions_may_be_float64() -> None:
    """Gymnasium computes the cost of control in the type of the actions."""
    sync, ours = twins("HalfCheetah-v5", 2)
    sync.reset(seed=0), ours.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 6))
    for given_actions in (actions, actions.astype(np.float32)):
        a, b = sync.step(given_actions), ours.step(given_actions)
        assert_equal(a[1], b[1])
        assert_same_info(a[4], b[4])
    assert a[4]["reward_ctrl"].dtype == np.float32


def test_a_simulation_that_blows_up() -> None:
    """MuJoCo then resets it in the middle of a step, the controls too, which the cost of a Humanoid's are read from."""
    sync, ours = twins("Humanoid-v5", 3)
    sync.reset(seed=0), ours.reset(seed=0)
    ours.qvel[1, 0] = sync.envs[1].unwrapped.data.qvel[0] = 1e12
    actions = np.full((3, 17), 0.3, np.float32)
    a, b = sync.step(actions), ours.step(actions)
    for x, y in zip(a[:4], b[:4], strict=True):
        assert_equal(x, y)
    assert_same_info(a[4], b[4])
    assert b[4]["reward_ctrl"][0] != b[4]["reward_ctrl"][1]


@pytest.mark.parametrize(("env_id", "inside"), [("Ant-v5", True), ("Humanoid-v5", False), ("Walker2d-v5", False)])
def test_a_height_on_the_border(env_id: str, inside: bool) -> None:
    """Gymnasium counts it to the healthy ones for an Ant and to the others for the rest."""
    axis = 1 if env_id == "Walker2d-v5" else 2
    env = TASKS[env_id](1, num_threads=1)
    env.reset(seed=3)
    still = np.zeros(env.action_space.shape, np.float32)
    env.step(still)
    z = float(env.qpos[0, axis])
    sync, ours = twins(env_id, 1, healthy_z_range=(z, 9.0))
    sync.reset(seed=3), ours.reset(seed=3)
    assert ours.step(still)[2][0] == sync.step(still)[2][0] == (not inside)


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Ant-v5"])
def test_what_is_not_finite_ends_an_episode(env_id: str, tmp_path: Path) -> None:
    """It happens only where a model tells MuJoCo not to reset a simulation that has blown up."""
    text = Path(TASKS[env_id](1).twin.fullpath).read_text()
    path = tmp_path / "model.xml"
    path.write_text(text.replace("<worldbody>", '<option><flag autoreset="disable"/></option><worldbody>'))
    sync, ours = twins(env_id, 2, mode="DISABLED", xml_file=str(path))
    sync.reset(seed=0), ours.reset(seed=0)
    ours.qvel[1, -1] = sync.envs[1].unwrapped.data.qvel[-1] = np.nan
    actions = np.zeros(ours.action_space.shape, np.float32)
    a, b = sync.step(actions), ours.step(actions)
    assert np.isfinite(b[0][0]).all() and not np.isfinite(b[0][1]).all()
    for x, y in zip(a[:4], b[:4], strict=True):
        np.testing.assert_array_equal(x, y)
    assert b[2].tolist() == [False, True]


# Every argument

ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "Ant-v5": [
        {"forward_reward_weight": 2, "ctrl_cost_weight": 1, "contact_cost_weight": 0.1, "healthy_reward": 2},
        {"main_body": 2, "contact_force_range": (-0.1, 3.0), "reset_noise_scale": 0.2, "frame_skip": 3},
        {"main_body": "torso", "healthy_z_range": (0.5, 0.9), "exclude_current_positions_from_observation": False},
        {"terminate_when_unhealthy": False, "include_cfrc_ext_in_observation": False, "xml_file": "ant.xml"},
    ],
    "HalfCheetah-v5": [
        {"forward_reward_weight": 2.5, "ctrl_cost_weight": np.float64(0.3), "xml_file": "half_cheetah.xml"},
        {"reset_noise_scale": 0.5, "exclude_current_positions_from_observation": False, "frame_skip": 1},
    ],
    "Hopper-v5": [
        {"forward_reward_weight": 2.5, "ctrl_cost_weight": 1, "healthy_reward": 3, "xml_file": "hopper.xml"},
        {"healthy_state_range": (-1.5, 2.0), "reset_noise_scale": 0.05, "frame_skip": 8},
        {"healthy_z_range": (1.1, 1.3), "healthy_angle_range": (-0.1, 0.05)},
        {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False},
    ],
    "Humanoid-v5": [
        {"forward_reward_weight": 2, "ctrl_cost_weight": 1, "contact_cost_weight": 1e-5, "healthy_reward": 2},
        {"contact_cost_range": (0.1, 0.2), "healthy_z_range": (1.3, 1.5), "reset_noise_scale": 0.1, "frame_skip": 2},
        {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False},
        {"include_cinert_in_observation": False, "include_cfrc_ext_in_observation": False, "xml_file": "humanoid.xml"},
        {"include_cvel_in_observation": False, "include_qfrc_actuator_in_observation": False},
    ],
    "InvertedDoublePendulum-v5": [
        {"healthy_reward": 3, "reset_noise_scale": 0.2, "frame_skip": 2, "xml_file": "inverted_double_pendulum.xml"}
    ],
    "InvertedPendulum-v5": [{"reset_noise_scale": 0.1, "frame_skip": 1, "xml_file": "inverted_pendulum.xml"}],
    "Pusher-v5": [
        {"reward_near_weight": 2, "reward_dist_weight": 0.3, "reward_control_weight": 1},
        {"frame_skip": 2, "xml_file": "pusher_v5.xml"},
    ],
    "Reacher-v5": [
        {"reward_dist_weight": 2.5, "reward_control_weight": 0.1, "frame_skip": 4, "xml_file": "reacher.xml"}
    ],
    "Swimmer-v5": [
        {"forward_reward_weight": 2, "ctrl_cost_weight": 1, "reset_noise_scale": 0.5, "xml_file": "swimmer.xml"},
        {"frame_skip": 2, "exclude_current_positions_from_observation": False},
    ],
    "Walker2d-v5": [
        {"forward_reward_weight": 2, "ctrl_cost_weight": 1, "healthy_reward": 3, "xml_file": "walker2d.xml"},
        {"healthy_z_range": (1.1, 1.3), "reset_noise_scale": 0.05, "frame_skip": 8},
        {"healthy_angle_range": (-0.1, 0.05)},
        {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False},
    ],
}


@pytest.mark.parametrize(("env_id", "kwargs"), [(env_id, kwargs) for env_id in TASKS for kwargs in ARGUMENTS[env_id]])
def test_equal_with_arguments(env_id: str, kwargs: dict[str, Any]) -> None:
    assert TASKS[env_id].declines(kwargs) is None
    sync, ours = twins(env_id, 2, limit=20, **kwargs)
    assert_same(sync, ours, random_actions(sync), 30)


@pytest.mark.parametrize("env_id", TASKS)
def test_no_argument_is_forgotten(env_id: str) -> None:
    known = set(inspect.signature(load_env_creator(TASKS[env_id].entry_point)).parameters) - RENDERING
    assert known == set().union(*ARGUMENTS[env_id])


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """A force sensor makes MuJoCo compute contact forces at a reset too, which gymnasium then shows."""
    path = tmp_path / "ball.xml"
    path.write_text(XML.format(flags="", sensor='<sensor><force site="s"/></sensor>'))
    sync, ours = twins("Ant-v5", 2, limit=20, xml_file=str(path), healthy_z_range=(0.1, 2.0))
    assert_same(sync, ours, random_actions(sync), 40)


def test_what_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sleepy.xml"
    path.write_text(XML.format(flags='sleep="enable"', sensor=""))
    assert "sleep" in (Ant.declines({"xml_file": str(path)}) or "")
    path.write_text(XML.format(flags="", sensor=""))
    assert Ant.declines({"xml_file": str(path)}) is None
    reason = Humanoid.declines({"include_cvel_in_observation": 1})
    assert reason == "include_cvel_in_observation=1 is not a bool"
    with pytest.raises(OSError, match=r"nowhere\.xml does not exist"):
        HalfCheetah.declines({"xml_file": "nowhere.xml"})
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    assert HalfCheetah.declines({}) == "mujoco >= 3.17 is not installed"


# Rows by themselves


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "Pusher-v5"])
def test_a_row_does_not_depend_on_the_others(env_id: str) -> None:
    n, row = 6, 4
    many, one = (TASKS[env_id](size, max_episode_steps=15, num_threads=t) for size, t in ((n, 3), (1, 1)))
    np.testing.assert_array_equal(many.reset(seed=10)[0][row], one.reset(seed=10 + row)[0][0])
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (40, *many.action_space.shape))
    for action in actions:
        for a, b in zip(many.step(action)[:4], one.step(action[row : row + 1])[:4], strict=True):
            np.testing.assert_array_equal(a[row], b[0])


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 257),
    threads=st.integers(1, 3),
    env_id=st.sampled_from(["InvertedPendulum-v5", "Reacher-v5", "Pusher-v5", "Ant-v5"]),
    limit=st.sampled_from([1, 2, 7]),
    data=st.data(),
)
def test_any_number_of_rows(n: int, threads: int, env_id: str, limit: int, data: st.DataObject) -> None:
    """A row of any batch, with partial resets of any rows on the way, is gymnasium's single environment."""
    row = data.draw(st.integers(0, n - 1))
    env = TASKS[env_id](n, max_episode_steps=limit, autoreset_mode=AutoresetMode.DISABLED, num_threads=threads)
    single = gymnasium.make(env_id, max_episode_steps=limit, disable_env_checker=True)
    np.testing.assert_array_equal(env.reset(seed=1)[0][row], single.reset(seed=1 + row)[0])
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for _ in range(4):
        actions = rng.uniform(-0.4, 0.4, env.action_space.shape).astype(np.float32)
        ours = env.step(actions)
        for a, b in zip(ours[:4], single.step(actions[row])[:4], strict=True):
            np.testing.assert_array_equal(a[row], b)
        mask = ours[2] | ours[3] | (rng.random(n) < 0.2)
        if mask.any():
            obs, _ = env.reset(options={"reset_mask": mask})
            if mask[row]:
                np.testing.assert_array_equal(obs[row], single.reset()[0])


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Humanoid-v5"])
def test_a_partial_reset_leaves_the_rest_alone(env_id: str) -> None:
    a, b = (TASKS[env_id](3, autoreset_mode=AutoresetMode.DISABLED, num_threads=1) for _ in range(2))
    for env in (a, b):
        env.reset(seed=0)
        last = play(env, 6)[-1]
    obs, info = b.reset(seed=[None, 7, None], options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(obs[[0, 2]], last[[0, 2], :-3])
    np.testing.assert_array_equal(obs[1], TASKS[env_id](1).reset(seed=7)[0][0])
    assert info["_x_position"].tolist() == [False, True, False]
    for x, y in zip(play(a, 6), play(b, 6), strict=True):
        np.testing.assert_array_equal(x[[0, 2]], y[[0, 2]])
        assert (x[1] != y[1]).any()


def test_time_limit_of_one() -> None:
    for mode in ("SAME_STEP", "NEXT_STEP", "DISABLED"):
        sync, ours = twins("Ant-v5", 2, limit=1, mode=mode)
        assert assert_same(sync, ours, random_actions(sync), 6) == (6 if mode == "NEXT_STEP" else 12)


# State


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP"])
@pytest.mark.parametrize("env_id", TASKS)
def test_state_gives_the_same_future(env_id: str, mode: str) -> None:
    """Here and in another instance, taken in the middle of episodes with contacts and where one has just ended."""
    env, other = (TASKS[env_id](3, 12, None, AutoresetMode[mode], t) for t in (1, 2))
    env.reset(seed=0)
    other.reset(seed=50), play(other, 7)
    for before in (9, 3):  # 12 steps end an episode by the clock
        last = play(env, before)[-1]
        state = env.get_state()
        future = play(env, 20)
        for again in (env, other):
            again.set_state(state)
            np.testing.assert_array_equal(again._observe(slice(None)), last[:, :-3])
            np.testing.assert_array_equal(play(again, 20), future)
        env.set_state(state)


@pytest.mark.parametrize("part", ["qacc_warmstart", "xpos"])
def test_what_the_state_must_hold(part: str) -> None:
    """The negative control of the test above: without either of these the future is another one."""
    env = Ant(2, num_threads=1)
    env.reset(seed=0)
    play(env, 15)
    state = env.get_state()
    future = play(env, 5)
    env.set_state(state)
    (env._batch.bind(part) if part in ("qacc_warmstart",) else env.derived[part])[...] = 0
    assert not np.array_equal(play(env, 5), future)


# Through make, and the rest


@pytest.mark.parametrize("env_id", TASKS)
def test_make_takes_ours(env_id: str) -> None:
    env = make(env_id, 3, seed=4)
    assert (type(env.unwrapped), env.backend) == (TASKS[env_id], "native")
    sync = make(env_id, 3, seed=4, backend="sync")
    assert env.unwrapped.max_episode_steps == sync.envs[0].spec.max_episode_steps
    np.testing.assert_array_equal(env.reset(seed=4)[0], sync.reset(seed=4)[0])


def test_make_falls_back_and_says_why() -> None:
    flag = {"include_cvel_in_observation": 1}
    env = make("Humanoid-v5", 1, env_kwargs=flag)
    assert env.backend == "sync" and "include_cvel_in_observation=1 is not a bool" in env.backend_reason
    for threads, said in ((1, "mujoco.batch on 1 thread)"), (2, "mujoco.batch on 2 threads)")):
        assert make("Hopper-v5", 2, env_kwargs={"num_threads": threads}).backend_reason.endswith(said)
    with pytest.raises(EnvError, match="is not a bool"):
        make("Humanoid-v5", 1, env_kwargs=flag, backend="native")
    assert make("Ant-v4", 1).backend == "sync"
    with pytest.raises(EnvError, match="tail"):
        make("Ant-v5", 1, env_kwargs={"main_body": "tail"})
    threads = make("Ant-v5", 4, env_kwargs={"num_threads": 3, "max_episode_steps": 7}).unwrapped
    assert (threads._batch.nthread, threads.max_episode_steps) == (3, 7)


def test_bad_input_is_named() -> None:
    env = Hopper(3, num_threads=1)
    obs, _ = env.reset(seed=0)
    good = np.zeros((3, 3), np.float32)
    nan = good.copy()
    nan[1, 2] = np.nan
    with pytest.raises(EnvError, match="environment 1 got action"):
        env.step(nan)
    for bad in (good[:2], good[:, :2], good.astype(object), np.zeros(3, np.float32)):
        with pytest.raises(EnvError, match=r"must be float32 of shape \(3, 3\)"):
            env.step(bad)
    np.testing.assert_array_equal(env._observe(slice(None)), obs)  # nothing has been stepped
    for threads in (0, 1.5, "2"):
        with pytest.raises(EnvError, match="num_threads is"):
            Hopper(3, num_threads=threads)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="tail"):
        Ant(2, main_body="tail")


@pytest.mark.skipif(find_library("EGL") is None, reason="no EGL to draw with")
def test_rendering_is_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    sizes = {"render_mode": "rgb_array", "width": 64, "height": 48}
    env, single = Reacher(2, num_threads=1, **sizes), gymnasium.make("Reacher-v5", **sizes)
    env.reset(seed=0), single.reset(seed=0)
    frames = env.render()
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 2 and (frames[0] != frames[1]).any()
    np.testing.assert_array_equal(frames[0], single.render())
    future = play(env, 3)
    env.reset(seed=0), env.render()
    np.testing.assert_array_equal(play(env, 3), future)  # drawing changes nothing
    assert (env.render()[1] != frames[1]).any()
    env.close(), single.close()
