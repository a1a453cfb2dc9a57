"""From what a user names (an id, a module, a file, a callable) to the Python object behind it."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, registry

from costgrad.envs.allowed import check_member
from costgrad.envs.errors import EnvError
from costgrad.envs.names import expand, in_working_folder, is_own_task, split


class Found(NamedTuple):
    """What the name led to."""

    target: EnvSpec | Callable[..., Any]
    name: str  # short and free of what a path would mind; not yet safe for a file's name


def find(env: str | Callable[..., Any]) -> Found:
    """Looks up an environment by its name.

    Args:
        env: "Id-v0", "module:Id-v0", "module:Name", "path/to/file.py:Name", or a callable, which is handed through.
    Returns:
        gymnasium's spec for an id, otherwise the class or function itself, and a short name.
    Raises:
        EnvError: nothing of that name; the message says what there is instead.
    """
    if not isinstance(env, str):
        if not callable(env):
            raise EnvError(f"env is {env!r}: it must be an id, 'module:Name', 'file.py:Name', or a callable")
        return Found(env, short_name(env))
    kind, where, name = split(env)
    if kind == "file":
        path = expand(where)
        module = load_file(path)
        if not name:
            raise EnvError(f"'{env}' names a file only: write '{path}:Name' with one of {offers(module)}")
        return Found(_member(module, name, str(path)), f"{path.stem}.{name}")
    if kind == "id":
        return Found(_spec(env), env)
    module = _import(where)
    if name in registry:
        return Found(_spec(name), name)
    return Found(_member(module, name, where), f"{where.rpartition('.')[2]}.{name}")


def load_file(path: Path) -> ModuleType:
    """Runs a Python file as a module of its own, under a name that no other module has.

    The same content is run once in a process. While it runs, its folder comes first on `sys.path`, as if Python ran it,
    so that it can import its neighbours; afterwards the folder stays at the end of `sys.path` for imports inside
    functions.

    Raises:
        EnvError: no such file, a syntax error (with its line), or an exception while it runs.
    """
    try:
        if not path.is_file():
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=3)
            raise EnvError(f"no file {str(path)!r}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
        path = path.resolve()
        stamp = hashlib.sha256(os.fsencode(path) + b"\0" + path.read_bytes()).hexdigest()[:8]
    except (OSError, ValueError) as error:  # too long, not to be read, or a character that no path has
        if isinstance(error, EnvError):
            raise
        raise EnvError(f"cannot read file {str(path)!r}: {one_line(error)}") from error
    module_name = f"costgrad_user_{path.stem}_{stamp}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # before it runs: dataclasses and pickle look it up there
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        raise _import_error(f"file '{path}'", error) from error
    finally:
        _move_to_end(folder)
    return module


def _move_to_end(folder: str) -> None:
    """A folder stays on `sys.path` for imports inside functions, behind everything that is installed."""
    with contextlib.suppress(ValueError):  # what was imported may have changed sys.path itself
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)


def _import(name: str) -> ModuleType:
    """Imports a module, also from the working folder, which an installed command does not have on its path.

    A package or file of that name in the working folder comes before an installed one, as if Python were run there:
    a distribution may own a top-level `envs` or `agents` as well.
    """
    here, top = str(Path.cwd()), name.partition(".")[0]
    first = in_working_folder(name) and not is_own_task(name)
    if top in sys.stdlib_module_names and not (first and _free_for(here, sys.modules.get(top))):
        hint = f" (a file of that name is named by its path, as in './{top}.py:Name')" if first else ""
        raise EnvError(f"module '{name}' is Python's own: it has no environment{hint}")
    if first:
        sys.path.insert(0, here)
    elif here not in sys.path and "" not in sys.path and not is_own_task(name):
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise EnvError(
                f"no module {name!r}: it must be installed or lie in the working folder {here}; "
                f"a file is named by its path, as in '{name.replace('.', '/')}.py:Name'"
            ) from error
        raise _import_error(f"module '{name}'", error) from error
    finally:
        if first:
            _move_to_end(here)


def _free_for(here: str, module: ModuleType | None) -> bool:
    """Whether a name of a module of Python's is not taken in this process, or by a file of this folder."""
    return module is None or Path(getattr(module, "__file__", None) or "/").is_relative_to(here)


def _import_error(what: str, error: BaseException) -> BaseException:
    """The one line for an exception raised while a user's code was imported; Ctrl-C and exits stay what they are."""
    if isinstance(error, SyntaxError):
        return EnvError(f"{what} has a syntax error in {error.filename}, line {error.lineno}: {error.msg}")
    if isinstance(error, ModuleNotFoundError) and error.name == "gym":
        return EnvError(
            f"{what} imports 'gym', which is gymnasium now: write `import gymnasium as gym`; reset(seed, options) "
            "gives (obs, info), and step gives (obs, reward, terminated, truncated, info)"
        )
    if isinstance(error, ModuleNotFoundError):
        return EnvError(f"{what} imports '{error.name}', which is not installed: pip install {error.name}")
    if isinstance(error, Exception):
        return EnvError(f"{what} cannot be imported: {one_line(error)}")
    return error


def _member(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    target = getattr(module, name, None)
    if target is None:
        raise EnvError(f"'{where}' has no '{name}': it has {offers(module)}")
    check_member(module, target, name, where)
    return target


def offers(module: ModuleType) -> str:
    """The public classes and functions that the module itself defines, in one line."""
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(own) if own else "no class or function of its own"


def _spec(env_id: str) -> EnvSpec:
    """The spec of an id. Importing `ale_py` is what registers the Atari ids."""
    if env_id.startswith("ALE/") and env_id not in registry:
        try:
            gymnasium.register_envs(importlib.import_module("ale_py"))
        except ImportError as error:
            raise EnvError(f"'{env_id}' needs Atari: pip install ale-py") from error
    try:
        return gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        by_lower = {known.lower(): known for known in registry}
        near = [by_lower[low] for low in difflib.get_close_matches(env_id.lower(), by_lower, n=3)]
        hint = f": did you mean {' or '.join(near)}?" if near else ": it is not registered with gymnasium"
        raise EnvError(f"unknown environment id {env_id!r}{hint}") from error


def short_name(target: Callable[..., Any]) -> str:
    """module.Name of a callable; of a partial, that of what it calls."""
    target = getattr(target, "func", target)
    name = getattr(target, "__qualname__", type(target).__qualname__).rpartition("<locals>.")[2]
    module = (getattr(target, "__module__", None) or "").rpartition(".")[2]
    module = re.sub(r"^costgrad_user_(.+)_[0-9a-f]{8}$", r"\1", module)  # a user's file, as `load_file` names it
    return name if module in ("", "__main__", "builtins") else f"{module}.{name}"


def one_line(error: BaseException) -> str:
    """The exception's type and message without its line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
