"""Our side of scripts/bench.py: one measurement in a process of its own.

Settings come as JSON, the only argument; figures are lines of JSON printed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from costgrad.agents import AGENTS
from costgrad.envs.make import MadeEnv, make
from costgrad.envs.native.classic import PATIENCE
from costgrad.rl.evaluate import evaluate
from costgrad.rl.loop import Tick
from costgrad.rl.runs.train import train
from costgrad.scripts.benchmarks.floor import floor_turns
from costgrad.scripts.benchmarks.turns import Goal, Turns
from costgrad.scripts.cli import guarded

PARTS = ("act", "env.step", "observe", "update")


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the settings say and prints the figures."""
    return guarded(_measure, argv)


def _measure(argv: Sequence[str]) -> int:
    job = json.loads(argv[0])
    torch.set_num_threads(job["threads"])
    if job["mode"] == "floor":
        floor_turns(job)
        return 0
    env = make(job["env"], job["num_envs"], job["seed"], backend=job["env_backend"])
    try:
        figures = {"learn": _learn, "parts": _parts, "threshold": _threshold}[job["mode"]](job, env)
    finally:
        env.close()
    if figures is not None:
        print(json.dumps(figures), flush=True)
    return 0


def _agent(job: dict[str, Any], env: MadeEnv) -> Any:
    cls, config_cls = AGENTS[job["agent"]]
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in job["config"].items()}
    where = {"seed": job["seed"], "device": job.get("device", "cpu")}
    return cls(env.single_observation_space, env.single_action_space, config_cls(**settings), **where)


def _train(job: dict[str, Any], agent: Any, env: MadeEnv, hooks: Sequence[Callable[[Tick, Any], bool | None]]) -> None:
    """The way of a user's run: episode statistics, TensorBoard and CSV on; only the display is silent."""
    with tempfile.TemporaryDirectory() as folder:
        train(agent, env, job["total"], f"{folder}/run", seed=job["seed"], eval_episodes=1, progress=False, hooks=hooks)


def _learn(job: dict[str, Any], env: MadeEnv) -> dict[str, float] | None:
    """Trains: in turns with the other side, or `total` steps and then an evaluation."""
    agent = _agent(job, env)
    if not job["seconds"]:
        _train(job, agent, env, ())
        return {"final_return": evaluate(agent, env, job["episodes"]).mean}
    turns = Turns(job["warmup"], job["seconds"])
    cold = _cold_steps(job)
    # A turn begins and ends with an update: it holds whole rollouts.
    _train(job, agent, env, (lambda tick, _: tick.step < cold or not tick.metrics or turns(tick.step),))
    return None


def _cold_steps(job: dict[str, Any]) -> int:
    """Environment steps that are no measure: while C alone or nobody learns, or before classic control is fast."""
    own = job["config"]
    if "learning_starts" in own:  # beside an update a step, how fast the environment is hardly counts
        return own["learning_starts"]
    return max(own.get("critic_warmup", 0), (PATIENCE + 1) * job["num_envs"])


def _threshold(job: dict[str, Any], env: MadeEnv) -> dict[str, float | bool]:
    """Trains until a mean return of training episodes is reached."""
    agent = _agent(job, env)
    goal = Goal(job["threshold"], job["window"], job["launched"])
    _train(job, agent, env, (lambda tick, _: not goal(tick.step, tick.returns),))
    return goal.figures


def _parts(job: dict[str, Any], env: MadeEnv) -> dict[str, Any]:
    """The environment alone, and where the time of training goes for each of the actor's gradients."""
    shares = {}
    for gradient, config in job["configs"].items():
        fresh = env.factory(env.num_envs, job["seed"])
        shares[gradient] = _shares({**job, "config": config}, fresh)
        fresh.close()
    fresh = env.factory(env.num_envs, job["seed"])  # in the machine code that is loaded by now
    return {"backend": env.backend, "env_alone": _env_alone(job, fresh), "shares": shares}


def _env_alone(job: dict[str, Any], env: MadeEnv) -> float:
    """Steps/s of the same back end under random actions, drawn beforehand."""
    actions = [env.action_space.sample() for _ in range(1000)]
    env.reset(seed=job["seed"])
    begin = time.perf_counter()
    for i in count(1):
        env.step(actions[i % 1000])
        if (seconds := time.perf_counter() - begin) >= job["seconds"]:
            return i * env.num_envs / seconds
    raise AssertionError


def _shares(job: dict[str, Any], env: MadeEnv) -> dict[str, float]:
    """Microseconds of a vector step that each part takes; the clocks themselves cost about one of them."""
    agent = _agent(job, env)
    spent = dict.fromkeys(PARTS, 0.0)
    steps, begin, end = 0, 0.0, 0.0  # of the measurement; warming up is not counted

    def clocked(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            spent[part] += time.perf_counter() - start
            return result

        return timed

    for part in PARTS:
        owner: Any = env if part == "env.step" else agent
        name = part.removeprefix("env.")
        setattr(owner, name, clocked(part, getattr(owner, name)))
    started = time.perf_counter()

    def follow(tick: Tick, agent: Any) -> bool:
        nonlocal steps, begin, end
        if begin:
            steps += 1
        if not tick.metrics:  # whole rollouts
            return True
        end = time.perf_counter()
        if not begin and end - started >= job["warmup"] and tick.step >= _cold_steps(job):
            begin = end
            spent.update(dict.fromkeys(PARTS, 0.0))
        return not steps or end - begin < job["seconds"]

    _train(job, agent, env, (follow,))
    figures = {part: 1e6 * seconds / steps for part, seconds in spent.items()}
    return {**figures, "rest": 1e6 * (end - begin) / steps - sum(figures.values())}


if __name__ == "__main__":
    raise SystemExit(main())
