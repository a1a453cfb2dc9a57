"""Finds the batched form of an environment: a VectorEnv that steps all rows at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from costgrad.envs.build import accepts, check_kwargs, creator_of, guard, render_modes, with_render_mode
from costgrad.envs.load import Found
from costgrad.envs.native.base import NativeVectorEnv
from costgrad.envs.tasks.batched import BatchedTask, TaskVectorEnv
from costgrad.envs.tasks.black_box import BlackBoxEnv
from costgrad.envs.tasks.costs import is_cost_function

OTHER_STREAM = "same dynamics as single environments but another random stream"
# Modules of our batched forms of gymnasium's classes, by prefixes of their entry points.
_TWINS = {
    "gymnasium.envs.classic_control.": "costgrad.envs.native.classic",
    "gymnasium.envs.mujoco.": "costgrad.envs.native.mujoco_tasks",
}


class Native(NamedTuple):
    """A batched form of an environment, or why there is none."""

    create: Callable[[int], Any] | None  # of `num_envs`
    why: str  # description, or the reason why there is none
    declined: bool = False  # whether ours exists, but not for these arguments


def native(found: Found, env_kwargs: Mapping[str, Any], render_mode: str | None) -> Native:
    """The environment's batched form: ours, bit-equal to gymnasium's, before its own. Raises EnvError."""
    if isinstance(found.target, EnvSpec) and (task := twin(found.target)) is not None:
        return _equal(task, found.target, dict(env_kwargs), render_mode)
    create, why = _own(found, dict(env_kwargs), render_mode)
    return Native(create, why if create is None else f"{why}, {OTHER_STREAM}")


def twin(spec: EnvSpec) -> type[NativeVectorEnv] | None:
    """Our batched form of the gymnasium class of an id; None if the class is not gymnasium's."""
    point = spec.entry_point
    if not isinstance(point, str):
        point = f"{getattr(point, '__module__', '')}:{getattr(point, '__qualname__', '')}"
    for prefix, module in _TWINS.items():
        if point.startswith(prefix):
            tasks = vars(importlib.import_module(module)).values()
            return next((task for task in tasks if getattr(task, "entry_point", None) == point), None)
    return None


def _equal(task: type[NativeVectorEnv], spec: EnvSpec, kwargs: dict[str, Any], render_mode: str | None) -> Native:
    """The batched form that is bit-equal to SyncVectorEnv; declined if it cannot be."""
    creator = guard(spec.id, creator_of, spec.entry_point)
    check_kwargs(spec.id, creator, kwargs)
    limit = kwargs.pop("max_episode_steps", None)
    limit = spec.max_episode_steps if limit is None else limit
    kwargs = spec.kwargs | kwargs
    no = "its id has wrappers" if spec.additional_wrappers else task.declines(kwargs)
    if render_mode == "human" or (render_mode is not None and render_mode not in render_modes(creator)):
        no = f"it does not render '{render_mode}'"
    if limit is not None and (not isinstance(limit, int) or (limit < 1 and limit != -1)):
        no = f"max_episode_steps={limit!r}"
    if no is not None:
        return Native(None, f"not the native {task.__name__}: {no}", declined=True)
    more: dict[str, Any] = {"max_episode_steps": None if limit == -1 else limit, "render_mode": render_mode}

    def create(num_envs: int) -> VectorEnv:
        made: VectorEnv = guard(spec.id, task, num_envs, **more, **kwargs)
        made.spec = spec
        return made

    return Native(create, f"batched {task.__name__}, bit-equal to gymnasium's")


def _own(found: Found, kwargs: dict[str, Any], render_mode: str | None) -> tuple[Any, str]:
    """The batched form that comes with the environment, with a description or the reason why there is none.

    Raises:
        EnvError: its class cannot be loaded, or does not take the arguments.
    """
    target, name = found
    if isinstance(target, EnvSpec):
        if target.vector_entry_point is None:
            return None, f"{name} has no batched form of its own"
        if target.additional_wrappers:
            return None, f"the batched {name} cannot take the wrappers of its id"
        if target.entry_point is not None:
            check_kwargs(name, guard(name, creator_of, target.entry_point), kwargs)
        creator = guard(name, creator_of, target.vector_entry_point)
        refused = [key for key in kwargs if key != "max_episode_steps" and not accepts(creator, key)]
        if refused:
            return None, f"the batched {name} does not take {', '.join(refused)}"
        if render_mode is not None and render_mode not in render_modes(creator):
            return None, f"the batched {name} does not render '{render_mode}'"
        if render_mode is not None:
            kwargs["render_mode"] = render_mode
        make_vec = partial(gymnasium.make_vec, target, vectorization_mode="vector_entry_point", **kwargs)
        return (lambda n: guard(name, make_vec, num_envs=n)), _label(creator)
    if is_cost_function(target, kwargs):
        if not (kwargs.get("batched") or getattr(target, "batched", False)):
            return None, f"{name} takes one action at a time (batched=True if it takes [N, A])"
        kwargs |= {"cost_fn": target, "render_mode": render_mode}
        return (lambda n: guard(name, TaskVectorEnv, BlackBoxEnv, num_envs=n, **kwargs)), "a batched cost function"
    if isinstance(target, type) and issubclass(target, BatchedTask):
        check_kwargs(name, target, kwargs)
        kwargs |= {"render_mode": render_mode} if render_mode else {}
        return (lambda n: guard(name, TaskVectorEnv, target, num_envs=n, **kwargs)), f"batched {name}"
    if accepts(target, "num_envs", by_name=True):
        kwargs = with_render_mode(target, name, kwargs, render_mode)
        return (lambda n: guard(name, target, num_envs=n, **kwargs)), f"{name} takes num_envs itself"
    return None, f"{name} makes one environment at a time"


def _label(creator: Any) -> str:
    creator = getattr(creator, "func", creator)
    return getattr(creator, "__name__", type(creator).__name__)
