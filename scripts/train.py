"""Trains an agent on an environment and leaves a run folder; --agent NAME --help shows the hyperparameters of NAME."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import arg

from costgrad.agents.presets import preset_for
from costgrad.envs.make import make
from costgrad.envs.recipe import code_of
from costgrad.envs.stamp import why_unsigned
from costgrad.rl.errors import UserError
from costgrad.rl.runs.folder import read_config
from costgrad.rl.runs.resume import why_not_exact
from costgrad.rl.runs.train import TrainResult, train
from costgrad.rl.settings import current_names
from costgrad.scripts.cli import (
    Device,
    beside_python,
    choose_device,
    guarded,
    invocation,
    note,
    parse,
    print_if_heard,
    use_threads,
)
from costgrad.scripts.environment import Wanted, environment_of_run, short
from costgrad.scripts.flags import json_object, whole
from costgrad.scripts.pick import agent_classes, agent_of_run, build, encoder_for, is_own, spelled

ConfigT = TypeVar("ConfigT")
MAY_CHANGE = {  # when a run goes on
    *("total_timesteps", "eval_freq", "eval_episodes", "save_freq", "keep", "probe_every", "device", "threads"),
    *("capture_video", "progress", "resume", "env_timeout", "on_env_error"),
    *("agent", "encoder"),  # where their file lies; that they are the run's is checked by themselves
    *("env", "env_kwargs", "trust"),  # the spaces are checked
}
MINIMUM = {"total_timesteps": 1, "seed": 0, "num_envs": 1, "eval_freq": 1, "eval_episodes": 1, "save_freq": 1}
MINIMUM |= {"probe_every": 1, "keep": 1}


@dataclass(frozen=True)
class Args(Generic[ConfigT]):
    """Flags of scripts/train.py beside the agent's own."""

    config: Annotated[ConfigT, arg(name="")]
    env: str = "CartPole-v1"
    """Environment: a gymnasium id, module:Id, module:Class or file.py:Name (a class, a factory or a cost function)."""
    agent: str = "a2c"
    """Algorithm: a2c, ars, cmaes, crossq, es, guidedes, ppo, randomsearch, reppo, sac, spsa or td3; or file.py:Name, a
    class that follows Agent in costgrad/rl/loop.py."""
    encoder: str | None = None
    """file.py:Name of an encoder, an nn.Module or a callable of the observation space."""
    total_timesteps: Annotated[int, arg(aliases=["-n"])] = 100_000
    """Environment steps to train for; the run ends with the first vector step that reaches it."""
    seed: int = 0
    """Random seed of weights, actions and environments; environment i starts from seed + i."""
    num_envs: int = 8
    """Number of parallel environments."""
    env_backend: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How they step: native (batched), sync (one after another), async (in processes) or envpool (in threads)."""
    env_timeout: float | None = None
    """Seconds within which an environment must answer (async); none unless given."""
    on_env_error: Literal["stop", "restart"] = "stop"
    """What to do when an environment does not answer, raises or dies: stop, or restart its process (async)."""
    env_kwargs: str = "{}"
    """Environment arguments, key=value ... or a JSON object."""
    device: Device = "auto"
    """Device of the networks."""
    threads: int = 1
    """CPU threads of torch."""
    eval_freq: int | None = None
    """Environment steps between evaluations; a tenth of the total unless given."""
    eval_episodes: int = 10
    """Episodes per evaluation."""
    save_freq: int | None = None
    """Environment steps between checkpoints that are kept; a fifth of the total unless given."""
    keep: int | None = None
    """Checkpoints step_N that stay, the newest; all unless given."""
    probe_every: int | None = None
    """Environment steps between probes of C's accuracy (see probe); never unless given."""
    run_dir: str | None = None
    """Run folder; runs/{env}__{agent}__{seed}__{time} unless given."""
    resume: str | None = None
    """Run folder of a run to continue; --env and --env-kwargs then stand in for the environment that it names."""
    trust: bool = False
    """With --resume: run the module or file that the run names as its environment, though you did not start it here."""
    capture_video: bool = True
    """Record a video of an episode of the final policy."""
    progress: bool = True
    """Show progress."""


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code: 0, 1 where it could not be saved, 2 for wrong input, 128 + a signal's number."""
    return guarded(_train, argv)


