"""Agents as checkpoints: saved with what they were built from, and built again from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import Space
from torch import Tensor

from costgrad.rl.checkpoint import META, encoder_missing, first_line, read, write
from costgrad.rl.checks import UNFIT, short
from costgrad.rl.errors import UserError
from costgrad.rl.networks.critic_spec import dense_size, read_spec
from costgrad.rl.settings import current_names
from costgrad.rl.spaces import flat_size, space_from_json, space_to_json

AgentT = TypeVar("AgentT")
SPACES = ("observation_space", "action_space")
MOST_EPISODES = 2**24  # of a generation: they stand in a queue


def save_agent(path: str | Path, agent: Any, beside: Mapping[str, Tensor] | None = None, **more: Any) -> None:
    """Writes everything that decides an agent's future, its spaces and its config.

    Args:
        path: the folder to write.
        agent: has a dataclass `config` beside what the Agent protocol asks.
        beside: further tensors, whose names begin with "run.".
        more: further JSON, kept beside (a run keeps its step here).
    Raises:
        WriteError: the file system refuses.
    """
    tensors, state = agent.state()
    meta: dict[str, Any] = {
        "agent": agent_name(agent),
        "config": asdict(agent.config),
        "observation_space": space_to_json(agent.codec.observation_space),
        "action_space": space_to_json(agent.codec.action_space),
        "state": state,
    }
    if (critic := getattr(agent, "critic", None)) is not None:
        meta["critic"] = asdict(critic.spec)
        if critic.encoder is not None:
            meta["encoder"] = {"name": critic.encoder.name}
    write(path, {**tensors, **(beside or {})}, meta | more)


def load_agent(
    path: str | Path,
    cls: type[AgentT],
    config_cls: type[Any],
    device: str | torch.device = "cpu",
    encoder: Any = None,
) -> AgentT:
    """Builds the agent that `save_agent` wrote; it continues where the saved one stood.

    Args:
        path: the folder.
        cls: the agent's class.
        config_cls: of its config.
        device: where it lives.
        encoder: what it was built with, where it has an encoder: a file holds weights, never code.

    Raises:
        UserError: as `read`, or the checkpoint is another agent's, or has settings this version does not know or that
            do not fit its tensors, or its encoder is missing.
    """
    tensors, meta = read(path)
    _check_name(path, meta, cls.__name__.lower())
    spaces = spaces_of(path, meta)
    config = _config(path, meta, cls, config_cls)
    more: dict[str, Any] = {}
    if "encoder" in meta and encoder is None:
        raise UserError(encoder_missing(f"checkpoint {path}", meta["encoder"]))
    if encoder is not None:
        if "encoder" not in meta:
            raise UserError(f"checkpoint {path} was saved without an encoder: it takes none")
        more["encoder"] = encoder
    try:
        check_sizes(config, spaces[0], spaces[1], tensors, encoder is not None)
        given = read_spec(meta["critic"], tensors) if "critic" in meta else None
        agent = cls(*spaces, config, device=device, **more)  # type: ignore[call-arg]
        critic = getattr(agent, "critic", None)
        if (
            critic is not None and given is not None and critic.spec != given
        ):  # it was given a C that was trained before
            critic = type(critic)(given, encoder=critic.encoder)
            agent = cls(*spaces, config, device=device, critic=critic, **more)  # type: ignore[call-arg]
    except UNFIT as error:
        raise UserError(
            f"checkpoint {path} is damaged: no {cls.__name__} can be built ({first_line(error)})"
        ) from error
    restore(path, agent, tensors, meta)
    return agent


def restore(path: str | Path, agent: Any, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Puts what `read(path)` gave into an agent that was built alike.

    Raises:
        UserError: the checkpoint is another kind of agent's, or its tensors do not fit this one.
    """
    _check_name(path, meta, agent_name(agent))
    for key, there in zip(SPACES, spaces_of(path, meta), strict=True):
        if (here := getattr(agent.codec, key)) != there:
            raise UserError(f"the {key} is {here}; checkpoint {path} was trained with {there}")
    try:
        agent.load_state(tensors, meta["state"])
    except UNFIT as error:
        raise UserError(f"checkpoint {path} does not fit this {type(agent).__name__}: {first_line(error)}") from error


