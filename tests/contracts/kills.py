"""Runs that are killed and resumed, against the same runs without a kill: both must end alike, bit for bit.

`python -m tests.contracts.kills --count 50 --seed 0 --csv FILE` draws kills at random moments over all agents, back
ends and settings, and writes one row per run. Each run is a process of its own, forked from this one so that it starts
at once, and is killed by SIGKILL one to three times between its start and its end.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from costgrad.rl.checkpoint import read
from costgrad.rl.packing import unpack
from costgrad.rl.runs.table import read_table
from costgrad.scripts.train import main as train

SMALL = ["--hidden", "16", "16"]
ON = [*SMALL, "--num-steps", "16", "--batch-size", "32"]
OFF = [*SMALL, "--learning-starts", "60", "--batch-size", "16", "--buffer-size", "900"]
SEARCH = ["--hidden", "8"]
OWN = Path(__file__).with_name("user_envs.py")


class Run(NamedTuple):
    """A run that is to be killed."""

    agent: str
    env: str
    backend: str
    steps: int
    flags: Sequence[str]

    def command(self, folder: Path) -> list[str]:
        """Arguments of the command train."""
        about = ["--agent", self.agent, "--env", self.env, "--env-backend", self.backend, "-n", str(self.steps)]
        about += ["--num-envs", "3", "--seed", "5", "--run-dir", str(folder), "--eval-episodes", "2", "--no-progress"]
        return [*about, "--eval-freq", str(self.steps // 5), "--save-freq", str(self.steps // 11), *self.flags]


QUIET = ["--no-capture-video"]
RUNS = [
    Run("a2c", "CartPole-v1", "native", 2400, [*ON, *QUIET]),
    Run("a2c", "Pendulum-v1", "sync", 2400, [*ON, *QUIET, "--noise-correlation", "0.5"]),
    Run("ppo", "CartPole-v1", "sync", 2400, [*ON, *QUIET]),
    Run("ppo", "Hopper-v5", "native", 1800, [*ON, *QUIET]),
    Run("ppo", f"{OWN}:Counted", "async", 1200, [*ON, *QUIET, "--normalize-obs"]),
    Run("reppo", "Pendulum-v1", "native", 1800, [*ON, *QUIET]),
    Run("reppo", f"{OWN}:Parts", "sync", 1500, [*ON, *QUIET]),
    Run("sac", "Pendulum-v1", "native", 900, [*OFF, *QUIET, "--noise-correlation", "0.5"]),
    Run("sac", "costgrad/PointGoal-v0", "native", 900, [*OFF, *QUIET, "--hindsight", "4"]),
    Run("sac", f"{OWN}:Parts", "async", 700, [*OFF, *QUIET, "--per-alpha", "0.6", "--n-step", "3"]),
    Run("td3", "Hopper-v5", "async", 700, [*OFF, *QUIET]),
    Run("td3", "Pendulum-v1", "native", 900, [*OFF, *QUIET, "--probe-every", "300"]),
    Run("crossq", f"{OWN}:Counted", "sync", 700, [*OFF, *QUIET]),
    Run("crossq", "CartPole-v1", "native", 800, [*OFF, *QUIET, "--normalize-obs"]),
    Run("guidedes", "Pendulum-v1", "native", 3000, [*SEARCH, *QUIET, "--directions", "2", "--batch-size", "16"]),
    Run("es", "CartPole-v1", "native", 3000, [*SEARCH, *QUIET, "--directions", "2"]),
    Run("ars", f"{OWN}:Counted", "async", 1500, [*SEARCH, *QUIET, "--directions", "2", "--top", "1"]),
    Run("cmaes", "CartPole-v1", "sync", 3000, [*SEARCH, *QUIET, "--candidates", "4"]),
    Run("spsa", "Pendulum-v1", "native", 3000, [*SEARCH, *QUIET]),
    Run("randomsearch", f"{OWN}:Vector", "native", 3000, [*SEARCH, *QUIET]),
    Run("ppo", "CartPole-v1", "native", 1200, [*ON, "--probe-every", "400"]),
]


def start(argv: Sequence[str], output: Path) -> int:
    """Runs the command train in a forked process; its number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        with output.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = train(list(argv))
        sys.stdout.flush()
    finally:
        os._exit(code)


