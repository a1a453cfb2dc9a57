"""Returns in cost units, for NumPy arrays or tensors: TD targets, lambda-returns, generalised advantage estimation.

No networks, no gradients. `discount` is gamma per transition and 0 where the task terminated; `cut` marks the last step
of an episode, after which the next row belongs to another one. A truncated step is cut but keeps its discount, so it
bootstraps from `next_value`.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)  # only operations that both support, so both give the same numbers


def td_target(cost: ArrayT, discount: ArrayT, next_value: ArrayT) -> ArrayT:
    """Temporal-difference target cost + discount * next_value; all three of one shape."""
    return cost + discount * next_value


def lambda_return(cost: ArrayT, discount: ArrayT, next_value: ArrayT, cut: ArrayT, lambda_: float) -> ArrayT:
    """The lambda-return (Sutton & Barto 2018, eq. 12.20, with episode ends).

    G_t = cost_t + discount_t * ((1 - l_t) * next_value_t + l_t * G_{t+1}), with l_t = lambda where the episode
    continues in row t+1, and 0 where it was cut or the rollout ends.

    Args:
        cost: [T, N].
        discount: [T, N] gamma, 0 where terminated.
        next_value: [T, N] cost-to-go of the next state of row t, which is the final one at an episode's end.
        cut: [T, N] bool, terminated or truncated.
        lambda_: 0 (one-step TD) to 1 (all costs until the cut).

    Returns:
        [T, N].
    """
    assert cost.ndim == 2, f"cost is [T, N], got {tuple(cost.shape)}"
    assert cost.shape == discount.shape == next_value.shape == cut.shape, "cost, discount, next_value, cut: one shape"
    carry = discount * ~cut * lambda_  # discount_t * l_t
    carry[-1] = 0.0
    returns = cost + (discount - carry) * next_value
    for t in range(len(returns) - 2, -1, -1):
        returns[t] += carry[t] * returns[t + 1]
    return returns


def gae(cost: ArrayT, discount: ArrayT, value: ArrayT, next_value: ArrayT, cut: ArrayT, lambda_: float) -> ArrayT:
    """Generalised advantage estimation (1506.02438) of the cost: the lambda-return minus `value`.

    Args:
        cost: [T, N], as are the others; see `lambda_return`.
        discount: gamma, 0 where terminated.
        value: cost-to-go of the state of row t.
        next_value: cost-to-go of the next state of row t.
        cut: terminated or truncated.
        lambda_: from 0 to 1.

    Returns:
        [T, N]; positive where the action cost more than expected.
    """
    return lambda_return(cost, discount, next_value, cut, lambda_) - value


def explained_variance(error: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """The share of the returns' variance that predictions explain, 1 - E[error^2] / Var[returns]: a scalar.

    Args:
        error: [B] returns less what was predicted.
        returns: [B].
        weight: [B] of sum 1.
    """
    deviation = returns - returns @ weight
    return 1 - ((error * error) @ weight) / ((deviation * deviation) @ weight)
