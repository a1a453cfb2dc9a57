"""Measures the seconds until a task is solved, beside Stable-Baselines3: `python scripts/bench.py threshold`."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from tyro.conf import arg

from costgrad.agents.presets import preset_for
from costgrad.rl.errors import UserError
from costgrad.rl.files import check_writable
from costgrad.scripts.benchmarks.side import check_peer, ours, peer, write_json
from costgrad.scripts.benchmarks.tasks import TASKS, Task
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.pick import agent_classes

WINDOW = 50  # training episodes whose mean return counts


@dataclass(frozen=True)
class Args:
    """Flags of scripts/bench.py threshold."""

    env: tuple[str, ...] = tuple(TASKS)
    """Environments."""
    agent: tuple[str, ...] = ("a2c", "ppo")
    """Our agents, with the preset of the environment."""
    steps: tuple[int, ...] = ()
    """Maximum environment steps of our runs, one per environment; learning rates decay over it;
    100,000 for CartPole-v1, 200,000 for Acrobot-v1 and 300,000 for Pendulum-v1 unless given."""
    threshold: tuple[float, ...] = ()
    """Mean return of the last 50 training episodes that counts as solved, one per environment; 475, -90 and -200
    unless given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, a run of each agent for each, such as 0 1 2 or 0-4."""
    threads: int = 1
    """CPU threads of torch, on both sides."""
    peer: Literal["sb3"] | None = "sb3"
    """Compare with Stable-Baselines3's agents, with the hyperparameters of rl-baselines3-zoo."""
    peer_python: str = sys.executable
    """Python interpreter that has the peer installed."""
    json_file: Annotated[str | None, arg(name="json")] = None
    """JSON file to write all figures to."""


class Run(NamedTuple):
    """One process that trained until the threshold, or until its steps were done."""

    env: str
    threshold: float
    agent: str
    peer: bool
    seed: int
    reached: bool
    steps: int
    seconds: float  # of training
    process_seconds: float  # since the process was started
    cpu_seconds: float  # of training, which others on the machine disturb less


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code, 2 for wrong input."""
    return guarded(_bench, argv)


def _bench(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "bench", __doc__ or "")
    tasks = _tasks(args)
    if args.json_file is not None:
        check_writable(Path(args.json_file), make_folder=False)
    runs = []
    for run in _runs(args, tasks):
        runs.append(run)
        end = "reached" if run.reached else "not reached"
        print(
            f"{run.agent} on {run.env}, seed {run.seed}: {end} after {run.steps:,} steps, {run.seconds:.1f} s",
            flush=True,
        )
    print()
    for line in table(runs):
        print(line)
    print(
        f"\nUntil the mean return of the last {WINDOW} training episodes is at the threshold (Stable-Baselines3's "
        f"rollout/ep_rew_mean with that window): seconds of training, in brackets since the process was started. "
        f"{args.threads} thread(s), one process at a time, the agents in turn. Ratio: the median of "
        "Stable-Baselines3's fastest agent over ours."
    )
    if args.json_file is not None:
        write_json(args.json_file, {"args": asdict(args), "runs": [run._asdict() for run in runs]})
    return 0


def _tasks(args: Args) -> dict[str, Task]:
    """The tasks that the flags ask for. Raises UserError where a flag is wrong."""
    for name in ("env", "agent", "seeds"):
        if not getattr(args, name):
            raise UserError(f"{name} must be at least one, got none")
    for env in args.env:
        if env not in TASKS:
            raise UserError(f"no threshold is known for {env}: env must be among {', '.join(TASKS)}")
    for name in ("steps", "threshold"):
        if (values := getattr(args, name)) and len(values) != len(args.env):
            raise UserError(f"{name} must be one for each of the {len(args.env)} environments, got {len(values)}")
    for name, values, least in (("steps", args.steps, 1), ("seeds", args.seeds, 0), ("threads", (args.threads,), 1)):
        if values and min(values) < least:
            raise UserError(f"{name} must be at least {least}, got {min(values)}")
    for agent in args.agent:
        agent_classes(agent)
    if args.peer:
        check_peer(args.peer_python)
    tasks = {env: TASKS[env] for env in args.env}
    for env, steps in zip(args.env, args.steps, strict=False):
        tasks[env] = tasks[env]._replace(steps=steps)
    for env, threshold in zip(args.env, args.threshold, strict=False):
        tasks[env] = tasks[env]._replace(threshold=threshold)
    return tasks


def _runs(args: Args, tasks: dict[str, Task]) -> Iterator[Run]:
    """All runs, one after the other: the agents take turns, seed by seed."""
    for env, task in tasks.items():
        for seed in args.seeds:
            job = {"mode": "threshold", "env": env, "seed": seed, "threads": args.threads, "env_backend": "auto"}
            job |= {"threshold": task.threshold, "window": WINDOW}
            for agent in args.agent:
                preset = {"num_envs": 8, **preset_for(agent, env, task.steps)}
                mine = {"agent": agent, "total": task.steps, "num_envs": preset.pop("num_envs"), "config": preset}
                job["launched"] = time.time()
                with ours(job | mine) as side:
                    yield Run(env, task.threshold, agent, False, seed, **side.answer())
            for zoo in task.peers if args.peer else ():
                job["launched"] = time.time()
                with peer("sb3_zoo", args.peer_python, job | zoo._asdict()) as side:
                    yield Run(env, task.threshold, f"{args.peer} {zoo.agent}", True, seed, **side.answer())


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A Markdown table: a row for each agent on each task."""
    yield "| task | threshold | agent | steps | seconds | median | ratio |"
    yield "|---|---:|---|---|---|---:|---:|"
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.env, run.agent), []).append(run)
    for (env, agent), group in groups.items():
        ratio = ""
        if not group[0].peer and (rivals := [medians(g) for (e, _), g in groups.items() if e == env and g[0].peer]):
            best = (min(values) for values in zip(*rivals, strict=True))
            ratio = _two([theirs / mine for theirs, mine in zip(best, medians(group), strict=True)])
        said = [f"{run.steps:,}" if run.reached else f"not reached in {run.steps:,}" for run in group]
        seconds = [_two([run.seconds, run.process_seconds]) if run.reached else "-" for run in group]
        cells = (env, f"{group[0].threshold:g}", agent, ", ".join(said), ", ".join(seconds))
        yield f"| {' | '.join(cells)} | {_two(medians(group))} | {ratio} |"


def medians(group: Sequence[Run]) -> list[float]:
    """Of the seconds of training and of those since the process was started; a run that failed took infinitely long."""
    return [
        statistics.median(getattr(run, name) if run.reached else math.inf for run in group)
        for name in ("seconds", "process_seconds")
    ]


def _two(values: Sequence[float]) -> str:
    """A figure and, in brackets, the same since the process was started; "-" where it is not a number or infinite."""
    first, second = values
    return f"{first:.1f} ({second:.1f})" if 0 < first < math.inf else "-"
