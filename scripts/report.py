"""Prints a results file as a Markdown table and draws its learning curves."""

from __future__ import annotations

if not __package__:  # run as a file: our packages come from this checkout, whatever lies beside us or where we are
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import scripts  # noqa: F401

    __package__ = "scripts"

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from rl.checkpoint import writing
from rl.errors import UserError

from .cli import guarded, parse
from .results import Measured, Row, read_evaluations, read_rows

HEAD = ("environment", "steps", "agent", "IQM", "worst seed", "all seeds", "steps/s")


@dataclass(frozen=True)
class Args:
    """Flags of scripts/report.py."""

    file: Positional[str]
    """A results file, such as results/a2c.csv."""
    plot: str | None = None
    """Where to draw the learning curves, a PNG, PDF or SVG."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints; returns the exit code, 2 for wrong input."""
    return guarded(_report, argv)


def _report(argv: Sequence[str]) -> int:
    args = parse(Args, argv, "report", __doc__ or "")
    path = Path(args.file)
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} has no rows yet")
    print("\n".join(table(rows)))
    if args.plot is not None:
        draw(Path(args.plot), read_evaluations(path))
    return 0


def iqm(values: Sequence[float]) -> float:
    """The interquartile mean: the quarter at each end is left out, the rest averaged.

    As rliable computes it (scipy.stats.trim_mean with 0.25): whole values are left out, floor(n / 4) at each end, so
    that of five seeds the middle three count, alike.
    """
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: a row for every environment and agent (variant) that the file knows, run or not.

    Args:
        rows: of one results file.
    """
    tasks = list(dict.fromkeys((row.env, row.total_timesteps) for row in rows))
    agents = sorted({(row.agent, row.variant) for row in rows})  # as it ships first
    lines = [f"| {' | '.join(HEAD)} |", f"|{'|'.join(['---'] * 3 + ['---:'] * 4)}|"]
    for env, steps in tasks:
        here = [row for row in rows if (row.env, row.total_timesteps) == (env, steps)]
        seeds = sorted({int(row.seed) for row in here})
        for agent, variant in agents:
            mine = {int(row.seed): row for row in here if (row.agent, row.variant) == (agent, variant)}
            cells = [env, f"{int(steps):,}", f"{agent} {variant}".strip(), *_figures(mine, seeds)]
            lines.append(f"| {' | '.join(cells)} |")
    commits, machines = (", ".join(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("commit", "machine"))
    return [
        *lines,
        "",
        "Mean return of the final policy, deterministic. IQM: interquartile mean over seeds; "
        '"k of n" where not every seed finished.',
        f"Commits: {commits}. Machines: {machines}.",
    ]


def _figures(mine: dict[int, Row], seeds: Sequence[int]) -> list[str]:
    """IQM, worst seed, all seeds, steps/s of one agent on one task."""
    if not mine:
        return ["not run"] * 4
    returns = {seed: float(row.final_return) for seed, row in mine.items() if row.final_return}
    each = [f"{returns[seed]:.5g}" if seed in returns else "failed" if seed in mine else "not run" for seed in seeds]
    if not returns:
        return ["failed", "failed", ", ".join(each), ""]
    some = f" ({len(returns)} of {len(seeds)})" if len(returns) < len(seeds) else ""
    worst = "failed" if len(returns) < len(mine) else f"{min(returns.values()):.5g}"
    speed = statistics.median(float(row.steps_per_second) for row in mine.values() if row.final_return)
    return [f"{iqm(list(returns.values())):.5g}{some}", worst, ", ".join(each), f"{speed:,.0f}"]


def draw(path: Path, evaluations: Sequence[Measured]) -> None:
    """Learning curves: a panel an environment, a line an agent (variant): mean over seeds, band from worst to best.

    Args:
        path: of the picture.
        evaluations: those that stand beside the results.
    Raises:
        UserError: there are none, or the picture cannot be written.
    """
    if not evaluations:
        raise UserError("there are no evaluations beside the results: nothing to draw")
    from matplotlib.figure import Figure  # takes a second to import: only where it is needed

    envs = list(dict.fromkeys(row.env for row in evaluations))
    names = sorted({(row.agent, row.variant) for row in evaluations})
    figure = Figure(figsize=(5.0 * len(envs), 3.6), layout="constrained")
    for axis, env in zip(figure.subplots(1, len(envs), squeeze=False)[0], envs, strict=True):
        for color, name in enumerate(names):
            mine = [row for row in evaluations if row.env == env and (row.agent, row.variant) == name]
            if not mine:
                continue
            steps, returns = curves(mine)
            axis.plot(steps, returns.mean(0), color=f"C{color}", label=" ".join(name).strip())
            axis.fill_between(steps, returns.min(0), returns.max(0), color=f"C{color}", alpha=0.2, linewidth=0)
        axis.set(title=env, xlabel="environment steps", ylabel="return")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    with writing(path):
        try:
            figure.savefig(path, dpi=120)
        except ValueError as error:  # an ending that matplotlib does not know
            raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def curves(evaluations: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray]:
    """The curves of all seeds at common steps: evaluations come a few steps apart from seed to seed.

    Args:
        evaluations: of one environment and agent.
    Returns:
        steps [S], and returns [seeds, S] interpolated at them; S covers what every seed has reached.
    """
    by_seed: dict[str, dict[float, float]] = {}
    for row in evaluations:
        by_seed.setdefault(row.seed, {})[float(row.step)] = float(row.mean_return)
    first, last = max(min(points) for points in by_seed.values()), min(max(points) for points in by_seed.values())
    longest = max(by_seed.values(), key=len)
    steps = np.clip(np.array(sorted(longest)), first, last)
    returns = []
    for points in by_seed.values():
        at = sorted(points)
        returns.append(np.interp(steps, np.array(at), np.array([points[step] for step in at])))
    return steps, np.stack(returns)


if __name__ == "__main__":
    raise SystemExit(main())
