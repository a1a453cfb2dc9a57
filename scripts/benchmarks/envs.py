"""Measures native environments against others of the same task, in turns: `python scripts/bench.py envs`."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv
from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from costgrad.envs.errors import EnvError
from costgrad.envs.forms import twin
from costgrad.envs.load import find
from costgrad.envs.native.base import NativeVectorEnv
from costgrad.rl.errors import UserError
from costgrad.rl.files import check_writable
from costgrad.scripts.benchmarks.side import write_json
from costgrad.scripts.cli import guarded, parse

Peer = Literal["sync", "gymnasium-native", "envpool"]
# How many at once, and against whom, unless flags say otherwise.
CASES: dict[str, tuple[tuple[int, ...], tuple[Peer, ...]]] = {
    "CartPole-v1": ((8, 64, 1024), ("gymnasium-native", "envpool")),
    "Acrobot-v1": ((64,), ("sync",)),
    "MountainCar-v0": ((64,), ("sync",)),
    "MountainCarContinuous-v0": ((64,), ("sync",)),
    "Pendulum-v1": ((64,), ("sync",)),
    "HalfCheetah-v5": ((16, 64), ("sync", "envpool")),
    "Ant-v5": ((16, 64), ("sync", "envpool")),
    "Humanoid-v5": ((16, 64), ("sync", "envpool")),
}
BATCHES = 100  # of random actions, drawn beforehand and repeated
WARMUP = 0.2  # seconds of each side before the first round


@dataclass(frozen=True)
class Args:
    """Flags of scripts/bench.py envs."""

    env: tuple[str, ...] = tuple(CASES)
    """Environments."""
    num_envs: tuple[int, ...] | None = None
    """Numbers of parallel environments; those of the README's table unless given."""
    against: tuple[Peer, ...] | None = None
    """Compare with gymnasium's loop, its batched form or envpool; those of the README's table unless given."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of our environments and of envpool, where they have threads."""
    kernel: Literal["numba", "numpy"] = "numba"
    """Engine of our classic control."""
    seconds: float = 0.3
    """Seconds per measurement."""
    repeats: int = 7
    """Rounds, in each of which the two sides take turns; who begins alternates."""
    seed: int = 0
    """Random seed of environments and actions."""
    json_file: Annotated[str | None, arg(name="json")] = None
    """JSON file to write all figures to."""


