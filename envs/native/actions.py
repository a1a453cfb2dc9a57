"""Checks the actions of N rows before a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space

from costgrad.envs.errors import EnvError

Array = np.ndarray


def as_array(actions: Any, shape: tuple[int, ...], space: Space[Any]) -> Array:
    """Converts actions to an array of the right shape and dtype; does not check values.

    Args:
        actions: given by the user.
        shape: required shape, [N] or [N, A].
        space: of one row, a Discrete or a Box of float32.
    Returns:
        [N] int64 for a Discrete; else [N, A] float32, or float64 if they were given as float64 or int, because
        gymnasium's formulas give different numbers for the two.
    Raises:
        EnvError: wrong shape or dtype.
    """
    given = np.asarray(actions)
    kind, discrete = given.dtype.kind, isinstance(space, Discrete)
    valid = kind in "iu" or (kind == "f" and given.dtype.itemsize in (4, 8) and not discrete)
    if not valid or given.shape != shape:
        raise EnvError(f"actions are {given.dtype} of shape {given.shape}: they must be {space.dtype} of shape {shape}")
    return given.astype(np.int64, copy=False) if discrete else given if kind == "f" else given.astype(np.float64)


def check_values(actions: Array, space: Space[Any]) -> None:
    """Raises EnvError that names the first row whose action is out of the Discrete's range or not finite."""
    if isinstance(space, Discrete):
        valid = (actions >= space.start) & (actions < space.start + space.n)
    else:
        valid = np.isfinite(actions)
    if not valid.all():
        i = int(np.argwhere(~valid)[0, 0])
        bounds = isinstance(space, Discrete) and f"from {space.start} to {space.start + space.n - 1}"
        raise EnvError(f"environment {i} got action {actions[i]}: it must be {bounds or 'finite'}")
