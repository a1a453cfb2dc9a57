"""Our side of scripts/bench.py: one measurement in a process of its own.

Settings come as JSON, the only argument; the figures are the last line printed.
"""

from __future__ import annotations

if not __package__:  # run as a file: our packages come from this checkout, whatever lies beside us or where we are
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import scripts  # noqa: F401

    __package__ = "scripts"

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from agents import AGENTS
from envs.make import MadeEnv, make
from rl.evaluate import evaluate
from rl.loop import Tick
from rl.train import train

from .cli import guarded

PARTS = ("act", "env.step", "observe", "update")


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the settings say and prints the figures."""
    return guarded(_measure, argv)


def _measure(argv: Sequence[str]) -> int:
    job = json.loads(argv[0])
    torch.set_num_threads(job["threads"])
    env = make(job["env"], job["num_envs"], job["seed"], backend=job["env_backend"])
    try:
        figures = {"learn": _learn, "env": _env_alone, "shares": _shares}[job["mode"]](job, env)
    finally:
        env.close()
    print(json.dumps({**figures, "backend": env.backend}), flush=True)
    return 0


def _agent(job: dict[str, Any], env: MadeEnv) -> Any:
    cls, config_cls = AGENTS[job["agent"]]
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in job["config"].items()}
    return cls(env.single_observation_space, env.single_action_space, config_cls(**settings), seed=job["seed"])


def _train(job: dict[str, Any], agent: Any, env: MadeEnv, hooks: Sequence[Callable[[Tick, Any], bool | None]]) -> None:
    """The way of a user's run: episode statistics, TensorBoard and CSV on; only the display is silent."""
    with tempfile.TemporaryDirectory() as folder:
        train(agent, env, job["total"], f"{folder}/run", seed=job["seed"], eval_episodes=1, progress=False, hooks=hooks)


def _learn(job: dict[str, Any], env: MadeEnv) -> dict[str, float]:
    """Trains: steady steps/s between `warmup` and `warmup` + `seconds`, or the return after `total` steps."""
    agent = _agent(job, env)
    if not job["seconds"]:
        _train(job, agent, env, ())
        return {"final_return": evaluate(agent, env, job["episodes"]).mean}
    window = Window(job["warmup"], job["seconds"])
    _train(job, agent, env, (window,))
    return window.figures()


class Window:
    """A hook that measures from `warmup` seconds on for `seconds`, then ends the run."""

    def __init__(self, warmup: float, seconds: float) -> None:
        self.warmup, self.seconds = warmup, seconds
        self.begin = time.perf_counter()
        self.marks: list[tuple[float, float, int]] = []  # wall, CPU time, steps

    def __call__(self, tick: Tick, agent: Any) -> bool:
        """Takes in one tick; False ends the run."""
        now = time.perf_counter()
        if not self.marks:
            if now - self.begin >= self.warmup:
                self.marks.append((now, time.process_time(), tick.step))
        elif now - self.marks[0][0] >= self.seconds:
            self.marks.append((now, time.process_time(), tick.step))
            return False
        return True

    def figures(self) -> dict[str, float]:
        """Steps per second of the wall's clock and of CPU time."""
        (wall, cpu, steps), (wall_end, cpu_end, steps_end) = self.marks
        return {
            "steps_per_second": (steps_end - steps) / (wall_end - wall),
            "steps_per_cpu_second": (steps_end - steps) / (cpu_end - cpu),
        }


def _env_alone(job: dict[str, Any], env: MadeEnv) -> dict[str, float]:
    """Steps/s of the same back end under random actions, drawn beforehand."""
    actions = [env.action_space.sample() for _ in range(1000)]
    env.reset(seed=job["seed"])
    begin = time.perf_counter()
    for i in count(1):
        env.step(actions[i % 1000])
        if (seconds := time.perf_counter() - begin) >= job["seconds"]:
            return {"steps_per_second": i * env.num_envs / seconds}
    raise AssertionError


def _shares(job: dict[str, Any], env: MadeEnv) -> dict[str, float]:
    """Microseconds of a vector step that each part takes; the clocks themselves cost about one of them."""
    agent = _agent(job, env)
    window = Window(job["warmup"], job["seconds"])
    spent = dict.fromkeys(PARTS, 0.0)
    steps = 0

    def clocked(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            if window.marks:
                spent[part] += time.perf_counter() - start
            return result

        return timed

    for part in PARTS:
        owner: Any = env if part == "env.step" else agent
        name = part.removeprefix("env.")
        setattr(owner, name, clocked(part, getattr(owner, name)))

    def counted(tick: Tick, agent: Any) -> bool:
        nonlocal steps
        steps += bool(window.marks)
        return window(tick, agent)

    _train(job, agent, env, (counted,))
    total = window.marks[1][0] - window.marks[0][0]
    figures = {part: 1e6 * seconds / steps for part, seconds in spent.items()}
    return {**figures, "rest": 1e6 * (total - sum(spent.values())) / steps}


if __name__ == "__main__":
    raise SystemExit(main())
