"""What a run folder keeps of its environment, and whether that may be used without asking.

A name in a run folder is data. To make an environment of it runs no code but that of installed packages, where the name
is a registered id or one of costgrad's own tasks. Whatever else it names is only run where this user wrote it on this
machine, which its signature shows, or where the user says so.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from costgrad.envs.names import expand, in_working_folder, is_own_task, split
from costgrad.envs.stamp import sign, verify

PURPOSE = "environment of a run"


class Recipe(NamedTuple):
    """What an environment was made of; the names are those of config.json without `env_`."""

    argument: str | None  # as `make` takes it, a file with its whole path; None where it came as a Python object
    kwargs: dict[str, Any]
    file: dict[str, str] | None  # "path" and "sha256" of the file that it is from; None for an id

    def signature(self) -> str | None:
        """This user's on this machine; None where no code is named, or nothing can be signed (envs/stamp.py)."""
        if self.argument is None or not code_of(self.argument):
            return None
        data = _canonical(self.argument, self.kwargs, self.file)
        return None if data is None else sign(PURPOSE, data)


def recipe_of(env: Any, kwargs: dict[str, Any]) -> Recipe:
    """The recipe of an environment that has just been made."""
    if not isinstance(env, str):
        return Recipe(None, kwargs, None)
    kind, where, name = split(env)
    if kind == "id":
        return Recipe(env, kwargs, None)
    if kind == "file":
        path = expand(where).resolve()
        return Recipe(f"{path}:{name}", kwargs, _hashed(path))
    file = getattr(sys.modules.get(where), "__file__", None)
    return Recipe(env, kwargs, _hashed(Path(file).resolve()) if file else None)


def code_of(argument: str) -> str:
    """What making an environment of this name runs beside installed packages, for people; "" for nothing."""
    kind, where, name = split(argument)
    if kind == "file":
        return f"run file {where!r} and call {name!r}"
    if kind == "id" or is_own_task(where):
        return ""
    return f"import module {where!r} and call {name!r}"


def is_signed(config: Mapping[str, Any]) -> bool:
    """Whether this user on this machine wrote the entries about the environment in a run's config.json."""
    data = _canonical(config.get("env_argument"), config.get("env_kwargs"), config.get("env_file"))
    return data is not None and verify(PURPOSE, data, config.get("env_stamp"))


def is_shadowed(config: Mapping[str, Any]) -> bool:
    """Whether the module that a run names would now come from the working folder, and did not then."""
    kind, where, _ = split(str(config.get("env_argument")))
    if kind != "module" or not in_working_folder(where):
        return False
    file = config.get("env_file")
    path = file.get("path") if isinstance(file, dict) else None
    return not (isinstance(path, str) and Path(path).is_relative_to(Path.cwd()))


def sha256(path: Path) -> str | None:
    """Of a file's content; None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def _hashed(path: Path) -> dict[str, str] | None:
    digest = sha256(path)
    return None if digest is None else {"path": str(path), "sha256": digest}


def _canonical(argument: Any, kwargs: Any, file: Any) -> bytes | None:
    """One text for what is one and the same in config.json; None where that cannot be written."""
    entries = {"env_argument": argument, "env_kwargs": kwargs, "env_file": file}
    try:
        read = json.loads(json.dumps(entries, default=str))  # as config.json is written, and read
        return json.dumps(read, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        return None
