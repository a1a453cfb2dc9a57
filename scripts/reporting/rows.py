"""The rows of an experiment as files: results/{name}.csv, one row a run, and its evaluations over time beside it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from costgrad.rl.errors import UserError
from costgrad.rl.files import write_text, writing

Key = tuple[str, str, str, str, str]

WHOLE = {"seed", "total_timesteps"}
NUMBERS = {"step", "seconds", "final_return", "steps_per_second", "mean_return", "std_return"}
FIGURES = {"final_return", "steps_per_second"}  # empty in the row of a run that failed


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
    def key(self) -> Key:
        """What makes two rows the same run."""
        return self[:5]

    @property
    def task(self) -> tuple[str, str]:
        """Environment and steps: what two runs must share to be compared."""
        return self.env, self.total_timesteps

    @property
    def name(self) -> str:
        """Agent and variant, for people."""
        return f"{self.agent} {self.variant}".strip()


class Measured(NamedTuple):
    """One evaluation on the way."""

    agent: str
    variant: str
    env: str
    seed: str
    total_timesteps: str  # of the run
    step: str
    seconds: str  # of training up to here, evaluations left out
    mean_return: str
    std_return: str

    @property
    def key(self) -> Key:
        """That of the run's row."""
        return self[:5]


OLD_HEAD = tuple(name for name in Measured._fields if name != "total_timesteps")


def evaluations_path(path: Path) -> Path:
    """Where the evaluations of results file `path` stand."""
    return path.with_suffix(".evaluations.csv")


def read_rows(path: Path) -> list[Row]:
    """All rows of a results file. Raises UserError where it is not one."""
    _, lines = _read(path, Row._fields)
    rows = [Row(*cells) for cells in lines]
    for number, row in enumerate(rows, 2):
        if bool(row.final_return) != bool(row.steps_per_second):
            raise UserError(f"{path} is damaged: row {number} must have both {' and '.join(sorted(FIGURES))} or none")
        try:
            json.loads(row.config or "{}")
        except ValueError as error:
            raise UserError(f"{path} is damaged: row {number}: config {row.config!r} is not JSON") from error
    return rows


def read_evaluations(path: Path) -> list[Measured]:
    """The evaluations that belong to results file `path`; none where there is no such file.

    Where they are from a time when they did not say how long their run was, its row says it.

    Raises:
        UserError: the file is damaged, or its runs cannot be told apart.
    """
    beside = evaluations_path(path)
    if not beside.exists():
        return []
    head, lines = _read(beside, Measured._fields, OLD_HEAD)
    if head == Measured._fields:
        return [Measured(*cells) for cells in lines]
    totals: dict[tuple[str, ...], set[str]] = {}
    for row in read_rows(path):
        if row.final_return:
            totals.setdefault(row.key[:4], set()).add(row.total_timesteps)
    for run, found in totals.items():
        if len(found) > 1:
            raise UserError(
                f"{beside} does not say which run of {' '.join(filter(None, run[:3]))} seed {run[3]} it is about, "
                f"that of {' or '.join(sorted(found))} steps: move it away"
            )
    # Evaluations whose row was removed are of no run that we know.
    return [Measured(*cells[:4], *totals.get(tuple(cells[:4]), {"0"}), *cells[4:]) for cells in lines]


def renew_evaluations(path: Path) -> None:
    """Rewrites the evaluations that belong to results file `path` where their head is of old. Raises UserError."""
    evaluations = read_evaluations(path)
    beside = evaluations_path(path)
    if evaluations and _read(beside, Measured._fields, OLD_HEAD)[0] != Measured._fields:
        write_text(beside, _text([Measured._fields, *evaluations]))


def append(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Adds rows at the end, and the head where the file is new. Raises UserError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", newline="", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(_text([columns]))
            else:  # a line cut short by a crash must not swallow this one
                file.seek(file.tell() - 1)
                if file.read(1) != "\n":
                    file.write("\n")
            file.write(_text(rows))


def remove(path: Path, key: Key) -> None:
    """Takes the rows of a run, and its evaluations, out of results file `path`. Raises UserError."""
    tables: list[tuple[Path, Sequence[str], Sequence[Row | Measured]]] = [
        (path, Row._fields, read_rows(path)),
        (evaluations_path(path), Measured._fields, read_evaluations(path)),
    ]
    for file, columns, rows in tables:
        kept = [row for row in rows if row.key != key]
        if len(kept) < len(rows):
            write_text(file, _text([columns, *kept]))


def _text(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _read(path: Path, *heads: tuple[str, ...]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The head of a file, which must be one of these, and its lines, whose numbers are numbers. Raises UserError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    head = tuple(lines[0]) if lines else ()
    if head not in heads:
        raise UserError(f"{path} is no results file: its first line must be {','.join(heads[0])}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(head):
            raise UserError(f"{path} is damaged: row {number} has {len(line)} cells, it must have {len(head)}")
        for name, cell in zip(head, line, strict=True):
            if name in WHOLE and not (cell.isdecimal() and _finite(cell)):
                raise UserError(f"{path} is damaged: row {number}: {name} {cell!r} must be a whole number")
            if name in NUMBERS and not _finite(cell) and (cell or name not in FIGURES):
                raise UserError(f"{path} is damaged: row {number}: {name} {cell!r} must be a finite number")
    return head, lines[1:]


def _finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def commit() -> str:
    """The short hash of the checkout this file is in, "+" behind it where its code was edited; "" where installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed; a repository further up is somebody else's
        return ""
    git = ["git", "-C", str(root)]
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
