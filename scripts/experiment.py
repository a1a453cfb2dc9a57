"""Trains agents on environments x seeds x variants and appends one row a run to results/NAME.csv.

A run that is in the file already is not run again, unless the file of its environment has changed; one that fails gets
a row without figures. A run that Ctrl-C or SIGTERM cuts short leaves none, and runs when the command is called again.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import UseAppendAction, arg

from costgrad.agents.presets import preset_for
from costgrad.envs.make import make
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.runs.table import read_table
from costgrad.rl.runs.train import train
from costgrad.rl.settings import current_names
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.flags import json_object, whole
from costgrad.scripts.jobs import ENV_FILE, RESULT, Run, run_all
from costgrad.scripts.pick import agent_classes, build, config_from
from costgrad.scripts.reporting.rows import Key, read_rows, renew_evaluations
from costgrad.scripts.train import Args as TrainArgs

ONE_SETTING = "one setting"  # the variant of --no-presets; no flag can give a variant a name that begins so


@dataclass(frozen=True)
class Args:
    """Flags of scripts/experiment.py."""

    name: str
    """Name of the results file, results/NAME.csv."""
    envs: tuple[str, ...]
    """Environments and their timesteps, ENV:STEPS each."""
    agent: tuple[str, ...] = ("a2c",)
    """Algorithms, one or several."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds, a run for each, such as 0 1 2, 0-9 or 0-4,7."""
    variant: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=JSON")] = ()
    """Hyperparameters to change, such as score='{"actor_gradient": "score"}'; num_envs is one of them. Repeatable."""
    shipped: bool = True
    """Also run each agent without changes."""
    presets: bool = True
    """Use the presets of the environments; without, all run with the agent's defaults, as variant "one setting"."""
    evaluations: int = 20
    """Evaluations during training, of 10 episodes each."""
    episodes: int = 20
    """Episodes of the final evaluation; more for an environment whose returns vary much by themselves."""
    jobs: int = 2
    """Runs at a time, one CPU thread each."""
    results: str = "results"
    """Folder of the results file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing; returns 0, 1 where a run failed, 2 for wrong input."""
    return guarded(_experiment, argv)


def _experiment(argv: Sequence[str]) -> int:
    if len(argv) == 2 and argv[0] == "--run-one":  # the process of a single run
        return _one(Run(**json.loads(argv[1])))
    args = parse(Args, argv, "experiment", __doc__ or "")
    runs = plan(args)
    path = Path(args.results) / f"{args.name}.csv"
    there = {row.key: row for row in read_rows(path)} if path.exists() else {}
    renamed: set[str] = set()
    stale: dict[Key, str] = {}
    for run in runs:
        row = there.get(run.key)
        if row is None:
            continue
        config, lines = current_names(agent_classes(run.agent)[1], json.loads(row.config or "{}"))
        renamed.update(lines)
        ran, wanted = config.pop(ENV_FILE, None), json.loads(run.settings)
        now = wanted.pop(ENV_FILE, None)
        if ran != now and ran is not None:
            stale[run.key] = run.env
        elif ran != now:
            print(f"{run}: its row does not say what {run.env} was then; remove the row to run it again")
        elif config != wanted:
            print(f"{run}: its row was run with other settings, {row.config}; remove the row to run it again")
    if renamed:
        print(f"{path} has rows of an older version: {', '.join(sorted(renamed))}")
    for env, count in Counter(stale.values()).items():
        print(f"{env} has changed since {count} of its runs were done: they run again, and their rows are replaced")
    todo = [run for run in runs if run.key not in there or run.key in stale]
    if todo:
        renew_evaluations(path)
    print(f"{path}: {len(runs) - len(todo)} of {len(runs)} runs are there, {len(todo)} to do", flush=True)
    return run_all(todo, path, args.jobs, stale)


