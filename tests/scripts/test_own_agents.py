"""An agent of the user's own: trained, resumed, evaluated, drawn by its file; and a run that cannot make a file run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from costgrad.rl.checkpoint import read, write
from costgrad.rl.runs.folder import read_config
from costgrad.scripts import draw, evaluate, pick, train

ROOT = Path(__file__).resolve().parents[2]
MINE = '''
"""Linear random search: new weights for a rollout of steps, kept where they cost less."""
from dataclasses import dataclass

import numpy as np
import torch

from costgrad.rl.spaces import Codec


@dataclass(frozen=True)
class MineConfig:
    num_steps: int = 20
    """Steps that weights are tried for."""
    sigma: float = 0.3
    """Standard deviation of the search."""


class Mine:
    def __init__(self, observation_space, action_space, config: MineConfig | None = None, seed=0):
        self.config, self.codec = config or MineConfig(), Codec(observation_space, action_space)
        self.random = np.random.default_rng(seed)
        shape = (int(np.prod(self.codec.obs_shape)), self.codec.action_size)
        self.best, self.tried = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.best_cost, self.cost, self.steps = float("inf"), 0.0, 0

    def on_reset(self):
        self.cost = 0.0

    def act(self, obs, explore=True):
        return (obs @ (self.tried if explore else self.best)).argmax(1)

    def observe(self, step):
        self.cost -= float(step.reward.sum())
        self.steps += 1

    def update(self):
        if self.steps % self.config.num_steps:
            return {}
        if self.cost <= self.best_cost:
            self.best, self.best_cost = self.tried, self.cost
        noise = self.random.normal(size=self.best.shape) * self.config.sigma
        self.tried, self.cost = (self.best + noise).astype(np.float32), 0.0
        return {"best_cost": torch.tensor(self.best_cost)}

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        return self.codec.predict(lambda batch: (batch @ self.best).argmax(1), obs), state

    def state(self):
        return {"best": torch.from_numpy(self.best.copy())}, {"best_cost": self.best_cost, "steps": self.steps}

    def load_state(self, tensors, meta):
        self.best, self.best_cost, self.steps = tensors["best"].numpy().copy(), meta["best_cost"], meta["steps"]
        self.tried = self.best
'''
OTHERS = (
    MINE
    + """

class Other(Mine):
    pass


class ByDefault(Mine):
    def __init__(self, observation_space, action_space, config=MineConfig(), seed=0):
        super().__init__(observation_space, action_space, config, seed)


class ByAttribute(Mine):
    config_class = MineConfig

    def __init__(self, observation_space, action_space, config, **more):
        super().__init__(observation_space, action_space, config)


class NoConfig(Mine):
    def __init__(self, observation_space, action_space, config):
        super().__init__(observation_space, action_space)


class NoAct:
    pass


class PPO(Mine):
    pass


class Loads(Mine):
    loaded = []

    @classmethod
    def load(cls, path, device="cpu"):
        from costgrad.rl.agent_files import load_agent

        cls.loaded.append(device)
        mine = load_agent.__globals__["read"](path)
        agent = cls.__new__(cls)
        from costgrad.rl.spaces import space_from_json

        agent.__init__(*(space_from_json(mine[1][key]) for key in ("observation_space", "action_space")))
        agent.load_state(mine[0], mine[1]["state"])
        return agent


def function():
    return None
