"""Measures environment steps per second, end to end and logging on, alone or alternating with a peer."""

from __future__ import annotations

if not __package__:  # run as a file: our packages come from this checkout, whatever lies beside us or where we are
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import scripts  # noqa: F401

    __package__ = "scripts"

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from rl.errors import UserError
from rl.session import LOG_POINTS

from .cli import guarded, parse

# The work of Stable-Baselines3's A2C as it ships. One pass of C over the whole rollout, plain regression.
SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": {
        "hidden": (64, 64),
        "activation": "tanh",
        "optimizer": "rmsprop",
        "actor_lr": 7e-4,
        "critic_lr": 7e-4,
        "gamma": 0.99,
        "lambda_": 1.0,
        "entropy_coef": 0.0,
        "clip_norm": 0.5,
        "critic_passes": 1,
        "head": "regression",
    }
}
DIFFERENCES = (
    "The same on both sides: environment id, number of environments, rollout length, networks, optimiser, learning rate, "
    "gamma, lambda, clipping, episode statistics, TensorBoard at the same intervals, one process each, nothing displayed.",
    "Ours differs in: actor and C have an optimiser and a clipped gradient each, not one of both; advantages are divided "
    "by their running size; episodes are counted in the loop, not by a Monitor around each environment; the environments' "
    "back end, as printed (native: the same dynamics, another random stream; --env-backend sync steps them one by one).",
)


