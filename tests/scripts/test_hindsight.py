"""Hindsight as a person runs it: the scripts on an environment with goals of their own, and on what will not do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from costgrad.agents import TD3, TD3Config
from costgrad.envs import make
from costgrad.rl.loop import interact
from costgrad.scripts import check_env, train

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = '''
import gymnasium, numpy as np

class Reach(gymnasium.Env):
    """As those of gymnasium-robotics: goals in float64, and everything in arrays that are written again."""
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self):
        part = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = gymnasium.spaces.Dict(observation=part, achieved_goal=part, desired_goal=part)
        self.place, self.goal = np.zeros(2), np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place[:], self.goal[:], self.t = 0, self.np_random.uniform(-1, 1, 2), 0
        return self.shown(), {}

    def step(self, action):
        self.place += 0.2 * action
        self.t += 1
        reward = self.compute_reward(self.place, self.goal, {})
        return self.shown(), float(reward), False, self.t >= 12, {}

    def shown(self):
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": self.goal}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=-1) > 0.2).astype(np.float64)

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return False

class Sum(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.linalg.norm(achieved_goal - desired_goal)

class Nan(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info) * (np.nan if achieved_goal.ndim == 2 else 1)

class Silent(Reach):
    compute_reward = property()

    def step(self, action):
        return self.shown(), -1.0, False, True, {}
'''


def typed(script: str, *flags: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, flags)]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    place = tmp_path_factory.mktemp("goals")
    (place / "mine.py").write_text(ENVIRONMENTS)
    return place


def test_the_scripts_train_evaluate_and_go_on_in_hindsight(place: Path) -> None:
    flags = ("--agent", "sac", "--env", "mine.py:Reach", "--hindsight", 4, "--learning-starts", 200, "--hidden", 16)
    quick = ("--no-capture-video", "--eval-episodes", 2, "--capacity", 5000, "--update-ratio", 0.2)
    done = typed("train", *flags, *quick, "-n", 800, "--run-dir", "run", cwd=place)
    assert done.returncode == 0 and "hindsight 4 (command line)" in done.stdout, done.stdout + done.stderr
    done = typed("evaluate", "run", "--episodes", 3, cwd=place)
    assert done.returncode == 0 and "over 3 episodes" in done.stdout, done.stderr
    done = typed("train", "--resume", "run", "-n", 1200, cwd=place)
    assert done.returncode == 0 and "trained 1,200 steps" in done.stdout, done.stderr
    done = typed("train", *flags, "--env", "CartPole-v1", cwd=place)
    assert done.returncode == 2 and done.stderr.startswith("error: hindsight needs goals: observation space Box(")
    assert len(done.stderr.splitlines()) == 1


def test_check_env_takes_goals(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_env.main(["costgrad/BitFlip-v0", "--steps", "100"]) == 0
    assert "ok    observations Dict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("mine.py:Sum", "compute_reward gave shape () for 8 goals at once: it must be (8,)"),
        ("mine.py:Nan", "compute_reward gave nan for achieved_goal ["),
        ("mine.py:Silent", "info) of the environment: mine.Silent has none"),
        ("mine.py:Reach --hindsight -1", "hindsight must be a finite number from 0 up, got -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    place: Path, tmp_path: Path, flags: str, text: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(place)
    quick = ["--no-progress", "--no-capture-video", "--hidden", "16", "-n", "500", "--run-dir", str(tmp_path / "run")]
    assert train.main(["--agent", "sac", "--hindsight", "4", *quick, "--env", *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and text in line


def test_an_environment_that_writes_its_arrays_again_is_copied(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    env = make("mine.py:Reach", 4, 0, backend="sync")
    config = TD3Config(hindsight=4, buffer_size=1_000)
    agent = TD3(env.single_observation_space, env.single_action_space, config)
    ticks = interact(agent, env, seed=0)
    for _ in range(40):
        next(ticks)
    kept, at = agent.memory.columns, agent.codec.obs.slices["achieved_goal"]
    moved = kept["next_obs"][:160, at] - kept["obs"][:160, at]
    torch.testing.assert_close(moved, 0.2 * kept["action"][:160])  # at the last step of an episode too
    env.close()


def test_environments_in_other_processes_have_one_here_that_judges_goals() -> None:
    env = make("costgrad/PointGoal-v0", 3, 1, env_kwargs={"radius": 1.2}, backend="async")
    env.reset(seed=0)
    rewards = set()
    for _ in range(20):
        obs, reward, terminated, *_ = env.step(env.action_space.sample())
        goals = obs["achieved_goal"], obs["desired_goal"]
        np.testing.assert_array_equal(env.compute_reward(*goals, {}), reward)
        np.testing.assert_array_equal(env.compute_terminated(*goals, {}), terminated)
        rewards |= set(reward.tolist())
    assert rewards == {0.0, -1.0}
    env.close()
