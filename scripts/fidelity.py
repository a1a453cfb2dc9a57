"""Draws how far C could be trusted along training, beside the returns, from rows that `train --probe-every` left."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional

from costgrad.rl.errors import UserError
from costgrad.rl.files import write_text, writing
from costgrad.rl.runs.folder import read_config
from costgrad.rl.runs.table import read_table
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.reporting.plot import check_picture

TEXT = ("agent", "env", "commit")
PANELS = (
    ("mean_return", "return", None),
    ("grad_cosine", "cosine of dC/da with the truth", "grad_cosine_error"),
    ("explained_variance", "explained variance", "explained_variance_error"),
)


class Row(NamedTuple):
    """One probe of one run; figures that are not known are NaN."""

    agent: str
    env: str
    seed: float
    total_timesteps: float
    step: float
    mean_return: float  # of the last evaluation up to the probe
    grad_cosine: float
    grad_cosine_error: float  # half of a 95 % interval, as the other errors
    grad_relative_error: float
    explained_variance: float
    explained_variance_error: float
    calibration: float
    environment_steps: float  # that the probe took
    commit: str

    @property
    def run(self) -> tuple[str, str, float, float]:
        """What makes two rows those of one run."""
        return self[:4]


@dataclass(frozen=True)
class Args:
    """Flags of scripts/fidelity.py."""

    rows: Positional[str]
    """Results file (CSV)."""
    add: tuple[str, ...] = ()
    """Run folders whose probes are added to it; a run that is there already is replaced."""
    plot: str | None = None
    """Where to draw them, a .png, .svg or .pdf."""


def main(argv: Sequence[str] | None = None) -> int:
    """Gathers and draws; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_fidelity, argv)


def _fidelity(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "fidelity", __doc__ or "")
    path = Path(args.rows)
    if args.plot is not None:
        check_picture(Path(args.plot))
    rows = read(path) if path.exists() or not args.add else []
    for run in args.add:
        fresh = gather(run)
        rows = [row for row in rows if row.run != fresh[0].run] + fresh
    if args.add:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([Row._fields, *(map(_cell, row) for row in rows)])
        write_text(path, text.getvalue())
    print(f"{path}: {len(rows)} probes of {len({row.run for row in rows})} runs")
    if args.plot is not None:
        draw(Path(args.plot), rows)
        print(f"picture {args.plot}")
    return 0


def gather(run: str) -> list[Row]:
    """The probes of a run's folder. Raises UserError where there are none."""
    started = read_config(run)
    if not (Path(run) / "probes.csv").is_file():
        raise UserError(f"run {run} has no probes.csv: train it with --probe-every")
    probes, evaluations = (read_table(Path(run) / f"{name}.csv") for name in ("probes", "evaluations"))
    if not probes:
        raise UserError(f"{run}/probes.csv is empty: the run has not come to its first probe")
    about: dict[str, Any] = {key: started[key] for key in ("agent", "seed", "total_timesteps")}
    about |= {"env": str(started.get("env_argument")), "commit": str(started.get("commit") or "")[:7]}
    rows = []
    for found in probes:
        before = [row["mean_return"] for row in evaluations if row["step"] <= found["step"]]
        told = found | about | {"mean_return": before[-1] if before else math.nan}
        rows.append(Row(**{key: told[key] for key in Row._fields}))
    return rows


def read(path: Path) -> list[Row]:
    """The rows of a file. Raises UserError where it is not one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not lines or tuple(lines[0]) != Row._fields:
        raise UserError(f"{path} holds no probes: its first line must be {','.join(Row._fields)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            cells = zip(Row._fields, line, strict=True)
            rows.append(Row(*(cell if key in TEXT else float(cell or "nan") for key, cell in cells)))  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"{path} is damaged: row {number}: {error}") from error
    return rows


def draw(path: Path, rows: Sequence[Row]) -> None:
    """A column for each task: returns, cosine and explained variance against steps, an agent in one colour.

    Args:
        path: of the picture.
        rows: of all runs; each is a line, its error a band.
    Raises:
        UserError: there are no rows, or the picture cannot be written.
    """
    if not rows:
        raise UserError("there are no probes: nothing to draw")
    from matplotlib.figure import Figure  # takes a second to import: only where it is needed
    from matplotlib.ticker import EngFormatter

    tasks, agents = (sorted({getattr(row, key) for row in rows}) for key in ("env", "agent"))
    figure = Figure(figsize=(max(4.5 * len(tasks), 6), 8), dpi=120, layout="constrained")
    lines: dict[str, Any] = {}
    for column, env in enumerate(tasks):
        for place, (key, label, error) in enumerate(PANELS):
            panel = figure.add_subplot(len(PANELS), len(tasks), place * len(tasks) + column + 1)
            if place == 0:
                panel.set_title(env, parse_math=False)
            panel.set_ylabel(label)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k
            panel.grid(alpha=0.3)
            for run in dict.fromkeys(row.run for row in rows if row.env == env):
                mine = sorted((row for row in rows if row.run == run), key=lambda row: row.step)
                x, y = ([getattr(row, name) for row in mine] for name in ("step", key))
                colour = f"C{agents.index(run[0])}"
                (lines[run[0]],) = panel.plot(x, y, marker=".", lw=1, color=colour)
                if error is not None:
                    half = [getattr(row, error) for row in mine]
                    low, high = ([v + s * h for v, h in zip(y, half, strict=True)] for s in (-1, 1))
                    panel.fill_between(x, low, high, alpha=0.15, linewidth=0, color=colour)
            if error is not None:
                panel.set_ylim(-0.5, 1.1)
        panel.set_xlabel("environment steps")
    names = [agent for agent in agents if agent in lines]
    figure.legend([lines[name] for name in names], names, loc="outside upper center", ncols=len(names), frameon=False)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            figure.savefig(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _cell(value: object) -> str:
    return f"{value:.6g}".replace("nan", "") if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
