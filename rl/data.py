"""The records that cross file borders, and the one place where a reward becomes a cost."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Step(NamedTuple):
    """What one step of a vector environment of N environments tells an agent.

    The tensors may share memory with the environment's arrays: whoever keeps one copies it.
    """

    obs: Tensor  # [N, *obs_shape]
    action: Tensor  # [N, A] float in [-1, 1], or [N] int64
    reward: Tensor  # [N]
    next_obs: Tensor  # [N, *obs_shape] what this action led to, also at an episode's end
    terminated: Tensor  # [N] bool: the task ended and nothing follows; wins where both flags are set
    truncated: Tensor  # [N] bool: the clock ended, the cost goes on
    valid: Tensor  # [N] bool: False on the reset row that NEXT_STEP autoreset inserts
    extra: dict[str, Tensor]  # what else the environment says, e.g. action_mask [N, A]


class Rollout(NamedTuple):
    """T consecutive steps of N environments, as an on-policy update reads them."""

    obs: Tensor  # [T, N, *obs_shape] as the environment gave it, not normalised
    action: Tensor  # [T, N, A] or [T, N]
    cost: Tensor  # [T, N]
    discount: Tensor  # [T, N] gamma, 0 where the task terminated
    next_obs: Tensor  # [T, N, *obs_shape]
    done: Tensor  # [T, N] bool: terminated or truncated; row t+1 belongs to another episode
    valid: Tensor  # [T, N] float 1 or 0: the weight of a row in every mean
    extra: dict[str, Tensor]  # [T, N, ...] what the agent knew when it acted, e.g. its pre-tanh sample


def cost_of(reward: Tensor) -> Tensor:
    """The cost is -reward. Everything inside `rl` and `agents` is cost from here on.

    Args:
        reward: [N].
    Returns:
        cost: [N].
    """
    return -reward
