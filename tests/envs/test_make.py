"""Environments from every kind of name: what comes back, that all back ends agree, and one clear line per mistake."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from costgrad.envs import EnvError, make
from costgrad.envs.backend import ASYNC_OVERHEAD, async_pays
from costgrad.envs.build import Builder
from costgrad.envs.load import find, load_file
from costgrad.envs.tasks.known import LQR, Chain

USER_ENV = """
    import gymnasium
    import numpy as np
    from helper_of_corridor import STEP


    class Corridor(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"]}

        def __init__(self, length=3.0, render_mode=None):
            self.length, self.render_mode = length, render_mode
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
            self.place = np.zeros(1, np.float32)  # one array for every obs

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.place[:] = self.np_random.uniform(-1, 1)
            return self.place, {}

        def step(self, action):
            self.place += STEP * action + 0.1 * self.np_random.normal()
            return self.place, float(-abs(self.place[0])), bool(abs(self.place[0]) > self.length), False, {}

        def render(self):
            return np.zeros((4, 4, 3), np.uint8)


    def make_corridor(length=2.0):
        return gymnasium.wrappers.TimeLimit(Corridor(length), 5)


    def make_many(num_envs):
        return gymnasium.vector.SyncVectorEnv([Corridor] * num_envs)


    def three():
        return gymnasium.vector.SyncVectorEnv([Corridor] * 3)


    def distance(action):
        return float(abs(action - 0.5).sum())


    NUMBER = 3
"""
COST_FILE = """
    import numpy as np
    from importlib.util import find_spec
    from costgrad.envs import cost_function  # ours, although a folder of that name lies beside this file


    AGENTS = find_spec("agents").origin


    @cost_function(low=[0, -3], high=[5, -1])
    def kink(action):
        return np.abs(action - [2, -2]).max()


    @cost_function(low=0, high=1)
    def breaks(action):
        return 1 / 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corridor.py").write_text(textwrap.dedent(USER_ENV))
    (tmp_path / "helper_of_corridor.py").write_text("STEP = 0.5\n")
    (tmp_path / "rl.py").write_text(textwrap.dedent(COST_FILE))  # a name that we have a package for
    (tmp_path / "agents.py").write_text("")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise ImportError('the wrong envs')\n")
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "needy.py").write_text("import surely_not_installed_anywhere\n")
    (tmp_path / "angry.py").write_text("raise RuntimeError('not\\ntoday')\n")
    return tmp_path


def play(env, steps: int, seed: int = 7):
    """Everything the environments said in so many steps under the actions of a fixed seed."""
    said = [env.reset(seed=seed)[0]]
    env.action_space.seed(seed)
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        said += [obs, reward, terminated, truncated]
        done = terminated | truncated
        if done.any() and "final_obs" in info:
            said += [info["_final_obs"], np.stack([info["final_obs"][i] for i in np.flatnonzero(done)])]
    return said


def assert_same(a, b) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


# What comes back


def test_attributes_of_what_comes_back() -> None:
    env = make("Pendulum-v1", num_envs=3, seed=11, env_kwargs={"g": 9.0}, backend="sync")
    assert isinstance(env, gymnasium.vector.VectorEnv) and env.num_envs == 3
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (env.name, env.backend, env.initial_seed) == ("Pendulum-v1", "sync", 11)
    assert "\n" not in env.backend_reason and env.backend_reason.startswith("sync: ")
    recipe = json.loads(json.dumps([env.env_argument, env.env_kwargs]))
    assert recipe == ["Pendulum-v1", {"g": 9.0}]
    assert env.get_attr("g") == (9.0, 9.0, 9.0)
    again = env.factory(num_envs=2, seed=4)
    assert (again.num_envs, again.initial_seed, again.get_attr("g")) == (2, 4, (9.0, 9.0))
    assert make(env) is env


def test_action_space_is_seeded() -> None:
    a, b, c = (make("Pendulum-v1", 2, seed=s).action_space.sample() for s in (3, 3, 4))
    assert (a == b).all() and (a != c).any()


def test_names_are_fit_for_file_names(folder: Path) -> None:
    assert make("costgrad/LQR-v0", 1).name == "costgrad_LQR-v0"
    assert make(f"{folder}/corridor.py:Corridor", 1).name == "corridor.Corridor"
    assert make(lambda: gymnasium.make("CartPole-v1"), 1).name == "test_make._lambda"
    assert make(Chain, 1).name == "known.Chain"


