"""What the README shows is run, as its reader would: its files written, its commands typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.S))


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_shows_these_files() -> None:
    assert sorted(FILES) == ["errors.py", "first.py", "recipe.py", "thermostat.py", "use_c.py"]
    assert len(FILES["thermostat.py"].strip().splitlines()) <= 25


def mean_return(said: str) -> float:
    return float(re.findall(r"return (-?[\d.]+)", said)[-1])


@pytest.mark.parametrize(
    ("name", "better_than"),
    # A thermostat that heats as it should keeps within a degree or so; the recipe's lowest stair costs nothing.
    [("thermostat.py:Thermostat", -40.0), ("recipe.py:recipe", -0.5)],
)
def test_an_environment_and_a_cost_function_are_trained_on(folder: Path, name: str, better_than: float) -> None:
    line = next(line for line in README.splitlines() if line.startswith(f"python scripts/train.py --env {name}"))
    _, script, *flags = line.split()
    said = run(sys.executable, str(ROOT / script), *flags, "--run-dir", "run", "--no-capture-video", cwd=folder)
    assert (folder / "run" / "learning_curve.png").is_file()
    assert mean_return(run(sys.executable, str(ROOT / "scripts/evaluate.py"), "run", cwd=folder)) > better_than, said


def test_the_python_examples_run_one_after_the_other(folder: Path) -> None:
    text = (folder / "first.py").read_text()
    assert "20_000" in text
    (folder / "first.py").write_text(text.replace("20_000", "2_000"))  # what it learns is tested elsewhere
    assert "return" in run(sys.executable, "first.py", cwd=folder)
    assert "grad_fn" in run(sys.executable, "use_c.py", cwd=folder)
    shutil.rmtree(folder / "runs")


def test_a_model_learns_from_errors_alone(folder: Path) -> None:
    said = run(sys.executable, "errors.py", cwd=folder)
    assert "19,200 evaluations, 0 failed" in said and float(said.split("errors:")[1]) < 0.1  # chance is 0.75


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
