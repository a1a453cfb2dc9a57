"""The scripts as a person runs them: real input, and every kind of bad input."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from costgrad.agents import A2C, AGENTS, presets
from costgrad.rl.runs.folder import read_config
from costgrad.rl.runs.table import read_table
from costgrad.scripts import check_env, cli, evaluate, train

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--no-capture-video", "--eval-episodes", "2")
ENVIRONMENTS = '''
import gymnasium, numpy as np

class Line(gymnasium.Env):
    """Stay near 0."""
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    bad = 0.0

    def __init__(self, render_mode=None, length=20, **other):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x, self.t = float(np.clip(self.x + 0.1 * action[0], -9, 9)), self.t + 1
        reward = self.bad if self.bad != 0 and self.t == 15 else -self.x**2
        return np.array([self.x], np.float32), reward, False, self.t >= self.length, {}

class Nan(Line):
    bad = float("nan")

class Random(Line):
    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.x = np.random.default_rng().uniform(-1, 1)
        return np.array([self.x], np.float32), info

class Tuple(Line):
    action_space = gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(2),) * 2)

class Unbounded(Line):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
'''


def run(script: str, *flags: Any, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, flags)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with environments and one short run, left as they are by every test."""
    place = tmp_path_factory.mktemp("place")
    (place / "mine.py").write_text(ENVIRONMENTS)
    (place / "broken.py").write_text("class Env(\n")
    done = run("train", "-n", 800, "--run-dir", "done", "--eval-episodes", 2, "--num-envs", 4, "--seed", 3, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "said").write_text(done.stdout)
    return place