class Comparison(NamedTuple):
    """One row of the table."""

    env: str
    num_envs: int
    threads: int
    engine: str
    peer: str
    rounds: list[tuple[float, float]]  # steps per second, ours and the peer's

    def ratios(self) -> list[float]:
        """Ours over the peer's, round by round."""
        return [ours / theirs for ours, theirs in self.rounds]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code, 2 for wrong input."""
    return guarded(_bench, argv)


def _bench(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "bench", __doc__ or "")
    _check(args)
    console = Console(width=max(Console().width, 130))
    if args.json_file is not None:
        check_writable(Path(args.json_file), make_folder=False)
    console.print(
        f"{args.repeats} x {args.seconds:g} s each, in turns; random actions drawn beforehand", highlight=False
    )
    table = Table(title="environment steps per second, medians")
    for name in ("environment", "envs", "threads", "ours with", "ours", "against", "theirs"):
        table.add_column(name, justify="right" if name in ("envs", "threads", "ours", "theirs") else "left")
    for name in ("ratio", "min..max"):
        table.add_column(name, justify="right")
    done = []
    for row in _compare(args):
        done.append(row)
        ours, theirs = (statistics.median(side) for side in zip(*row.rounds, strict=True))
        ratios = row.ratios()
        figures = (f"{ours:,.0f}", row.peer, f"{theirs:,.0f}", f"{statistics.median(ratios):.2f}")
        said = (row.env, str(row.num_envs), str(row.threads), row.engine, *figures)
        table.add_row(*said, f"{min(ratios):.2f}..{max(ratios):.2f}")
        console.print(" ".join(said), style="dim", highlight=False)
    console.print(table)
    if args.json_file is not None:
        write_json(args.json_file, {"args": asdict(args), "rows": [row._asdict() for row in done]})
    return 0


def _check(args: Args) -> None:
    for name, values in (("num-envs", args.num_envs or (1,)), ("threads", args.threads), ("repeats", (args.repeats,))):
        if not values or min(values) < 1:
            raise UserError(f"{name} must be at least 1, got {', '.join(map(str, values)) or 'nothing'}")
    if args.seconds <= 0:
        raise UserError(f"seconds must be above 0, got {args.seconds:g}")
    for env in args.env:
        _task(env)


def _compare(args: Args) -> Iterator[Comparison]:
    """All comparisons that the flags ask for, one after the other."""
    for env in args.env:
        sizes, peers = CASES.get(env, ((64,), ("sync",)))
        for n in args.num_envs or sizes:
            for peer in args.against or peers:
                matter = peer == "envpool" or _threaded(_task(env)[1])
                for threads in args.threads if matter else args.threads[:1]:
                    yield _measure(args, env, n, peer, threads)


def _measure(args: Args, env: str, n: int, peer: Peer, threads: int) -> Comparison:
    """The two sides in turns, in this process, so that what slows the machine down hits both alike."""
    spec, task = _task(env)
    more = {"num_threads": threads} if _threaded(task) else {"kernel": args.kernel}
    make_ours: Any = task
    ours: NativeVectorEnv = make_ours(n, max_episode_steps=spec.max_episode_steps, **more)
    theirs = _peer(spec, n, peer, threads, args.seed)
    ours.reset(seed=args.seed)
    theirs.reset(seed=None if peer == "envpool" else args.seed)  # envpool takes it when it is made
    ours.action_space.seed(args.seed)
    actions = [ours.action_space.sample() for _ in range(BATCHES)]
    sides = [_stepper(ours, actions), _stepper(theirs, actions)]
    for side in sides:
        side(WARMUP)
    rounds = []
    for i in range(args.repeats):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        speed = {k: n * side for k, side in ((k, sides[k](args.seconds)) for k in order)}
        rounds.append((speed[0], speed[1]))
    ours.close()
    theirs.close()
    return Comparison(env, n, threads, ours.engine, peer, rounds)


def _stepper(env: VectorEnv, actions: list[np.ndarray]) -> Callable[[float], float]:
    """A function that steps for so many seconds and returns vector steps per second.

    A row that a NEXT_STEP environment merely resets counts as a step too, in its favour.
    """

    def run(seconds: float) -> float:
        steps, begin, step = 0, time.perf_counter(), env.step
        while (passed := time.perf_counter() - begin) < seconds:
            for i in range(steps, steps + 5):
                step(actions[i % BATCHES])
            steps += 5
        return steps / passed

    return run


def _task(env: str) -> tuple[EnvSpec, type[NativeVectorEnv]]:
    """An id's spec and our batched form. Raises EnvError or UserError."""
    spec = find(env).target
    task = twin(spec) if isinstance(spec, EnvSpec) else None
    if task is None or not isinstance(spec, EnvSpec):
        raise UserError(f"{env} has no native form that could be measured: it must be one of {', '.join(CASES)}, ...")
    if (no := task.declines({})) is not None:
        raise UserError(f"{env} cannot be measured: {no}")
    return spec, task


def _peer(spec: EnvSpec, n: int, peer: Peer, threads: int, seed: int) -> VectorEnv:
    """The other side, as its makers make it. Raises UserError, EnvError."""
    if peer == "sync":
        return SyncVectorEnv([lambda: gymnasium.make(spec.id, disable_env_checker=True)] * n)
    if peer == "gymnasium-native":
        if spec.vector_entry_point is None:
            raise UserError(f"gymnasium has no batched {spec.id} of its own: compare it against sync or envpool")
        return gymnasium.make_vec(spec.id, n, vectorization_mode="vector_entry_point")
    try:
        import envpool
    except ImportError as error:
        raise EnvError("envpool is not installed: pip install 'costgrad[envpool]', or another --against") from error
    if spec.id not in envpool.list_all_envs():
        raise UserError(f"envpool has no {spec.id}: compare it against sync")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its spaces' rounding
        made = envpool.make_gymnasium(spec.id, num_envs=n, num_threads=threads, seed=seed)
        assert made.observation_space is not None and made.action_space is not None  # made now, once
    return made


def _threaded(task: type[NativeVectorEnv]) -> bool:
    """Whether it takes `num_threads`: MuJoCo's do, classic control has no threads."""
    return ".mujoco." in task.entry_point
