"""Which agent, and which encoder: one of costgrad's by its name, or a class from the user's file.

A run folder never decides which code runs: what its config.json names is looked up among costgrad's agents, and a file
is only run where a flag names it.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from costgrad.agents import AGENTS
from costgrad.envs.load import load_file, offers
from costgrad.rl.agent_files import agent_name, restore
from costgrad.rl.checkpoint import read
from costgrad.rl.errors import UserError
from costgrad.rl.settings import current_names, nearest
from costgrad.rl.spaces import space_from_json

PROTOCOL = ("on_reset", "act", "observe", "update", "predict", "state", "load_state")  # of `Agent` in rl/loop.py
Q_LEARNING = "Q-learning is not here, --agent sac learns off-policy from Discrete actions too"
ADVICE = {  # for names that people try
    "ddpg": "DDPG is --agent td3 --n-critics 1 --target-policy-noise 0 --policy-delay 1",
    **dict.fromkeys(("dqn", "ddqn", "doubledqn", "rainbow", "c51", "qrdqn", "iqn", "qlearning"), Q_LEARNING),
    **dict.fromkeys(("a3c", "ac", "actorcritic"), "a2c is its synchronous form, --agent a2c"),
    **dict.fromkeys(
        ("trpo", "npg", "acktr", "mpo"), "--agent reppo bounds the KL divergence of an update, --agent ppo clips it"
    ),
    **dict.fromkeys(("reinforce", "pg", "vpg"), "it is --agent a2c --actor-gradient score --gae-lambda 1"),
    **dict.fromkeys(("redq", "droq", "tqc"), "--agent crossq and --agent sac are the nearest"),
    **dict.fromkeys(("openaies", "evolutionstrategies"), "it is --agent es"),
    **dict.fromkeys(("ppo2", "recurrentppo", "maskableppo"), "--agent ppo is the nearest"),
}


def spelled(name: str) -> str:
    """An agent's name as costgrad writes it: case, - and _ do not matter. A file's name stays as it is."""
    plain = _plain(name)
    return plain if plain in AGENTS else name


def agent_classes(name: str) -> tuple[type[Any], type[Any]]:
    """The class of an agent that the user names, and its config's.

    Args:
        name: one of costgrad's, or file.py:Name, which is run.
    Raises:
        UserError: a name that is not known, or a class that is no agent.
    """
    if is_own(name):
        return _own(name)
    if spelled(name) not in AGENTS:
        near = difflib.get_close_matches(_plain(name), AGENTS, n=1)
        hint = ADVICE.get(_plain(name)) or (f"did you mean {near[0]}?" if near else "")
        choices = f"it must be one of {', '.join(AGENTS)}, or file.py:Name"
        raise UserError(f"unknown agent {name!r}: {choices}" + (f" ({hint})" if hint else ""))
    return AGENTS[spelled(name)]


def is_own(name: str | None) -> bool:
    """Whether a name is that of a class in a user's file."""
    return name is not None and name.rpartition(":")[0].endswith(".py")


def agent_of_run(run: str, started: Mapping[str, Any], flag: str | None) -> tuple[type[Any], type[Any]]:
    """The class that a run's checkpoint is loaded as, and its config's.

    Args:
        run: its folder, for people.
        started: its config.json, or the meta of a checkpoint.
        flag: --agent, which must name the file of an agent that is not one of costgrad's.
    Raises:
        UserError: the flag is missing, or names another agent than the run's.
    """
    trained = str(started.get("agent"))
    args = started.get("args")
    own = trained not in AGENTS or (isinstance(args, dict) and is_own(str(args.get("agent"))))
    if flag is None or (own and not is_own(flag)):
        if own:
            raise UserError(
                f"run {run} was trained with agent {trained!r}, which is not one of costgrad's: "
                f"give --agent file.py:{trained.capitalize()}"
            )
        return AGENTS[trained]
    cls, config_cls = agent_classes(flag)
    if cls.__name__.lower() != trained:
        raise UserError(f"run {run} was trained with agent {trained!r}, and --agent {flag} is {cls.__name__.lower()!r}")
    return cls, config_cls


def encoder_for(flag: str | None, started: Mapping[str, Any] | None = None, run: str = "") -> dict[str, Any]:
    """The argument `encoder` of an agent, from file.py:Name; {} without one.

    Args:
        flag: --encoder, None where it is not given.
        started: config.json of the run that the agent is from.
        run: its folder, for people.
    Raises:
        UserError: the run had an encoder, and the flag is missing; no such name in the file.
    """
    args = (started or {}).get("args")
    had = args.get("encoder") if isinstance(args, dict) else None
    if flag is None:
        if had is not None:
            raise UserError(f"run {run} was trained with --encoder {had}: give --encoder again (a run never runs code)")
        return {}
    if isinstance(args, dict) and had is None:
        raise UserError(f"run {run} was trained without an encoder: leave --encoder out")
    if not is_own(flag):
        raise UserError(f"--encoder {flag!r} must be file.py:Name, an nn.Module or a callable of the observation space")
    encoder = _from_file(flag)
    if not callable(encoder):
        raise UserError(
            f"--encoder {flag} is {encoder!r}: it must be an nn.Module or a callable of the observation space"
        )
    return {"encoder": encoder}