def test_a_native_id_keeps_its_time_limit_and_reports_that_it_is_bit_equal() -> None:
    env = make("CartPole-v1", 4)
    assert env.backend == "native" and env.backend_reason.startswith("native: batched CartPole, bit-equal to gymnasium")
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.max_episode_steps == 500 and make("CartPole-v0", 4).max_episode_steps == 200
    assert make("CartPole-v0", 4, env_kwargs={"max_episode_steps": 9}).max_episode_steps == 9
    assert make("CartPole-v0", 4, env_kwargs={"max_episode_steps": -1}).max_episode_steps is None  # as in gymnasium
    assert env.factory(2, 0).backend == "native" and env.factory(1, 0, "rgb_array").backend == "native"
    env.reset(seed=0)
    env.set_state(env.get_state())


def test_time_limit_and_wrappers_of_an_id_are_kept_and_the_limit_can_be_set() -> None:
    env = make("Pendulum-v1", 2)
    env.reset(seed=0)
    truncated = [env.step(env.action_space.sample())[3].all() for _ in range(200)]
    assert truncated[-1] and not any(truncated[:-1])
    short = make("Pendulum-v1", 2, env_kwargs={"max_episode_steps": 3})
    short.reset(seed=0)
    assert [short.step(short.action_space.sample())[3].all() for _ in range(6)] == [False, False, True] * 2


# Back ends


def test_sync_and_async_agree_bit_for_bit() -> None:
    sync = make("CartPole-v1", 3, backend="sync")
    assert_same(play(sync, 60), play(make("CartPole-v1", 3, backend="async"), 60))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(play(sync, 60), play(sync, 60, seed=8))


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v0", {"sutton_barto_reward": True, "max_episode_steps": 30}),
        ("Acrobot-v1", {"max_episode_steps": 20}),
        ("MountainCar-v0", {"max_episode_steps": 20}),
        ("MountainCarContinuous-v0", {"max_episode_steps": 20}),
        ("Pendulum-v1", {"g": 3, "max_episode_steps": 20}),
    ],
)
def test_native_and_sync_agree_bit_for_bit(env_id: str, kwargs: dict) -> None:
    native, sync = (make(env_id, 3, env_kwargs=kwargs, backend=backend) for backend in ("native", "sync"))
    assert_same(play(native, 70), play(sync, 70))
    assert (native.single_observation_space, native.action_space) == (
        sync.single_observation_space,
        sync.action_space,
    )


class OtherCartPole(CartPoleEnv):
    """Not gymnasium's, and not what ours is equal to."""


@pytest.fixture
def registered() -> Iterator[Callable[..., None]]:
    """`gymnasium.register` that is forgotten after the test."""
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "overriding environment"
        yield gymnasium.register
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_only_gymnasiums_own_class_has_an_equal_native_form(registered: Callable[..., None]) -> None:
    registered("CartPole-v1", entry_point=OtherCartPole, max_episode_steps=7)
    assert make("CartPole-v1", 2).backend == "sync"
    registered("CartPole-v1", entry_point=OtherCartPole, vector_entry_point=CartPoleVectorEnv, max_episode_steps=7)
    env = make("CartPole-v1", 2)
    assert (env.backend, type(env.unwrapped)) == (
        "native",
        CartPoleVectorEnv,
    ) and "another random stream" in env.backend_reason
    registered("Mine-v0", entry_point=CartPoleEnv, max_episode_steps=7, kwargs={"sutton_barto_reward": True})
    assert_same(play(make("Mine-v0", 2, backend="native"), 30), play(make("Mine-v0", 2, backend="sync"), 30))
    wrapper = gymnasium.envs.registration.WrapperSpec("Time", "gymnasium.wrappers:TimeAwareObservation", {})
    registered("Wrapped-v0", entry_point=CartPoleEnv, max_episode_steps=7, additional_wrappers=(wrapper,))
    assert make("Wrapped-v0", 2).backend_reason.endswith("not the native CartPole: its id has wrappers")
    with pytest.raises(EnvError, match="backend 'native' is not there: not the native CartPole: its id has wrappers"):
        make("Wrapped-v0", 2, backend="native")


