"""Environments in the forms people have them in: a VectorEnv, one environment, an id, a class, a function.

`costgrad.make` gives the fastest form of an environment; what stands here is plain gymnasium, one after another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from costgrad.rl.errors import UserError

Factory = Callable[..., VectorEnv]  # make(num_envs=, seed=, render_mode=) -> VectorEnv
_ARGUMENTS = ("num_envs", "seed", "render_mode")
# Their **kwargs go to the environment: these are the arguments that they take themselves.
_GYMNASIUM = ((gymnasium.make, ("render_mode",)), (gymnasium.make_vec, ("num_envs", "render_mode")))
ALLOWED = (
    "it must be a gymnasium VectorEnv, which costgrad.make gives, an Env, an id such as 'Pendulum-v1', or a factory "
    "make(num_envs, seed, render_mode) of them"
)


def factory_of(env: Any) -> Factory | None:
    """What makes more environments like `env`.

    Args:
        env: has `.factory`; or is an id of gymnasium's, or a class or function that makes a VectorEnv, or one
            environment where it does not take `num_envs`. Arguments that it does not take are left out.
    Returns:
        make(num_envs=, seed=, render_mode=) -> VectorEnv; None for a plain VectorEnv and for a single environment.
    Raises:
        UserError: it is none of these.
    """
    factory = getattr(env, "factory", None)
    if factory is not None:
        return factory
    if isinstance(env, VectorEnv | gymnasium.Env):
        return None
    if isinstance(env, str):
        return _Many(_of_id(env), env)
    if not callable(env):
        raise UserError(f"env is a {type(env).__name__}: {ALLOWED}")
    return env if _taken(env) == _ARGUMENTS else _Many(env)


def vector_of(env: VectorEnv | gymnasium.Env) -> VectorEnv:
    """A VectorEnv as it is; a single environment as a VectorEnv of itself, which resets in the step of an ending."""
    if isinstance(env, VectorEnv):
        return env
    return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)


def check_single_spaces(agent: Any, env: VectorEnv) -> None:
    """Raises UserError where an agent was made for the spaces of a whole VectorEnv instead of one environment's."""
    codec = getattr(agent, "codec", None)
    for name in ("observation_space", "action_space"):
        given, single = getattr(codec, name, None), getattr(env, f"single_{name}")
        if given is None or given == single:
            continue
        part = next(iter(given.spaces.values()), None) if isinstance(given, gymnasium.spaces.Dict) else given
        rows = (getattr(part, "shape", None) or (0,))[0]
        if rows and given == batch_space(single, rows):
            raise UserError(f"the agent was given the {name} of {rows} environments: give it single_{name}")


class _Many:
    """A factory of VectorEnvs from one that takes fewer arguments, or makes one environment at a time."""

    def __init__(self, make: Callable[..., Any], env_id: str | None = None) -> None:
        self.make, self.env_id, self.taken = make, env_id, _taken(make)

    def __call__(self, num_envs: int, seed: int, render_mode: str | None = None) -> VectorEnv:
        """So many environments. Raises UserError where it makes something else."""
        given = {"num_envs": num_envs, "seed": seed, "render_mode": render_mode}
        given = {name: value for name, value in given.items() if name in self.taken}
        first: Any = self.make(**given)
        if isinstance(first, gymnasium.Env) and "num_envs" not in self.taken:
            rest = [{**given, "seed": seed + i} if "seed" in given else given for i in range(1, num_envs)]
            made = [first, *(self.make(**arguments) for arguments in rest)]
            if any(env is first for env in made[1:]):
                raise UserError("the factory gave the same environment twice: it must make a new one at each call")
            calls = [partial(_itself, env) for env in made]
            first = SyncVectorEnv(calls, autoreset_mode=AutoresetMode.SAME_STEP)
        if not isinstance(first, VectorEnv):
            what = f"{getattr(self.make, '__name__', 'the factory')} gave a {type(first).__name__}"
            raise UserError(f"{what}: it must be a VectorEnv, or one gymnasium.Env where it does not take num_envs")
        if self.env_id is not None:  # so that `costgrad evaluate` can make it again
            vars(first).update(name=self.env_id, env_argument=self.env_id, env_kwargs={})
        return first


def _itself(env: gymnasium.Env) -> gymnasium.Env:
    return env


def _of_id(env_id: str) -> Callable[..., gymnasium.Env]:
    """gymnasium.make of an id; UserError where there is none of that name."""

    def make(render_mode: str | None = None) -> gymnasium.Env:
        try:
            return gymnasium.make(env_id, render_mode=render_mode)
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"env {env_id!r} cannot be made: {said} (costgrad.make takes files and modules)") from error

    return make


def _taken(make: Callable[..., Any]) -> tuple[str, ...]:
    """Which of num_envs, seed and render_mode a factory takes; all of them where that cannot be known."""
    inner = make.func if isinstance(make, partial) else make
    for known, taken in _GYMNASIUM:
        if inner is known:
            return taken
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return _ARGUMENTS
    single = inspect.isclass(inner) and issubclass(inner, gymnasium.Env)
    if not single and any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return _ARGUMENTS
    return tuple(name for name in _ARGUMENTS if name in parameters)
