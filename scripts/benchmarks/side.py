"""One side of a benchmark: a process that does what it is told and answers in lines of JSON."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from costgrad.rl.errors import UserError
from costgrad.rl.files import write_text

LIBRARIES = {"sb3": "stable_baselines3", "sbx": "sbx"}


class Side:
    """A process of its own, which may stand still but when it is its turn.

    Args:
        command: interpreter and file; settings follow as JSON.
        job: the settings, `threads` among them.
    """

    def __init__(self, command: Sequence[str], job: dict[str, Any]) -> None:
        self.name, self.python = command[-1], command[0]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        environ = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen([*command, json.dumps(job)], env=environ, text=True, **pipes)
        except OSError as error:
            raise UserError(f"cannot run {self.python}: {error.strerror}") from error

    def __enter__(self) -> Side:
        """Nothing but itself; leaving ends the process."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def turn(self) -> dict[str, Any]:
        """Lets it run for one measurement. Raises UserError where it has failed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next figures it prints. Raises UserError where it has failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        with contextlib.suppress(ValueError):
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
        raise UserError(f"{Path(self.name).name} failed in {self.python}: {said[-1].removeprefix('error: ')}")


def ours(job: dict[str, Any]) -> Side:
    """A process of ours."""
    return Side([sys.executable, "-P", "-m", "costgrad.scripts.benchmarks.ours"], job)


def peer(name: str, python: str, job: dict[str, Any]) -> Side:
    """A peer's process, in the interpreter it is installed in."""
    return Side([python, str(Path(__file__).with_name(f"{name}.py"))], job)


def floor(job: dict[str, Any]) -> Side:
    """A process of ours that measures the machine."""
    return ours({**job, "mode": "floor"})


def interpreter(path: str) -> str:
    """The interpreter at a path, which may be the folder of a virtual environment."""
    if Path(path).is_dir():
        return str(Path(path) / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    return path


def check_peer(python: str, peer: str = "sb3") -> None:
    """Raises UserError where the peer cannot be run."""
    if shutil.which(python) is None:
        raise UserError(f"cannot run {python}: there is no such interpreter")
    if python == sys.executable and importlib.util.find_spec(LIBRARIES[peer]) is None:
        raise UserError(
            f"{LIBRARIES[peer]} is not installed here: install it and tensorboard in a venv of its own, "
            "and give --peer-python that venv or its interpreter"
        )


def write_json(path: str, figures: dict[str, Any]) -> None:
    """Writes all figures. Raises UserError where it cannot."""
    write_text(path, json.dumps(figures, indent=1) + "\n")
