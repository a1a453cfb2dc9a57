"""The probing commands as a person runs them: real input, and every kind of bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costgrad.rl.runs.table import read_table
from costgrad.scripts import fidelity, probe, train

ROOT = Path(__file__).resolve().parents[2]
CHEAP = ("--num-envs", "4", "--visits", "2", "--within", "20")


def call(script: str, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, flags)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def trained(folder: Path, *flags: str) -> Path:
    quiet = ("--no-capture-video", "--eval-episodes", "2", "--run-dir", str(folder))
    done = call("train", "--env", "costgrad/OneStepQuadratic-v0", "-n", "4000", *quiet, *flags)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("probe") / "run", "--probe-every", "2000")


def test_it_says_how_far_c_can_be_trusted(run: Path, tmp_path: Path) -> None:
    before = json.loads((run / "ledger.json").read_text())
    done = call("probe", run, *CHEAP, "--points", tmp_path / "p.npz", "--plot", tmp_path / "c.png")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "ledger.json").read_text()) == before | {"probes": before["probes"] + 144}
    assert float(re.findall(r"gradient cosine ([\d.]+) \+-", done.stdout)[0]) > 0.5
    for said in ("relative error", "calibration error", "bias", "at 8 states", "it took      144 env"):
        assert said in done.stdout
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    points = np.load(tmp_path / "p.npz")
    assert points["obs"].shape == (8, 2) and points["true"].shape == (8, 2, 2)
    assert points["daction_dobs"].shape == (8, 2, 2)
    # A unit of the agent's action is two of the environment's.
    np.testing.assert_allclose(2 * points["dcost_daction"], points["said"], rtol=1e-3, atol=1e-4)


def test_training_leaves_probes_that_are_gathered_and_drawn(run: Path, tmp_path: Path) -> None:
    assert [row["step"] for row in read_table(run / "probes.csv")] == [2048, 4032]
    rows, picture = tmp_path / "rows.csv", tmp_path / "f.png"
    for _ in range(2):  # the second time it is replaced
        done = call("fidelity", rows, "--add", run, "--plot", picture)
        assert done.returncode == 0 and "2 probes of 1 runs" in done.stdout, done
    assert picture.read_bytes()[:4] == b"\x89PNG"
    head, first, _ = rows.read_text().splitlines()
    assert head.startswith("agent,env,seed,") and first.startswith("a2c,costgrad/OneStepQuadratic-v0,0,4000,2048,")
    assert call("fidelity", rows).stdout == f"{rows}: 2 probes of 1 runs\n"


def complaint(capsys: Any, script: Any, *flags: str | Path) -> str:
    capsys.readouterr()
    assert script.main([str(flag) for flag in flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    return said


def test_bad_input_is_one_line(run: Path, tmp_path: Path, capsys: Any) -> None:
    done = call("probe", tmp_path / "nope")
    assert done.returncode == 2 and done.stderr.startswith("error: no run at ") and done.stderr.count("\n") == 1
    wrong = partial(complaint, capsys)
    assert "no run at" in wrong(probe, tmp_path)
    assert "num_envs must be at least 2, got 1" in wrong(probe, run, "--num-envs", "1")
    assert "rounds must be at least 2, got 1" in wrong(probe, run, "--rounds", "1")
    assert "step must be above 0 and at most 0.5, got 2.0" in wrong(probe, run, "--step", "2")
    assert "seed must be at least 0, got -1" in wrong(probe, run, "--seed", "-1")
    assert "--plot x.gif must end in .png" in wrong(probe, run, "--plot", "x.gif")
    assert "has no checkpoint 'nope': it has" in wrong(probe, run, "--checkpoint", "nope")
    assert "probe-every must be at least 1, got 0" in wrong(train, "--probe-every", "0")
    assert "cannot read" in wrong(fidelity, tmp_path / "nope.csv")
    assert "holds no probes" in wrong(fidelity, run / "evaluations.csv")


def test_a_c_of_states_alone_has_a_calibration_only(tmp_path: Path, capsys: Any) -> None:
    plain = tmp_path / "plain"
    flags = ("--agent", "ppo", "-n", "600", "--no-capture-video", "--eval-episodes", "2", "--run-dir", str(plain))
    assert train.main(["--env", "costgrad/OneStepQuadratic-v0", *flags]) == 0
    assert probe.main([str(plain), *CHEAP]) == 0
    assert "gradient     not measured: this C is of states alone" in capsys.readouterr().out
    points = ("--points", tmp_path / "p.npz")
    assert "there are none, this C is of states alone" in complaint(capsys, probe, plain, *CHEAP, *points)
    rows = tmp_path / "r.csv"
    assert "no probes.csv: train it with --probe-every" in complaint(capsys, fidelity, rows, "--add", plain)