def _train(argv: Sequence[str]) -> int:
    args, said = read_args(argv)
    started = read_config(args.resume) if args.resume is not None else {}
    cls, _ = agent_of_run(str(args.resume), started, args.agent) if started else agent_classes(args.agent)
    encoder = encoder_for(args.encoder, started, str(args.resume))
    device, why = choose_device(args.device, args.config)
    threads = use_threads(args.threads)
    for name, least in MINIMUM.items():
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"{name.replace('_', '-')} must be at least {least}, got {value}")
    wanted = _environment(args, started, argv)
    failing: dict[str, Any] = {"env_timeout": args.env_timeout, "on_env_error": args.on_env_error}
    env = make(wanted.env, args.num_envs, args.seed, env_kwargs=wanted.kwargs, backend=args.env_backend, **failing)
    try:
        agent = build(cls, env, args.config, args.seed, device, encoder)
        run_dir = args.resume or args.run_dir or _fresh(f"runs/{env.name}__{cls.__name__.lower()}__{args.seed}")
        print(f"{args.agent} on {args.num_envs} x {wanted.env}, seed {args.seed}, {args.total_timesteps:,} steps")
        for line in (said, f"environments {env.backend_reason}", why, threads, f"run folder {run_dir}"):
            print(line, flush=True)
        began = started.get("env_argument"), started.get("env_kwargs") or {}
        if started and (env.env_argument, wanted.kwargs) != began:
            said = " with ".join(map(short, began))
            note(f"the environment is {env.env_argument!r} with {short(wanted.kwargs)}; the run began on {said}")
        if not started and code_of(wanted.env) and env.env_stamp is None:
            note(f"this run cannot be signed ({why_unsigned()}): evaluate, probe and --resume will need --trust")
        if not args.progress and (path := getattr(agent, "update_path", "")):  # else the progress says it
            print(f"updates {path}", flush=True)
        if not args.progress and (reason := why_not_exact(agent, env)):
            print(f"were this run resumed, new episodes would start: {reason}", flush=True)
        result = train(
            agent,
            env,
            args.total_timesteps,
            run_dir,
            seed=args.seed,
            eval_every=args.eval_freq or max(args.total_timesteps // 10, 1),
            eval_episodes=args.eval_episodes,
            save_every=args.save_freq or max(args.total_timesteps // 5, 1),
            keep=args.keep,
            probe_every=args.probe_every,
            progress=args.progress,
            video=args.capture_video,
            resume=args.resume is not None,
            config={"args": {key: value for key, value in asdict(args).items() if key not in ("config", "trust")}},
        )
    finally:
        env.close()
    return _report(result, Path(run_dir), args.total_timesteps)


def _environment(args: Args[Any], started: dict[str, Any], argv: Sequence[str]) -> Wanted:
    """What the flags name; for a run that goes on, what it began with where they do not. Raises UserError."""
    if not started:
        return Wanted(args.env, json_object("--env-kwargs", args.env_kwargs))
    typed = {word.partition("=")[0].replace("_", "-") for word in argv}
    env = args.env if "--env" in typed else None
    env_kwargs = args.env_kwargs if "--env-kwargs" in typed else None
    return environment_of_run(str(args.resume), started, env, env_kwargs, args.trust)


def read_args(argv: Sequence[str]) -> tuple[Args[Any], str]:
    """Flags over presets (or, when a run goes on, over what it was started with) over defaults.

    Returns:
        the arguments, and a line that says where the agent's settings come from.

    Raises:
        UserError: a flag is wrong, or may not change when a run goes on.
    """
    first = _First(add_help=False, allow_abbrev=False)
    for flag in ("--env", "--agent", "--resume"):
        first.add_argument(flag, default=None)
    first.add_argument("--total-timesteps", "--total_timesteps", "-n", default=None)
    known, _ = first.parse_known_args(list(argv))
    total = max(whole(known.total_timesteps or "") or 0, 0) or None  # what is no number the full parser refuses
    started: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if known.resume is not None:
        started = read_config(known.resume)
        given = started.get("args")
        if not isinstance(given, dict) or "config" not in started or not {"env", "total_timesteps"} <= given.keys():
            raise UserError(f"run {known.resume} was not started by this command: go on with it from Python")
        _check_kinds(f"run {known.resume}", given)
        own = known.agent if is_own(known.agent) else None
        _, config_cls = agent_of_run(known.resume, started, own)
        # A file is only run where a flag names it, now and not when the run began.
        told = {"agent": own or started["agent"], "encoder": None, "trust": False}
        settings = {**started["config"], **given, **told}
        stretched = total is not None and settings.get("decay_steps") == settings["total_timesteps"]
        if stretched and total != settings["total_timesteps"]:  # rates that fall over the whole run fall over this one
            source = f"run {known.resume} had {settings['decay_steps']}, stretched to the new total"
            sources["decay_steps"], settings["decay_steps"] = source, total
        base = _over(Args(config_cls()), settings)
    else:
        env, agent = known.env or Args.env, spelled(known.agent or Args.agent)
        _, config_cls = agent_classes(agent)
        base = _over(Args(config_cls()), preset_for(agent, env, total or Args.total_timesteps))
    args = parse(Args[config_cls], argv, "train", __doc__ or "", base)  # type: ignore[valid-type]
    if started:
        changed = {key for key, value in _flat(args).items() if value != _flat(base)[key]} - MAY_CHANGE
        if changed:
            flag = "--" + sorted(changed)[0].replace("_", "-")
            raise UserError(f"{flag} cannot change when a run goes on: run {known.resume} has its own")
    return args, _sources(args, base, f"run {known.resume}" if started else f"preset for {args.env}", sources)


def _check_kinds(run: str, given: dict[str, Any]) -> None:
    """Raises UserError naming the first of a config.json's arguments that no flag could have given."""
    for name, hint in get_type_hints(Args).items():
        if name == "config" or name not in given:
            continue
        value, allowed = given[name], get_args(hint) or (hint,)
        fits = value in allowed if get_origin(hint) is Literal else type(value) in allowed
        if not fits:
            said = ", ".join(str(getattr(kind, "__name__", kind)) for kind in allowed)
            raise UserError(f"{run} has {name} {value!r} in its config.json: it must be one of {said}")


class _First(argparse.ArgumentParser):
    """Looks for the flags that decide which other flags there are; complaints are left to the full parser."""

    def error(self, message: str) -> Any:
        raise UserError(message.replace("argument ", "", 1))


def _flat(args: Args[Any]) -> dict[str, Any]:
    return {key: getattr(args, key) for key in (f.name for f in fields(args)) if key != "config"} | asdict(args.config)


def _over(args: Args[Any], values: dict[str, Any]) -> Args[Any]:
    """Replaces fields of the arguments or of their config. Raises UserError for an unknown one."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    own = {f.name for f in fields(args)}
    settings, lines = current_names(type(args.config), {key: it for key, it in values.items() if key not in own})
    for line in lines:
        warnings.warn(line, FutureWarning, stacklevel=2)
    try:
        config = replace(args.config, **settings)
    except TypeError as error:
        raise UserError(f"a setting of {args.agent} is not known: {error}") from error
    return replace(args, config=config, **{key: value for key, value in values.items() if key in own})


def _sources(args: Args[Any], base: Args[Any], name: str, special: dict[str, str]) -> str:
    """Which of the agent's settings are no defaults, and where each comes from: `name`, or what is `special` to it."""
    now, before, default = _flat(args), _flat(base), _flat(Args(type(args.config)()))
    said = []
    for key in ("num_envs", *asdict(args.config)):
        if now[key] != before[key]:
            said.append(f"{key} {now[key]} (command line)")
        elif now[key] != default[key]:
            said.append(f"{key} {now[key]} ({special.get(key, name)})")
    return "settings: " + ", ".join([*said, "all else as by default" if said else "as by default"])


def _fresh(stem: str) -> str:
    """A folder name that is not taken."""
    stem += time.strftime("__%Y%m%d-%H%M%S")
    name, i = stem, 2
    while Path(name).exists():
        name, i = f"{stem}-{i}", i + 1
    return name


def _report(result: TrainResult, run: Path, total: int) -> int:
    """Says what came out and what one may want next."""
    if result.unsaved:
        print(f"error: the run is not saved after {result.step:,} steps: {result.unsaved}", file=sys.stderr)
        return 1
    folder = shlex.quote(str(run))
    train_again = f"{invocation('train')} --resume {folder} --total-timesteps"
    if result.stopped == "signal":
        said = f"saved in {run}/checkpoints/last after {result.step:,} steps; to go on:\n  {train_again} {total}"
        print_if_heard(said)
        return 128 + (result.signal or 0)
    print(f"\ntrained {result.step:,} steps in {result.seconds:.1f} s, {result.steps_per_second:,.0f} steps/s")
    print(f"final policy: {result.evaluation or 'not evaluated'}")
    print(f"spent {result.ledger}")
    if result.restarts:
        print(f"restarted an environment's process {result.restarts:,} times")
    print(f"\nrun folder      {run}/")
    print(f"learning curve  {run / 'learning_curve.png'}; the agent as a graph {run / 'agent.svg'}")
    if result.video is not None:
        print(f"video           {result.video}")
    print(f"evaluations     {run / 'evaluations.csv'}, and TensorBoard's events beside it")
    print(f"checkpoints     {run / 'checkpoints'}/: last, best and steps between")
    print("\nnext:")
    print(f"  {invocation('evaluate')} {folder} --episodes 100")
    print(f"  {beside_python('tensorboard')} --logdir {shlex.quote(str(run.parent))}")
    print(f"  {train_again} {2 * result.step}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