"""
)
QUICK = ("--no-capture-video", "--no-progress", "--eval-episodes", "2")


def run(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with such agents, and a run of one."""
    place = tmp_path_factory.mktemp("own")
    (place / "mine.py").write_text(MINE)
    (place / "others.py").write_text(OTHERS)
    flags = ("--env", "CartPole-v1", "--agent", "mine.py:Mine", "--sigma", "0.5", "--num-steps", "1e1")
    done = run("train", *flags, "-n", "2000", *QUICK, "--run-dir", "run", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture
def here(place: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(place)
    return place


def refused(capsys: Any, main: Any, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    return str(error).removeprefix("error: ").strip()


def test_it_is_trained_resumed_and_evaluated(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    config = read_config(place / "run")
    assert config["agent"] == "mine" and config["config"] == {"num_steps": 10, "sigma": 0.5}
    first = read(tmp_path / "run/checkpoints/last")[1]
    flag = ("--agent", str(place / "mine.py:Mine"))  # from elsewhere
    done = run("train", "--resume", "run", "-n", "4000", *flag, cwd=tmp_path)
    assert done.returncode == 0 and "sigma 0.5 (run run)" in done.stdout, done.stdout + done.stderr
    second = read(tmp_path / "run/checkpoints/last")[1]
    assert second["run"]["step"] >= 4000 and second["state"]["steps"] == 2 * first["state"]["steps"]
    assert second["state"]["best_cost"] <= first["state"]["best_cost"]
    done = run("evaluate", "run", *flag, "--episodes", "3", cwd=tmp_path)
    assert done.returncode == 0 and "over 3 episodes" in done.stdout, done.stderr


def test_without_the_flag_it_is_asked_for(here: Path, capsys: Any) -> None:
    asked = "run run was trained with agent 'mine', which is not one of costgrad's: give --agent file.py:Mine"
    assert refused(capsys, evaluate.main, "run") == asked
    assert refused(capsys, train.main, "--resume", "run", "-n", "9000") == asked
    assert refused(capsys, draw.main, "run") == asked
    asked = asked.replace("run run", "run run/checkpoints/last")
    assert refused(capsys, draw.main, "run/checkpoints/last") == asked
    told = refused(capsys, evaluate.main, "run", "--agent", "others.py:Other")
    assert told == "run run was trained with agent 'mine', and --agent others.py:Other is 'other'"
    assert refused(capsys, evaluate.main, "run", "--agent", "ppo").startswith("run run was trained with agent 'mine'")


def test_a_run_never_decides_which_file_is_run(here: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    shutil.copytree(here / "run", tmp_path / "run")
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run" / "config.json"
    said = json.loads(config.read_text())
    for agent in ("evil.py:Mine", "mine"):
        said["agent"] = agent
        said["args"] |= {"agent": "evil.py:Mine", "encoder": "evil.py:Mine"}
        config.write_text(json.dumps(said))
        for meta in Path("run").glob("checkpoints/*/meta.json"):
            tensors, held = read(meta.parent)
            write(meta.parent, tensors, held | {"agent": agent})
        for main, words in ((evaluate.main, ["run"]), (train.main, ["--resume", "run", "-n", "9000"])):
            assert "give --agent file.py:" in refused(capsys, main, *words)
        for folder in ("run", "run/checkpoints/last"):
            assert "give --agent file.py:" in refused(capsys, draw.main, folder, "-o", "x.svg")
    assert not (tmp_path / "ran").exists()
    said["agent"], said["args"]["agent"], said["config"] = "a2c", "a2c", {}  # an encoder alone
    config.write_text(json.dumps(said))
    assert "give --encoder again" in refused(capsys, evaluate.main, "run")
    assert "give --encoder again" in refused(capsys, train.main, "--resume", "run", "-n", "9000")
    assert not (tmp_path / "ran").exists()


def test_where_its_config_is_found(here: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("ByDefault", "ByAttribute"):
        flags = ["--agent", f"others.py:{name}", "--sigma", "0.7", "--env", "CartPole-v1"]
        assert train.main([*flags, "-n", "100", *QUICK, "--run-dir", f"{tmp_path}/{name}"]) == 0
        assert read_config(tmp_path / name)["config"]["sigma"] == 0.7
    said = refused(capsys, train.main, "--agent", "others.py:NoConfig")
    assert "annotate the constructor's argument `config` with a dataclass, or set NoConfig.config_class" in said
    assert "unknown flag --sigmo (did you mean --sigma?)" in refused(
        capsys, train.main, "--agent", "mine.py:Mine", "--sigmo", "1"
    )


def test_one_that_is_called_like_ours_is_not_taken_for_it(here: Path, tmp_path: Path, capsys: Any) -> None:
    folder = f"{tmp_path}/run"
    assert train.main(["--agent", "others.py:PPO", "-n", "100", *QUICK, "--run-dir", folder]) == 0
    assert "which is not one of costgrad's" in refused(capsys, evaluate.main, folder)
    assert evaluate.main([folder, "--agent", "others.py:PPO", "--episodes", "1"]) == 0


def test_its_own_load_is_used(here: Path, tmp_path: Path, capsys: Any) -> None:
    folder = f"{tmp_path}/run"
    assert train.main(["--agent", "others.py:Loads", "-n", "100", *QUICK, "--run-dir", folder]) == 0
    assert evaluate.main([folder, "--agent", "others.py:Loads", "--episodes", "1", "--device", "cpu"]) == 0
    assert pick.agent_classes("others.py:Loads")[0].loaded == ["cpu"]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("nowhere.py:Mine", "no file 'nowhere.py'"),
        ("mine.py:Nine", "'mine.py' has no 'Nine': it has MineConfig, Mine"),
        ("others.py:function", "it must be a class that follows Agent"),
        ("others.py:NoAct", "--agent others.py:NoAct has no on_reset, act, observe, update"),
        ("mine.py:", "'mine.py' has no ''"),
    ],
)
def test_what_is_no_agent_is_one_line(here: Path, capsys: Any, flag: str, said: str) -> None:
    assert said in refused(capsys, train.main, "--agent", flag)


def test_it_may_be_drawn_as_far_as_it_says_what_it_is(here: Path, tmp_path: Path, capsys: Any) -> None:
    """It has neither networks nor a C; whether that makes a picture, it makes no traceback."""
    code = draw.main(["run", "--agent", "mine.py:Mine", "-o", f"{tmp_path}/mine.svg"])
    assert code == 0 or capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_an_experiment_takes_it(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "mine.py", tmp_path / "mine.py")
    flags = ("--name", "t", "--agent", "mine.py:Mine", "--envs", "CartPole-v1:2e2", "--seeds", "0", "--jobs", "1")
    done = run("experiment", *flags, "--variant", 'far={"sigma": 1}', "--no-shipped", "--episodes", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] mine.py:Mine far CartPole-v1:200 seed 0: return" in done.stdout


def test_an_encoder_must_be_a_file_s(here: Path, capsys: Any) -> None:
    assert "must be file.py:Name" in refused(capsys, train.main, "--encoder", "Net")
    assert "has no 'Net'" in refused(capsys, train.main, "--encoder", "mine.py:Net")
    assert "agent mine takes no encoder: of costgrad's agents a2c" in refused(
        capsys, train.main, "--agent", "mine.py:Mine", "--encoder", "mine.py:MineConfig"
    )
    assert "was trained without an encoder" in refused(
        capsys, evaluate.main, "run", "--agent", "mine.py:Mine", "--encoder", "mine.py:MineConfig"
    )
