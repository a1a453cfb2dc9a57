"""The rows of an experiment as files: results/{name}.csv, one row a run, and its evaluations over time beside it."""

from __future__ import annotations

import csv
import io
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rl.checkpoint import writing
from rl.errors import UserError


class Row(NamedTuple):
    """One run. Empty figures are those of a run that failed."""

    agent: str
    variant: str  # empty for the agent as it ships
    env: str
    seed: str
    total_timesteps: str
    seconds: str  # of training, evaluations left out
    final_return: str  # mean of 20 deterministic episodes of the final policy
    steps_per_second: str
    commit: str  # "+" behind it where the code was edited
    machine: str
    config: str  # JSON of num_envs and the settings that are not the agent's defaults

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What makes two rows the same run."""
        return self[:5]


class Measured(NamedTuple):
    """One evaluation on the way."""

    agent: str
    variant: str
    env: str
    seed: str
    step: str
    seconds: str
    mean_return: str
    std_return: str


def evaluations_path(path: Path) -> Path:
    """Where the evaluations of results file `path` stand."""
    return path.with_suffix(".evaluations.csv")


def read_rows(path: Path) -> list[Row]:
    """All rows of a results file. Raises UserError where it is not one."""
    return [Row(*cells) for cells in _read(path, Row._fields)]


def read_evaluations(path: Path) -> list[Measured]:
    """The evaluations that belong to results file `path`; none where there is no such file. Raises UserError."""
    path = evaluations_path(path)
    return [Measured(*cells) for cells in _read(path, Measured._fields)] if path.exists() else []


def append(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Adds rows at the end, and the head where the file is new. Raises UserError where it cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", newline="", encoding="utf-8") as file:
            if file.tell() == 0:
                writer.writerow(columns)
            else:  # a line cut short by a crash must not swallow this one
                file.seek(file.tell() - 1)
                if file.read(1) != "\n":
                    text.write("\n")
            writer.writerows(rows)
            file.write(text.getvalue())


def _read(path: Path, columns: Sequence[str]) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not lines or tuple(lines[0]) != tuple(columns):
        raise UserError(f"{path} is no results file: its first line must be {','.join(columns)}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(columns):
            raise UserError(f"{path} is damaged: row {number} has {len(line)} cells, it must have {len(columns)}")
    return lines[1:]


def commit() -> str:
    """The short hash of the checkout this file belongs to, "+" behind it where its code was edited; "" without one."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    code = ["rl", "agents", "envs", "scripts"]  # rows that an experiment appends do not make its own code another
    try:
        done = [
            subprocess.run([*git, *command], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", *code])
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return done[0] + ("+" if done[1] else "")


def machine() -> str:
    """The processor and how many cores this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{model}, {cores} cores"
