"""Any environment as one gymnasium VectorEnv: the only place that turns a name into environments."""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from costgrad.envs.backend import choose
from costgrad.envs.build import Builder, guard
from costgrad.envs.checked import CheckedVectorEnv
from costgrad.envs.errors import EnvError
from costgrad.envs.forms import OTHER_STREAM, Native, native
from costgrad.envs.load import Found, find, one_line
from costgrad.envs.native.base import NativeVectorEnv
from costgrad.envs.native.pool import PoolVectorEnv
from costgrad.envs.recipe import Recipe, recipe_of
from costgrad.envs.snapshot import method_for, put, take
from costgrad.envs.tasks.batched import TaskVectorEnv
from costgrad.envs.tasks.black_box import BlackBoxEnv
from costgrad.envs.tasks.costs import is_cost_function
from costgrad.envs.tasks.goals import FUNCTIONS, goal_function
from costgrad.envs.workers import WorkerVectorEnv

BACKENDS = ("auto", "native", "sync", "async", "envpool")
ON_ENV_ERROR = ("stop", "restart")


class MadeEnv(VectorWrapper):
    """N environments and how they came about. Attributes that it lacks are those of the VectorEnv inside.

    Of environments with goals, `compute_reward` and `compute_terminated` are there (envs/tasks/goals.py).
    """

    name: str  # short, fit for a file's name: "CartPole-v1", "my_env.MyEnv"
    backend: str  # "native", "sync", "async" or "envpool"
    backend_reason: str  # one line for people
    initial_seed: int
    env_argument: str | None  # what a run folder needs to make it again; None where it came as a Python object
    env_kwargs: dict[str, Any]
    env_file: dict[str, str] | None  # path and sha256 of the file that it is from
    env_timeout: float | None = None  # seconds

    def __init__(
        self,
        env: VectorEnv,
        name: str,
        backend: tuple[str, str],
        seed: int,
        recipe: Recipe,
        again: Callable[[int, int, str | None], MadeEnv],
        single: Callable[[], gymnasium.Env] | None = None,
    ) -> None:
        super().__init__(env)
        self.name = re.sub(r"[^\w.-]+", "_", name).strip("_")
        self.backend, self.backend_reason = backend
        self.initial_seed = seed
        self.env_argument, self.env_kwargs, self.env_file = self._recipe = recipe
        self._again, self._single, self._alone = again, single, list[gymnasium.Env]()
        self._method: tuple[str | None, str, int] | None = None
        self.action_space.seed(seed)

    @property
    def env_stamp(self) -> str | None:
        """This user's signature of the three entries above, where they name code; None without (envs/recipe.py)."""
        return self._recipe.signature()

    def factory(self, num_envs: int, seed: int, render_mode: str | None = None) -> MadeEnv:
        """The same environment in another number, with another seed or render mode. Raises EnvError."""
        return self._again(num_envs, seed, render_mode)

    def why_not_exact(self) -> str:
        """Why a run that goes on has to start new episodes; "" where `snapshot` saves these ones.

        The first call may make and step two such environments, which are thrown away.
        """
        if self._method is None:
            self._method = self._find_method()
        return self._method[1]

    def snapshot(self) -> dict[str, Any]:
        """The full state, as numbers, text, arrays and bytes, for `restore` of others that are made alike.

        Raises:
            EnvError: it cannot be saved, or not exactly.
        """
        if reason := self.why_not_exact():
            raise EnvError(f"{self.name} cannot be saved: {reason}")
        assert self._method is not None and self._method[0] is not None
        try:
            return take(self, self._method[0])
        except EnvError:
            raise
        except Exception as error:  # whatever the user's own classes raise
            raise EnvError(f"{self.name} cannot be saved: {one_line(error)}") from error

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a `snapshot`, after a reset.

        Raises:
            EnvError: it was not saved by this user on this machine, or does not fit.
        """
        put(self, snapshot)

    @property
    def steps_tried(self) -> int:
        """Environment steps that `why_not_exact` took to try a copy out."""
        return 0 if self._method is None else self._method[2]

    def _find_method(self) -> tuple[str | None, str, int]:
        if self.backend == "envpool":
            return None, "envpool does not give its state", 0
        if _is_own(self.env) and not isinstance(getattr(self.env, "task", None), BlackBoxEnv):
            return "data", "", 0
        if self._single is None:
            return None, "environments like these ready ones cannot be made again", 0
        if self.backend in ("sync", "async"):
            return method_for(self._single)
        method, reason, steps = method_for(lambda: self.factory(self.num_envs, 0))
        return method, reason, steps * self.num_envs

    def close(self, **kwargs: Any) -> None:
        """Closes all of them."""
        for env in self._alone:
            env.close()
        super().close(**kwargs)

    def _one(self) -> gymnasium.Env | None:
        """One of them in this process, made where it is first asked for."""
        if not self._alone and self._single is not None:
            self._alone.append(self._single())
        return self._alone[0] if self._alone else None

    def __getattr__(self, key: str) -> Any:
        if key == "env":  # not there yet: without this, copying an unfinished object would never end
            raise AttributeError(key)
        if key in FUNCTIONS:
            return goal_function(self.env, key, self._one)
        return getattr(self.env, key)


def make(
    env: str | Callable[..., Any] | VectorEnv,
    num_envs: int = 8,
    seed: int = 0,
    render_mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    backend: str = "auto",
    env_timeout: float | None = None,
    on_env_error: str = "stop",
) -> MadeEnv:
    """Makes `num_envs` environments that step together.

    Args:
        env: one of
            - a gymnasium id, "CartPole-v1", or "module:Id-v0", where importing the module registers the id;
            - "module:Name" or "path/to/file.py:Name", or from Python the object itself: a gymnasium.Env class, a
              VectorEnv class, a factory (a function that returns either) or a cost function. A function is a cost
              function if it carries action bounds (`envs.cost_function`) or has a required argument: its action.
              A factory can be called without arguments, beyond `num_envs` and `render_mode` where it takes them;
            - a VectorEnv, taken as it is: `num_envs`, `env_kwargs` and `backend` say nothing then.
        num_envs: how many, at least 1.
        seed: of the action space, and `initial_seed` for whoever resets: `reset(seed=s)` starts environment i from
            s + i, except in a batched form of a user's or a package's own, where one stream may serve all.
        render_mode: as in gymnasium, "rgb_array" or "human".
        env_kwargs: arguments of the environment; `max_episode_steps` works for every environment.
        backend: "sync" steps one after another, "async" in one process each: both give the same numbers.
            "native" steps all at once. For gymnasium's classic control (envs/native/classic.py) and MuJoCo
            (envs/native/mujoco_tasks.py) it gives the same numbers as well, per-environment seeds, autoreset and `info`
            included, and keeps `get_state`; for costgrad's own tasks, and where a user or a package brings a batched
            form, it is the same dynamics with another random stream. `backend_reason` says which. "envpool" has its
            own numbers (envs/native/pool.py). "auto" takes native where there is one, else measures a few steps:
            async where a step is so slow that sharing it among the cores wins more than the ~500 us that the processes
            add (`async_pays` in envs/backend.py), else sync. The measured steps (two or more) are taken on an
            environment that is thrown away. In async, user code runs in other processes: what it leaves in global
            variables stays there.
        env_timeout: seconds within which an environment must answer, in async; None only names one that has not
            answered for 60 s. Elsewhere `train` names it, for this process cannot be restarted (rl/runs/watch.py).
        on_env_error: what is done with an environment that does not answer in time, raises or dies: "stop" raises
            EnvError; "restart" starts its process again (async, which "auto" takes then), see envs/workers.py.
    Returns:
        the environments, with `remake`, `name`, `backend`, `backend_reason`, `initial_seed`. Sync, async and our own
        native ones reset an ended episode in the same step (gymnasium's SAME_STEP, last obs in `info["final_obs"]`),
        others as `metadata["autoreset_mode"]` says.
    Raises:
        EnvError: one line that says what is wrong and what is allowed.
    """
    if isinstance(env, MadeEnv):
        return env
    if isinstance(env, VectorEnv):
        given, name = ("native", f"given as a ready {type(env).__name__}"), type(env).__name__
        return MadeEnv(_checked(env, name), name, given, seed, recipe_of(env, {}), _cannot_remake)
    _check_arguments(num_envs, seed, env_kwargs, backend)
    _check_failing(env_timeout, on_env_error, backend)
    _prepare_display(render_mode)
    found, kwargs = find(env), dict(env_kwargs or {})
    builder = Builder(env, kwargs, render_mode)
    form = native(found, kwargs, render_mode)
    restart = on_env_error == "restart"
    if form.create is None and (ready := _ready_vector(builder)) is not None:
        form = Native(lambda n: ready, f"{found.name} returns a VectorEnv, {OTHER_STREAM}")
    if backend == "native" and form.create is None:
        raise EnvError(f"backend 'native' is not there: {form.why}; use auto, sync or async")
    chosen, reason = backend, "as asked"
    if restart and backend == "auto":
        chosen, reason = "async", "on_env_error restart needs processes"
    if form.create is not None and chosen in ("auto", "native"):
        chosen, reason = "native", form.why
        made = form.create(num_envs)
        if not isinstance(made, VectorEnv) or made.num_envs != num_envs:
            size = f"{type(made).__name__} of {getattr(made, 'num_envs', 'unknown')} environments"
            raise EnvError(f"{found.name} returned a {size}: it must be a VectorEnv of num_envs={num_envs}")
        reason += f" ({made.engine})" if isinstance(made, NativeVectorEnv) and made.engine else ""
        made = _checked(made, found.name)
    elif backend == "envpool":
        made, reason = _pool(builder, found, num_envs, seed), "as asked, numbers and random streams of its own"
    else:
        if chosen == "auto":
            chosen, reason = choose(builder, num_envs, seed)
            reason += f"; {form.why}" if form.declined else ""
        made = _vectorize(builder, num_envs, chosen, found.name, env_timeout, restart)
    if env_timeout is not None and chosen != "async":
        reason += f"; one that hangs is named after {env_timeout:g} s, but only backend async can end or restart it"

    def again(num_envs: int, seed: int, render_mode: str | None) -> MadeEnv:
        same, failing = chosen, on_env_error
        if render_mode is not None or (chosen == "async" and num_envs == 1 and env_timeout is None and not restart):
            same, failing = "sync" if chosen in ("sync", "async") else "auto", "stop"
        return make(env, num_envs, seed, render_mode, kwargs, same, env_timeout, failing)

    recipe = recipe_of(env, kwargs)
    ready_env = MadeEnv(made, found.name, (chosen, f"{chosen}: {reason}"), seed, recipe, again, builder)
    ready_env.env_timeout = env_timeout
    return ready_env


def _vectorize(
    builder: Builder, num_envs: int, backend: str, name: str, timeout: float | None, restart: bool
) -> VectorEnv:
    if backend == "async":
        return guard(name, WorkerVectorEnv, builder, num_envs, timeout, restart)
    made: list[gymnasium.Env] = []

    def kept() -> gymnasium.Env:
        made.append(builder())
        return made[-1]

    try:
        return guard(name, SyncVectorEnv, [kept] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    except EnvError:
        for env in made:  # there may be room for so many and no more
            env.close()
        raise


def _checked(env: VectorEnv, name: str) -> VectorEnv:
    """A batch with what stands between, where it is not one of ours."""
    return env if _is_own(env) else CheckedVectorEnv(env, name)


def _is_own(env: VectorEnv) -> bool:
    task = isinstance(env, TaskVectorEnv) and type(env.task).__module__.startswith(f"{__package__}.")
    return task or isinstance(env, NativeVectorEnv)


def _pool(builder: Builder, found: Found, num_envs: int, seed: int) -> VectorEnv:
    if not isinstance(found.target, EnvSpec):
        raise EnvError(f"backend 'envpool' knows ids only, not {found.name}; use auto, sync or async")
    if builder.render_mode is not None:
        raise EnvError("backend 'envpool' does not render; use auto or sync")
    single = builder()  # its spaces, and it checks the arguments
    try:
        return PoolVectorEnv(found.name, single, num_envs, seed, builder.env_kwargs)
    finally:
        single.close()


def _ready_vector(builder: Builder) -> VectorEnv | None:
    """The VectorEnv of a factory that fixes its own number of environments; None where it makes single ones."""
    target = find(builder.env).target
    if not inspect.isfunction(target) or is_cost_function(target, builder.env_kwargs):
        return None
    made = builder.any()
    if isinstance(made, VectorEnv):
        return made
    if isinstance(made, gymnasium.Env):
        made.close()
    return None


def _check_arguments(num_envs: Any, seed: Any, env_kwargs: Any, backend: Any) -> None:
    if not isinstance(num_envs, int) or isinstance(num_envs, bool) or num_envs < 1:
        raise EnvError(f"num_envs is {num_envs!r}: it must be a whole number of at least 1")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise EnvError(f"seed is {seed!r}: it must be a whole number of at least 0")
    if env_kwargs is not None and not (isinstance(env_kwargs, Mapping) and all(isinstance(k, str) for k in env_kwargs)):
        raise EnvError(f"env_kwargs is {env_kwargs!r}: it must map names to values, as in {{'gravity': 9.81}}")
    if backend not in BACKENDS:
        raise EnvError(f"backend is {backend!r}: it must be one of {', '.join(BACKENDS)}")


def _check_failing(env_timeout: Any, on_env_error: Any, backend: str) -> None:
    fits = isinstance(env_timeout, int | float) and not isinstance(env_timeout, bool) and 0 < env_timeout < math.inf
    if env_timeout is not None and not fits:
        raise EnvError(f"env_timeout is {env_timeout!r}: it must be a number of seconds above 0, or None")
    if on_env_error not in ON_ENV_ERROR:
        raise EnvError(f"on_env_error is {on_env_error!r}: it must be one of {', '.join(ON_ENV_ERROR)}")
    if on_env_error == "restart" and backend not in ("auto", "async"):
        raise EnvError(
            f"on_env_error 'restart' needs backend async, not {backend}: an environment in the process that trains "
            "cannot be restarted"
        )


def _prepare_display(render_mode: str | None) -> None:
    """Without a display pygame needs its dummy driver and MuJoCo an off-screen one, both before they are imported."""
    if render_mode is None or not sys.platform.startswith("linux"):
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "osmesa")


def _cannot_remake(num_envs: int, seed: int, render_mode: str | None) -> MadeEnv:
    raise EnvError(
        f"a ready VectorEnv cannot be made again with num_envs={num_envs}: give make a factory that takes num_envs"
    )
