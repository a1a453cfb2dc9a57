"""The decorator `cost_function`: marks a function as a cost, with action bounds and a source of contexts or states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from gymnasium.spaces import Box

from costgrad.envs.errors import EnvError
from costgrad.envs.tasks.batched import Array

Sampler = Callable[[np.random.Generator], Any]
Source = Box | Sampler | tuple[Any, Any] | list[Any]  # of contexts or initial states
_Function = TypeVar("_Function", bound=Callable[..., Any])
MARKS = ("low", "high", "context", "start", "steps", "batched")


def cost_function(
    low: Any,
    high: Any,
    context: Source | None = None,
    start: Source | None = None,
    steps: int | None = None,
    batched: bool = False,
) -> Callable[[_Function], _Function]:
    """Marks a function as a cost function; the arguments are those of `BlackBoxEnv`. It can still be called.

    ```python
    @cost_function(low=[-1, 0], high=[3, 2])
    def bowl(action):
        return ((action - 0.5) ** 2).sum()
    ```
    """

    def mark(function: _Function) -> _Function:
        for key, value in zip(MARKS, (low, high, context, start, steps, batched), strict=True):
            setattr(function, key, value)
        return function

    return mark


def is_cost_function(target: Any, env_kwargs: Mapping[str, Any]) -> bool:
    """Whether a callable is a cost function rather than a factory.

    It is one if it has bounds (`low` or `high`), or a required positional argument, its action, that is not in
    `env_kwargs`. A class never is.
    """
    if isinstance(target, type) or not callable(target):
        return False
    if hasattr(target, "low") or hasattr(target, "high"):
        return True
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return "low" in env_kwargs
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("num_envs", "render_mode", *env_kwargs)
        for parameter in parameters
    )


def bounds(label: str, low: Any, high: Any) -> tuple[Array, Array]:
    """The action bounds as float64 arrays [A], [A].

    Args:
        label: whose bounds they are, for error messages.
        low: [A] or a number, broadcast against `high`.
        high: [A] or a number.
    Raises:
        EnvError: a bound is missing, not finite or of a wrong shape, or low is not below high.
    """
    if low is None or high is None:
        raise EnvError(
            f"{label} has no action bounds: write @cost_function(low=..., high=...) above it (from "
            f"costgrad import cost_function), or give low and high in env_kwargs"
        )
    pair = _pair(label, low, high, "action")
    if not all(np.isfinite(bound).all() for bound in pair):
        raise EnvError(f"{label} has action bounds {low} and {high}: both must be finite")
    return pair


def _pair(label: str, low: Any, high: Any, what: str) -> tuple[Array, Array]:
    try:
        pair = np.broadcast_arrays(np.atleast_1d(np.asarray(low, float)), np.atleast_1d(np.asarray(high, float)))
    except (TypeError, ValueError) as error:
        raise EnvError(f"{label} has {what} bounds {low} and {high}: both must be [A] or a number") from error
    # A fixed initial state is fine, but an action with a single value is a mistake.
    ordered = pair[0] < pair[1] if what == "action" else pair[0] <= pair[1]
    if pair[0].ndim != 1 or not ordered.all():
        raise EnvError(f"{label} has {what} bounds {low} and {high}: low must be below high, both [A]")
    return pair[0].copy(), pair[1].copy()


def sampler(
    label: str, source: Source | None, stateful: bool
) -> tuple[Box, Callable[[np.random.Generator, int], Array]]:
    """The obs space and a function `sample(rng, n) -> [n, S]` of contexts or, if `stateful`, of initial states.

    Raises:
        EnvError: `source` is not None, a Box, a pair (low, high) or a function; or has infinite bounds.
    """
    if source is None:
        return Box(0.0, 1.0, (1,)), lambda rng, n: np.zeros((n, 1))
    if callable(source):
        shape = np.atleast_1d(np.asarray(source(np.random.default_rng(0)), dtype=float)).shape
        draw: Sampler = source
        return Box(-np.inf, np.inf, shape), lambda rng, n: np.stack(
            [np.atleast_1d(np.asarray(draw(rng), dtype=float)) for _ in range(n)]
        )
    low, high = (source.low, source.high) if isinstance(source, Box) else _two(label, source)
    low, high = _pair(label, low, high, "start" if stateful else "context")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise EnvError(f"{label} cannot draw uniformly between {low} and {high}: give a function sample(rng)")
    # A state may leave its initial bounds; a context stays within.
    space = Box(-np.inf, np.inf, low.shape) if stateful else Box(low.astype("f4"), high.astype("f4"))
    return space, lambda rng, n: rng.uniform(low, high, (n, len(low)))


def _two(label: str, source: Any) -> tuple[Any, Any]:
    if isinstance(source, (tuple, list)) and len(source) == 2:
        return source[0], source[1]
    raise EnvError(f"{label} has context or start {source!r}: it must be (low, high), a Box or sample(rng)")
