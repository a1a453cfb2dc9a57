"""The data types that modules exchange, and the one place where a reward becomes a cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

Array = np.ndarray


class Step(NamedTuple):
    """One step of a vector environment of N environments.

    NumPy arrays, as environments return them. They may be the environment's own memory: copy what you keep.
    """

    obs: Array  # [N, *obs_shape] float32, or uint8 of images
    action: Array  # [N, A] float32 in [-1, 1], or [N] int64
    reward: Array  # [N]
    next_obs: Array  # [N, *obs_shape] the next observation; the final one at an episode's end
    terminated: Array  # [N] bool: the task ended, no bootstrapping; takes precedence where both flags are set
    truncated: Array  # [N] bool: the time limit ended the episode; targets bootstrap
    # [N] bool: False on a row that belongs to no episode, the reset row of NEXT_STEP or that of an environment whose
    # process was restarted. An episode that had not ended before such a row was cut off there, as by truncation.
    valid: Array
    extra: dict[str, Array]  # further data of the environment, e.g. action_mask [N, A]


class Rollout(NamedTuple):
    """T consecutive steps of N environments, for an on-policy update."""

    obs: Array  # [T, N, *obs_shape] not normalised
    action: Array  # [T, N, A] or [T, N]
    cost: Array  # [T, N] float32
    discount: Array  # [T, N] float32 gamma, 0 where the task terminated
    next_obs: Array  # [T, N, *obs_shape]
    done: Array  # [T, N] bool: terminated or truncated; row t+1 belongs to another episode
    valid: Array  # [T, N] float32 1 or 0: the weight of a row in every mean
    extra: dict[str, Array]  # [T, N, ...] what the agent stored when it acted, e.g. its pre-tanh sample


class Batch(NamedTuple):
    """B n-step transitions, for an off-policy update."""

    obs: Tensor  # [B, *obs_shape] not normalised
    action: Tensor  # [B, A], [B] or [B, D]
    cost: Tensor  # [B] sum_j gamma^j c_{t+j} over the k <= n steps
    discount: Tensor  # [B] gamma^k, 0 where the task terminated
    next_obs: Tensor  # [B, *obs_shape] after the k steps
    weight: Tensor  # [B] of sum 1; importance weights of prioritised experience replay, else 1 / B
    indices: Tensor  # [B] int64 rows of the replay buffer


def to_numpy(tensor: Tensor) -> Array:
    """The detached tensor as an array: the same memory on the CPU, a copy from other devices."""
    return tensor.detach().cpu().numpy()


def flat(array: Array) -> Array:
    """Merges time and environments: [T, N, ...] -> [T * N, ...]."""
    return array.reshape(-1, *array.shape[2:])


def cost_of(reward: Array) -> Array:
    """The cost is -reward. Everything inside `rl` and `agents` is cost from here on.

    Args:
        reward: [N].
    Returns:
        cost: [N].
    """
    return -reward
