"""Counts the evaluations that agents need to come near an optimum, against dimension, and draws them.

Three tasks: `full` and `fixed` are contextual staircase costs (envs/tasks/contextual.py) whose action has more and more
dimensions, all of which matter in `full` and two in `fixed`; `policy` is CartPole-v1 under policies of more and more
parameters. A run ends when it is within 1 %, or at its limit of evaluations. An evaluation is a step of the training
environment; the looks at the policy on the way, which tell when it is near, are not counted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from rich.progress import Progress

from costgrad.agents import AGENTS
from costgrad.envs import make
from costgrad.envs.tasks.contextual import BEST_COST, CONTEXT, ContextualStairs
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.files import check_writable
from costgrad.rl.loop import interact
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.reporting.dimension import Row, append, draw, exponents, read
from costgrad.scripts.reporting.plot import check_picture
from costgrad.scripts.reporting.rows import commit, machine

Task = Literal["full", "fixed", "policy"]
NEAR = (0.10, 0.01)  # of the optimum
INTRINSIC = 2  # dimensions that matter in `fixed`
LOOKS = 1.1  # each look at the policy comes after so many times the evaluations of the one before
FIRST_LOOK = 200
CONTEXTS = 2_048  # that a look measures the cost in
BEST_RETURN, EPISODES = 500.0, 20  # of CartPole-v1; that a look plays

A2C: dict[str, Any] = {
    "num_envs": 64,
    "num_steps": 2,
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "critic_passes": 16,
    "critic_warmup": 500,
    "ent_coef": 0.02,
    "activation": "silu",
    "layer_norm": False,
}
# By method: the agent, and its settings on the staircases (tuned at 16 dimensions on seeds from 100 on).
STAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "random search": ("randomsearch", {"num_envs": 64, "episodes": 64}),
    "SPSA": ("spsa", {"num_envs": 64, "episodes": 16, "directions": 8, "first_step": 0.03}),
    "ES": ("es", {"num_envs": 64, "episodes": 16, "hidden": (), "learning_rate": 0.03, "l2": 0.0}),
    "ARS": ("ars", {"num_envs": 64, "episodes": 4}),
    "CMA-ES": ("cmaes", {"num_envs": 64, "episodes": 16, "candidates": 40, "sigma": 0.2}),
    "guided ES": ("guidedes", {"num_envs": 64, "episodes": 4, "hidden": ()}),
    "A2C score": ("a2c", {**A2C, "actor_gradient": "score"}),
    "A2C control variate": ("a2c", {**A2C, "actor_gradient": "control_variate"}),
    "A2C pathwise": ("a2c", {**A2C, "actor_gradient": "pathwise"}),
}
# The same on CartPole-v1, where the policy has two hidden layers.
CARTPOLE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (agent, {}) for name, (agent, _) in STAIRS.items() if agent != "a2c"},
    **{
        name: ("a2c", {"num_envs": 16, "actor_gradient": it["actor_gradient"]})
        for name, (agent, it) in STAIRS.items()
        if agent == "a2c"
    },
}
METHODS = tuple(STAIRS)
SIZES: dict[Task, tuple[int, ...]] = {
    "full": (2, 8, 32, 128, 256),
    "fixed": (2, 8, 32, 128, 256),
    "policy": (100, 1_000, 10_000, 100_000, 1_000_000),
}


@dataclass(frozen=True)
class Args:
    """Flags of scripts/dimension.py."""

    rows: str = "results/dimension.csv"
    """Results file (CSV); runs that are in it are not run again."""
    tasks: tuple[str, ...] = get_args(Task)
    """Tasks: full, fixed and policy."""
    methods: tuple[str, ...] = METHODS
    """Methods, by their names in the results."""
    sizes: tuple[int, ...] = ()
    """Dimensions or parameter counts; five from 2 to 256, and five from 100 to 1,000,000, unless given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, a run for each, such as 0 1 2 or 0-4."""
    limit: int = 100_000
    """Maximum number of cost evaluations per run."""
    jobs: int = 2
    """Runs at a time, one CPU thread each."""
    plot: str | None = None
    """Where to draw all results, a .png, .svg or .pdf."""


@dataclass(frozen=True)
class Run:
    """One run to be done."""

    task: Task
    method: str
    size: int
    seed: int
    limit: int

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """That of its row."""
        return self.task, self.method, self.size, self.seed, self.limit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing and reports; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_dimension, argv)


def _dimension(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "dimension", __doc__ or "")
    path, runs = Path(args.rows), plan(args)
    if args.plot is not None:
        check_picture(Path(args.plot))
    there = {row.key for row in read(path)} if path.exists() else set()
    todo = [run for run in runs if run.key not in there]
    print(f"{path}: {len(runs) - len(todo)} of {len(runs)} runs are there, {len(todo)} to do", flush=True)
    if todo:
        check_writable(path)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool, Progress() as progress:
            bar = progress.add_task("runs", total=len(todo))
            try:
                for done in as_completed([pool.submit(measure, run) for run in todo]):
                    append(path, done.result())
                    progress.advance(bar)
            finally:  # an error does not wait for the runs that have not begun
                pool.shutdown(cancel_futures=True)
    rows = [row for row in read(path) if row.method in args.methods and row.task in args.tasks]
    print("\n".join(exponents(rows)))
    if args.plot is not None:
        draw(Path(args.plot), rows)
        print(f"picture {args.plot}")
    return 0


def plan(args: Args) -> list[Run]:
    """All runs that the flags ask for, the small ones first. Raises UserError where a flag is wrong."""
    for name, known in (("tasks", get_args(Task)), ("methods", METHODS)):
        if unknown := [it for it in getattr(args, name) if it not in known]:
            raise UserError(f"{name} must be of {', '.join(known)}, got {unknown[0]!r}")
    for name in ("jobs", "limit", *(["sizes"] if args.sizes else [])):
        least = min(value) if isinstance(value := getattr(args, name), tuple) else value
        if least < 1:
            raise UserError(f"{name} must be at least 1, got {least}")
    if not args.seeds or min(args.seeds) < 0:
        raise UserError(f"seeds must be numbers of at least 0, got {args.seeds}")
    runs = [
        Run(task, method, size, seed, args.limit)  # type: ignore[arg-type]
        for task in args.tasks
        for size in (args.sizes or SIZES[task])  # type: ignore[index]
        for method in args.methods
        for seed in args.seeds
    ]
    return sorted(dict.fromkeys(runs), key=lambda run: run.size if run.task != "policy" else run.size // 1_000)


def measure(run: Run) -> Row:
    """Trains until the policy is within 1 % of the optimum, or for as many evaluations as the run may take."""
    torch.set_num_threads(1)
    name, settings = (CARTPOLE if run.task == "policy" else STAIRS)[run.method]
    settings = dict(settings)
    num_envs = settings.pop("num_envs", 16)
    if run.task == "policy":
        settings["hidden"] = hidden(run.size)
    cls, config_cls = AGENTS[name]
    env, excess = _task(run, num_envs)
    agent = cls(env.single_observation_space, env.single_action_space, config_cls(**settings), seed=run.seed)
    begin, look, taken = time.perf_counter(), float(FIRST_LOOK), dict.fromkeys(NEAR, 0)
    with contextlib.closing(env):
        for tick in interact(agent, env, run.seed):
            if tick.step < min(look, run.limit):
                continue
            look, far = tick.step * LOOKS, excess(agent)
            taken |= {near: tick.step for near, found in taken.items() if not found and far <= near}
            if all(taken.values()) or tick.step >= run.limit:
                break
    size = sum(p.numel() for p in agent.actor.net.parameters()) if hasattr(agent, "actor") else agent.policies.size
    seconds = time.perf_counter() - begin
    ten, one = (taken[part] for part in NEAR)
    what = (run.task, run.method, run.size, run.seed, run.limit)
    return Row(*what, size, ten, one, tick.step, seconds, far, commit(), machine())


def hidden(parameters: int) -> tuple[int, int]:
    """Widths (w, w) of a policy of CartPole-v1 (4 numbers in, 2 out) with about so many weights and biases."""
    w = round(((8**2 + 4 * (parameters - 2)) ** 0.5 - 8) / 2)  # w^2 + 8 w + 2
    return (max(w, 1), max(w, 1))


def _task(run: Run, num_envs: int) -> tuple[VectorEnv, Callable[[Any], float]]:
    """The environment, and how far a policy is from the optimum, in parts of it."""
    if run.task == "policy":
        env = make("CartPole-v1", num_envs, run.seed)
        return env, lambda agent: 1 - evaluate(agent, env, EPISODES, seed=run.seed).mean / BEST_RETURN
    cost = ContextualStairs(run.size, min(INTRINSIC, run.size) if run.task == "fixed" else None, run.seed)
    context = np.random.default_rng(run.seed + 1_000_000).uniform(*cost.context, (CONTEXTS, CONTEXT))
    obs = context.astype(np.float32)

    def excess(agent: Any) -> float:
        action, _ = agent.predict(obs, deterministic=True)
        return float(cost(context, action).mean()) / BEST_COST - 1

    return make(cost, num_envs, run.seed), excess


if __name__ == "__main__":
    raise SystemExit(main())