def spaces_of(path: str | Path, meta: Mapping[str, Any]) -> list[Space[Any]]:
    """The observation and the action space that a checkpoint's JSON describes. Raises UserError."""
    try:
        return [space_from_json(meta[key]) for key in SPACES]
    except UNFIT as error:
        raise UserError(f"checkpoint {path} is damaged: {META} names no spaces ({first_line(error)})") from error


def check_sizes(
    config: Any,
    observation_space: Space[Any],
    action_space: Space[Any],
    tensors: Mapping[str, Tensor],
    encoded: bool = False,
) -> None:
    """Refuses a config whose networks and candidates hold more numbers than the file, before they are built.

    Args:
        config: of an agent.
        observation_space: of the agent.
        action_space: of the agent.
        tensors: of the file.
        encoded: whether an encoder stands before the networks.

    Raises:
        ValueError: it asks for more.
    """
    held = sum(value.numel() for value in tensors.values())
    observed, acts = flat_size(observation_space), flat_size(action_space)
    hidden = tuple(getattr(config, "hidden", ()))
    policy = dense_size((1 if encoded else observed, *hidden, acts))
    of_critic = dense_size(tuple(getattr(config, "critic_hidden", hidden)))
    least = {"observation_space": 0 if encoded else observed, "action_space": acts, "hidden": policy}
    least["n_critics"] = getattr(config, "n_critics", 1) * max(of_critic, 1)
    if getattr(config, "head", "") == "hl_gauss":
        least["bins"] = config.bins
    if any(name.startswith("memory.") for name in tensors):  # rows, or noise for the steps that are left
        least["num_steps"] = getattr(config, "num_steps", 0)
    sizes = {name: getattr(config, name, 0) for name in ("candidates", "directions", "subspace")}
    least |= {name: count * max(policy, 1) for name, count in sizes.items()}
    if getattr(config, "episodes", 1) * max(*sizes.values(), 4) > MOST_EPISODES:
        raise ValueError(f"its settings ask for more than {MOST_EPISODES:,} episodes in a generation")
    if policy < getattr(config, "separable_from", 0):
        least["separable_from"] = policy**2  # of a full covariance
    for name, count in least.items():
        if count > held:
            raise ValueError(f"its {name} needs {count:,} numbers or more, and the file holds {held:,}")


def agent_name(agent: Any) -> str:
    """The agent's name on the command line: its class's in small letters."""
    return type(agent).__name__.lower()


def _config(path: str | Path, meta: Mapping[str, Any], cls: type[Any], config_cls: type[Any]) -> Any:
    """The config in a checkpoint's JSON. Raises UserError."""
    given = meta.get("config")
    if not isinstance(given, dict):
        raise UserError(f"checkpoint {path} is damaged: {META} lacks the agent's config")
    saved, lines = current_names(config_cls, given)
    known = {field.name for field in fields(config_cls)}
    if unknown := sorted(saved.keys() - known):
        named = ", ".join(unknown)[:160]
        raise UserError(f"checkpoint {path} has settings this {cls.__name__} does not know: {named}")
    if lines:
        warnings.warn(f"checkpoint {path} is of an older version: {', '.join(lines)}", FutureWarning, stacklevel=4)
    try:
        return config_cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    except UNFIT as error:
        raise UserError(f"checkpoint {path} is damaged: its config is none ({first_line(error)})") from error


def _check_name(path: str | Path, meta: Mapping[str, Any], name: str) -> None:
    if meta.get("agent") != name:
        raise UserError(f"checkpoint {path} holds agent {short(meta.get('agent'))}, not {name!r}")
