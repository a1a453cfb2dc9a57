"""Learning curves of a results file."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from costgrad.rl.errors import UserError
from costgrad.rl.files import writing
from costgrad.scripts.reporting.rows import Key, Measured, Row
from costgrad.scripts.reporting.statistics import CURVE_RESAMPLES, MIN_SEEDS, iqm_interval

COLUMNS = 4  # of panels, at most
ENDINGS = (".pdf", ".png", ".svg")
Axis = Literal["step", "seconds"]
Try = Sequence[Measured]  # the evaluations of one run
# The clock of a run stands still while it evaluates and saves (rl/runs/session.py), and goes on while it logs.
LEGEND = (
    f"Line: interquartile mean over seeds. Band: its 95 % bootstrap interval (worst to best of {MIN_SEEDS} seeds or "
    "fewer). Seconds: wall clock on the machine of the run, evaluations and checkpoints left out."
)


def check_picture(path: Path) -> None:
    """Raises UserError where a picture cannot be meant to go there."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"plot {path} must end in one of {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise UserError(f"plot {path}: there is no folder {path.parent}")


def draw(path: Path, rows: Sequence[Row], evaluations: Sequence[Measured], beside: Sequence[Row] = ()) -> None:
    """Draws a column for each task, its curves against steps above those against seconds, an agent in one colour.

    Args:
        path: of the picture.
        rows: all runs; evaluations of other runs are left out.
        evaluations: on the way, of all runs.
        beside: runs of other lengths, drawn where their environment is: whole against seconds, and against steps as far
            as the task goes.
    Raises:
        UserError: there are no evaluations, or the picture cannot be written.
    """
    runs = last_tries(evaluations)
    rows, beside = ([row for row in part if row.key in runs] for part in (rows, beside))
    if not rows:
        raise UserError("there are no evaluations beside the results: nothing to draw")
    from matplotlib.figure import Figure  # takes a second to import: only where it is needed
    from matplotlib.ticker import EngFormatter

    tasks = list(dict.fromkeys(row.task for row in rows))
    beside = [row for row in beside if row.env in {env for env, _ in tasks}]
    names = [name for _, name in sorted({((row.agent, row.variant), row.name) for row in rows})]
    names += sorted({_length(row) for row in beside})
    columns = min(len(tasks), COLUMNS)
    bands = -(-len(tasks) // columns)  # of two rows of panels each
    width = max(3.8 * columns, 7.0)
    figure = Figure(figsize=(width, 5.2 * bands + 0.8), layout="constrained")
    shown: dict[str, Any] = {}
    for number, task in enumerate(tasks):
        here = [(row.name, row) for row in rows if row.task == task]
        here += [(_length(row), row) for row in beside if row.env == task[0]]
        mine = [[runs[row.key] for its, row in here if its == name] for name in names]
        first = number // columns * 2 * columns + number % columns + 1
        above = figure.add_subplot(2 * bands, columns, first)
        below = figure.add_subplot(2 * bands, columns, first + columns, sharey=above)
        again = [env for env, _ in tasks].count(task[0]) > 1
        title = f"{task[0]}, {int(task[1]):,} steps" if again else task[0]
        above.set_title(title, fontsize="medium", parse_math=False)
        above.set_xlabel("environment steps")
        above.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k
        if beside:
            above.set_xlim(0, 1.02 * int(task[1]))
        below.set_xlabel("seconds of training")
        shown |= _lines(above, names, mine, "step") | _lines(below, names, mine, "seconds")
    legend = {"title": textwrap.fill(LEGEND, int(14 * width)), "ncols": int(width / 2), "frameon": False}
    labels = [name for name in names if name in shown]
    figure.legend([shown[name] for name in labels], labels, loc="outside upper center", **legend)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            figure.savefig(temporary, dpi=120)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _length(row: Row) -> str:
    """An agent whose runs had another number of steps than the task."""
    return f"{row.name}, of {int(row.total_timesteps):,} steps"


def _lines(panel: Any, names: Sequence[str], runs: Sequence[Sequence[Try]], axis: Axis) -> dict[str, Any]:
    """Draws the curve of each agent; its place among all `names` decides its colour. Returns the lines drawn."""
    panel.set_ylabel("return")
    panel.grid(alpha=0.3)
    lines = {}
    for number, (name, mine) in enumerate(zip(names, runs, strict=True)):
        x, returns = curves(mine, axis)
        if len(x) > 0:
            middle, low, high = iqm_interval(returns, CURVE_RESAMPLES)
            style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
            (lines[name],) = panel.plot(x, middle, marker="." if len(x) == 1 else None, **style)
            panel.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    return lines


def last_tries(evaluations: Sequence[Measured]) -> dict[Key, list[Measured]]:
    """The evaluations of each run, in their order; where a run was done again, those of the last time.

    Args:
        evaluations: as they stand in files.
    """
    tries: dict[Key, list[Measured]] = {}
    for measured in evaluations:
        mine = tries.setdefault(measured.key, [])
        if mine and float(mine[-1].step) >= int(measured.total_timesteps):  # that one was its end
            mine.clear()
        mine.append(measured)
    return tries


def curves(runs: Sequence[Try], axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """The curves of all seeds at common places: wherever any of them was evaluated and all of them are under way.

    Args:
        runs: evaluations of each seed, of one task and agent.
        axis: what they are drawn against.
    Returns:
        x [S] in environment steps or seconds, from the last seed's first evaluation to the first seed's last one, and
        returns [seeds, S], interpolated linearly at x. S is 0 without runs, and where one seed ended before another's
        first evaluation.
    """
    if not runs:
        return np.empty(0), np.empty((0, 0))
    points = [np.array([(float(getattr(m, axis)), float(m.mean_return)) for m in run]).T for run in runs]
    x = np.unique(np.concatenate([places for places, _ in points]))
    first, last = max(places[0] for places, _ in points), min(places[-1] for places, _ in points)
    x = x[(x >= first) & (x <= last)]
    return x, np.stack([np.interp(x, places, returns) for places, returns in points])
