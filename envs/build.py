"""From a found class, factory, id or cost function to one environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import DependencyNotInstalled

from costgrad.envs.checked import CheckedEnv
from costgrad.envs.errors import EnvError
from costgrad.envs.load import find, one_line
from costgrad.envs.tasks.black_box import BlackBoxEnv
from costgrad.envs.tasks.costs import is_cost_function

_ENGINE_ARGUMENTS = ("num_envs", "render_mode")  # ours to fill in, never required of env_kwargs
_PIP_NAMES = {"mujoco": "mujoco", "Box2D": "'gymnasium[box2d]'", "pygame": "pygame", "ale_py": "ale-py"}


@dataclass(frozen=True)
class Builder:
    """Makes one environment. It pickles: a worker process that gets it finds the environment by its name again."""

    env: str | Callable[..., Any]
    env_kwargs: Mapping[str, Any]
    render_mode: str | None

    def __call__(self) -> gymnasium.Env:
        """One environment, its TimeLimit and other wrappers kept.

        Raises:
            EnvError: arguments are not accepted, a package or a space is missing, or the constructor raises.
        """
        made = self.any()
        name = find(self.env).name
        if isinstance(made, gymnasium.Env):
            for kind in ("observation_space", "action_space"):
                if not isinstance(space := getattr(made, kind, None), gymnasium.Space):
                    raise EnvError(f"{name} has {kind} {space!r}: it must be a gymnasium.Space, set in __init__")
            return CheckedEnv(made, name)
        raise EnvError(
            f"{name} returned a {type(made).__name__}: it must be a gymnasium.Env (a factory returns "
            f"an environment; a cost function takes its action as an argument and needs bounds)"
        )

    def any(self) -> Any:
        """Whatever the class, factory or id gives without `num_envs`."""
        target, name = find(self.env)
        kwargs = dict(self.env_kwargs)
        if isinstance(target, EnvSpec):
            creator = guard(name, creator_of, target.entry_point)
            kwargs = with_render_mode(creator, name, kwargs, self.render_mode)
            made = guard(name, partial(gymnasium.make, target, disable_env_checker=True, **kwargs))
            return _check_rendered(made, name, self.render_mode)
        if is_cost_function(target, kwargs):
            target = partial(BlackBoxEnv, target)
        known = accepts(target, "max_episode_steps", by_name=True)  # what **kwargs do with it is not known
        limit = None if known else kwargs.pop("max_episode_steps", None)
        made = guard(name, partial(target, **with_render_mode(target, name, kwargs, self.render_mode)))
        if limit is not None and isinstance(made, gymnasium.Env):
            made = guard(name, gymnasium.wrappers.TimeLimit, made, limit)
        elif limit is not None:
            raise EnvError(
                f"{name} gives a {type(made).__name__} and does not take max_episode_steps: {limit!r} is lost"
            )
        return _check_rendered(made, name, self.render_mode)


def guard(name: str, call: Callable[..., Any], *args: Any, fails: str = "cannot be made", **kwargs: Any) -> Any:
    """Calls user code; whatever it raises becomes one line about `name`, with the cause chained.

    Raises:
        EnvError: instead of any exception; a missing package is named with the `pip install` that helps.
    """
    try:
        return call(*args, **kwargs)
    except EnvError:
        raise
    except DependencyNotInstalled as error:
        raise EnvError(f"{name} needs a package that is not installed: {' '.join(str(error).split())}") from error
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise EnvError(
            f"{name} needs '{missing}', which is not installed: pip install {_PIP_NAMES.get(missing, missing)}"
        ) from error
    except Exception as error:
        raise EnvError(f"{name} {fails}: {one_line(error)}") from error


def accepts(target: Callable[..., Any], key: str, by_name: bool = False) -> bool:
    """Whether `target(key=...)` fits its signature; `by_name` asks for the name itself, so that **kwargs won't do."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return not by_name
    return key in parameters or (
        not by_name and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    )


def with_render_mode(
    target: Callable[..., Any], name: str, kwargs: dict[str, Any], render_mode: str | None
) -> dict[str, Any]:
    """The arguments for a user's class or factory, checked, with `render_mode` where it is asked for and taken."""
    check_kwargs(name, target, kwargs)
    if render_mode is None:
        return kwargs
    if not accepts(target, "render_mode"):
        raise EnvError(f"{name} cannot render: it takes no render_mode (add render_mode=None to its arguments)")
    return kwargs | {"render_mode": render_mode}


def check_kwargs(name: str, target: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """`max_episode_steps` is always taken: where the target does not know it, a TimeLimit does."""
    refused = [key for key in kwargs if key != "max_episode_steps" and not accepts(target, key)]
    if refused:
        known = [key for key in inspect.signature(target).parameters if key not in _ENGINE_ARGUMENTS]
        known = known if "max_episode_steps" in known else [*known, "max_episode_steps"]
        raise EnvError(f"{name} does not take {', '.join(refused)}: it takes {', '.join(known)}")


def _check_rendered(made: Any, name: str, render_mode: str | None) -> Any:
    """An environment that merely ignores its render mode would fail at the first frame, far from here."""
    if render_mode is not None and isinstance(made, gymnasium.Env):
        modes = render_modes(made)
        if render_mode not in modes:
            made.close()
            raise EnvError(f"{name} cannot render '{render_mode}': it has {', '.join(modes) or 'no render modes'}")
    return made


def render_modes(target: Any) -> list[str]:
    """Those that an environment or its class declares."""
    metadata = getattr(target, "metadata", None)
    return list(metadata.get("render_modes") or []) if isinstance(metadata, dict) else []


def creator_of(entry_point: Any) -> Callable[..., Any]:
    """The class or function that an EnvSpec names or holds."""
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
