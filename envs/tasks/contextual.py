"""A contextual staircase cost, with an optimal action that depends on the context, in any dimension."""

from __future__ import annotations

import numpy as np

from costgrad.envs.errors import EnvError
from costgrad.envs.tasks.batched import Array

CONTEXT = 4  # dimension of the context
STAIR = 0.02  # height of a step; the mean cost of the action 0 is about 50 steps above the lowest
BEST_COST = 1.0


class ContextualStairs:
    """1 + the quantised squared distance of the action from a target that depends on the context.

        target(x) = tanh(W x),   W [A, 4] ~ N(0, 1/2)
        distance  = |P (a - target(x))|^2 / E_x |P target(x)|^2
        cost      = 1 + STAIR floor(distance / STAIR)

    The gradient is 0 or undefined. The optimal cost is 1 in every context, at a = target(x), which a linear policy with
    tanh attains. The action 0 costs about 2 in any dimension. P [r, A] has orthonormal rows: r is the intrinsic
    dimension of the action.

    Args:
        dimension: A, of the action.
        intrinsic: r; None means A.
        seed: of W and P.

    Raises:
        EnvError: an argument is out of range.
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
        targets = self._project(self.target(rng.uniform(*self.context, (10_000, CONTEXT))))
        self.unit = float(np.square(targets).sum(-1).mean())

    def target(self, context: Array) -> Array:
        """The optimal action: [N, 4] -> [N, A]."""
        return np.tanh(context @ self.weight.T)

    def distance(self, context: Array, action: Array) -> Array:
        """The normalised squared distance before quantisation: [N, 4], [N, A] -> [N]."""
        return np.square(self._project(action - self.target(context))).sum(-1) / self.unit

    def __call__(self, context: Array, action: Array) -> Array:
        """Cost [N] of actions [N, A] in contexts [N, 4]."""
        return BEST_COST + STAIR * np.floor(self.distance(context, action) / STAIR)

    def _project(self, action: Array) -> Array:
        return action if self.directions is None else action @ self.directions.T
