"""--encoder file.py:Name of train, evaluate, probe and draw: given each time, for a run folder never runs code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from costgrad.scripts import draw, evaluate, probe, train

ENCODER = """
from torch import nn

class Net(nn.Module):
    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 6)

    def forward(self, x):
        return self.layer(x).relu()

class Wide(Net):
    def __init__(self, space):
        super().__init__(space)
        self.layer = nn.Linear(space.shape[0], 9)

made = nn.Linear(3, 6)
nothing = 3
"""
SHORT = ["--env", "Pendulum-v1", "--num-envs", "2", "--no-capture-video", "--eval-episodes", "1", "--no-progress"]
SMALL = ["--agent", "sac", "--hidden", "8", "--learning-starts", "40", "--batch-size", "8", "-n", "120"]


def run(*flags: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "costgrad", *map(str, flags)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with an encoder, and a run with it."""
    place = tmp_path_factory.mktemp("place")
    (place / "mine.py").write_text(ENCODER)
    done = run("train", *SHORT, *SMALL, "--encoder", "mine.py:Net", "--run-dir", "with", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "updates by autograd (there is an encoder)" in done.stdout
    return place


@pytest.fixture
def here(place: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(place)
    return place


def refused(capsys: Any, main: Any, *flags: str) -> str:
    capsys.readouterr()
    assert main(list(flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    return error


def test_the_encoder_is_trained_and_the_run_is_used_with_it(here: Path, capsys: Any) -> None:
    assert evaluate.main(["with", "--encoder", "mine.py:Net", "--episodes", "2"]) == 0
    assert capsys.readouterr().out.startswith("return ")
    assert draw.main(["with", "--encoder", "mine.py:Net", "--out", "agent.svg"]) == 0
    flags = ["--visits", "1", "--within", "5", "--num-envs", "2"]
    assert probe.main(["with", "--encoder", "mine.py:Net", *flags]) == 0


def test_a_run_goes_on_with_it(here: Path, capsys: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(here / "with", tmp_path / "run")
    again = ["--resume", str(tmp_path / "run"), "-n", "160", "--no-progress"]
    assert "give --encoder again" in refused(capsys, train.main, *again)
    assert train.main([*again, "--encoder", "mine.py:Net"]) == 0
    meta = json.loads((tmp_path / "run" / "checkpoints" / "last" / "meta.json").read_text())["meta"]
    assert meta["encoder"] == {"name": "Net"} and meta["run"]["step"] >= 160


@pytest.mark.parametrize("main", [evaluate.main, probe.main, draw.main], ids=["evaluate", "probe", "draw"])
def test_without_it_one_line_says_so_and_no_code_is_run(main: Any, here: Path, capsys: Any) -> None:
    before = (here / "mine.py").read_text()
    (here / "mine.py").write_text("raise SystemExit('run by a run folder')")
    try:
        assert "was trained with --encoder mine.py:Net: give --encoder again" in refused(capsys, main, "with")
    finally:
        (here / "mine.py").write_text(before)


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--agent", "es", "--encoder", "mine.py:Net"], "agent es takes no encoder: of costgrad's agents a2c, crossq"),
        (["--agent", "sac", "--encoder", "mine.py:Nothing"], "has no 'Nothing'"),
        (["--agent", "sac", "--encoder", "mine.py:nothing"], "must be an nn.Module or a callable"),
        (["--agent", "sac", "--encoder", "nowhere.py:Net"], "no file 'nowhere.py'"),
        (["--agent", "sac", "--encoder", "Net"], "must be file.py:Name"),
    ],
)
def test_what_is_no_encoder_is_refused(flags: list[str], why: str, here: Path, capsys: Any) -> None:
    assert why in refused(capsys, train.main, *SHORT, *flags, "-n", "50", "--run-dir", "no")
    assert not (here / "no").exists()


def test_another_encoder_does_not_fit(here: Path, capsys: Any) -> None:
    assert "does not fit" in refused(capsys, evaluate.main, "with", "--encoder", "mine.py:Wide")
    assert train.main([*SHORT, *SMALL, "--run-dir", "without"]) == 0
    assert "updates by hand (plain networks)" in capsys.readouterr().out
    assert "without an encoder" in refused(capsys, evaluate.main, "without", "--encoder", "mine.py:Net")


def test_a_module_is_an_encoder_as_well(here: Path, tmp_path: Path) -> None:
    flags = ["--encoder", "mine.py:made", "--share-encoder", "both", "--run-dir", str(tmp_path / "run")]
    assert train.main([*SHORT, *SMALL, *flags]) == 0
