"""Returns in cost units: tensors in, tensors out, no networks.

`discount` is gamma per transition and 0 where the task terminated; `cut` marks where a trace may not go on because the
next row belongs to another episode. Truncation is a cut with the discount left alone, so the cost beyond the clock is
still counted through `next_value`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(cost: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """cost + discount * next_value; all three of one shape."""
    return cost + discount * next_value


def lambda_return(cost: Tensor, discount: Tensor, next_value: Tensor, cut: Tensor, lambda_: float) -> Tensor:
    """The lambda-return (Sutton & Barto 2018, eq. 12.20, with endings).

    G_t = cost_t + discount_t * ((1 - l_t) * next_value_t + l_t * G_{t+1}), with l_t = lambda where the episode goes on in
    row t+1, and 0 where it was cut or the rollout ends.

    Args:
        cost: [T, N].
        discount: [T, N] gamma, 0 where terminated.
        next_value: [T, N] cost-to-go from the state that row t led to, the true last one at an episode's end.
        cut: [T, N] bool, terminated or truncated.
        lambda_: 0 (one step) to 1 (all costs until the cut).

    Returns:
        [T, N].
    """
    assert cost.dim() == 2, f"cost is [T, N], got {tuple(cost.shape)}"
    assert cost.shape == discount.shape == next_value.shape == cut.shape, "cost, discount, next_value, cut: one shape"
    trace = torch.where(cut, 0.0, lambda_)
    trace[-1] = 0.0
    base = torch.addcmul(cost, discount, (1 - trace) * next_value)
    carry = discount * trace
    returns = torch.empty_like(cost)
    following = torch.zeros_like(cost[0])
    rows = list(zip(base.unbind(0), carry.unbind(0), returns.unbind(0), strict=True))
    for base_t, carry_t, return_t in reversed(rows):
        following = torch.addcmul(base_t, carry_t, following, out=return_t)
    return returns


def gae(cost: Tensor, discount: Tensor, value: Tensor, next_value: Tensor, cut: Tensor, lambda_: float) -> Tensor:
    """Generalised advantage estimation (1506.02438) of the cost: the lambda-return less `value`.

    Args:
        cost, discount, next_value, cut, lambda_: as in `lambda_return`.
        value: [T, N] cost-to-go of the state that row t acted in.

    Returns:
        [T, N]; positive where the action cost more than expected.
    """
    return lambda_return(cost, discount, next_value, cut, lambda_) - value


def discounted_cost(cost: Tensor, discount: Tensor, cut: Tensor, start: Tensor) -> Tensor:
    """The running discounted sum forward in time, R_t = cost_t + discount * R_{t-1}, started anew after a cut.

    Args:
        cost, discount, cut: [T, N].
        start: [N] the sum that the row before the first one ended with, 0 after a cut.

    Returns:
        [T + 1, N]: the T sums, and the `start` of the next rollout.
    """
    sums, running = [], start
    for cost_t, discount_t, cut_t in zip(cost, discount, cut, strict=True):
        running = cost_t + running
        sums.append(running)
        running = torch.where(cut_t, 0.0, discount_t * running)
    return torch.stack([*sums, running])