def finish(argv: Sequence[str], output: Path) -> float:
    """Runs it to its end; seconds. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    _, status = os.waitpid(start(argv, output), 0)
    if code := os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"exit code {code}: {output.read_text()[-600:]}")
    return time.perf_counter() - began


def kill_after(argv: Sequence[str], output: Path, seconds: float) -> bool:
    """Starts it and kills it so long after; whether it still ran."""
    pid = start(argv, output)
    time.sleep(seconds)
    over, _ = os.waitpid(pid, os.WNOHANG)
    if not over:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return not over


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run came to, but for seconds and for pickles, whose bytes say nothing."""
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        tensors, meta = read(folder / "checkpoints" / name)
        run = meta.pop("run")
        kept = unpack(run.pop("kept"), tensors)
        kept["log"].pop("last")
        if isinstance(kept["environments"], dict):
            kept["environments"] = kept["environments"].get("data")
        found |= {f"{name}: {key}": value for key, value in tensors.items() if not key.startswith("run.")}
        found |= {f"{name}: meta": meta, f"{name}: run": {**run, "seconds": 0}, f"{name}: kept": kept}
    for table in ("training", "evaluations", "probes"):
        if (path := folder / f"{table}.csv").exists():
            rows = read_table(path)
            found[table] = [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    return found | {"result": json.loads((folder / "result.json").read_text())}


def differs(a: Any, b: Any) -> bool:
    """Whether two outcomes, or parts of them, are not equal to the bit."""
    if type(a) is not type(b):
        return True
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(differs(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) != len(b) or any(map(differs, a, b))
    if a is None or isinstance(a, int | str):
        return bool(a != b)
    x, y = np.asarray(a), np.asarray(b)
    return x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes()


def trial(run: Run, draw: random.Random, folder: Path) -> tuple[int, list[str], float]:
    """Kills one run at random moments; how often, what came out differently, and the seconds of the whole run."""
    whole, killed, output = folder / "whole", folder / "killed", folder / "output"
    seconds = finish(run.command(whole), output)
    kills, argv = 0, run.command(killed)
    for _ in range(draw.randint(1, 3)):
        if kill_after(argv, output, draw.uniform(0.02, 1.0) * seconds):
            kills += 1
        if not (killed / "config.json").exists():
            shutil.rmtree(killed, ignore_errors=True)  # nothing had begun
            continue
        argv = ["--resume", str(killed), "--no-progress"]
    result = killed / "result.json"
    if not (result.exists() and json.loads(result.read_text())["finished"]):
        finish(argv, output)
    one, other = outcome(whole), outcome(killed)
    return kills, [key for key in one.keys() | other.keys() if differs(one.get(key), other.get(key))], seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Kills, says what differs, and returns how many runs did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one run to kill")
    parser.add_argument("--every", type=int, default=1, help="take each so-manieth run only")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    draw, rows, kills, failed = random.Random(args.seed), [], 0, 0
    while kills < args.count:
        run = RUNS[len(rows) * args.every % len(RUNS) if args.only is None else args.only]
        with tempfile.TemporaryDirectory() as folder:
            count, different, seconds = trial(run, draw, Path(folder))
        kills, failed = kills + count, failed + bool(different)
        env = run.env.rpartition("/")[2] if str(OWN) in run.env else run.env
        row = {"agent": run.agent, "env": env, "backend": run.backend, "steps": run.steps, "kills": count}
        rows.append(row | {"different": len(different), "seconds": round(seconds, 1)})
        print(
            f"{kills:>3} kills: {run.agent} {env} {run.backend}: {', '.join(sorted(different)) or 'equal'}", flush=True
        )
    if args.csv is not None:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
