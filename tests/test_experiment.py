"""Experiments and what is read from their files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from agents import presets
from scripts import experiment, report
from scripts.results import Measured, Row, append, evaluations_path, read_rows

COLUMNS = "agent,variant,env,seed,total_timesteps,seconds,final_return,steps_per_second,commit,machine,config"
QUADRATIC = "costgrad/OneStepQuadratic-v0"


def row(seed: int, final: str, variant: str = "", env: str = "E-v0", steps: str = "100") -> Row:
    return Row("a2c", variant, env, str(seed), steps, "1.0", final, "50" if final else "", "abc", "cpu", "{}")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


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
    assert list(evaluations[0]) == ["agent", "variant", "env", "seed", "step", "seconds", "mean_return", "std_return"]
    assert sorted((e["seed"], int(e["step"])) for e in evaluations)[-1] == ("1", 512)
    assert len(evaluations) >= 4

    capsys.readouterr()
    assert experiment.main(flags) == 0
    assert "2 of 2 runs are there, 0 to do" in capsys.readouterr().out
    assert path.read_text() == text


def test_a_run_that_fails_has_a_row_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = tmp_path / "broken.py"
    cost.write_text(
        "import math\nfrom envs import cost_function\n\n\n@cost_function(low=[-1.0], high=[1.0])\n"
        "def cost(x):\n    return math.nan\n"
    )
    flags = ["--name", "f", "--results", str(tmp_path), "--envs", f"{cost}:cost:512", "--seeds", "3"]
    assert experiment.main(flags) == 1
    (failed,) = read_rows(tmp_path / "f.csv")
    assert failed.seed == "3" and failed.final_return == failed.steps_per_second == ""
    assert "failed" in capsys.readouterr().out


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
        (["--envs", "CartPole-v1:1", "--seeds", "-1"], "seeds"),
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


def test_iqm_is_scipys_trimmed_mean() -> None:
    assert report.iqm([100.0, 1.0, 3.0, 2.0, -50.0]) == 2.0  # of five the middle three, alike
    assert report.iqm([9.0, 1.0, 2.0, 0.0]) == 1.5
    assert report.iqm([1.0, 3.0, 8.0]) == 4.0  # floor(3 / 4) = 0 are left out
    assert report.iqm(list(range(8))) == 3.5


def test_report_shows_worst_failed_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.csv"
    rows = [row(seed, value, "score") for seed, value in enumerate(("10", "500", "480", "490", "20"))]
    rows += [row(0, "7"), row(1, ""), row(0, "1", env="F-v0")]
    append(path, Row._fields, rows)
    assert report.main([str(path)]) == 0
    lines = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    figures = {(line[0], line[2]): line[3:] for line in lines[2:]}
    assert figures["E-v0", "a2c score"] == ["330", "10", "10, 500, 480, 490, 20", "50"]  # (20 + 480 + 490) / 3
    assert figures["E-v0", "a2c"] == ["7 (1 of 5)", "failed", "7, failed, not run, not run, not run", "50"]
    assert figures["F-v0", "a2c"] == ["1", "1", "1", "50"]
    assert figures["F-v0", "a2c score"] == ["not run"] * 4


def test_report_draws_curves_over_what_all_seeds_reached(tmp_path: Path) -> None:
    points = [("0", 10, 0.0), ("0", 20, 10.0), ("0", 30, 20.0), ("1", 12, 4.0), ("1", 22, 4.0)]
    evaluations = [Measured("a2c", "", "E-v0", s, str(t), "1", str(r), "0") for s, t, r in points]
    steps, returns = report.curves(evaluations)
    np.testing.assert_allclose(steps, [12, 20, 22])
    np.testing.assert_allclose(returns, [[2, 10, 12], [4, 4, 4]])
    path = tmp_path / "r.csv"
    append(path, Row._fields, [row(0, "1")])
    append(evaluations_path(path), Measured._fields, evaluations)
    assert report.main([str(path), "--plot", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", COLUMNS + "\n", COLUMNS + "\na2c,x\n"])
def test_report_of_no_results_is_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.csv"
    if content is not None:
        path.write_text(content)
    assert report.main([str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
