"""What a name may lead to: an environment's class, or a factory or cost function that is defined where the name says.

`os:system` is none of these, nor is a function that a module merely imports.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from costgrad.envs.errors import EnvError

ALLOWED = "it must be an Env class, or a factory or cost function that is defined there"


def check_member(module: ModuleType, target: Any, name: str, where: str) -> None:
    """Refuses, before it is called, what is no environment.

    Args:
        module: where the name was looked up.
        target: what it led to.
        name: of the target, for people.
        where: the module's name or its file's path, for people.
    Raises:
        EnvError: it is no callable; a class that is no environment; or it was defined elsewhere: in another package, or
            for a file in any other. A class of environments may come from anywhere.
    """
    what = f"'{name}' in '{where}' is"
    if not callable(target):
        raise EnvError(f"{what} {target!r}: it must be an Env class, a factory or a cost function")
    if is_env_class(target):
        return
    if isinstance(target, type):
        raise EnvError(f"{what} the class {target.__module__}.{target.__qualname__}, no gymnasium.Env: {ALLOWED}")
    if not (_is_marked(target) or _defined_in(module, target)):
        raise EnvError(f"{what} a {type(target).__name__} of {_home(target) or 'nowhere'}: {ALLOWED}")


def is_env_class(target: Any) -> bool:
    """Whether it is a class of environments, single or batched."""
    return isinstance(target, type) and issubclass(target, gymnasium.Env | VectorEnv)


def _is_marked(target: Any) -> bool:
    """Whether somebody declared it a cost function, with action bounds (envs/tasks/costs.py)."""
    return {"low", "high"} <= getattr(target, "__dict__", {}).keys()


def _defined_in(module: ModuleType, target: Any) -> bool:
    """Whether a function, an instance's class, or what a partial calls is of the module's package.

    A package may offer in one module what it defines in another. gymnasium's `make` with its id makes an environment.
    """
    if isinstance(target, functools.partial):
        call = target.func
        return call in (gymnasium.make, gymnasium.make_vec) or is_env_class(call) or _defined_in(module, call)
    return _home(target).partition(".")[0] == module.__name__.partition(".")[0]


def _home(target: Any) -> str:
    """The module in which it is defined; that of what is decorated, where the decorator keeps it."""
    if inspect.ismethod(target):
        target = target.__func__
    home = getattr(target, "__module__", None)
    return home if isinstance(home, str) else ""
