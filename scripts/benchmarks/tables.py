"""The tables that scripts/bench.py prints. `args` are its flags."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def ratios(rounds: Sequence[dict[str, dict[str, float]]], side: str, key: str = "steps_per_second") -> list[float]:
    """Ours over the peer's, round by round.

    Args:
        rounds: figures of each side, the peer's under "peer".
        side: which of ours.
        key: which figure.
    """
    return [figures[side][key] / figures["peer"][key] for figures in rounds]


def print_rounds(console: Console, args: Any, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Figures and ratios of every round, their medians and extremes."""
    measured = [name for name in rounds[0] if name not in ("peer", "floor")]
    title = {name: name if name == args.agent else f"{args.agent} {name}" for name in measured}
    if args.peer:
        title["peer"] = args.peer
    table = Table(title="steps per second")
    table.add_column("round")
    for name in title.values():
        table.add_column(name, justify="right")
    if args.peer:
        for name in measured:
            table.add_column(f"ratio {name}", justify="right")
    columns = [[figures[name]["steps_per_second"] for figures in rounds] for name in title]
    over = [ratios(rounds, name) for name in measured] if args.peer else []
    for i in range(len(rounds)):
        table.add_row(str(i + 1), *(f"{c[i]:,.0f}" for c in columns), *(f"{c[i]:.2f}" for c in over))
    median = statistics.median
    table.add_section()
    table.add_row("median", *(f"{median(c):,.0f}" for c in columns), *(f"{median(c):.2f}" for c in over))
    console.print(table)
    for name, c in zip(measured, over, strict=False):
        cpu = ratios(rounds, name, "steps_per_cpu_second")
        console.print(
            f"ratio {name} / {args.peer}: min {min(c):.2f}, median {median(c):.2f}, max {max(c):.2f}; "
            f"by CPU time, which others on the machine disturb less: median {median(cpu):.2f}",
            highlight=False,
        )


def print_parts(console: Console, args: Any, figures: dict[str, Any]) -> None:
    """The environment alone, and where the time of a vector step goes."""
    line = f"environment alone, {figures['backend']}: {figures['env_alone']:,.0f} steps/s"
    if args.peer:
        line += f"; the peer's: {figures['peer_env_alone']:,.0f}"
    console.print(line, highlight=False)
    table = Table(title="microseconds of a vector step, measured apart")
    columns = {"act": "acting", "env.step": "environment", "observe": "observing", "update": "updating"}
    columns["rest"] = "loop and log"
    table.add_column("")
    for title in columns.values():
        table.add_column(title, justify="right")
    for name, parts in figures["shares"].items():
        total = sum(parts[key] for key in columns)
        table.add_row(name, *(f"{parts[key]:.0f} ({parts[key] / total:.0%})" for key in columns))
    console.print(table)


def print_floor(console: Console, args: Any, figures: dict[str, Any]) -> None:
    """What share of the floor's speed the updates reach, acting, stepping and logging included, and without them."""
    gflop, rounds = figures["gflop_per_update"], figures["rounds"]
    kinds = {"wall": ("steps_per_second", "gflop_per_second"), "cpu": ("steps_per_cpu_second", "gflop_per_cpu_second")}
    share = {
        kind: sorted(turn[args.agent][ours] * gflop / turn["floor"][floor] for turn in rounds)
        for kind, (ours, floor) in kinds.items()
    }
    speed = statistics.median(turn["floor"]["gflop_per_second"] for turn in rounds)
    parts = figures["shares"][args.agent]
    alone = statistics.median(share["wall"]) * sum(parts.values()) / parts["update"]
    console.print(
        f"arithmetic floor: {gflop:.3f} GFLOP an update, {speed:,.0f} GFLOP/s by large products on {args.threads} "
        f"thread(s), {speed / gflop:,.0f} updates/s; whole steps run at {_percent(share['wall'])} of it, by CPU time "
        f"{_percent(share['cpu'])}; updates alone, by their share of a step, at {alone:.0%}",
        highlight=False,
    )


def _percent(values: Sequence[float]) -> str:
    """Median and extremes of shares in order."""
    return f"{statistics.median(values):.0%} (min {values[0]:.0%}, max {values[-1]:.0%})"


def print_learning(console: Console, args: Any, rows: list[dict[str, float]]) -> None:
    """The final returns of both sides, seed by seed."""
    table = Table(title=f"mean return of the final policy after {args.learning_steps:,} steps, 20 episodes")
    for name in rows[0] if rows else ():
        table.add_column(str(args.peer) if name == "peer" else name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.5g}" for value in row.values()))
    console.print(table)
