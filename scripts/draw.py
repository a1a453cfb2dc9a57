"""Draws an agent as a graph: what it is made of, and which way its gradient takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from costgrad.agents.presets import preset_for
from costgrad.envs.make import make
from costgrad.rl.checkpoint import META, read, write_bytes
from costgrad.rl.drawing.describe import describe
from costgrad.rl.drawing.paint import MARK, pictures
from costgrad.rl.errors import UserError
from costgrad.rl.runs.folder import read_config
from costgrad.scripts.cli import agent_classes, guarded, json_object, parse
from costgrad.scripts.evaluate import load


@dataclass(frozen=True)
class Args:
    """Flags of scripts/draw.py."""

    run: Positional[str | None] = None
    """Folder of a run, or of one checkpoint; or else --agent and --env."""
    out: Annotated[str, arg(aliases=["-o"])] = "agent.svg"
    """The picture, .svg or .png."""
    agent: str | None = None
    """Algorithm, drawn as it would start."""
    env: str | None = None
    """Environment of --agent, as train takes it."""
    env_kwargs: str = "{}"
    """Arguments of the environment as a JSON object."""
    settings: str = "{}"
    """Settings of --agent as a JSON object, over those proven for the environment."""
    checkpoint: str = "last"
    """Of a run: last, best or step_N."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_draw, argv)


def _draw(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "draw", __doc__ or "")
    out = Path(args.out)
    if out.suffix not in (".svg", ".png"):
        raise UserError(f"--out {out} must end in .svg or .png")
    if out.is_dir() or (out.exists() and not _ours(out)):
        raise UserError(f"--out {out} is there and was not drawn by this command: name another file")
    if (args.run is None) == (args.agent is None):
        raise UserError("name the folder of a run, or --agent and --env: one of both")
    agent, env = _of_run(args.run, args.checkpoint) if args.run is not None else _fresh(args)
    (picture,) = pictures(describe(agent, env), "svg" if out.suffix == ".svg" else "png")
    write_bytes(out, picture)
    print(f"drawn {out}")
    return 0


def _of_run(run: str, checkpoint: str) -> tuple[Any, str]:
    """The agent of a run, or of a checkpoint alone, and its environment's name. Raises UserError."""
    folder = Path(run)
    if not (folder / META).is_file():
        started = read_config(run)
        return load(run, checkpoint, "cpu", started), str(started.get("env_argument", "environment"))
    cls, _ = agent_classes(str(read(folder)[1].get("agent")))
    try:  # a run's checkpoint lies two folders down in it
        env = str(read_config(folder.resolve().parents[1]).get("env_argument", "environment"))
    except (IndexError, UserError):
        env = "environment"
    return cls.load(folder), env


def _fresh(args: Args) -> tuple[Any, str]:
    """An agent before any training, and its environment's name. Raises UserError."""
    assert args.agent is not None
    if args.env is None:
        raise UserError(f"--agent {args.agent} needs --env: its spaces decide the networks' shapes")
    cls, config_cls = agent_classes(args.agent)
    proven = {key: value for key, value in preset_for(args.agent, args.env, 100_000).items() if key != "num_envs"}
    config = config_of(args.agent, config_cls, proven | json_object("--settings", args.settings))
    env = make(args.env, 1, 0, env_kwargs=json_object("--env-kwargs", args.env_kwargs))
    try:
        return cls(env.single_observation_space, env.single_action_space, config), args.env
    finally:
        env.close()


def config_of(agent: str, config_cls: type[Any], values: dict[str, Any]) -> Any:
    """A config from JSON values. Raises UserError for a setting that is not there, or a value it cannot have."""
    usual = asdict(config_cls())
    for name, value in values.items():
        if name not in usual:
            raise UserError(f"--settings: {agent} has no {name!r}, it must be one of {', '.join(usual)}")
        values[name] = value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, bool) != isinstance(usual[name], bool) or isinstance(value, str | tuple) != isinstance(
            usual[name], str | tuple
        ):
            raise UserError(f"--settings: {name} must be of the kind of {usual[name]!r}, got {value!r}")
    try:
        return config_cls(**values)
    except TypeError as error:
        raise UserError(f"--settings {values}: {error}") from error


def _ours(path: Path) -> bool:
    """Whether a file was drawn here, so that drawing it anew loses nothing."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
