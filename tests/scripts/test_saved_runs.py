"""The command train at a run's files: one writer, checkpoints that are kept, what is damaged, disks that are full."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from costgrad.rl import checkpoint
from costgrad.rl.files import Lock
from costgrad.scripts.train import main

FLAGS = ["--env", "CartPole-v1", "--agent", "a2c", "--num-envs", "2", "--hidden", "4", "--num-steps", "8"]
FLAGS += ["--no-capture-video", "--eval-episodes", "1", "--env-backend", "native", "-n", "64", "--save-freq", "16"]


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    """A run that kept the newest two of its checkpoints."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main([*FLAGS, "--run-dir", str(path), "--keep", "2"]) == 0
    return Path(path)


def test_the_newest_are_kept(run: Path) -> None:
    assert steps(run) == ["best", "last", "step_32", "step_48"]


@pytest.mark.parametrize("keep", ["0", "-1", "x"])
def test_a_number_to_keep_that_is_none(run: Path, capsys: Any, keep: str) -> None:
    assert main([*FLAGS, "--run-dir", str(run) + keep, "--keep", keep]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not Path(str(run) + keep).exists()


def test_a_second_trainer_is_refused_and_harms_nothing(run: Path, capsys: Any) -> None:
    """In a process of its own, as people start one."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    lock = Lock(run)
    command = [sys.executable, "-m", "costgrad", "train", "--resume", str(run), "-n", "96"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    lock.release()
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert re.search(rf"is being written by process {os.getpid()} on \S+: wait for it, or stop it", done.stderr)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before
    assert main(["--resume", str(run), "-n", "80", "--no-capture-video"]) == 0


def test_a_damaged_checkpoint_is_said_and_the_one_before_goes_on(run: Path, capsys: Any) -> None:
    file = run / "checkpoints" / "last" / checkpoint.TENSORS
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(bytes(data))
    assert main(["--resume", str(run), "-n", "128", "--no-capture-video", "--no-progress"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert re.fullmatch(r"note: checkpoint \S+/last is damaged: .*: the run goes on from checkpoint step_\d+", line)
    assert checkpoint.read(run / "checkpoints" / "last")[1]["run"]["step"] == 128


def test_a_run_that_is_not_saved_ends_with_one_line_and_code_1(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    assert main([*FLAGS, "--run-dir", str(tmp_path / "run"), "--no-progress"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["note", "error"]
    assert lines[0].endswith("No space left on device: training goes on and tries again at the next save")
    assert re.match(r"error: the run is not saved after 64 steps: cannot write \S+/last: No space left", lines[1])
