"""A plain Python cost function as an environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from costgrad.envs.errors import EnvError
from costgrad.envs.load import one_line, short_name
from costgrad.envs.tasks.batched import Array, BatchedTask, Transition
from costgrad.envs.tasks.costs import MARKS, Source, bounds, sampler


class BlackBoxEnv(BatchedTask):
    """A cost function as an environment: reward = -cost. It has three forms, each `steps` calls long.

    - `cost_fn(action) -> cost`: obs is a constant 0 of shape [1];
    - with `context`: `cost_fn(context, action) -> cost`: obs is the context, drawn anew for each call;
    - with `start`: `cost_fn(state, action) -> (next_state, cost)` or `(next_state, cost, terminated)`: obs is the
      state, the first one drawn from `start`.

    Without `start` the calls are independent, and the last one terminates the episode; with `start` the last one
    truncates it. A cost function gets no random generator: for noise it uses its own.
    """

    def __init__(
        self,
        cost_fn: Callable[..., Any],
        low: Any = None,
        high: Any = None,
        context: Source | None = None,
        start: Source | None = None,
        steps: int | None = None,
        batched: bool | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Arguments that are None are taken from the attributes that `cost_function` set on `cost_fn`.

        Args:
            cost_fn: gets float64 arrays, action [A] within its bounds and context or state [S]; returns a number.
            low: lower bounds of the action in its own units, [A] or a number.
            high: upper bounds; low and high are broadcast against each other.
            context: a Box, a pair (low, high) to draw from uniformly, or a function `sample(rng) -> [S]`.
            start: the same for initial states.
            steps: calls in an episode, 1 unless given; must be given with `start`.
            batched: whether `cost_fn` takes [N, A] (and [N, S]) and returns [N] (and [N, S]).
            render_mode: only None.
        Raises:
            EnvError: bounds are missing or reversed, both context and start are given, or `steps` is missing.
        """
        self.cost_fn, self.label = cost_fn, f"cost function {short_name(cost_fn)}"
        given = dict(zip(MARKS, (low, high, context, start, steps, batched), strict=True))
        for key, value in given.items():
            given[key] = getattr(cost_fn, key, None) if value is None else value
        if render_mode is not None:
            raise EnvError(f"{self.label} cannot render '{render_mode}': it has no picture")
        if given["context"] is not None and given["start"] is not None:
            raise EnvError(f"{self.label} has both context and start: only one of them may be given")
        if given["start"] is not None and given["steps"] is None:
            raise EnvError(f"{self.label} has start but no steps: say how many calls make an episode, as in steps=100")
        self.low, self.high = bounds(self.label, given["low"], given["high"])
        self.stateful, self.batched = given["start"] is not None, bool(given["batched"])
        self.horizon, self.horizon_terminates = 1 if given["steps"] is None else given["steps"], not self.stateful
        if not isinstance(self.horizon, int) or self.horizon < 1:
            raise EnvError(f"{self.label} has steps={self.horizon!r}: it must be a whole number of at least 1")
        source = given["start"] if self.stateful else given["context"]
        self.blind = source is None
        self.observation_space, self._sample = sampler(self.label, source, self.stateful)
        self.action_space = Box(self.low.astype(np.float32), self.high.astype(np.float32))

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """Draws n contexts or initial states, [n, S]."""
        return self._sample(rng, n)

    def observe(self, state: Array) -> Array:
        """[n, S] float32."""
        return state.astype(np.float32)

    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """Calls `cost_fn`, once where it is batched, else once a row. Raises EnvError, see `_call` and `_finite`."""
        # float32 rounding may move an action beyond the bounds, where e.g. a logarithm is undefined.
        action = np.clip(action.astype(np.float64), self.low, self.high)
        n = len(action)
        if self.batched:
            next_state, cost, terminated = self._unpack(self._call(state, action), (n,), state, action)
        else:
            rows = [self._unpack(self._call(state[i], action[i]), (), state[i], action[i]) for i in range(n)]
            next_state, cost, terminated = (np.stack(column) for column in zip(*rows, strict=True))
        if not self.stateful and self.horizon != 1:
            next_state = self._sample(rng, n)
        return next_state, -cost, terminated

    def _call(self, state: Array, action: Array) -> Any:
        try:
            return self.cost_fn(action.copy()) if self.blind else self.cost_fn(state.copy(), action.copy())
        except Exception as error:
            raise EnvError(f"{self.label} raised {one_line(error)} for action {action.tolist()}") from error

    def _unpack(self, result: Any, rows: tuple[int, ...], state: Array, action: Array) -> Transition:
        """next_state [*rows, S], cost [*rows], terminated [*rows] of the result of `cost_fn`; rows is () or (n,)."""
        terminated: Any = np.zeros(rows, dtype=np.bool_)
        if self.stateful:
            if not isinstance(result, tuple) or len(result) not in (2, 3):
                raise EnvError(f"{self.label} returned {result!r}: with start it must return (next_state, cost)")
            next_state = self._finite(result[0], "next state", state.shape, action)
            if len(result) == 3:
                terminated = self._finite(result[2], "terminated", rows, action) != 0
            result = result[1]
        else:
            next_state = state
        return next_state, self._finite(result, "cost", rows, action), terminated

    def _finite(self, value: Any, what: str, shape: tuple[int, ...], action: Array) -> Array:
        """The value as finite float64 of this shape. Raises EnvError if it is not."""
        try:
            array = np.asarray(value, dtype=np.float64)
            if value is None:  # NumPy would convert None to NaN
                raise TypeError("no return value")
        except (TypeError, ValueError) as error:
            raise EnvError(f"{self.label} returned {value!r} as its {what}: it must be a number") from error
        if array.shape != shape:
            if shape == () and array.size == 1:
                array = array.reshape(())
            else:
                raise EnvError(f"{self.label} returned a {what} of shape {array.shape}: it must be {shape}")
        finite = np.isfinite(array)
        if not finite.all():
            i = int(np.argmin(finite.reshape(len(array), -1).all(1))) if self.batched else ...
            raise EnvError(f"{self.label} returned {what} {array[i]} for action {action[i].tolist()}")
        return array