@dataclass(frozen=True)
class Args:
    """Flags of scripts/bench.py."""

    agent: Positional[str] = "a2c"
    """Algorithm."""
    env: str = "CartPole-v1"
    """Environment; with a peer it must be one that the peer knows too."""
    num_envs: int = 8
    """Environments side by side."""
    num_steps: int = 5
    """Steps of each environment between two updates."""
    actor_gradient: tuple[Literal["score", "pathwise", "control_variate"], ...] = ("score",)
    """One measurement for each of these."""
    normalize_obs: bool = False
    """Normalise observations on our side; the peer does not."""
    env_backend: Literal["auto", "sync", "async", "native"] = "auto"
    """How our environments step."""
    seconds: float = 5.0
    """Length of one measurement."""
    warmup: float = 1.0
    """Seconds of training before it."""
    repeats: int = 3
    """Rounds; with a peer the sides take turns within each."""
    threads: int = 1
    """Threads of torch, on both sides."""
    seed: int = 0
    """Of both sides."""
    peer: Literal["sb3"] | None = None
    """Whom to compare with."""
    peer_python: str = sys.executable
    """The interpreter that the peer is installed in."""
    check_learning: bool = False
    """Also train both sides to the end at these settings and evaluate them."""
    learning_steps: int = 150_000
    """Steps of that training."""
    learning_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of that training."""
    json_file: Annotated[str | None, arg(name="json")] = None
    """Where to write all figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code, 2 for wrong input."""
    return guarded(_bench, argv)


def _bench(argv: Sequence[str]) -> int:
    args = parse(Args, argv, "bench", __doc__ or "")
    _check(args)
    console = Console(width=max(Console().width, 100))
    where = f"{args.num_envs} x {args.env}, {args.num_steps} steps a rollout, {args.threads} thread(s)"
    console.print(
        f"{args.agent} on {where}; {args.repeats} x {args.seconds:g} s after {args.warmup:g} s", highlight=False
    )
    rounds = [_round(args) for _ in range(args.repeats)]
    alone = _ours(args, mode="env")
    figures: dict[str, Any] = {"args": asdict(args), "rounds": rounds, "env_alone": alone, "shares": {}}
    if args.peer:
        figures["peer_env_alone"] = _peer(args, mode="env")
    _print_rounds(console, args, rounds)
    for gradient in args.actor_gradient:
        figures["shares"][gradient] = _ours(args, gradient, mode="shares")
    _print_parts(console, args, figures)
    if args.check_learning:
        figures["learning"] = _learning(args)
        _print_learning(console, args, figures["learning"])
    if args.peer:
        for line in DIFFERENCES:
            console.print(line, highlight=False)
    if args.json_file is not None:
        try:
            Path(args.json_file).write_text(json.dumps(figures, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {args.json_file}: {error.strerror}") from error
    return 0


def _check(args: Args) -> None:
    if args.agent not in SETTINGS:
        raise UserError(f"no settings to measure agent {args.agent!r} with: it must be one of {', '.join(SETTINGS)}")
    for name in ("num_envs", "num_steps", "repeats", "threads", "learning_steps"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"{name.replace('_', '-')} must be at least 1, got {value}")
    if args.seconds <= 0 or args.warmup < 0:
        raise UserError(f"seconds must be above 0 and warmup at least 0, got {args.seconds:g} and {args.warmup:g}")
    if not args.actor_gradient:
        raise UserError("actor-gradient needs at least one of score, pathwise, control_variate")
    if args.peer and args.peer_python == sys.executable and importlib.util.find_spec("stable_baselines3") is None:
        raise UserError(
            "stable_baselines3 is not installed here: install it in a venv of its own and give --peer-python its interpreter"
        )


def _round(args: Args) -> dict[str, dict[str, float]]:
    """One measurement of each side, one after the other: what slows the machine down hits all of them."""
    figures = {}
    for i, gradient in enumerate(args.actor_gradient):
        figures[gradient] = _ours(args, gradient)
        if i == 0 and args.peer:
            figures["peer"] = _peer(args)
    return figures


def _ours(args: Args, gradient: str = "score", **changes: Any) -> dict[str, Any]:
    config = {
        **SETTINGS[args.agent],
        "num_steps": args.num_steps,
        "minibatch": args.num_steps * args.num_envs,
        "actor_gradient": gradient,
        "normalize_obs": args.normalize_obs,
    }
    more = {"agent": args.agent, "env_backend": args.env_backend, "config": config}
    return _run(sys.executable, "bench_ours.py", args, {**more, **changes})


def _peer(args: Args, **changes: Any) -> dict[str, Any]:
    return _run(args.peer_python, f"bench_{args.peer}.py", args, changes)


def _run(python: str, script: str, args: Args, changes: dict[str, Any]) -> dict[str, Any]:
    """Runs one side in a process of its own; its figures. Raises UserError where it fails."""
    # Long enough not to end within a measurement, and logging as often as a run of 800,000 steps would: every 4,000,
    # which is what Stable-Baselines3's A2C does as it ships.
    total = max(800_000, int(100_000 * (args.seconds + args.warmup)))
    job = {key: getattr(args, key) for key in ("env", "num_envs", "num_steps", "seconds", "warmup", "threads", "seed")}
    job |= {"mode": "learn", "total": total, "episodes": 20, **changes}
    job["log_every"] = max(job["total"] // LOG_POINTS, args.num_envs)
    environ = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    command = [python, str(Path(__file__).with_name(script)), json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    except OSError as error:
        raise UserError(f"cannot run {python}: {error.strerror}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    raise UserError(f"{script} failed in {python}: {said[-1].removeprefix('error: ')}")


def _learning(args: Args) -> list[dict[str, float]]:
    """Final returns of both sides after `learning_steps`, a row a seed."""
    rows = []
    for seed in args.learning_seeds:
        job = {"seconds": 0, "total": args.learning_steps, "seed": seed}
        row = {g: _ours(args, g, **job)["final_return"] for g in args.actor_gradient}
        if args.peer:
            row["peer"] = _peer(args, **job)["final_return"]
        rows.append({"seed": seed, **row})
    return rows


def ratios(rounds: Sequence[dict[str, dict[str, float]]], side: str, key: str = "steps_per_second") -> list[float]:
    """Ours over the peer's, round by round.

    Args:
        rounds: figures of each side, the peer's under "peer".
        side: which of ours.
        key: which figure.
    """
    return [figures[side][key] / figures["peer"][key] for figures in rounds]


def _print_rounds(console: Console, args: Args, rounds: list[dict[str, dict[str, float]]]) -> None:
    names = [*args.actor_gradient, *(["peer"] if args.peer else [])]
    title = {name: f"{args.agent} {name}" for name in args.actor_gradient} | {"peer": args.peer or ""}
    table = Table(title="steps per second")
    table.add_column("round")
    for name in names:
        table.add_column(title[name], justify="right")
    if args.peer:
        for gradient in args.actor_gradient:
            table.add_column(f"ratio {gradient}", justify="right")
    columns = [[figures[name]["steps_per_second"] for figures in rounds] for name in names]
    over = [ratios(rounds, gradient) for gradient in args.actor_gradient] if args.peer else []
    for i in range(len(rounds)):
        table.add_row(str(i + 1), *(f"{c[i]:,.0f}" for c in columns), *(f"{c[i]:.2f}" for c in over))
    median = statistics.median
    table.add_section()
    table.add_row("median", *(f"{median(c):,.0f}" for c in columns), *(f"{median(c):.2f}" for c in over))
    console.print(table)
    for gradient, c in zip(args.actor_gradient, over, strict=False):
        cpu = ratios(rounds, gradient, "steps_per_cpu_second")
        console.print(
            f"ratio {gradient} / {args.peer}: min {min(c):.2f}, median {median(c):.2f}, max {max(c):.2f}; "
            f"by CPU time, which others on the machine disturb less: median {median(cpu):.2f}",
            highlight=False,
        )


def _print_parts(console: Console, args: Args, figures: dict[str, Any]) -> None:
    alone = figures["env_alone"]
    line = f"environment alone, {alone['backend']}: {alone['steps_per_second']:,.0f} steps/s"
    if args.peer:
        line += f"; the peer's: {figures['peer_env_alone']['steps_per_second']:,.0f}"
    console.print(line, highlight=False)
    table = Table(title="microseconds of a vector step, measured apart")
    columns = {"act": "acting", "env.step": "environment", "observe": "observing", "update": "updating"}
    columns["rest"] = "loop and log"
    table.add_column("")
    for title in columns.values():
        table.add_column(title, justify="right")
    for gradient, parts in figures["shares"].items():
        total = sum(parts[key] for key in columns)
        table.add_row(gradient, *(f"{parts[key]:.0f} ({parts[key] / total:.0%})" for key in columns))
    console.print(table)


def _print_learning(console: Console, args: Args, rows: list[dict[str, float]]) -> None:
    table = Table(title=f"mean return of the final policy after {args.learning_steps:,} steps, 20 episodes")
    for name in rows[0] if rows else ():
        table.add_column(str(args.peer) if name == "peer" else name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.5g}" for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