def test_what_native_declines_goes_to_sync_with_a_message() -> None:
    env = make("Pendulum-v1", 2, env_kwargs={"g": np.float32(9.0)})  # gymnasium then computes in other types
    assert env.backend == "sync"
    assert env.backend_reason.endswith("; not the native Pendulum: it takes plain numbers only, not g=np.float32(9.0)")
    assert_same(play(env, 9), play(make("Pendulum-v1", 2, env_kwargs={"g": np.float32(9.0)}, backend="sync"), 9))
    assert "does not render 'human'" in make("CartPole-v1", 1).factory(1, 0, "human").backend_reason


def test_auto_weighs_the_step_against_the_processes() -> None:
    assert not async_pays(10e-6, 8, cores=8)
    assert async_pays(5e-3, 8, cores=2)
    assert not async_pays(5e-3, 8, cores=1) and not async_pays(5e-3, 1, cores=8)
    assert not async_pays(1.9 * ASYNC_OVERHEAD, 8, cores=2) and async_pays(2.1 * ASYNC_OVERHEAD, 8, cores=2)


class Slow(gymnasium.Env):
    """A step of 20 ms."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        import time

        time.sleep(0.02)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_auto_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    env = make(Slow, 2)
    assert env.backend == "async" and "a step takes 2" in env.backend_reason
    env.close()
    assert make(Slow, 1).backend == "sync"
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    assert make(Slow, 2).backend_reason == "sync: one core"


# Users' own environments


def test_a_users_class_gives_the_same_in_processes_and_its_last_obs_is_not_overwritten(folder: Path) -> None:
    name = f"{folder}/corridor.py:Corridor"
    sync = make(name, 3, env_kwargs={"length": 1.5}, backend="sync")
    asynchronous = make(name, 3, env_kwargs={"length": 1.5}, backend="async")
    said = play(sync, 40)
    assert_same(said, play(asynchronous, 40))
    asynchronous.close()
    sync.reset(seed=0)
    ends = 0
    for _ in range(60):
        obs, reward, terminated, _, info = sync.step(np.ones((3, 1), np.float32))
        for i in np.flatnonzero(terminated):
            ends += 1
            assert abs(info["final_obs"][i][0]) > 1.5 >= abs(obs[i][0])
            assert reward[i] == pytest.approx(-abs(info["final_obs"][i][0]))
    assert ends > 5


def test_a_bare_worker_process_finds_a_users_file_again(folder: Path) -> None:
    """A spawned worker has an empty registry and no module of the user's: it gets the pickle only."""
    names = [f"{folder}/corridor.py:Corridor", f"{folder}/rl.py:kink", "costgrad/LQR-v0", "Pendulum-v1"]
    pickles = [cloudpickle.dumps(Builder(name, {}, None)) for name in names]
    code = (
        "import cloudpickle\n"
        f"for p in {pickles!r}:\n"
        "    env = cloudpickle.loads(p)(); env.reset(seed=3); env.action_space.seed(3)\n"
        "    print(env.step(env.action_space.sample())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = []
    for name in names:
        env = Builder(name, {}, None)()
        env.reset(seed=3)
        env.action_space.seed(3)
        expected.append(str(env.step(env.action_space.sample())[1]))
    assert done.stdout.split() == expected


def test_factories_of_single_and_of_many(folder: Path) -> None:
    env = make(f"{folder}/corridor.py:make_corridor", 2, env_kwargs={"length": 50.0})
    env.reset(seed=0)
    assert [env.step(np.zeros((2, 1), np.float32))[3].all() for _ in range(5)] == [False] * 4 + [True]
    many = make(f"{folder}/corridor.py:make_many", 4)
    assert (many.num_envs, many.backend) == (4, "native")
    assert many.factory(2, 0).num_envs == 2
    assert make(f"{folder}/corridor.py:three", 3).num_envs == 3
    with pytest.raises(EnvError, match="VectorEnv of 3 environments: it must be a VectorEnv of num_envs=5"):
        make(f"{folder}/corridor.py:three", 5)


def test_time_limit_for_a_users_class_without_one(folder: Path) -> None:
    env = make(f"{folder}/corridor.py:Corridor", 1, env_kwargs={"length": 99.0, "max_episode_steps": 4})
    env.reset(seed=0)
    assert [bool(env.step(np.zeros((1, 1), np.float32))[3][0]) for _ in range(4)] == [False] * 3 + [True]


def takes_anything(length: float = 99.0, **more: Any) -> gymnasium.Env:
    return Line(**more)


class Line(gymnasium.Env):
    """Never ends of itself, and looks at none of its arguments."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, **ignored: Any) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("env", [Line, takes_anything])
def test_the_time_limit_is_not_lost_among_arguments_that_nobody_names(env: Callable[..., Any]) -> None:
    made = make(env, 1, env_kwargs={"more": 1, "max_episode_steps": 4})
    made.reset(seed=0)
    assert [bool(made.step(np.zeros((1, 1), np.float32))[3][0]) for _ in range(4)] == [False] * 3 + [True]


def test_a_time_limit_that_a_batch_does_not_take_is_refused(folder: Path) -> None:
    with pytest.raises(EnvError, match="does not take max_episode_steps: 7 is lost"):
        make(f"{folder}/corridor.py:three", 3, env_kwargs={"max_episode_steps": 7})


def test_a_cost_function_by_file_and_in_processes(folder: Path) -> None:
    name = f"{folder}/rl.py:kink"
    env = make(name, 2, backend="async")
    np.testing.assert_array_equal(env.single_action_space.low, [0, -3])
    env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(np.array([[3.0, -2.0], [2.0, -1.5]], np.float32))
    np.testing.assert_array_equal(reward, [-1.0, -0.5])
    assert terminated.all()
    env.close()
    by_kwargs = make(f"{folder}/corridor.py:distance", 2, env_kwargs={"low": 0, "high": 1})
    by_kwargs.reset(seed=0)
    assert by_kwargs.step(np.array([[0.5], [1.0]], np.float32))[1].tolist() == [0.0, -0.5]


@pytest.mark.filterwarnings("ignore::UserWarning")  # with which gymnasium prints the worker's traceback
def test_an_error_of_a_cost_function_in_a_worker_process_reaches_the_user(folder: Path) -> None:
    env = make(f"{folder}/rl.py:breaks", 2, backend="async")
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"rl\.breaks raised ZeroDivisionError"):
        env.step(env.action_space.sample())
    env.close(terminate=True)


def test_a_users_file_neither_shadows_our_packages_nor_is_shadowed(folder: Path) -> None:
    module = load_file(folder / "rl.py")
    assert hasattr(module, "kink") and sys.modules.get("rl") is not module
    assert load_file(folder / "rl.py") is module  # once
    code = (
        "import sys; before = list(sys.path)\n"
        "import costgrad.envs as envs\n"
        f"envs.make({str(folder / 'corridor.py:Corridor')!r})\n"
        f"envs.make({str(folder / 'rl.py:kink')!r})\n"
        f"module = envs.load.load_file(envs.load.Path({str(folder / 'rl.py')!r}))\n"
        f"assert module.AGENTS == {str(folder / 'agents.py')!r}, module.AGENTS  # the user's own\n"
        f"assert sys.path == [*before, {str(folder)!r}], sys.path\n"
        "import costgrad.rl, costgrad.agents\n"
        "ours = costgrad.rl.__path__ + costgrad.agents.__path__\n"
        f"assert not any(path.startswith({str(folder)!r}) for path in ours)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    import os

    path = tmp_path / "edited.py"
    path.write_text("def f(action): return 1.0\n")
    first = load_file(path)
    path.write_text("def f(action): return 2.0\n")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))
    assert (first.f(0), load_file(path).f(0)) == (1.0, 2.0)


def test_modules_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "registers_itself.py").write_text(
        "import gymnasium\nfrom corridor import Corridor\n"
        "gymnasium.register('ItsOwn-v3', entry_point=Corridor, max_episode_steps=2)\n"
    )
    monkeypatch.syspath_prepend(folder)
    env = make("registers_itself:ItsOwn-v3", 2)
    env.reset(seed=0)
    assert env.name == "ItsOwn-v3"
    assert [env.step(env.action_space.sample())[3].all() for _ in range(2)] == [False, True]
    assert make("corridor:Corridor", 2).name == "corridor.Corridor"
    assert find("costgrad.envs.tasks.known:LQR").target is LQR
    assert make("costgrad.envs.tasks.known:LQR", 2, env_kwargs={"horizon": 5}).backend == "native"


def test_a_package_in_the_working_folder_comes_before_an_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only while it is imported: later its folder stands behind everything that is installed."""
    for folder, who in (("site", "rival"), ("work", "mine")):
        (tmp_path / folder / "fleet_of_test").mkdir(parents=True)
        (tmp_path / folder / "fleet_of_test" / "__init__.py").write_text(f"WHO = '{who}'\n")
    (tmp_path / "work" / "fleet_of_test" / "truck.py").write_text(
        "import gymnasium\nimport fleet_of_test\n\n\ndef truck():\n    assert fleet_of_test.WHO == 'mine'\n"
        "    return gymnasium.make('CartPole-v1')\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path / "work")
    assert make("fleet_of_test.truck:truck", 2).num_envs == 2
    assert sys.path[-1] == str(tmp_path / "work") and sys.path.count(sys.path[-1]) == 1
    sys.path.pop()


def test_gym_is_gymnasium_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the message says to write works."""
    monkeypatch.setitem(sys.modules, "gym", None)  # wherever it may be installed
    file = tmp_path / "old.py"
    file.write_text("import gym\n\n\ndef old():\n    return gym.make('CartPole-v1')\n")
    with pytest.raises(
        EnvError, match="imports 'gym', which is gymnasium now: write `import gymnasium as gym`"
    ) as error:
        make(f"{file}:old", 1)
    file.write_text(file.read_text().replace("import gym", str(error.value).split("`")[1], 1))
    assert make(f"{file}:old", 2).num_envs == 2


def test_python_objects() -> None:
    assert make(LQR, 3).num_envs == 3
    assert make(lambda: gymnasium.make("CartPole-v1"), 2).env_argument is None
    ready = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    env = make(ready, num_envs=7)
    assert (env.unwrapped, env.num_envs) == (ready, 2)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(EnvError, match="cannot be made again"):
        env.factory(1, 0)


# Rendering


def test_frames_without_a_display() -> None:
    code = (
        "import os\n"
        "[os.environ.pop(k, None) for k in ('DISPLAY', 'WAYLAND_DISPLAY', 'SDL_VIDEODRIVER')]\n"
        "from costgrad.envs import make\n"
        "for name, backend in (('CartPole-v1', 'native'), ('CartPole-v1', 'sync'), ('Pendulum-v1', 'auto')):\n"
        "    env = make(name, 1, render_mode='rgb_array', backend=backend)\n"
        "    env.reset(seed=0)\n"
        "    first = env.render()[0].copy()\n"
        "    for _ in range(20): env.step(env.action_space.sample())\n"
        "    assert env.render_mode == 'rgb_array' and first.ndim == 3 and first.shape[2] == 3, first.shape\n"
        "    assert (env.render()[0] != first).any()\n"
        "env = make('CartPole-v1', 8).factory(1, 0, 'human')\n"
        "env.reset(seed=0); env.step(env.action_space.sample()); env.close()\n"
        "assert os.environ['SDL_VIDEODRIVER'] == 'dummy'\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# Mistakes


def raises() -> gymnasium.Env:
    raise KeyError("no\nsuch map")


def returns_number() -> float:
    return 3.0


MISTAKES = [
    ("CartPol-v1", {}, "unknown environment id 'CartPol-v1': did you mean CartPole-v1"),
    ("cartpole-v1", {}, "unknown environment id 'cartpole-v1': did you mean CartPole-v1"),
    ("CartPole-v9", {}, "unknown environment id 'CartPole-v9': did you mean"),
    ("zzzzqqqq", {}, "unknown environment id 'zzzzqqqq': it is not registered"),
    ("no_such_module_here:Env", {}, "no module 'no_such_module_here': it must be installed or lie in the working"),
    (
        "costgrad.envs.tasks.known:Nothing",
        {},
        "'costgrad.envs.tasks.known' has no 'Nothing': it has ConstantCost, Chain, OneStepQuadratic",
    ),
    ("{folder}/missing.py:X", {}, "no file '.*missing.py'"),
    ("{folder}/coridor.py:X", {}, "no file '.*coridor.py' .did you mean corridor.py"),
    ("{folder}/corridor.py", {}, "names a file only: write '.*corridor.py:Name' with one of Corridor, make_corridor"),
    ("{folder}/corridor.py:Corr", {}, "has no 'Corr': it has Corridor, make_corridor, make_many, three, distance$"),
    ("{folder}/corridor.py:NUMBER", {}, "'NUMBER' in '.*corridor.py' is 3: it must be an Env class"),
    ("{folder}/corridor.py:distance", {}, "distance has no action bounds: write @cost_function"),
    ("{folder}/corridor.py:Corridor", {"env_kwargs": {"lenght": 1}}, "Corridor does not take lenght: it takes length"),
    ("{folder}/corridor.py:make_corridor", {"render_mode": "rgb_array"}, "make_corridor cannot render: it takes no"),
    ("{folder}/corridor.py:Corridor", {"render_mode": "human"}, "cannot render 'human': it has rgb_array"),
    ("{folder}/broken.py:f", {}, "has a syntax error in .*broken.py, line 2: "),
    ("{folder}/needy.py:f", {}, "imports 'surely_not_installed_anywhere', which is not installed: pip install"),
    ("{folder}/angry.py:f", {}, "angry.py' cannot be imported: RuntimeError: not today"),
    ("CartPole-v1", {"env_kwargs": {"gravty": 1}}, "does not take gravty: it takes sutton_barto_reward, max_episode"),
    ("CartPole-v1", {"env_kwargs": [1]}, "env_kwargs is .1.: it must map names to values"),
    ("CartPole-v1", {"num_envs": 0}, "num_envs is 0: it must be a whole number of at least 1"),
    ("CartPole-v1", {"num_envs": 2.5}, "num_envs is 2.5"),
    ("CartPole-v1", {"seed": -1}, "seed is -1: it must be a whole number of at least 0"),
    ("CartPole-v1", {"backend": "fast"}, "backend is 'fast': it must be one of auto, native, sync, async, envpool"),
    ("Blackjack-v1", {"backend": "native"}, "backend 'native' is not there: Blackjack-v1 has no batched form"),
    (
        "CartPole-v1",
        {"env_kwargs": {"max_episode_steps": 0}},
        "CartPole-v1 cannot be made: .*`max_episode_steps` to be",
    ),
    (
        "{folder}/corridor.py:Corridor",
        {"backend": "envpool"},
        "backend 'envpool' knows ids only, not corridor.Corridor",
    ),
    ("CartPole-v1", {"backend": "envpool", "render_mode": "rgb_array"}, "backend 'envpool' does not render"),
    ("costgrad/LQR-v0", {"env_kwargs": {"horizn": 1}}, "LQR-v0 does not take horizn: it takes horizon, noise, bound"),
    ("costgrad/LQR-v0", {"render_mode": "rgb_array"}, "LQR-v0 cannot render"),
    ("costgrad/Chain-v0", {"env_kwargs": {"n": 1}}, "Chain has n=1: it must have at least 2 states"),
    (raises, {}, "raises cannot be made: KeyError: 'no.*such map'"),
    (returns_number, {}, "returned a float: it must be a gymnasium.Env"),
    (7, {}, "env is 7: it must be an id"),
]


@pytest.mark.parametrize(("env", "kwargs", "message"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_each_mistake_gets_one_line(folder: Path, env, kwargs, message: str) -> None:
    with pytest.raises(EnvError, match=message) as caught:
        make(env.format(folder=folder) if isinstance(env, str) else env, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "package", "message"),
    [
        ("HalfCheetah-v5", "mujoco", r"HalfCheetah-v5 needs a package.*pip install .*gymnasium\[mujoco\]"),
        ("LunarLander-v3", "Box2D", r"LunarLander-v3 needs a package.*pip install .*gymnasium\[box2d\]"),
        ("CartPole-v1", "envpool", r"backend 'envpool' needs envpool: pip install 'costgrad\[envpool\]'"),
        ("ALE/Pong-v5", "ale_py", "'ALE/Pong-v5' needs Atari: pip install ale-py"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(env: str, package: str, message: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from costgrad.envs import make, EnvError\n"
        f"try: make({env!r}, 1, backend={'envpool' if package == 'envpool' else 'auto'!r})\n"
        "except EnvError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    import re

    assert re.search(message, done.stdout), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1


class _Interrupted:
    """A pipe to a worker, interrupted when it has just sent."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def send(self, message: Any) -> None:
        self.pipe.send(message)
        if message[0] == "step":
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)


def test_processes_that_were_asked_when_ctrl_c_came_are_ended_and_not_asked_again() -> None:
    """They have an answer to give; what closes them took it for the answer to its own question, and hung up on them."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # as in training, whose processes inherit it
    env = make("CartPole-v1", 2, backend="async")
    signal.signal(signal.SIGTERM, before)
    env.reset(seed=0)
    inside: Any = env.unwrapped
    processes, inside.parent_pipes[1] = inside.processes, _Interrupted(inside.parent_pipes[1])
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert [process.exitcode for process in processes] == [-signal.SIGTERM] * 2
