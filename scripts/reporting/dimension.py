"""Rows of scripts/dimension.py: evaluations against dimension, the exponents fitted to them, the figure."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from costgrad.rl.errors import UserError
from costgrad.rl.files import writing

TITLES = {
    "full": "Staircase: every dimension of the action matters",
    "fixed": "Staircase: two dimensions of the action matter",
    "policy": "CartPole-v1: parameters of the policy",
}
PARTS = {"within_10": "within 10 %", "within_1": "within 1 %"}
RESAMPLES = 2_000
TEXT = ("task", "method", "commit", "machine")
REALS = ("seconds", "excess")


class Row(NamedTuple):
    """One run."""

    task: str
    method: str
    size: int  # dimension of the action, or the parameters that were asked for
    seed: int
    limit: int
    parameters: int  # of the policy
    within_10: int  # evaluations when it was first seen within 10 % of the optimum; 0 where it never was
    within_1: int
    evaluations: int  # of the whole run
    seconds: float
    excess: float  # at its end, in parts of the optimum
    commit: str
    machine: str

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """What makes two rows the same run."""
        return self[:5]


def append(path: Path, row: Row) -> None:
    """Adds a row. Raises UserError where the file cannot be written."""
    new = not path.exists()
    with writing(path), path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(Row._fields)
        writer.writerow([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row])


def read(path: Path) -> list[Row]:
    """The rows of a file. Raises UserError where it is not one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not lines or tuple(lines[0]) != Row._fields:
        raise UserError(f"{path} holds no such rows: its first line must be {','.join(Row._fields)}")
    kinds: list[Any] = [str if name in TEXT else float if name in REALS else int for name in Row._fields]
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append(Row(*(kind(cell) for kind, cell in zip(kinds, line, strict=True))))
        except ValueError as error:
            raise UserError(f"{path} is damaged: row {number}: {error}") from error
    return rows