@pytest.fixture
def here(place: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(place)
    return place


def refused(capsys: Any, main: Any, *flags: Any) -> str:
    """Calls a script's main in this process (a subprocess costs seconds) and returns its one line."""
    capsys.readouterr()
    assert main([str(flag) for flag in flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    return error.removeprefix("error: ").strip()


def test_train_leaves_a_run_and_says_what_next(place: Path) -> None:
    said, folder = (place / "said").read_text(), place / "done"
    for name in ("config.json", "evaluations.csv", "learning_curve.png", "video.mp4", "checkpoints/last/meta.json"):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents*"))
    assert read_config(folder)["env_argument"] == "CartPole-v1" and read_config(folder)["seed"] == 3
    assert read_table(folder / "evaluations.csv")[-1]["step"] >= 800
    for text in (
        "scripts/evaluate.py done",
        "tensorboard --logdir",
        "--resume done",
        "final policy: return",
        "device cpu",
    ):
        assert text in said, text
    assert "\x1b" not in said and "━" not in said  # plain lines: the output is no terminal


def test_evaluate_in_a_process_of_its_own(place: Path) -> None:
    done = run("evaluate", "done", "--episodes", 3, "--video", "film.gif", cwd=place, DISPLAY="")
    assert done.returncode == 0, done.stderr
    assert "over 3 episodes, 95 % interval of the mean [" in done.stdout
    assert (place / "film.gif").read_bytes()[:3] == b"GIF"


def test_evaluate_variants(here: Path, capsys: Any) -> None:
    for flags in (["--stochastic"], ["--checkpoint", "best"], ["--seed", "5"], ["--device", "cpu"]):
        assert evaluate.main(["done", "--episodes", "2", *flags]) == 0
    figures = capsys.readouterr().out.splitlines()
    assert len(figures) == 4 and all(line.startswith("return ") for line in figures)
    assert evaluate.main(["done", "--episodes", "10"]) == evaluate.main(["done", "--episodes", "10"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_an_own_environment_and_a_cost_function(here: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "cost.py").write_text("def hill(x):\n    return float((x[0] - 0.3) ** 2)\n")
    flags = ["-n", "300", *SHORT, "--no-progress"]
    assert (
        train.main(["--env", "mine.py:Line", "--env-kwargs", '{"length": 7}', "--run-dir", f"{tmp_path}/a", *flags])
        == 0
    )
    assert read_config(tmp_path / "a")["env_kwargs"] == {"length": 7}
    (last,) = read_table(tmp_path / "a" / "evaluations.csv")[-1:]
    assert last["mean_length"] == 7
    assert evaluate.main([f"{tmp_path}/a", "--episodes", "2"]) == 0
    assert check_env.main(["mine.py:Line"]) == 0


def test_a_run_goes_on_from_anywhere_and_only_on_what_it_was_trained_on(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "line.py", tmp_path / "elsewhere"
    file.write_text(ENVIRONMENTS)
    elsewhere.mkdir()
    (elsewhere / "line.py").write_text("Line = 'another'")
    short = (*SHORT, "--no-progress", "--run-dir", "run")
    assert run("train", "--env", "line.py:Line", "-n", "100", *short, cwd=tmp_path).returncode == 0
    said = run("train", "--resume", "../run", "-n", "200", cwd=elsewhere)
    assert said.returncode == 0 and read_table(tmp_path / "run" / "evaluations.csv")[-1]["step"] >= 200, said.stderr
    file.write_text(ENVIRONMENTS.replace("Box(-1, 1,", "Box(-5, 5,"))
    for script, *flags in (("train", "--resume", "run", "-n", "300"), ("probe", "run"), ("evaluate", "run")):
        refused = run(script, *flags, cwd=tmp_path)
        changed, error = refused.stderr.splitlines()
        assert refused.returncode == 2 and changed.startswith(f"note: '{file}' has changed since run run began")
        assert changed.endswith("lies at run/environment/line.py") and error.startswith("error: "), refused.stderr
        assert "the action_space is Box(-5.0, 5.0" in refused.stderr and "trained with Box(-1.0, 1.0" in refused.stderr


def test_resume_goes_on_to_a_new_total(place: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(place / "done", tmp_path / "done")
    resume = ["--resume", f"{tmp_path}/done", *SHORT]
    assert "has done" in refused(capsys, train.main, *resume)
    assert "--seed cannot change" in refused(capsys, train.main, *resume, "--seed", 4)
    assert "--num-envs cannot change" in refused(capsys, train.main, *resume, "--num-envs", 5)
    assert "--actor-lr cannot change" in refused(capsys, train.main, *resume, "--actor-lr", 0.5)
    assert train.main([*resume, "-n", "1200"]) == 0
    steps = [row["step"] for row in read_table(tmp_path / "done" / "evaluations.csv")]
    assert steps == sorted(set(steps)) and steps[0] < 100 and steps[-1] >= 1200
    meta = json.loads((tmp_path / "done" / "checkpoints" / "last" / "meta.json").read_text())["meta"]
    assert meta["run"]["step"] >= 1200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-n", "100000000", "--run-dir", "run", *SHORT]
    child = subprocess.Popen(
        [*command, "--eval-freq", "300", "--save-freq", "100000000"],
        **{"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints" / "last").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(child.pid, number)  # as a terminal does: the whole group
    out, error = child.communicate(timeout=30)
    assert child.returncode == 128 + number and "Traceback" not in error, error
    assert "--resume run" in out and "to go on" in out
    step = json.loads((tmp_path / "run" / "checkpoints" / "last" / "meta.json").read_text())["meta"]["run"]["step"]
    assert train.main(["--resume", str(tmp_path / "run"), "-n", str(step + 50), *SHORT, "--no-progress"]) == 0


@pytest.mark.parametrize("slow", ["", "slow evaluations"])
def test_ctrl_c_with_processes_and_in_an_evaluation_saves_as_well(tmp_path: Path, slow: str) -> None:
    """It reaches all processes; those of the environments leave it to the one that trains."""
    (tmp_path / "mine.py").write_text(
        ENVIRONMENTS.replace("self.t + 1\n", f"self.t + 1; import time; time.sleep({SLOW})\n")
    )
    flags = ["--env", "mine.py:Line", "--num-envs", "2", "--env-backend", "async", "-n", "10000000", "--run-dir", "run"]
    flags += ["--eval-freq", "100", "--eval-episodes", "20000"] if slow else ["--eval-freq", "10000000"]
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *flags, "--no-capture-video"],
        **{"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "agent.svg").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(4)  # 100 steps are done long ago
    for _ in range(1 + bool(slow)):  # an evaluation goes on to its end unless it is asked for again
        os.killpg(child.pid, signal.SIGINT)
        time.sleep(0.5)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in error, error
    assert "--resume run" in out and (tmp_path / "run" / "checkpoints" / "last" / "meta.json").exists()
    assert (len(read_table(tmp_path / "run" / "evaluations.csv")) if slow else 0) == 0


SLOW = 2e-3
BAD_TRAIN = {
    "--env Nope-v7": "Nope-v7",
    "--env nowhere:Thing": "nowhere",
    "--env nofile.py:Env": "nofile.py",
    "--env broken.py:Env": "syntax error",
    "--env mine.py:Absent": "Absent",
    "--env mine.py:Tuple": "action space Tuple",
    "--env mine.py:Unbounded": "bound",
    "--env-kwargs {oops": "not JSON",
    "--env-kwargs [1]": "JSON object",
    '--env-kwargs {"colour":1}': "colour",
    "--agent dqn": "unknown agent 'dqn'",
    "--total-timesteps -5": "total-timesteps must be at least 1, got -5",
    "--total-timesteps 0": "total-timesteps must be at least 1, got 0",
    "--total-timesteps many": "--total-timesteps",
    "--num-envs 0": "num-envs must be at least 1, got 0",
    "--seed -1": "seed must be at least 0, got -1",
    "--eval-freq 0": "eval-freq must be at least 1, got 0",
    "--threads 0": "threads must be at least 1, got 0",
    "--no-such-flag 3": "--no-such-flag",
    "--hiden 3": "did you mean --hidden?",
    "--actor-gradient up": "invalid choice 'up'",
    "--actor-lr much": "--actor-lr",
    "--env": "--env",
    "--device tpu": "tpu",
    "stray": "stray",
    "--run-dir done": "done is not empty",
    "--run-dir mine.py": "cannot write mine.py",
    "--run-dir mine.py/run": "cannot write mine.py/run",
    "--run-dir /proc/run": "cannot write /proc/run",
    "--resume nothing": "no run at nothing",
    "--resume .": "no run at .",
}


@pytest.mark.parametrize("flags", BAD_TRAIN)
def test_bad_flags_of_train_are_one_line(here: Path, capsys: Any, flags: str) -> None:
    before = sorted(str(path) for path in here.rglob("*"))
    assert BAD_TRAIN[flags] in refused(capsys, train.main, *flags.split(" "))
    assert sorted(str(path) for path in here.rglob("*") if "__pycache__" not in str(path)) == [
        path for path in before if "__pycache__" not in path
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_wrong_flags_are_one_line_on_any_terminal(tmp_path: Path, encoding: str) -> None:
    done = run("check_env", "CartPole-v1", "--step", 3, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert done.stderr == "error: unknown flag --step (did you mean --steps?)\n"


def test_bad_input_in_a_process_of_its_own(place: Path) -> None:
    for script, flags, text in (
        ("train", ["--total-timesteps", "-5"], "total-timesteps must be at least 1, got -5"),
        ("evaluate", ["nothing"], "no run at nothing"),
    ):
        done = run(script, *flags, cwd=place)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("error: ") and text in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused(capsys, train.main, "--run-dir", tmp_path / "locked" / "run")


def test_a_gpu_that_is_not_there(here: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device cuda is not there" in refused(capsys, train.main, "--device", "cuda")


def test_nan_is_one_line_and_the_run_is_kept(here: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ("--env", "mine.py:Nan", "-n", 5000, "--run-dir", tmp_path / "run", "--no-progress", *SHORT)
    assert "returned reward nan" in refused(capsys, train.main, *flags)
    assert (tmp_path / "run" / "checkpoints" / "last" / "meta.json").is_file()


def refused_check(capsys: Any, *flags: Any) -> str:
    assert check_env.main([str(flag) for flag in flags]) == 2
    return str(capsys.readouterr().out)


def damaged(place: Path, tmp_path: Path, how: str) -> Path:
    shutil.copytree(place / "done", tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last"
    if how == "missing":
        shutil.rmtree(last)
    elif how == "truncated":
        data = (last / "tensors.safetensors").read_bytes()
        (last / "tensors.safetensors").write_bytes(data[: len(data) // 2])
    elif how == "config":
        (tmp_path / "run" / "config.json").write_text("{")
    elif how == "agent":
        config = (tmp_path / "run" / "config.json").read_text()
        (tmp_path / "run" / "config.json").write_text(config.replace('"agent": "a2c"', '"agent": "dqn"'))
    elif how in ("seed", "env_kwargs"):
        config = json.loads((tmp_path / "run" / "config.json").read_text()) | {how: "seven"}
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "how, text",
    [
        ("missing", "no checkpoint"),
        ("truncated", "damaged"),
        ("config", "damaged"),
        ("agent", "was trained with agent 'dqn', which is not one of costgrad's: give --agent file.py:Dqn"),
        ("seed", "damaged: seed is 'seven'"),
        ("env_kwargs", "damaged: env_kwargs is 'seven'"),
    ],
)
def test_a_damaged_run_is_one_line(place: Path, tmp_path: Path, capsys: Any, how: str, text: str) -> None:
    folder = damaged(place, tmp_path, how)
    assert text in refused(capsys, evaluate.main, folder)
    if how in ("missing", "truncated"):  # the one before it is good
        assert train.main(["--resume", str(folder), "-n", "900", "--no-progress", "--no-capture-video"]) == 0
        assert re.search(
            r"note: .*checkpoint .*last.*: the run goes on from checkpoint step_640", capsys.readouterr().err
        )
    else:
        assert text in refused(capsys, train.main, "--resume", folder, "-n", 5000)


class Evil:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def test_a_checkpoint_made_to_run_code_is_refused(place: Path, tmp_path: Path, capsys: Any) -> None:
    folder, mark = damaged(place, tmp_path, "no"), tmp_path / "evil"
    for name in ("tensors.safetensors", "meta.json"):
        (folder / "checkpoints" / "last" / name).write_bytes(pickle.dumps(Evil(str(mark))))
        assert "damaged" in refused(capsys, evaluate.main, folder)
    assert not mark.exists()


def test_bad_flags_of_evaluate_are_one_line(here: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for flags, text in (
        (["done", "--episodes", "0"], "episodes must be at least 1, got 0"),
        (["done", "--seed", "-2"], "seed must be at least 0, got -2"),
        (["done", "--checkpoint", "step_7"], "has no checkpoint 'step_7': it has best, last, step_"),
        (["done", "--checkpoint", "../.."], "has no checkpoint"),
        (["done", "--video", "film.avi"], "must end in .mp4 or .gif"),
        (["done", "--video", "mine.py/film.gif"], "cannot write"),
        (["done", "--render", "gold"], "invalid choice"),
        ([], "missing: Folder of the run (costgrad evaluate --help shows all)"),
    ):
        assert text in refused(capsys, evaluate.main, *flags)
    if sys.platform.startswith("linux"):
        assert "needs a display" in refused(capsys, evaluate.main, "done", "--render", "human")


def test_check_env(here: Path, capsys: Any) -> None:
    assert check_env.main(["mine.py:Line", "--steps", "300"]) == 0
    said = capsys.readouterr().out
    for text in (
        "ok    gymnasium's checker",
        "the same seed gives the same",
        "steps/s",
        "episodes ended, 20 steps long",
    ):
        assert text in said, text
    assert check_env.main(["mine.py:Random", "--steps", "300"]) in (0, 2)
    assert "random number" in (said := capsys.readouterr().out) or "FAIL  gymnasium's checker" in said
    for env in ("mine.py:Tuple", "mine.py:Unbounded", "mine.py:Nan"):
        assert "FAIL" in refused_check(capsys, env)
    assert "Nope-v7" in refused(capsys, check_env.main, "Nope-v7")
    assert "not JSON" in refused(capsys, check_env.main, "CartPole-v1", "--env-kwargs", "{")


def test_presets_are_used_unless_overridden_and_said(monkeypatch: Any) -> None:
    monkeypatch.setitem(presets.PRESETS, ("a2c", "CartPole-v1"), {"num_envs": 3, "gamma": 0.5, "hidden": [7]})
    args, said = train.read_args(["--gamma", "0.25"])
    assert args.num_envs == 3 and args.config.hidden == (7,) and args.config.gamma == 0.25
    assert "num_envs 3 (preset for CartPole-v1)" in said and "gamma 0.25 (command line)" in said
    assert "hidden (7,) (preset for CartPole-v1)" in said and "all else as by default" in said
    args, said = train.read_args(["--env", "MountainCar-v0"])
    assert args.num_envs == 8 and said == "settings: as by default"


def test_learning_rates_of_a_preset_fall_over_the_whole_run_and_over_its_continuation(tmp_path: Path) -> None:
    for text in ("12_345", "+12345", "12345"):  # whatever the flag's own parser takes
        whole, _ = train.read_args(["-n", text])
        assert whole.config.decay_steps == whole.total_timesteps == 12345
    assert whole.config.decay_steps == 12345
    own, _ = train.read_args(["-n", "12345", "--decay-steps", "7"])
    assert own.config.decay_steps == 7
    run = str(tmp_path / "run")
    flags = ["--env", "CartPole-v1", "-n", "600", "--critic-warmup", "0", "--no-capture-video", "--no-progress"]
    assert train.main([*flags, "--eval-episodes", "1", "--run-dir", run]) == 0
    before = A2C.load(f"{run}/checkpoints/last")
    longer, _ = train.read_args(["--resume", run, "-n", "1800"])
    assert longer.config.decay_steps == 1800 and longer.eval_freq is None
    assert train.main(["--resume", run, "-n", "1800"]) == 0
    after = A2C.load(f"{run}/checkpoints/last")
    assert not torch.equal(before.actor_optimizer.flat, after.actor_optimizer.flat)


def test_every_preset_is_known_and_does_not_name_a_seed() -> None:
    for (agent, _), values in presets.PRESETS.items():
        known = set(AGENTS[agent][1].__dataclass_fields__) | {"num_envs"}
        assert set(values) <= known and "seed" not in values


@pytest.mark.parametrize("agent", AGENTS)
def test_every_setting_is_a_flag_with_help(agent: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--agent", agent, "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in (*AGENTS[agent][1].__dataclass_fields__, "total_timesteps", "env_backend", "capture_video"):
        assert f"--{name.strip('_').replace('_', '-')}" in said, name


def test_the_device_is_chosen_and_explained(monkeypatch: Any) -> None:
    from costgrad.agents.a2c import A2CConfig

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    small, wide = A2CConfig(), A2CConfig(hidden=(1024, 1024))
    assert cli.choose_device("auto", small)[0] == "cpu" and "64 wide are faster" in cli.choose_device("auto", small)[1]
    assert cli.choose_device("auto", wide)[0] == "cuda"
    assert cli.choose_device("cuda", small)[0] == "cuda" and cli.choose_device("cpu", wide)[0] == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.choose_device("auto", wide)[0] == "cpu"


def test_scripts_take_an_environment_alone_in_other_numbers_and_with_other_arguments(
    tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "mine.py").write_text(
        ENVIRONMENTS
        + """
class One(Line):
    here = 0

    def __init__(self, **other):
        super().__init__(**other)
        if One.here:
            raise RuntimeError("port 5555 is busy")
        One.here = 1

    def close(self):
        One.here = 0

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"


def four():
    return gymnasium.vector.SyncVectorEnv([Line] * 4)
"""
    )
    flags, path, one = ["-n", "300", *SHORT], f"{tmp_path}/mine.py", ["--num-envs", "1", "--env-backend", "sync"]
    for name, more in (("One", [*one, "--probe-every", "100"]), ("four", ["--num-envs", "4"])):
        assert train.main(["--env", f"{path}:{name}", "--run-dir", f"{tmp_path}/{name}", *flags, *more]) == 0
    said = capsys.readouterr().out
    assert (
        said.count("no probe of C: mine.One cannot be made") == 1 and "no evaluation during training: mine.One" in said
    )
    assert evaluate.main([f"{tmp_path}/One", "--episodes", "1", "--video", f"{tmp_path}/one.gif"]) == 0
    assert evaluate.main([f"{tmp_path}/four", "--episodes", "9"]) == 0
    assert evaluate.main([f"{tmp_path}/One", "--episodes", "1", "--env-kwargs", '{"length": 1}']) == 0
    whole, of_four, short = (line for line in capsys.readouterr().out.splitlines() if line.startswith("return"))
    assert "over 1 episode" in whole and "over 9 episodes" in of_four
    assert float(short.split()[1]) > float(whole.split()[1])  # a step costs what it costs
    assert "not JSON" in refused(capsys, evaluate.main, f"{tmp_path}/One", "--env-kwargs", "{")
    assert check_env.main([f"{path}:One", "--steps", "50"]) == 0
    said = capsys.readouterr().out
    assert "not eight at a time (mine.One cannot be made: RuntimeError: port 5555 is busy)" in said
    assert said.endswith(f"--env {path}:One --num-envs 1\n")


def test_check_env_says_how_to_train_with_the_same_arguments(here: Path, capsys: Any) -> None:
    assert check_env.main(["mine.py:Line", "--env-kwargs", '{"length": 7}', "--steps", "50"]) == 0
    assert "--env mine.py:Line --env-kwargs '{\"length\": 7}'" in capsys.readouterr().out


def test_a_pipe_that_breaks_elsewhere_is_not_taken_for_a_reader_that_left(capsys: Any) -> None:
    def command(argv: Any) -> int:
        raise BrokenPipeError("of a process")

    with pytest.raises(BrokenPipeError, match="of a process"):
        cli.guarded(command, [])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("device", "tpu", "has device 'tpu' in its config.json: it must be one of auto, cpu, cuda"),
        ("threads", "x", "has threads 'x' in its config.json: it must be one of int"),
        ("env_kwargs", {}, "has env_kwargs {} in its config.json: it must be one of str"),
        ("eval_freq", 0.5, "has eval_freq 0.5 in its config.json: it must be one of int, NoneType"),
    ],
)
def test_a_config_that_was_spoilt_is_told(
    place: Path, tmp_path: Path, capsys: Any, name: str, value: Any, told: str
) -> None:
    shutil.copytree(place / "done", tmp_path / "done")
    config = tmp_path / "done" / "config.json"
    said = json.loads(config.read_text())
    said["args"][name] = value
    config.write_text(json.dumps(said))
    assert told in refused(capsys, train.main, "--resume", tmp_path / "done", "-n", "3000")
