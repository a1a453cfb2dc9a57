"""Measures environment steps per second, end to end and logging on, alone or alternating with a peer."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from gymnasium.spaces import Box
from rich.console import Console
from tyro.conf import Positional, arg

from costgrad.envs.make import make
from costgrad.rl.errors import UserError
from costgrad.rl.files import check_writable
from costgrad.rl.runs.session import LOG_POINTS
from costgrad.scripts.benchmarks import device as bench_device
from costgrad.scripts.benchmarks import envs as bench_envs
from costgrad.scripts.benchmarks import side as bench_side
from costgrad.scripts.benchmarks import threshold as bench_threshold
from costgrad.scripts.benchmarks.floor import update_flop
from costgrad.scripts.benchmarks.side import Side, check_peer, interpreter, write_json
from costgrad.scripts.benchmarks.tables import print_floor, print_learning, print_parts, print_rounds
from costgrad.scripts.benchmarks.work import WORK
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.pick import spelled


@dataclass(frozen=True)
class Args:
    """Flags of scripts/bench.py."""

    agent: Positional[str] = "a2c"
    """Algorithm."""
    env: str | None = None
    """Environment; with a peer it must be one that the peer knows too. CartPole-v1, and HalfCheetah-v5 for sac and td3
    unless given."""
    num_envs: int | None = None
    """Number of parallel environments; 8 for a2c, 4 for ppo, 1 for sac and td3 unless given."""
    num_steps: int | None = None
    """Rollout length per environment and update; 5 for a2c and 128 for ppo unless given, 1 for sac and td3."""
    actor_gradient: tuple[Literal["score", "pathwise", "control_variate"], ...] | None = None
    """Actor gradients of a2c to measure, one each; score and pathwise unless given."""
    optimizer: Literal["rmsprop", "adam"] | None = None
    """Optimizer of both sides: rmsprop is usual for a2c, adam is our default and the only one of ppo."""
    normalize_obs: bool = False
    """Normalise observations on our side; the peer never does."""
    env_backend: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How our environments step, see train."""
    seconds: float = 1.0
    """Seconds per measurement."""
    warmup: float = 1.0
    """Seconds of training before the measurements; ours also waits until classic control is compiled."""
    repeats: int = 10
    """Rounds, in each of which the sides take turns; many short rounds are least disturbed by other processes."""
    threads: int = 1
    """CPU threads of torch, on both sides."""
    seed: int = 0
    """Random seed of both sides."""
    peer: Literal["sb3", "sbx"] | None = None
    """Compare with Stable-Baselines3, or for sac and td3 with SBX, which runs on JAX."""
    peer_python: str = sys.executable
    """Python interpreter that has the peer installed, or the folder of its virtual environment."""
    check_learning: bool = False
    """Also train both sides with these settings and evaluate the final policies."""
    learning_steps: int = 150_000
    """Environment steps of that training."""
    learning_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of that training, such as 0 1 2 or 0-4."""
    json_file: Annotated[str | None, arg(name="json")] = None
    """JSON file to write all figures to."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code, 2 for wrong input.

    `envs` as first word measures environments alone, `threshold` the seconds until a task is solved, `device` training
    on a GPU beside training on the CPU.
    """
    words = sys.argv[1:] if argv is None else argv
    for name, other in (("envs", bench_envs), ("threshold", bench_threshold), ("device", bench_device)):
        if words[:1] == [name]:
            return other.main(words[1:])
    return guarded(_bench, words)


def _bench(argv: Sequence[str]) -> int:
    args = _checked(parse(Args, argv, "bench", __doc__ or ""))
    console = Console(width=max(Console().width, 100))
    if args.json_file is not None:
        check_writable(Path(args.json_file), make_folder=False)
    work = WORK[args.agent]
    often = "an update a step" if work.off_policy else f"{args.num_steps} steps a rollout"
    where = f"{args.num_envs} x {args.env}, {often}, {args.threads} thread(s)"
    console.print(
        f"{args.agent} on {where}; {args.repeats} x {args.seconds:g} s after {args.warmup:g} s", highlight=False
    )
    rounds = _rounds(args)
    print_rounds(console, args, rounds)
    job = _job(args, {})
    configs = {name: work.config(job, name) for name in _measured(args)}
    figures: dict[str, Any] = {"args": asdict(args), "rounds": rounds}
    figures |= _once(_ours(args, mode="parts", configs=configs))
    if args.peer:
        figures["peer_env_alone"] = _once(_peer(args, mode="env"))["steps_per_second"]
    print_parts(console, args, figures)
    if work.off_policy:
        figures["gflop_per_update"] = 1e-9 * update_flop(args.agent, configs[args.agent], *_widths(str(args.env)))
        print_floor(console, args, figures)
    if args.check_learning:
        figures["learning"] = _learning(args)
        print_learning(console, args, figures["learning"])
    if args.peer:
        for line in (work.same, work.differences):
            console.print(line, highlight=False)
    if args.json_file is not None:
        write_json(args.json_file, figures)
    return 0


def _checked(args: Args) -> Args:
    """The flags, with what the agent is measured with where none was given. Raises UserError."""
    args = replace(args, agent=spelled(args.agent))
    if args.agent not in WORK:
        raise UserError(f"no settings to measure agent {args.agent!r} with: it must be one of {', '.join(WORK)}")
    work = WORK[args.agent]
    if args.actor_gradient is not None and not work.gradients:
        raise UserError(f"actor-gradient {' '.join(args.actor_gradient)} is no setting of {args.agent}: leave it out")
    if args.actor_gradient == ():
        raise UserError("actor-gradient needs at least one of score, pathwise, control_variate")
    if args.num_steps is not None and work.off_policy:
        raise UserError(f"num-steps {args.num_steps} is no setting of {args.agent}: leave it out")
    if args.peer and args.peer not in work.peers:
        raise UserError(f"{args.peer} has no {args.agent}: peer must be {' or '.join(work.peers)}")
    usual: dict[str, Any] = {"num_envs": work.num_envs, "num_steps": work.num_steps, "optimizer": work.optimizers[0]}
    usual |= {"env": work.env}
    args = replace(args, **{name: value for name, value in usual.items() if getattr(args, name) is None})
    if args.optimizer not in work.optimizers:
        raise UserError(f"optimizer of {args.agent} must be {' or '.join(work.optimizers)}, got {args.optimizer}")
    for name in ("num_envs", "num_steps", "repeats", "threads", "learning_steps"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"{name.replace('_', '-')} must be at least 1, got {value}")
    if args.seconds <= 0 or args.warmup < 0:
        raise UserError(f"seconds must be above 0 and warmup at least 0, got {args.seconds:g} and {args.warmup:g}")
    if args.peer:
        args = replace(args, peer_python=interpreter(args.peer_python))
        check_peer(args.peer_python, str(args.peer))
    # Raises here, not in a process, if it cannot be made.
    with contextlib.closing(make(str(args.env), 1, backend=args.env_backend)) as env:
        if work.off_policy and not isinstance(env.single_action_space, Box):
            raise UserError(f"{args.agent} is measured on a Box of actions, {args.env} has {env.single_action_space}")
    return args


def _widths(env: str) -> tuple[int, int]:
    """Of an observation and of an action."""
    with contextlib.closing(make(env, 1)) as made:
        return math.prod(made.single_observation_space.shape), math.prod(made.single_action_space.shape)  # type: ignore[arg-type]


# Of both sides.
JOB = ("agent", "env", "num_envs", "num_steps", "optimizer", "normalize_obs", "seconds", "warmup", "threads", "seed")


def _measured(args: Args) -> tuple[str, ...]:
    """The names of our measurements: the ways of the gradient where the agent has several."""
    return args.actor_gradient or WORK[args.agent].gradients or (args.agent,)


def _job(args: Args, changes: dict[str, Any]) -> dict[str, Any]:
    """What a side has to do."""
    # Long enough not to end before its last turn; at least 800,000 steps, for then ours logs every 4,000 as
    # Stable-Baselines3's A2C does as it ships. Where it is longer, both log less often.
    total = max(800_000, int(100_000 * (args.seconds * args.repeats + args.warmup)))
    job = {key: getattr(args, key) for key in JOB}
    job |= {"mode": "learn", "total": total, "episodes": 20, **changes}
    return job | {"log_every": max(job["total"] // LOG_POINTS, job["num_envs"])}


def _ours(args: Args, name: str = "", **changes: Any) -> Side:
    job = _job(args, {"env_backend": args.env_backend, **changes})
    return bench_side.ours(job | {"config": WORK[args.agent].config(job, name or _measured(args)[0])})


def _peer(args: Args, **changes: Any) -> Side:
    config = WORK[args.agent].config(_job(args, changes), _measured(args)[0])
    return bench_side.peer("sb3", args.peer_python, _job(args, {**changes, "config": config, "peer": args.peer}))


def _rounds(args: Args) -> list[dict[str, dict[str, float]]]:
    """Measures in turns, so that what slows the machine down hits every side alike; the figures of each round."""
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        if args.peer:
            sides["peer"] = stack.enter_context(_peer(args))
            sides["peer"].answer()  # it is warm
        for name in _measured(args):
            sides[name] = stack.enter_context(_ours(args, name))
            sides[name].answer()
        if WORK[args.agent].off_policy:
            sides["floor"] = stack.enter_context(bench_side.floor(_job(args, {})))
            sides["floor"].answer()
        return [{name: side.turn() for name, side in sides.items()} for _ in range(args.repeats)]


def _once(side: Side) -> dict[str, Any]:
    """The figures of a side that measures a single thing."""
    with side:
        return side.answer()


def _learning(args: Args) -> list[dict[str, float]]:
    """Final returns of both sides after `learning_steps`, a row a seed."""
    rows = []
    for seed in args.learning_seeds:
        job = {"seconds": 0, "total": args.learning_steps, "seed": seed}
        row: dict[str, float] = {name: _once(_ours(args, name, **job))["final_return"] for name in _measured(args)}
        if args.peer:
            row["peer"] = _once(_peer(args, **job))["final_return"]
        rows.append({"seed": seed, **row})
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
