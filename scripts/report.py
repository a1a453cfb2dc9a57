"""Prints results files as one Markdown table, compares their agents and draws their learning curves."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from costgrad.rl.errors import UserError
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.reporting.plot import check_picture, draw
from costgrad.scripts.reporting.rows import Key, Row, read_evaluations, read_rows
from costgrad.scripts.reporting.statistics import MIN_SEEDS, Estimate, improvement_interval, iqm_interval

HEAD = ("environment", "steps", "agent", "IQM [95 % interval]", "worst seed", "all seeds", "steps/s", "seconds")
NOTE = (
    "Mean return of the final policy, deterministic. IQM: interquartile mean over seeds, with its 95 % stratified "
    f"bootstrap interval (none below {MIN_SEEDS} seeds; of 3 it reaches from worst to best and holds the true mean in "
    'about 3 of 4 cases, of 5 in 9 of 10); "k of n" where not every seed finished. steps/s and seconds: median over '
    "seeds, of training alone."
)
BETTER_HEAD = ("agent", "against", "P(better) [95 % interval]", "runs", "tasks")
BETTER_NOTE = (
    "P(better): probability that a run of the agent ends with a higher return than a run of the other on the same "
    "task, ties counted half, averaged over the tasks that both were run on; a failed run is below all that finished. "
    f"95 % stratified bootstrap interval over seeds (none where a task has fewer than {MIN_SEEDS})."
)


@dataclass(frozen=True)
class Args:
    """Flags of scripts/report.py."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]")]
    """Results files, such as results/a2c.csv; their rows are merged."""
    plot: str | None = None
    """Where to draw the learning curves, a .png, .pdf or .svg."""
    beside: tuple[str, ...] = ()
    """Results files of other run lengths, drawn beside the curves of the same environment; not in the tables."""
    missing: bool = True
    """Also list agents without a run on a task that others have; --no-missing leaves them out."""
    improvement: bool = False
    """Also print the probability of improvement of each pair of agents."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints; returns the exit code, 2 for wrong input."""
    return guarded(_report, argv)


def _report(argv: Sequence[str]) -> int:
    args = parse(Args, argv, "report", __doc__ or "")
    paths = [Path(file) for file in args.files]
    if not paths:
        raise UserError("give a results file, such as results/a2c.csv")
    if args.plot is not None:
        check_picture(Path(args.plot))
    if args.beside and args.plot is None:
        raise UserError("--beside is for the picture: give --plot FILE")
    others = [Path(file) for file in args.beside]
    rows, beside = collect(paths), collect(others)
    drawn = [*paths, *others] if args.plot is not None else []
    evaluations = [measured for path in drawn for measured in read_evaluations(path)]
    lines = [*table(rows, args.missing), *(["", *improvement(rows)] if args.improvement else [])]
    print("\n".join(lines))
    if args.plot is not None:
        draw(Path(args.plot), rows, evaluations, beside)
    return 0


def collect(paths: Sequence[Path]) -> list[Row]:
    """The rows of all files. Raises UserError where one has none, or a run stands in two places."""
    found: dict[Key, tuple[Row, Path]] = {}
    for path in paths:
        rows = read_rows(path)
        if not rows:
            raise UserError(f"{path} has no rows yet")
        for row in rows:
            if row.key in found:
                what = f"{row.name} {row.env}:{row.total_timesteps} seed {row.seed}"
                raise UserError(f"{what} stands in {found[row.key][1]} and again in {path}: which is to count?")
            found[row.key] = row, path
    return [row for row, _ in found.values()]


def table(rows: Sequence[Row], missing: bool = True) -> list[str]:
    """Lines of Markdown: a row for every environment and agent (variant) that the rows know, run or not.

    Args:
        rows: of results files.
        missing: False leaves out what was not run on a task by any seed.
    Raises:
        UserError: rliable cannot be imported.
    """
    lines = _markdown(HEAD, 3)
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        seeds = sorted({int(row.seed) for row in here})
        for name in _names(rows):
            mine = {int(row.seed): row for row in here if row.name == name}
            if not mine and not missing:
                continue
            lines.append(_line(task[0], f"{int(task[1]):,}", name, *_figures(mine, seeds)))
    commits, machines = (", ".join(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("commit", "machine"))
    return [*lines, "", NOTE, f"Commits: {commits}. Machines: {machines}."]


def improvement(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: for each pair of agents (variants), how probably the one beats the other, and on what tasks.

    Args:
        rows: of results files.
    Raises:
        UserError: there is one agent only, or rliable cannot be imported.
    """
    names = _names(rows)
    if len(names) < 2:
        raise UserError(f"improvement needs two agents or variants to compare, the results hold {names[0]} alone")
    lines = _markdown(BETTER_HEAD, 2)
    for pair in itertools.combinations(names, 2):
        sides = [_returns([row for row in rows if row.name == name]) for name in pair]
        shared = [task for task in sides[0] if task in sides[1]]
        if not shared:
            lines.append(_line(*pair, "no task shared", "", ""))
            continue
        runs = [[side[task] for task in shared] for side in sides]
        estimate = improvement_interval(list(zip(*runs, strict=True)))
        few = min(len(returns) for side in runs for returns in side) < MIN_SEEDS
        counts = " and ".join(str(sum(map(len, side))) for side in runs)
        where = ", ".join(f"{env}:{steps}" for env, steps in shared)
        lines.append(_line(*pair, _interval(estimate, ".2f", few), counts, where))
    return [*lines, "", BETTER_NOTE]


def _returns(rows: Sequence[Row]) -> dict[tuple[str, str], np.ndarray]:
    """Final returns [n] of each task; that of a run that failed is below all others."""
    tasks: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(float(row.final_return or -math.inf))
    return {task: np.array(returns) for task, returns in tasks.items()}


def _figures(mine: dict[int, Row], seeds: Sequence[int]) -> list[str]:
    """The cells of one agent on one task, from the IQM on."""
    if not mine:
        return ["not run"] * 5
    done = {seed: row for seed, row in mine.items() if row.final_return}
    returns = {seed: float(row.final_return) for seed, row in done.items()}
    each = [f"{returns[seed]:.5g}" if seed in returns else "failed" if seed in mine else "not run" for seed in seeds]
    if not returns:
        return ["failed", "failed", ", ".join(each), "", ""]
    some = f" ({len(returns)} of {len(seeds)})" if len(returns) < len(seeds) else ""
    middle = _interval(iqm_interval(np.array(list(returns.values()))[:, None]), ".5g", len(returns) < MIN_SEEDS)
    worst = "failed" if len(returns) < len(mine) else f"{min(returns.values()):.5g}"
    speed, seconds = (
        statistics.median(float(getattr(row, key)) for row in done.values()) for key in ("steps_per_second", "seconds")
    )
    return [middle + some, worst, ", ".join(each), f"{speed:,.0f}", f"{seconds:,.1f}"]


def _interval(estimate: Estimate, form: str, few: bool) -> str:
    """A figure with its interval, or alone where there are too few seeds."""
    value, low, high = (f"{part[0]:{form}}" for part in estimate)
    return value if few else f"{value} [{low}, {high}]"


def _names(rows: Sequence[Row]) -> list[str]:
    """All agents and variants, each agent as it ships first."""
    return [name for _, name in sorted({((row.agent, row.variant), row.name) for row in rows})]


def _markdown(head: Sequence[str], words: int) -> list[str]:
    """The head of a table whose first columns are words and whose others are figures."""
    return [_line(*head), f"|{'|'.join(['---'] * words + ['---:'] * (len(head) - words))}|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
