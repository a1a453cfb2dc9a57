"""Draws an agent as a graph: what it is made of, and which way its gradient takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from costgrad.agents.presets import preset_for
from costgrad.envs.make import make
from costgrad.rl.checkpoint import META, read
from costgrad.rl.drawing.describe import describe
from costgrad.rl.drawing.paint import MARK, pictures
from costgrad.rl.errors import UserError
from costgrad.rl.files import write_bytes
from costgrad.rl.runs.folder import read_config
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.evaluate import load
from costgrad.scripts.flags import json_object
from costgrad.scripts.pick import agent_classes, agent_of_run, build, config_from, encoder_for, is_own, load_agent


@dataclass(frozen=True)
class Args:
    """Flags of scripts/draw.py."""

    run: Positional[str | None] = None
    """Folder of a run or of a checkpoint; or else --agent and --env."""
    out: Annotated[str, arg(aliases=["-o"])] = "agent.svg"
    """Where to draw, an .svg or .png file."""
    agent: str | None = None
    """Algorithm, drawn untrained; with the folder of a run of your own agent, file.py:Name of its class."""
    encoder: str | None = None
    """file.py:Name of an encoder, an nn.Module or a callable of the observation space."""
    env: str | None = None
    """Environment of --agent, as train takes it."""
    env_kwargs: str = "{}"
    """Environment arguments, key=value ... or a JSON object."""
    settings: str = "{}"
    """Hyperparameters of --agent, key=value ... or a JSON object; they override the preset of the environment."""
    checkpoint: str = "last"
    """Checkpoint of a run to load: last, best or step_N."""


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
    if (args.run is None) == (args.agent is None) and not (args.run is not None and is_own(args.agent)):
        raise UserError("name the folder of a run, or --agent and --env: one of both")
    agent, env = _of_run(args.run, args) if args.run is not None else _fresh(args)
    (picture,) = pictures(describe(agent, env), "svg" if out.suffix == ".svg" else "png")
    write_bytes(out, picture)
    print(f"drawn {out}")
    return 0


def _of_run(run: str, args: Args) -> tuple[Any, str]:
    """The agent of a run, or of a checkpoint alone, and its environment's name. Raises UserError."""
    folder = Path(run)
    if not (folder / META).is_file():
        started = read_config(run)
        agent = load(run, args.checkpoint, "cpu", started, args.agent, args.encoder)
        return agent, str(started.get("env_argument", "environment"))
    try:  # a run's checkpoint lies two folders down in it
        started = read_config(folder.resolve().parents[1])
    except (IndexError, UserError):
        started = {}
    about = {**started, "agent": read(folder)[1].get("agent")}
    cls, config_cls = agent_of_run(run, about, args.agent)
    agent = load_agent(folder, cls, config_cls, "cpu", encoder_for(args.encoder, about, run))
    return agent, str(started.get("env_argument", "environment"))


def _fresh(args: Args) -> tuple[Any, str]:
    """An agent before any training, and its environment's name. Raises UserError."""
    assert args.agent is not None
    if args.env is None:
        raise UserError(f"--agent {args.agent} needs --env: its spaces decide the networks' shapes")
    cls, config_cls = agent_classes(args.agent)
    proven = {key: value for key, value in preset_for(args.agent, args.env, 100_000).items() if key != "num_envs"}
    config = _config(args.agent, config_cls, proven | json_object("--settings", args.settings))
    env = make(args.env, 1, 0, env_kwargs=json_object("--env-kwargs", args.env_kwargs))
    try:
        return build(cls, env, config, 0, "cpu", encoder_for(args.encoder)), args.env
    finally:
        env.close()


def _config(agent: str, config_cls: type[Any], values: dict[str, Any]) -> Any:
    """A config from JSON values. Raises UserError for a setting that is not there, or a value it cannot have."""
    config = config_from(agent, config_cls, values)
    usual = asdict(config_cls())
    for name, value in asdict(config).items():
        if _kind(value) != _kind(usual[name]):
            raise UserError(f"--settings: {name} must be of the kind of {usual[name]!r}, got {value!r}")
    return config


def _kind(value: Any) -> type[Any]:
    """What a value must be, where its dataclass does not check: words, truth values, lists or else numbers."""
    return next((kind for kind in (bool, str, tuple) if isinstance(value, kind)), float)


def _ours(path: Path) -> bool:
    """Whether a file was drawn here, so that drawing it anew loses nothing."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
