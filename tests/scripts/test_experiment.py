"""Experiments: what they run, and the files that they leave."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from costgrad.agents import presets
from costgrad.scripts import experiment, train
from costgrad.scripts.reporting.rows import OLD_HEAD, Row, append, evaluations_path, read_evaluations, read_rows

COLUMNS = "agent,variant,env,seed,total_timesteps,seconds,final_return,steps_per_second,commit,machine,config"
EVALUATION_COLUMNS = "agent,variant,env,seed,total_timesteps,step,seconds,mean_return,std_return"
QUADRATIC = "costgrad/OneStepQuadratic-v0"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


SMALL = ["--seeds", "0", "--evaluations", "2", "--episodes", "2"]


def typed(script: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *flags]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )


def row(seed: int, final: str) -> Row:
    return Row("a2c", "", "E-v0", str(seed), "100", "1.0", final, "50", "abc", "cpu", "{}")


def test_one_row_a_run_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(presets.PRESETS, ("a2c", QUADRATIC), raising=False)
    flags = ["--name", "tiny", "--results", str(tmp_path), "--envs", f"{QUADRATIC}:512", "--seeds", "0", "1"]
    flags += ["--variant", 'score={"actor_gradient": "score", "num_envs": 4}', "--no-shipped", "--evaluations", "2"]
    assert experiment.main(flags) == 0
    path = tmp_path / "tiny.csv"
    text = path.read_text()
    assert text.splitlines()[0] == COLUMNS
    rows = read_rows(path)
    assert sorted(row.key for row in rows) == [("a2c", "score", QUADRATIC, seed, "512") for seed in "01"]
    for r in rows:
        assert json.loads(r.config) == {"num_envs": 4, "actor_gradient": "score"}
        assert float(r.final_return) <= 0 and float(r.steps_per_second) > 0 and float(r.seconds) > 0 and r.machine
    with evaluations_path(path).open() as file:
        evaluations = list(csv.DictReader(file))
    assert list(evaluations[0]) == EVALUATION_COLUMNS.split(",")
    assert {e["total_timesteps"] for e in evaluations} == {"512"}
    assert sorted((e["seed"], int(e["step"])) for e in evaluations)[-1] == ("1", 512)
    assert len(evaluations) >= 4

    capsys.readouterr()
    assert experiment.main(flags) == 0
    assert "2 of 2 runs are there, 0 to do" in capsys.readouterr().out
    assert path.read_text() == text


def test_typed_by_a_user_with_two_agents(tmp_path: Path) -> None:
    flags = ["--name", "two", "--agent", "a2c", "ppo", "--envs", f"{QUADRATIC}:300", "--no-presets", *SMALL]
    done = typed("experiment.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path / "results" / "two.csv")
    assert sorted((row.agent, row.variant) for row in rows) == [("a2c", "one setting"), ("ppo", "one setting")]
    assert [row.config for row in rows] == ['{"num_envs": 8}'] * 2  # 64 by the preset
    before = (tmp_path / "results" / "two.csv").read_bytes()
    done = typed("experiment.py", *flags, "--jobs", "0", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr == "error: jobs must be at least 1, got 0\n"
    assert (tmp_path / "results" / "two.csv").read_bytes() == before

    done = typed("report.py", "results/two.csv", "--plot", "two.png", "--improvement", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"| {QUADRATIC} | 300 | ppo one setting |" in done.stdout
    assert "| a2c one setting | ppo one setting |" in done.stdout
    assert (tmp_path / "two.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_that_fails_has_a_row_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = tmp_path / "broken.py"
    cost.write_text(
        "import math\nfrom costgrad.envs import cost_function\n\n\n@cost_function(low=[-1.0], high=[1.0])\n"
        "def cost(x):\n    return math.nan\n"
    )
    flags = ["--name", "f", "--results", str(tmp_path), "--envs", f"{cost}:cost:512", "--seeds", "3"]
    assert experiment.main(flags) == 1
    (failed,) = read_rows(tmp_path / "f.csv")
    assert failed.seed == "3" and failed.final_return == failed.steps_per_second == ""
    assert "failed" in capsys.readouterr().out


def test_what_an_environment_prints_when_it_ends_is_not_taken_for_a_result(tmp_path: Path) -> None:
    cost = tmp_path / "loud.py"
    cost.write_text(
        "import atexit\nfrom costgrad.envs import cost_function\n\nsaid = []\n\n\n"
        "@cost_function(low=[-1.0], high=[1.0])\ndef cost(x):\n    if not said:\n"
        "        said.append(atexit.register(print, 'bye'))\n        print('it is', end='')\n    return float(x[0])\n"
    )
    flags = ["--name", "f", "--results", str(tmp_path), "--envs", f"{cost}:cost:512", "--seeds", "3"]
    assert experiment.main([*flags, "--variant", 'slow, 2 of them={"actor_lr": 1e-5}']) == 0
    assert sorted((row.variant, bool(row.final_return)) for row in read_rows(tmp_path / "f.csv")) == [
        ("", True),
        ("slow, 2 of them", True),
    ]


def test_runs_come_cell_by_cell() -> None:
    envs = ("CartPole-v1:100", "CartPole-v1:50")
    variants = ('v={"gamma": 0.5}',)
    runs = experiment.plan(experiment.Args("n", envs, agent=("ppo", "a2c"), seeds=(2, 1), variant=variants))
    assert [(run.total, run.agent, run.variant, run.seed) for run in runs] == [
        (total, agent, variant, seed)
        for total in (100, 50)
        for agent in ("ppo", "a2c")
        for variant in ("", "v")
        for seed in (2, 1)
    ]


def test_one_setting_has_no_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    for agent in ("a2c", "ppo"):
        monkeypatch.setitem(presets.PRESETS, (agent, "CartPole-v1"), {"num_envs": 3, "gamma": 0.5})
    flags = ("CartPole-v1:100", "Pendulum-v1:20")
    args = experiment.Args("n", flags, ("a2c", "ppo"), (5,), variant=('v={"gae_lambda": 0.25}',), presets=False)
    runs = experiment.plan(args)
    assert [run.variant for run in runs] == ["one setting", "one setting v"] * 4
    assert {run.num_envs for run in runs} == {train.Args.num_envs}
    assert [run.config for run in runs] == [{}, {"gae_lambda": 0.25}] * 4
    shipped = experiment.plan(experiment.Args("n", flags[:1], ("a2c", "ppo"), (5,)))
    assert [(run.variant, run.num_envs, run.config) for run in shipped] == [("", 3, {"gamma": 0.5})] * 2


def test_runs_of_other_lengths_are_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "n.csv"
    append(path, Row._fields, [row(0, "1")._replace(env="CartPole-v1")])
    todo: list[experiment.Run] = []
    monkeypatch.setattr(experiment, "run_all", lambda runs, *_: todo.extend(runs) or 0)
    flags = ["--name", "n", "--results", str(tmp_path), "--seeds", "0", "--envs", "CartPole-v1:100", "CartPole-v1:200"]
    assert experiment.main(flags) == 0
    assert [run.key for run in todo] == [("a2c", "", "CartPole-v1", "0", "200")]


def test_evaluations_of_old_learn_how_long_their_run_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "n.csv"
    append(path, Row._fields, [row(0, "1")])
    old = [("a2c", "", "E-v0", seed, "100", "1", "7", "0") for seed in "01"]  # seed 1 has lost its row
    append(evaluations_path(path), OLD_HEAD, old)
    assert [e.total_timesteps for e in read_evaluations(path)] == ["100", "0"]
    monkeypatch.setattr(experiment, "run_all", lambda *_: 0)
    flags = ["--name", "n", "--results", str(tmp_path), "--seeds", "0", "--envs", "CartPole-v1:100"]
    assert experiment.main(flags) == 0
    lines = evaluations_path(path).read_text().splitlines()
    assert lines == [EVALUATION_COLUMNS, "a2c,,E-v0,0,100,100,1,7,0", "a2c,,E-v0,1,0,100,1,7,0"]

    evaluations_path(path).unlink()
    append(evaluations_path(path), OLD_HEAD, old)
    append(path, Row._fields, [row(0, "1")._replace(total_timesteps="200")])
    before = evaluations_path(path).read_bytes()
    assert experiment.main(flags) == 2  # nobody can say which of the two runs they are of
    assert evaluations_path(path).read_bytes() == before


def test_presets_hold_unless_a_variant_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS, ("a2c", "CartPole-v1"), {"num_envs": 3, "gamma": 0.5, "num_steps": 7})
    args = experiment.Args(
        "n", ("CartPole-v1:100", "gymnasium:Pendulum-v1:20"), seeds=(5,), variant=('v={"gamma": 0.25, "hidden": [8]}',)
    )
    plain, changed, other, _ = experiment.plan(args)
    assert plain.num_envs == changed.num_envs == 3 and other.num_envs == 8
    assert plain.config == {"gamma": 0.5, "num_steps": 7}
    assert changed.config == {"gamma": 0.25, "num_steps": 7, "hidden": (8,)}
    assert (other.env, other.total, other.config) == ("gymnasium:Pendulum-v1", 20, {})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--name"),
        (["--envs", "NoSuchEnv-v9:5"], "NoSuchEnv"),
        (["--envs", "CartPole-v1"], "ENV:STEPS"),
        (["--envs", "CartPole-v1:-5"], "ENV:STEPS"),
        (["--envs", "CartPole-v1:1", "--variant", "score"], "NAME=JSON"),
        (["--envs", "CartPole-v1:1", "--variant", "v={bad"], "not JSON"),
        (["--envs", "CartPole-v1:1", "--variant", 'v={"gama": 1}'], "gama"),
        (["--envs", "CartPole-v1:1", "--jobs", "0"], "jobs"),
        (["--envs", "CartPole-v1:1", "--agent", "dqn"], "dqn"),
        (["--envs", "CartPole-v1:1", "--agent", "a2c", "dqn"], "dqn"),
        (["--envs", "CartPole-v1:1", "--agent", "a2c", "a2c"], "twice: a2c CartPole-v1:1 seed 0"),
        (
            ["--envs", "CartPole-v1:1", "--agent", "ppo", "--variant", 'v={"actor_gradient": "score"}'],
            "ppo has no setting 'actor_gradient'",
        ),
        (["--envs", "CartPole-v1:1", "--variant", 'v={"gamma": "high"}'], "gamma"),
        (["--envs", "CartPole-v1:1", "--variant", 'v={"gamma": 2}'], "gamma"),
        (["--envs", "CartPole-v1:1", "--variant", "v={}", "--variant", "v={}"], "v is given twice"),
        (["--envs", "CartPole-v1:1", "--no-shipped", "--no-presets"], "nothing to run"),
        (["--envs", "CartPole-v1:1", "--seeds", "-1"], "seeds"),
        (["--envs", "CartPole-v1:1", "--seeds", "1", "1"], "twice: a2c CartPole-v1:1 seed 1"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--name", "n", "--results", str(tmp_path)] if flags else []
    assert experiment.main([*named, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert not list(tmp_path.iterdir())


def test_a_row_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    append(path, Row._fields, [row(0, "1")])
    path.write_text(path.read_text().rstrip("\n"))
    append(path, Row._fields, [row(1, "2")])
    assert [r.seed for r in read_rows(path)] == ["0", "1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_runs_too_and_leaves_no_row(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, str(SCRIPTS / "experiment.py"), "--name", "x", "--results", str(tmp_path), "--jobs", "2"]
    command += ["--envs", f"{QUADRATIC}:100000000", "--seeds", "0", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and "2 to do" in process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline, runs = time.monotonic() + 60, list[str]()
    while time.monotonic() < deadline and len(runs) < 2:
        runs = children.read_text().split() if children.exists() else ["", ""]
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors
    assert not any(Path(f"/proc/{run}").exists() for run in runs if run)
    assert not (tmp_path / "x.csv").exists()


def test_an_environment_whose_file_changed_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its row is replaced, evaluations included; the row of another environment stays."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"def {name}(x):\n    return 1.0\n{name}.low, {name}.high = -1.0, 1.0\n")
    flags = [
        "--name",
        "own",
        "--results",
        str(tmp_path),
        "--envs",
        *(f"{tmp_path}/{n}.py:{n}:32" for n in ("one", "two")),
    ]
    flags += ["--agent", "randomsearch", *SMALL]
    path = tmp_path / "own.csv"
    assert experiment.main(flags) == 0
    assert [float(row.final_return) for row in read_rows(path)] == [-1.0, -1.0]
    assert experiment.main(flags) == 0
    assert "2 of 2 runs are there, 0 to do" in capsys.readouterr().out
    before = {row.env: row for row in read_rows(path)}
    (tmp_path / "one.py").write_text((tmp_path / "one.py").read_text().replace("return 1.0", "return 2.0"))
    assert experiment.main(flags) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/one.py:one has changed since 1 of its runs were done" in said and "1 to do" in said
    after = {row.env: row for row in read_rows(path)}
    one, two = (f"{tmp_path}/{name}.py:{name}" for name in ("one", "two"))
    assert len(read_rows(path)) == 2 and after[two] == before[two]
    assert float(after[one].final_return) == -2.0 and after[one].config != before[one].config
    returns = {(found.env, float(found.mean_return)) for found in read_evaluations(path)}
    assert returns == {(one, -2.0), (two, -1.0)}
    # A row of an older version does not say what the file was.
    path.write_text(path.read_text().replace("env_sha256", "nothing"))
    text = path.read_text().splitlines()
    path.write_text("\n".join(re.sub(r', ""nothing"": ""\w+""', "", line) for line in text) + "\n")
    assert experiment.main(flags) == 0
    said = capsys.readouterr().out
    assert said.count("its row does not say what") == 2 and "0 to do" in said
