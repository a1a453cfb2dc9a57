"""The records that cross file borders, and the one place where a reward becomes a cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

Array = np.ndarray


class Step(NamedTuple):
    """What one step of a vector environment of N environments tells an agent.

    NumPy, as the environments are: what is only copied and counted needs no tensor. The arrays may be the environment's
    own: whoever keeps one copies it.
    """

    obs: Array  # [N, *obs_shape] float32, or uint8 of images
    action: Array  # [N, A] float32 in [-1, 1], or [N] int64
    reward: Array  # [N]
    next_obs: Array  # [N, *obs_shape] what this action led to, also at an episode's end
    terminated: Array  # [N] bool: the task ended and nothing follows; wins where both flags are set
    truncated: Array  # [N] bool: the clock ended, the cost goes on
    valid: Array  # [N] bool: False on the reset row that NEXT_STEP autoreset inserts
    extra: dict[str, Array]  # what else the environment says, e.g. action_mask [N, A]


class Rollout(NamedTuple):
    """T consecutive steps of N environments, as an on-policy update reads them."""

    obs: Array  # [T, N, *obs_shape] as the environment gave it, not normalised
    action: Array  # [T, N, A] or [T, N]
    cost: Array  # [T, N] float32
    discount: Array  # [T, N] float32 gamma, 0 where the task terminated
    next_obs: Array  # [T, N, *obs_shape]
    done: Array  # [T, N] bool: terminated or truncated; row t+1 belongs to another episode
    valid: Array  # [T, N] float32 1 or 0: the weight of a row in every mean
    extra: dict[str, Array]  # [T, N, ...] what the agent knew when it acted, e.g. its pre-tanh sample


class Batch(NamedTuple):
    """B transitions over up to n steps each, as an off-policy update reads them."""

    obs: Tensor  # [B, *obs_shape] as the environment gave it, not normalised
    action: Tensor  # [B, A], [B] or [B, D]
    cost: Tensor  # [B] sum_j gamma^j c_{t+j} of the k steps
    discount: Tensor  # [B] gamma^k, 0 where the task terminated
    next_obs: Tensor  # [B, *obs_shape] after the k steps
    weight: Tensor  # [B] of sum 1, less where rows that are drawn often count less
    indices: Tensor  # [B] int64 rows of the replay buffer


def to_numpy(tensor: Tensor) -> Array:
    """The tensor as an array, without its graph: the same memory on the CPU, a copy from another device."""
    return tensor.detach().cpu().numpy()


def flat(array: Array) -> Array:
    """[T, N, ...] -> [T * N, ...]."""
    return array.reshape(-1, *array.shape[2:])


def cost_of(reward: Array) -> Array:
    """The cost is -reward. Everything inside `rl` and `agents` is cost from here on.

    Args:
        reward: [N].
    Returns:
        cost: [N].
    """
    return -reward
