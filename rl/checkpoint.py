"""Checkpoints: a folder of numbers and JSON that runs no code when it is loaded.

`folder/tensors.safetensors` holds every tensor, `folder/meta.json` the rest:
{"format": "costgrad checkpoint", "version": 2, "meta": {...}}.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from costgrad.rl.errors import UserError
from costgrad.rl.settings import current_names
from costgrad.rl.spaces import space_from_json, space_to_json

FORMAT, VERSION = "costgrad checkpoint", 2
OLD_COUNTERS = {"updates_due": "owed"}  # what counters of agents were called before
TENSORS, META = "tensors.safetensors", "meta.json"
AgentT = TypeVar("AgentT")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a refusal of the file system (permission, full disk, a file in the way) into one `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def check_writable(path: Path, make_folder: bool = True) -> None:
    """Before long work whose outcome goes to a file; the file stays as it is. Raises UserError where it cannot.

    Args:
        path: of the file.
        make_folder: its folder, if it is not there.
    """
    new = not path.exists()
    with writing(path):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
        if new:
            path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of a text, as UTF-8. Raises UserError."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces a file whole: a reader, or a crash, sees what was there or what is new.

    Raises:
        UserError: the file system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(data)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all; whatever stood at `path` is only replaced by a finished one.

    Args:
        path: the folder to write; its parents are made.
        tensors: on any device, sharing memory or not.
        meta: what JSON can hold.
    Raises:
        UserError: the file system refuses, or something else than a checkpoint stands at `path`.
    """
    path = Path(path)
    fresh, old = _sibling(path, f"{os.getpid()}.tmp"), _sibling(path, "old")
    if path.exists() and not (path / META).exists():
        raise UserError(f"cannot write {path}: something that is no checkpoint stands there")
    text = json.dumps({"format": FORMAT, "version": VERSION, "meta": dict(meta)}, indent=1)
    with writing(path):
        try:
            fresh.mkdir(parents=True)
            save_file(_plain(tensors), fresh / TENSORS)
            (fresh / META).write_text(text)
            for name in (TENSORS, META, "."):
                _sync(fresh / name)
            # A folder cannot be renamed onto a full one. Killed between the two renames, `old` is what `read` finds.
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(path, old)
            os.rename(fresh, path)
            _sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write` wrote; runs no code from the files.

    Returns:
        tensors, on the CPU, and meta.
    Raises:
        UserError: nothing is there, or it is truncated, of another format or version, or a pickle.
    """
    path = Path(path)
    folder = path if path.exists() else _sibling(path, "old")
    if not folder.exists():
        raise UserError(f"no checkpoint at {path}")
    if not folder.is_dir():
        raise UserError(f"{path} is a file; a checkpoint is a folder with {TENSORS} and {META}, pickles are never read")
    for name in (TENSORS, META):
        if not (folder / name).is_file():
            raise UserError(f"{path} is no checkpoint: it has no {name}")
    try:
        outer = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {path} is damaged: {META} is not JSON ({_line(error)})") from error
    if not isinstance(outer, dict) or outer.get("format") != FORMAT or not isinstance(outer.get("meta"), dict):
        raise UserError(f"{path} is no checkpoint of this toolkit: {META} does not say format {FORMAT!r}")
    if outer.get("version") != VERSION:
        raise UserError(
            f"checkpoint {path} has version {outer.get('version')!r}; this costgrad reads version {VERSION}"
        )
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint {path} is damaged: {TENSORS} cannot be read ({_line(error)})") from error
    return tensors, outer["meta"]


def save_agent(path: str | Path, agent: Any, beside: Mapping[str, Tensor] | None = None, **more: Any) -> None:
    """Writes everything that decides an agent's future, its spaces and its config.

    Args:
        path: the folder to write.
        agent: has a dataclass `config` beside what the Agent protocol asks.
        beside: further tensors, whose names begin with "run.".
        more: further JSON, kept beside (a run keeps its step here).
    Raises:
        UserError: the file system refuses.
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
        UserError: as `read`, or the checkpoint is another agent's, or has settings this version does not know, or its
            encoder is missing.
    """
    tensors, meta = read(path)
    _check_name(path, meta, cls.__name__.lower())
    known = {field.name for field in fields(config_cls)}
    try:
        saved, lines = current_names(config_cls, dict(meta["config"]))
        spaces = [space_from_json(meta[key]) for key in ("observation_space", "action_space")]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged: {META} lacks what an agent needs ({_line(error)})") from error
    if unknown := sorted(saved.keys() - known):
        raise UserError(f"checkpoint {path} has settings this {cls.__name__} does not know: {', '.join(unknown)}")
    if lines:
        warnings.warn(f"checkpoint {path} is of an older version: {', '.join(lines)}", FutureWarning, stacklevel=3)
    config = config_cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    more: dict[str, Any] = {}
    if "encoder" in meta and encoder is None:
        raise UserError(encoder_missing(f"checkpoint {path}", meta["encoder"]))
    if encoder is not None:
        if "encoder" not in meta:
            raise UserError(f"checkpoint {path} was saved without an encoder: it takes none")
        more["encoder"] = encoder
    agent = cls(*spaces, config, device=device, **more)  # type: ignore[call-arg]
    if (critic := getattr(agent, "critic", None)) is not None and "critic" in meta:
        spec = {key: tuple(value) if isinstance(value, list) else value for key, value in meta["critic"].items()}
        if asdict(critic.spec) != spec:  # the agent was given a C that was trained before
            critic = type(critic)(type(critic.spec)(**spec), encoder=critic.encoder)
            agent = cls(*spaces, config, device=device, critic=critic, **more)  # type: ignore[call-arg]
    restore(path, agent, tensors, meta)
    return agent


def encoder_missing(what: str, saved: Any) -> str:
    """The line that says which encoder a file needs."""
    name = saved.get("name", "Name") if isinstance(saved, dict) else "Name"
    return (
        f"{what} was saved with the encoder {name}, and a file holds weights, never code: "
        f"give encoder= (on the command line --encoder file.py:{name})"
    )


def restore(path: str | Path, agent: Any, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Puts what `read(path)` gave into an agent that was built alike.

    Raises:
        UserError: the checkpoint is another kind of agent's, or its tensors do not fit this one.
    """
    _check_name(path, meta, agent_name(agent))
    try:
        trained = {key: space_from_json(meta[key]) for key in ("observation_space", "action_space") if key in meta}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged: {META} names no spaces ({_line(error)})") from error
    for key, there in trained.items():
        if (here := getattr(agent.codec, key)) != there:
            raise UserError(f"the {key} is {here}; checkpoint {path} was trained with {there}")
    try:
        agent.load_state(tensors, meta["state"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not fit this {type(agent).__name__}: {_line(error)}") from error


class Part(Protocol):
    """A piece of an agent that keeps tensors: a module, an optimizer."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """The live tensors."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Restores what `state_dict` gave."""
        ...


def gather(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """The tensors of several parts under their names, `actor.net.weights.0` for instance."""
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def hand_out(tensors: Mapping[str, Tensor], parts: Mapping[str, Part]) -> None:
    """Puts what `gather` gave into parts built alike. Raises KeyError or RuntimeError where they do not fit."""
    for name, part in parts.items():
        prefix = f"{name}."
        part.load_state_dict({k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)})


def restore_generator(generator: torch.Generator, state: Tensor, steps: int) -> None:
    """Sets a generator to a saved state; one of another kind of device cannot take it and is seeded from `steps`."""
    if state.numel() == generator.get_state().numel():
        generator.set_state(state.cpu())
    else:
        generator.manual_seed(2**40 + steps)


def agent_name(agent: Any) -> str:
    """The agent's name on the command line: its class's in small letters."""
    return type(agent).__name__.lower()


def _check_name(path: str | Path, meta: dict[str, Any], name: str) -> None:
    if meta.get("agent") != name:
        raise UserError(f"checkpoint {path} holds agent {meta.get('agent')!r}, not {name!r}")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each alone in its memory: safetensors refuses those that share it.

    The filled part of a longer memory is not copied: a replay may be half of what the machine has.
    """
    plain: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in taken and tensor.is_contiguous()
        plain[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        taken.add(storage.data_ptr())
    return plain


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def _sync(path: Path) -> None:
    """Waits until the disk holds the file (or the folder's list of names)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(error: Exception) -> str:
    """An error's first line, short enough to stand in another one."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
