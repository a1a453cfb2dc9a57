"""Two quantised quadratic costs, with a gradient of zero almost everywhere."""

from __future__ import annotations

import numpy as np

from costgrad.envs.tasks.costs import cost_function

CENTRE = np.array([0.5, 1.5])
BEST_COST = 1.0  # of both functions


@cost_function(low=[-1.0, -1.0], high=[3.0, 3.0], batched=True)
def staircase(action: np.ndarray) -> np.ndarray:
    """1 + floor(4 |a - c|^2) / 4: a quantised quadratic. The lowest step, |a - c| < 1/2, costs 1.

    Args:
        action: [N, 2] or [2].
    Returns:
        cost: [N] or a number.
    """
    return 1.0 + np.floor(4.0 * np.square(action - CENTRE).sum(-1)) / 4.0


@cost_function(low=[-1.0, -1.0], high=[3.0, 3.0], batched=True)
def quantised(action: np.ndarray) -> np.ndarray:
    """1 + |q(a) - c|^2, where q rounds to multiples of 1/2: a quadratic of a coarse actuator. The minimum is 1.

    Args:
        action: [N, 2] or [2].
    Returns:
        cost: [N] or a number.
    """
    return 1.0 + np.square(np.round(2.0 * action) / 2.0 - CENTRE).sum(-1)
