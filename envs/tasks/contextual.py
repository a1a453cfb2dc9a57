"""A staircase that asks for another action in every context, in as many dimensions as one likes."""

from __future__ import annotations

import numpy as np

from costgrad.envs.errors import EnvError
from costgrad.envs.tasks.batched import Array

CONTEXT = 4  # numbers in a context
STAIR = 0.02  # height of a stair; the mean cost of doing nothing lies about 50 of them above the lowest
BEST_COST = 1.0


class ContextualStairs:
    """1 + the squared distance of the action from what the context wants, in stairs; its gradient is 0 or none.

        target(x) = tanh(W x),   W [A, 4] ~ N(0, 1/2)
        distance  = |P (a - target(x))|^2 / E_x |P target(x)|^2
        cost      = 1 + STAIR floor(distance / STAIR)

    The best cost is 1 in every context, that of a = target(x), which a linear policy behind tanh attains. Doing nothing
    costs about 2 whatever the dimension. P [r, A] has orthonormal rows: r is how many dimensions of the action matter.

    Args:
        dimension: A, of the action.
        intrinsic: r; None is all of them.
        seed: of W and P.

    Raises:
        EnvError: an argument out of its range.
    """

    steps, batched, start = 1, True, None

    def __init__(self, dimension: int, intrinsic: int | None = None, seed: int = 0) -> None:
        if dimension < 1:
            raise EnvError(f"ContextualStairs has dimension={dimension}: it must be at least 1")
        if intrinsic is not None and not 1 <= intrinsic <= dimension:
            raise EnvError(f"ContextualStairs has intrinsic={intrinsic}: it must be from 1 to dimension, {dimension}")
        rng = np.random.default_rng(seed)
        self.low, self.high = np.full(dimension, -1.0), np.full(dimension, 1.0)
        self.context = (np.full(CONTEXT, -1.0), np.full(CONTEXT, 1.0))
        self.weight = rng.normal(0.0, np.sqrt(0.5), (dimension, CONTEXT))
        self.directions: Array | None = None  # P; None is the identity
        if intrinsic is not None and intrinsic < dimension:
            self.directions = np.linalg.qr(rng.normal(size=(dimension, intrinsic)))[0].T
        wanted = self._matters(self.target(rng.uniform(*self.context, (10_000, CONTEXT))))
        self.unit = float(np.square(wanted).sum(-1).mean())

    def target(self, context: Array) -> Array:
        """The best action: [N, 4] -> [N, A]."""
        return np.tanh(context @ self.weight.T)

    def distance(self, context: Array, action: Array) -> Array:
        """What the stairs are cut from: [N, 4], [N, A] -> [N]."""
        return np.square(self._matters(action - self.target(context))).sum(-1) / self.unit

    def __call__(self, context: Array, action: Array) -> Array:
        """Cost [N] of actions [N, A] in contexts [N, 4]."""
        return BEST_COST + STAIR * np.floor(self.distance(context, action) / STAIR)

    def _matters(self, action: Array) -> Array:
        return action if self.directions is None else action @ self.directions.T
