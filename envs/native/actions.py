"""Actions of N rows, checked before anything is stepped."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space

from costgrad.envs.errors import EnvError

Array = np.ndarray


def as_array(actions: Any, shape: tuple[int, ...], space: Space[Any]) -> Array:
    """Actions as arrays, their values unseen.

    Args:
        actions: what the user gave.
        shape: that it must have: [N] or [N, A].
        space: of one row, a Discrete or a Box of float32.
    Returns:
        [N] int64 for a Discrete; else [N, A] float32 or, where they were given as float64 or int, float64: gymnasium's
        formulas give other numbers for the two.
    Raises:
        EnvError: another shape or type.
    """
    given = np.asarray(actions)
    kind, discrete = given.dtype.kind, isinstance(space, Discrete)
    right = kind in "iu" or (kind == "f" and given.dtype.itemsize in (4, 8) and not discrete)
    if not right or given.shape != shape:
        raise EnvError(f"actions are {given.dtype} of shape {given.shape}: they must be {space.dtype} of shape {shape}")
    return given.astype(np.int64, copy=False) if discrete else given if kind == "f" else given.astype(np.float64)


def check_values(actions: Array, space: Space[Any]) -> None:
    """Raises EnvError that names the first row whose action is beyond the Discrete, or is not finite."""
    if isinstance(space, Discrete):
        good = (actions >= space.start) & (actions < space.start + space.n)
    else:
        good = np.isfinite(actions)
    if not good.all():
        i = int(np.argwhere(~good)[0, 0])
        bounds = isinstance(space, Discrete) and f"from {space.start} to {space.start + space.n - 1}"
        raise EnvError(f"environment {i} got action {actions[i]}: it must be {bounds or 'finite'}")
