"""Evaluates the policy of a run, and shows or films it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from gymnasium.vector import VectorEnv
from tyro.conf import Positional

from costgrad.envs.errors import EnvError
from costgrad.envs.make import make
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import MAX_AT_ONCE, SEED_OFFSET, NeverEnds, run_episodes
from costgrad.rl.runs.folder import read_config
from costgrad.rl.runs.video import record_video
from costgrad.scripts.cli import Device, choose_device, guarded, parse, use_threads
from costgrad.scripts.environment import Wanted, environment_of_run
from costgrad.scripts.pick import agent_of_run, encoder_for, load_agent


@dataclass(frozen=True)
class Args:
    """Flags of scripts/evaluate.py."""

    run: Positional[str]
    """Folder of the run."""
    episodes: int = 10
    """Number of episodes."""
    render: Literal["human"] | None = None
    """Show the episodes in a window."""
    video: str | None = None
    """Record the first episode to this .mp4 or .gif file."""
    stochastic: bool = False
    """Sample actions instead of taking the mode of the policy."""
    checkpoint: str = "last"
    """Checkpoint to load: last, best or step_N."""
    agent: str | None = None
    """file.py:Name of the agent's class, for a run of an agent that is not one of costgrad's."""
    encoder: str | None = None
    """file.py:Name of the encoder, for a run that was trained with one."""
    env: str | None = None
    """Another environment than the run names, as train takes it: where its file has moved, or the run is not yours."""
    env_kwargs: str | None = None
    """Environment arguments, key=value ... or a JSON object; they override those of the run, and with --env replace
    them."""
    trust: bool = False
    """Run the module or file that the run names as its environment, though you did not train it on this machine."""
    env_backend: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How the environments step, see train; a window needs sync."""
    seed: int | None = None
    """Seed, to which 1,000,000 is added; that of the run unless given."""
    device: Device = "auto"
    """Device of the networks."""
    threads: int = 1
    """CPU threads of torch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_evaluate, argv)


def _evaluate(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "evaluate", __doc__ or "")
    if args.episodes < 1:
        raise UserError(f"episodes must be at least 1, got {args.episodes}")
    if args.seed is not None and args.seed < 0:
        raise UserError(f"seed must be at least 0, got {args.seed}")
    if args.render == "human" and sys.platform.startswith("linux") and not _has_display():
        raise UserError("--render human needs a display, and there is none: --video out.mp4 works without")
    if args.video is not None and Path(args.video).suffix not in (".mp4", ".gif"):
        raise UserError(f"--video {args.video} must end in .mp4 or .gif")
    use_threads(args.threads)
    started = read_config(args.run)
    wanted = environment_of_run(args.run, started, args.env, args.env_kwargs, args.trust)
    agent = load(args.run, args.checkpoint, args.device, started, args.agent, args.encoder)
    seed: int = started.get("seed", 0) if args.seed is None else args.seed
    env = environments(args, wanted, started, seed)
    try:
        check_spaces(env, agent)
        try:
            print(run_episodes(agent, env, args.episodes, not args.stochastic, seed + SEED_OFFSET))
        except NeverEnds as error:
            raise UserError(f"{error}: --env-kwargs max_episode_steps=1000") from error
        env.close()  # there may be no room for two: of a port, say
        if args.video is not None:
            print(f"video {record_video(agent, env, args.video, 1, not args.stochastic, seed)}")
    finally:
        env.close()
    return 0


def environments(args: Args, wanted: Wanted, started: dict[str, Any], seed: int) -> VectorEnv:
    """As many as there are episodes, or as many as the run had where they come in that number alone."""
    n = 1 if args.render else min(args.episodes, MAX_AT_ONCE)

    def these(n: int) -> VectorEnv:
        backend = "sync" if args.render else args.env_backend
        return make(wanted.env, n, seed + SEED_OFFSET, args.render, wanted.kwargs, backend)

    try:
        return these(n)
    except EnvError:
        if started.get("num_envs") in (None, n):
            raise
        return these(started["num_envs"])


def check_spaces(env: VectorEnv, agent: Any) -> None:
    """Raises UserError where the environment is not, or no longer, what the agent was trained on."""
    for name in ("observation_space", "action_space"):
        here, there = getattr(env, f"single_{name}"), getattr(agent.codec, name)
        if here != there:
            raise UserError(f"the {name} is {here}; the run was trained with {there}")


def load(
    run: str,
    checkpoint: str,
    device: Device,
    started: dict[str, Any],
    agent: str | None = None,
    encoder: str | None = None,
) -> Any:
    """The agent of a run's checkpoint.

    Args:
        run: its folder.
        checkpoint: last, best or step_N.
        device: as the flag says.
        started: config.json of the run.
        agent: --agent, file.py:Name of an agent that is not one of costgrad's.
        encoder: --encoder, file.py:Name.
    Raises:
        UserError: no such checkpoint, or one that cannot be loaded; a flag is missing.
    """
    folder = Path(run) / "checkpoints"
    there = sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if checkpoint not in there and checkpoint not in ("last", "best"):
        raise UserError(f"run {run} has no checkpoint {checkpoint!r}: it has {', '.join(there) or 'none'}")
    cls, config_cls = agent_of_run(run, started, agent)
    hidden = started.get("config", {}).get("hidden", [])
    if not isinstance(hidden, list) or not all(isinstance(width, int) for width in hidden):
        raise UserError(f"{run}/config.json is damaged: hidden is {hidden!r}")
    where, _ = choose_device(device, SimpleNamespace(hidden=hidden))
    return load_agent(folder / checkpoint, cls, config_cls, where, encoder_for(encoder, started, run))


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    raise SystemExit(main())
