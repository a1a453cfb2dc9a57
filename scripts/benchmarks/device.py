"""Measures training on the CPU against training on the GPU, in turns: `python scripts/bench.py device`."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from costgrad.agents.presets import preset_for
from costgrad.envs.make import make
from costgrad.rl.errors import UserError
from costgrad.rl.files import check_writable
from costgrad.scripts.benchmarks.side import ours, write_json
from costgrad.scripts.cli import choose_device, guarded, parse
from costgrad.scripts.pick import agent_classes

GPU = "cuda"
BY_GRADIENT = ("a2c", "ppo", "reppo", "sac", "td3", "crossq")  # the others push no batch through a network
TOTAL = 100_000_000  # environment steps of a run, which ends with its last turn and never comes so far


@dataclass(frozen=True)
class Args:
    """Flags of scripts/bench.py device."""

    agent: tuple[str, ...] = BY_GRADIENT
    """Agents, with the preset of the environment but for the widths."""
    env: str = "HalfCheetah-v5"
    """Environment; it always steps on the CPU."""
    widths: tuple[int, ...] = (64, 256, 512, 1024)
    """Widths of the two hidden layers of actor and C."""
    threads: int = 1
    """CPU threads of torch."""
    seconds: float = 2.0
    """Seconds per measurement."""
    warmup: float = 2.0
    """Seconds of training before the measurements."""
    repeats: int = 5
    """Rounds, in each of which CPU and GPU take turns."""
    seed: int = 0
    """Random seed of both."""
    json_file: Annotated[str | None, arg(name="json")] = None
    """JSON file to write all figures to."""


class Comparison(NamedTuple):
    """One row of the table."""

    agent: str
    width: int
    rounds: list[tuple[float, float]]  # environment steps per second of training, on the GPU and on the CPU

    def ratios(self) -> list[float]:
        """The GPU's over the CPU's, round by round."""
        return [gpu / cpu for gpu, cpu in self.rounds]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code, 2 for wrong input."""
    return guarded(_bench, argv)


def _bench(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "bench", __doc__ or "")
    _check(args)
    if args.json_file is not None:
        check_writable(Path(args.json_file), make_folder=False)
    print(f"{args.env}, {args.repeats} x {args.seconds:g} s after {args.warmup:g} s, {args.threads} thread(s)\n")
    print("| agent | width | steps/s on the GPU | on the CPU | ratio (lowest, highest) |\n|---|---:|---:|---:|---:|")
    done = []
    for row in _compare(args):
        done.append(row)
        gpu, cpu = (statistics.median(side) for side in zip(*row.rounds, strict=True))
        ratios = row.ratios()
        said = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
        print(f"| `{row.agent}` | {row.width} | {gpu:,.0f} | {cpu:,.0f} | {said} |", flush=True)
    if args.json_file is not None:
        write_json(args.json_file, {"args": asdict(args), "rows": [row._asdict() for row in done]})
    return 0


def _check(args: Args) -> None:
    """Raises UserError where a flag is wrong, EnvError for an environment that cannot be made."""
    for name in ("agent", "widths"):
        if not getattr(args, name):
            raise UserError(f"{name} must be at least one, got none")
    for name, least in (("widths", min(args.widths)), ("threads", args.threads), ("repeats", args.repeats)):
        if least < 1:
            raise UserError(f"{name} must be at least 1, got {least}")
    if args.seconds <= 0 or args.warmup < 0:
        raise UserError(f"seconds must be above 0 and warmup at least 0, got {args.seconds:g} and {args.warmup:g}")
    with contextlib.closing(make(args.env, 1)) as env:
        for name in args.agent:
            if name not in BY_GRADIENT:
                raise UserError(f"agent {name!r} is not measured here: it must be one of {', '.join(BY_GRADIENT)}")
            cls, config_cls = agent_classes(name)
            config = config_cls(**_job(args, name, args.widths[0])["config"])
            cls(env.single_observation_space, env.single_action_space, config)  # refuses what it cannot
    choose_device(GPU, None)


def _compare(args: Args) -> Iterator[Comparison]:
    """All comparisons that the flags ask for, one after the other."""
    for agent in args.agent:
        for width in args.widths:
            yield Comparison(agent, width, list(_rounds(args, _job(args, agent, width))))


def _job(args: Args, agent: str, width: int) -> dict[str, Any]:
    """What a side has to do."""
    config = preset_for(agent, args.env, TOTAL) | {"hidden": (width, width)}
    num_envs = config.pop("num_envs", 8)
    if any(field.name == "learning_starts" for field in fields(agent_classes(agent)[1])):
        config["learning_starts"] = 1_000
    job = {"mode": "learn", "agent": agent, "env": args.env, "num_envs": num_envs, "env_backend": "auto"}
    timing = {"threads": args.threads, "seconds": args.seconds, "warmup": args.warmup}
    return {**job, **timing, "seed": args.seed, "config": config, "total": TOTAL}


def _rounds(args: Args, job: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Steps per second of each round on the GPU and on the CPU: what slows the machine down hits both alike."""
    with ours({**job, "device": GPU}) as gpu, ours({**job, "device": "cpu"}) as cpu:
        for side in (gpu, cpu):
            side.answer()  # it is warm
        for _ in range(args.repeats):
            yield gpu.turn()["steps_per_second"], cpu.turn()["steps_per_second"]
