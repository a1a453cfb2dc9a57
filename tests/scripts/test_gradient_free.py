"""Search without gradients as a person runs it: the scripts on real and on bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from costgrad.agents import AGENTS
from costgrad.scripts import train as train_script
from tests.streams import GRADIENT_FREE

ROOT = Path(__file__).resolve().parents[2]


def typed(*flags: Any, cwd: Path, script: str = "train") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, flags)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("name", ["guidedes"])
def test_the_script_trains_evaluates_and_goes_on(name: str, tmp_path: Path) -> None:
    flags = ("--agent", name, "--env", "CartPole-v1", "-n", 1500, "--num-envs", 4, "--eval-episodes", 2)
    done = typed(*flags, "--run-dir", "run", "--no-capture-video", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "environment steps:" in done.stdout and "final policy: return" in done.stdout
    assert typed("--resume", "run", "-n", 2500, "--no-capture-video", cwd=tmp_path).returncode == 0
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["training"] >= 2500 and ledger["evaluation"] > 0 == ledger["probes"]
    assert AGENTS[name][0].load(tmp_path / "run" / "checkpoints" / "last").steps == ledger["training"]


@pytest.mark.parametrize(
    "name", [p if p == "cmaes" else pytest.param(p, marks=pytest.mark.slow) for p in GRADIENT_FREE]
)
def test_a_run_is_evaluated_and_drawn_by_the_scripts(name: str, tmp_path: Path) -> None:
    flags = ("--agent", name, "--env", "CartPole-v1", "-n", 400, "--num-envs", 4, "--eval-episodes", 2)
    done = typed(*flags, "--run-dir", "run", "--no-capture-video", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "gradient-free" in (picture := (tmp_path / "run" / "agent.svg").read_text())
    again = typed("run", "--episodes", 2, cwd=tmp_path, script="evaluate")
    assert again.returncode == 0, again.stderr
    (said,) = (line for line in done.stdout.splitlines() if "final policy: " in line)
    assert again.stdout.strip() in said  # the same parameters on the same seeds
    drawn = typed("run", "-o", "agent.svg", cwd=tmp_path, script="draw")
    assert drawn.returncode == 0 and (tmp_path / "agent.svg").read_text() == picture


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--agent", "ars", "--top", "9"), "top must be at most directions, 8, got 9"),
        (("--agent", "es", "--sigma", "0"), "sigma must be above 0, got 0.0"),
        (("--agent", "cmaes", "--candidates", "3"), "candidates must be 0 or at least 4, got 3"),
        (("--agent", "guidedes", "--isotropic", "1.5"), "isotropic must be from 0 to 1, got 1.5"),
        (("--agent", "randomsearch", "--shrink", "2"), "shrink must be above 0 and at most 1, got 2.0"),
        (("--agent", "spsa", "--first-step", "-1"), "first_step must be a finite number from 0 up, got -1.0"),
        (("--agent", "evolution"), "unknown agent 'evolution'"),
    ],
)
def test_wrong_flags_are_one_line(flags: tuple[str, ...], said: str, capsys: Any) -> None:
    assert train_script.main([*flags, "-n", "100"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
