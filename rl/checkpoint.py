"""Checkpoints: a folder of numbers and JSON that runs no code when it is loaded.

`folder/tensors.safetensors` holds every tensor, `folder/meta.json` the rest:
{"format": "costgrad checkpoint", "version": 3, "meta": {...}, "tensors_sha256": "...", "sha256": "..."}. The first
digest is of the other file, the last one of all else in this one, as `_digest` has it. Version 2 had no digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from costgrad.rl.checks import generator_state, same_form
from costgrad.rl.errors import UserError
from costgrad.rl.files import old_beside, sync, temporary_beside, writing

FORMAT, VERSION = "costgrad checkpoint", 3
OLD_COUNTERS = {"updates_due": "owed"}  # what counters of agents were called before
TENSORS, META = "tensors.safetensors", "meta.json"
_KEYS = {2: {"format", "version", "meta"}, 3: {"format", "version", "meta", "tensors_sha256", "sha256"}}
_TRIES = 5  # after which what is missing is not there
_PATIENCE = 20.0  # seconds for which a reader tries again whose checkpoint is replaced while it reads


def write(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all; whatever stood at `path` is only replaced by a finished one.

    Args:
        path: the folder to write; its parents are made.
        tensors: on any device, sharing memory or not.
        meta: what JSON can hold.
    Raises:
        WriteError: the file system refuses.
        UserError: something else than a checkpoint stands at `path`.
    """
    content = json.loads(json.dumps({"format": FORMAT, "version": VERSION, "meta": dict(meta)}))

    def fill(folder: Path) -> None:
        save_file(_plain(tensors), folder / TENSORS)
        with (folder / TENSORS).open("rb") as file:
            content["tensors_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        (folder / META).write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1), encoding="utf-8")
        for name in (TENSORS, META):
            sync(folder / name)

    _replace(Path(path), fill)


def copy(source: str | Path, path: str | Path) -> None:
    """Writes the checkpoint at `source` to `path` as well; they share their files where the file system can do that.

    Raises:
        WriteError: the file system refuses.
    """
    source = Path(source)

    def fill(folder: Path) -> None:
        for name in (TENSORS, META):
            try:
                os.link(source / name, folder / name)
            except OSError:
                shutil.copyfile(source / name, folder / name)
                sync(folder / name)

    _replace(Path(path), fill)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write` wrote; runs no code from the files.

    Returns:
        tensors, on the CPU, and meta.
    Raises:
        UserError: nothing is there, or it was damaged since, is of another format or version, or a pickle.
    """
    path = Path(path)
    end, missing = time.monotonic() + _PATIENCE, 0
    while time.monotonic() < end:
        folder = path if path.exists() else old_beside(path)
        with _opened(folder / META) as meta:
            error: UserError | None = None
            try:
                found = _read(path, folder)
            except UserError as caught:
                error = caught
            missing += meta is None
            if _stands(meta, folder / META) if meta is not None else missing == _TRIES:
                if error is not None:
                    raise error
                return found
        # A writer has replaced it meanwhile: the two files may be of two checkpoints, or there was none for a moment.
        time.sleep(0.01)
    raise UserError(f"checkpoint {path} is replaced again and again: it could not be read")


def _read(path: Path, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`read` of `path`, which stands at `folder`."""
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
        raise UserError(f"checkpoint {path} is damaged: {META} is not JSON ({first_line(error)})") from error
    if not isinstance(outer, dict) or outer.get("format") != FORMAT or not isinstance(outer.get("meta"), dict):
        raise UserError(f"{path} is no checkpoint of this toolkit: {META} does not say format {FORMAT!r}")
    version = outer.get("version")
    if type(version) is not int or version not in _KEYS:
        raise UserError(
            f"checkpoint {path} has version {str(version)[:40]!r}; this costgrad reads version {VERSION} and before"
        )
    if outer.keys() != _KEYS[version]:
        raise UserError(f"checkpoint {path} is damaged: {META} has other entries than those of version {version}")
    try:
        if version > 2:
            _check_digests(path, folder, outer)
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError, RecursionError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path} is damaged: {TENSORS} cannot be read ({first_line(error)})") from error
    return tensors, outer["meta"]


def _check_digests(path: Path, folder: Path, outer: dict[str, Any]) -> None:
    """Raises UserError where one of the files is not what was written."""
    if _digest({key: value for key, value in outer.items() if key != "sha256"}) != outer["sha256"]:
        raise UserError(f"checkpoint {path} is damaged: {META} was changed after it was written")
    with (folder / TENSORS).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != outer["tensors_sha256"]:
        raise UserError(f"checkpoint {path} is damaged: {TENSORS} was changed after it was written")


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _replace(path: Path, fill: Callable[[Path], None]) -> None:
    """Puts a new folder that `fill` fills in the place of the checkpoint at `path`, if there is one."""
    fresh, old = temporary_beside(path), old_beside(path)
    with writing(path):
        if path.exists() and not (path / META).exists():
            raise UserError(f"cannot write {path}: something that is no checkpoint stands there")
        try:
            fresh.mkdir(parents=True)
            fill(fresh)
            sync(fresh)
            # A folder cannot be renamed onto a full one. Killed between the two renames, `old` is what `read` finds.
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(path, old)
            os.rename(fresh, path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """A file, None if there is none; while it is open no other one gets its number."""
    with ExitStack() as stack:
        handle = None
        with suppress(OSError):
            handle = stack.enter_context(path.open("rb"))
        yield handle


def _stands(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


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
    """Puts what `gather` gave into parts built alike.

    Raises:
        ValueError: a tensor is missing, too many, of another shape or dtype, or a weight is not finite.
    """
    for name, part in parts.items():
        prefix = f"{name}."
        mine = {k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)}
        if isinstance(part, nn.Module):
            same_form(mine, part.state_dict(), name, getattr(part, "resized", ""))
        part.load_state_dict(mine)


def restore_generator(generator: torch.Generator, state: Tensor, steps: int) -> None:
    """Sets a generator to a saved state; one of another kind of device cannot take it and is seeded from `steps`.

    Raises:
        ValueError: it is no generator's state.
    """
    generator_state(state, "generator")
    if state.numel() == generator.get_state().numel():
        generator.set_state(state.cpu())
    else:
        generator.manual_seed(2**40 + steps)


def encoder_missing(what: str, saved: Any) -> str:
    """The line that says which encoder a file needs."""
    name = saved.get("name", "Name") if isinstance(saved, dict) else "Name"
    name = name if isinstance(name, str) and name.isidentifier() else "Name"
    return (
        f"{what} was saved with the encoder {name}, and a file holds weights, never code: "
        f"give encoder= (on the command line --encoder file.py:{name})"
    )


def first_line(error: Exception) -> str:
    """An error's first line, short enough to stand in another one."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]


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