def build(cls: type[Any], env: Any, config: Any, seed: int, device: str, encoder: Mapping[str, Any]) -> Any:
    """An agent for the spaces of one of the environments. Raises UserError where it takes no encoder."""
    return _construct(cls, env.single_observation_space, env.single_action_space, config, encoder, seed, device)


def load_agent(
    path: Path, cls: type[Any], config_cls: type[Any], device: str, encoder: Mapping[str, Any] | None = None
) -> Any:
    """The agent of a checkpoint, by its class's `load` or, without one, built anew and restored. Raises UserError."""
    encoder = encoder or {}
    if hasattr(cls, "load"):
        wanted = {"device": device, **encoder}
        for name in wanted:
            _check_takes(cls.load, name, f"{cls.__name__}.load")
        return cls.load(path, **wanted)
    tensors, meta = read(path)
    if meta.get("agent") != cls.__name__.lower():
        raise UserError(f"checkpoint {path} holds agent {meta.get('agent')!r}, not {cls.__name__.lower()!r}")
    try:
        obs, action = (space_from_json(meta[key]) for key in ("observation_space", "action_space"))
        config = config_from(cls.__name__, config_cls, dict(meta["config"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path} is damaged: it lacks what an agent needs ({error})") from error
    agent = _construct(cls, obs, action, config, encoder, 0, device)
    restore(path, agent, tensors, meta)
    return agent


def config_from(agent: str, config_cls: type[Any], values: Mapping[str, Any]) -> Any:
    """A config of settings by name, lists for tuples; old names are taken. Raises UserError for what it cannot have."""
    values, lines = current_names(config_cls, values)
    for line in lines:
        warnings.warn(f"{agent}: {line}", FutureWarning, stacklevel=2)
    usual = asdict(config_cls())
    for name in values:
        if name not in usual:
            raise UserError(f"{agent} has no setting {name!r}{nearest(name, usual)}: it has {', '.join(usual)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return config_cls(**values)
    except TypeError as error:  # a word where a number must stand
        raise UserError(f"a setting of {agent} is of the wrong type, {values}: {error}") from error


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _from_file(text: str) -> Any:
    where, _, name = text.rpartition(":")
    module = load_file(Path(where).expanduser())
    if not hasattr(module, name):
        raise UserError(f"'{where}' has no '{name}': it has {offers(module)}")
    return getattr(module, name)


def _own(name: str) -> tuple[type[Any], type[Any]]:
    cls = _from_file(name)
    if not inspect.isclass(cls):
        raise UserError(f"--agent {name} is {cls!r}: it must be a class that follows Agent in costgrad/rl/loop.py")
    if lacks := [method for method in PROTOCOL if not callable(getattr(cls, method, None))]:
        raise UserError(f"--agent {name} has no {', '.join(lacks)}: it must follow Agent in costgrad/rl/loop.py")
    config_cls = _config_class(cls)
    if config_cls is None:
        raise UserError(
            f"--agent {name} does not say what its config is: annotate the constructor's argument `config` with a "
            f"dataclass, or set {cls.__name__}.config_class"
        )
    try:
        config_cls()
    except TypeError as error:
        raise UserError(f"{config_cls.__name__} needs a default for every setting: {error}") from error
    return cls, config_cls


def _config_class(cls: type[Any]) -> type[Any] | None:
    """From the annotation or the default of `config`, or an attribute; None where neither is a dataclass."""
    candidates: list[Any] = []
    with suppress(Exception):  # an annotation that cannot be evaluated says nothing
        hint = get_type_hints(cls.__init__)["config"]
        candidates += [hint, *get_args(hint)]
    with suppress(KeyError, TypeError, ValueError):
        candidates.append(type(inspect.signature(cls).parameters["config"].default))
    candidates += [getattr(cls, "config_class", None), getattr(cls, "Config", None)]
    return next((one for one in candidates if inspect.isclass(one) and is_dataclass(one)), None)


def _construct(
    cls: type[Any], obs: Any, action: Any, config: Any, encoder: Mapping[str, Any], seed: int, device: str
) -> Any:
    more = {name: value for name, value in (("seed", seed), ("device", device)) if _takes(cls, name)}
    if encoder and not _takes(cls, "encoder"):
        able = ", ".join(name for name, (other, _) in AGENTS.items() if _takes(other, "encoder"))
        raise UserError(f"agent {cls.__name__.lower()} takes no encoder: of costgrad's agents {able} do")
    agent = cls(obs, action, config, **more, **encoder)
    for name in ("codec", "config"):
        if not hasattr(agent, name):
            raise UserError(f"agent {agent_name(agent)} has no attribute {name}: see Agent in costgrad/rl/loop.py")
    return agent


def _takes(call: Any, name: str) -> bool:
    parameters = inspect.signature(call).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _check_takes(call: Any, name: str, what: str) -> None:
    if not _takes(call, name):
        raise UserError(f"{what} takes no argument {name}")