def exponents(rows: Sequence[Row]) -> list[str]:
    """A Markdown table: how evaluations grow with size, the exponent p of size^p with its interval, a row a method.

    Where a run gave up before it was near, its size is left out of the fit: the exponent is that of the sizes that all
    seeds came through, and "up to" says how far that is.
    """
    lines = []
    for task in [task for task in TITLES if any(row.task == task for row in rows)]:
        mine = [row for row in rows if row.task == task]
        largest = max(row.size for row in mine)
        cells = [f"{part}, at {largest:,}" for part in PARTS.values()]
        heads = ["method", *(f"exponent, {part}" for part in PARTS.values()), *cells]
        lines += ["", f"**{TITLES[task]}**", "", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
        for method in dict.fromkeys(row.method for row in mine):
            its = [row for row in mine if row.method == method]
            fits = [_exponent_cell(its, part, largest) for part in PARTS]
            ends = [_evaluations_cell([row for row in its if row.size == largest], part) for part in PARTS]
            lines.append(f"| {' | '.join([method, *fits, *ends])} |")
    return lines


def _exponent_cell(rows: Sequence[Row], part: str, largest: int) -> str:
    came = through(rows, part)
    if len(came) < 3:
        return f"not fitted: {len(came)} of {len({row.size for row in rows})} sizes came near"
    value, low, high = exponent(came)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" + ("" if max(came) == largest else f" up to {max(came):,}")


def _evaluations_cell(rows: Sequence[Row], part: str) -> str:
    if not rows:
        return "not run"
    taken = sorted(getattr(row, part) or np.inf for row in rows)
    middle = float(np.median(taken))
    limit = f"more than {max(row.evaluations for row in rows):,}"
    return f"{middle:,.0f}" if np.isfinite(middle) else limit


def through(rows: Sequence[Row], part: str) -> dict[int, np.ndarray]:
    """Evaluations [seeds] by size, where every seed came near."""
    sizes = sorted({row.size for row in rows})
    by_size = {size: np.array([getattr(row, part) for row in rows if row.size == size], float) for size in sizes}
    return {size: taken for size, taken in by_size.items() if taken.all()}


def exponent(taken: dict[int, np.ndarray]) -> tuple[float, float, float]:
    """The slope of log evaluations over log size by least squares, and its 95 % bootstrap interval over seeds.

    Args:
        taken: evaluations [seeds] by size, of at least two sizes.
    """
    x = np.log(np.array(list(taken), float))
    x = x - x.mean()

    def slope(y: np.ndarray) -> np.ndarray:  # [..., sizes] mean logs
        return (y * x).sum(-1) / (x * x).sum()

    logs, rng = [np.log(values) for values in taken.values()], np.random.default_rng(0)
    drawn = np.stack([log[rng.integers(len(log), size=(RESAMPLES, len(log)))].mean(-1) for log in logs], -1)
    low, high = np.quantile(slope(drawn), (0.025, 0.975))
    return float(slope(np.array([log.mean() for log in logs]))), float(low), float(high)


def draw(path: Path, rows: Sequence[Row]) -> None:
    """A column for each task, within 10 % above within 1 %: median evaluations over seeds, worst and best as a bar.

    A triangle at the limit stands where the median run gave up.

    Raises:
        UserError: there are no rows, or the picture cannot be written.
    """
    if not rows:
        raise UserError("there are no rows: nothing to draw")
    from matplotlib.figure import Figure  # takes a second to import: only where it is needed

    tasks = [task for task in TITLES if any(row.task == task for row in rows)]
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(4.6 * len(tasks), 8.2), dpi=120, layout="constrained")
    lines: dict[str, Any] = {}
    for column, task in enumerate(tasks):
        for place, (part, label) in enumerate(PARTS.items()):
            panel = figure.add_subplot(
                len(PARTS), len(tasks), place * len(tasks) + column + 1, xscale="log", yscale="log"
            )
            panel.set_title(f"{TITLES[task]}\n{label}", fontsize="small")
            panel.set_ylabel("evaluations")
            panel.set_xlabel("parameters" if task == "policy" else "dimensions of the action")
            panel.grid(alpha=0.3)
            for number, method in enumerate(methods):
                mine = [row for row in rows if row.task == task and row.method == method]
                style = {
                    "color": f"C{number}",
                    "lw": 1.8 if "A2C" in method else 1,
                    "ls": "-" if "A2C" in method else "--",
                }
                line = _line(panel, mine, part, 1 + 0.02 * (number - len(methods) / 2), style)
                lines[method] = lines.get(method) or line
    named = {method: line for method, line in lines.items() if line is not None}
    figure.legend(list(named.values()), list(named), loc="outside upper center", ncols=5, frameon=False)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            figure.savefig(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _line(panel: Any, rows: Sequence[Row], part: str, aside: float, style: dict[str, Any]) -> Any:
    """One method's line; `aside` keeps the marks of several apart."""
    middle: list[tuple[float, list[float], int]] = []  # place, evaluations of each seed, limit
    worst: list[tuple[float, list[float], int]] = []
    for size in sorted({row.size for row in rows}):
        taken = [getattr(row, part) or np.inf for row in rows if row.size == size]
        limit = max(row.evaluations for row in rows if row.size == size)
        (middle if np.isfinite(np.median(taken)) else worst).append((size * aside, taken, limit))
    line = None
    if middle:
        x, y = [x for x, _, _ in middle], [float(np.median(taken)) for _, taken, _ in middle]
        low = [m - min(taken) for m, (_, taken, _) in zip(y, middle, strict=True)]
        high = [min(max(taken), limit) - m for m, (_, taken, limit) in zip(y, middle, strict=True)]
        line = panel.errorbar(x, y, yerr=[low, high], marker="o", ms=3, elinewidth=0.7, **style)
    if worst:
        marks = panel.plot(
            [x for x, _, _ in worst], [limit for *_, limit in worst], "^", mfc="none", color=style["color"]
        )
        line = line or marks[0]
    return line