def plan(args: Args) -> list[Run]:
    """All runs that the flags ask for, seed after seed of a cell, so that what a cut session leaves is whole cells.

    Raises:
        UserError: a flag is wrong.
    """
    _check(args)
    variants, runs = _variants(args), []
    for text in args.envs:
        env, _, steps = text.rpartition(":")
        total = whole(steps)
        if not env or total is None or total < 1:
            raise UserError(f"env {text!r} must be ENV:STEPS, such as CartPole-v1:150000 or CartPole-v1:1e6")
        made = make(env, 1)  # raises now, and not in every run, if it cannot be made
        made.close()
        digest = None if made.env_file is None else made.env_file["sha256"]
        for agent in args.agent:
            preset = preset_for(agent, env, total) if args.presets else {}
            for variant, changes in variants.items():
                num_envs, config = _settings(agent, {**preset, **changes})
                for seed in args.seeds:
                    what = (agent, variant, env, seed, total)
                    runs.append(Run(*what, num_envs, config, args.evaluations, args.episodes, digest))
    if twice := [run for run, count in Counter(map(str, runs)).items() if count > 1]:
        raise UserError(f"a run is asked for twice: {twice[0]}")
    return runs


def _variants(args: Args) -> dict[str, dict[str, Any]]:
    """The settings that each variant changes, by the name in its rows. Raises UserError."""
    variants: dict[str, dict[str, Any]] = {"": {}} if args.shipped else {}
    for text in args.variant:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.-][\w., -]*", name) or name.startswith(ONE_SETTING):
            raise UserError(f'variant {text!r} must be NAME=JSON, such as score=\'{{"actor_gradient": "score"}}\'')
        if name in variants:
            raise UserError(f"variant {name} is given twice")
        variants[name] = json_object(f"variant {name}", value)
    if not variants:
        raise UserError("nothing to run: give a variant or leave --no-shipped out")
    return variants if args.presets else {f"{ONE_SETTING} {name}".strip(): it for name, it in variants.items()}


def _settings(agent: str, settings: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The number of environments, and those of the settings that are not the agent's defaults. Raises UserError."""
    _, config_cls = agent_classes(agent)
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    num_envs = settings.pop("num_envs", TrainArgs.num_envs)
    if isinstance(num_envs, float) and num_envs.is_integer():
        num_envs = int(num_envs)
    if not isinstance(num_envs, int) or num_envs < 1:
        raise UserError(f"num_envs must be a whole number of at least 1, got {num_envs!r}")
    default, asked = asdict(config_cls()), current_names(config_cls, settings)[0]
    given = asdict(config_from(agent, config_cls, settings))  # raises where a name or a value is refused
    return num_envs, {key: given[key] for key in asked if given[key] != default[key]}


def _check(args: Args) -> None:
    if not re.fullmatch(r"[\w.-]+", args.name):
        raise UserError(f"name must be letters, digits, '.', '_' and '-', got {args.name!r}")
    for name in ("jobs", "evaluations", "episodes"):
        if getattr(args, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(args, name)}")
    for name in ("agent", "envs", "seeds"):
        if not getattr(args, name):
            raise UserError(f"{name} needs at least one")
    if min(args.seeds) < 0:
        raise UserError(f"seeds must be at least 0, got {min(args.seeds)}")


def _one(run: Run) -> int:
    """A single run, in its own process: trains, evaluates the final policy, prints JSON."""
    torch.set_num_threads(1)
    cls, config_cls = agent_classes(run.agent)
    env = make(run.env, run.num_envs, run.seed)
    try:
        if run.env_sha256 != (env.env_file or {}).get("sha256"):
            raise UserError(f"{run.env} has changed since the experiment began: call it again")
        agent = build(cls, env, config_from(run.agent, config_cls, run.config), run.seed, "cpu", {})
        with tempfile.TemporaryDirectory() as folder:  # with the log on, as in a user's run
            every = max(run.total // run.evaluations, 1)
            result = train(agent, env, run.total, f"{folder}/run", seed=run.seed, eval_every=every, progress=False)
            table = read_table(Path(folder) / "run" / "evaluations.csv")
        if result.stopped != "total":
            raise UserError("interrupted")
        final = evaluate(agent, env, run.episodes, seed=run.seed)
    finally:
        env.close()
    columns = ("step", "seconds", "mean_return", "std_return")
    done = {
        "seconds": result.seconds,
        "steps_per_second": result.steps_per_second,
        "final_return": final.mean,
        "evaluations": [[row[column] for column in columns] for row in table],
    }
    print(f"\n{RESULT}{json.dumps(done)}")  # on a line of its own, whatever an environment prints
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
