"""Hindsight experience replay (HER): transitions are relabelled with goals that their episode achieved.

Andrychowicz et al. 2017, 1707.01495, strategy "future": of every 1 + k rows of a batch, k get a new goal, the one
achieved after a random step of the same episode, the row itself or a later one. Cost and termination are recomputed for
that goal. The replay buffer keeps the original transitions; only batches are relabelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from costgrad.rl.buffers.goals import Goals
from costgrad.rl.data import Array, Step
from costgrad.rl.spaces import Codec

NONE = -1


class Hindsight:
    """Relabels the goals of a replay buffer's batches.

    The loop calls `ask` for an agent with an attribute `hindsight`. Without the environment's functions the agent can
    act and be evaluated, but not learn.

    Args:
        codec: of an observation space with goals, see rl/buffers/goals.py.
        ratio: k, relabelled rows per row that keeps its goal.

    Raises:
        UserError: the space has no goals.

    Attributes:
        current: [N] episode of each environment; NONE where the next row starts one.
    """

    def __init__(self, codec: Codec, ratio: float) -> None:
        self.goals, self.share = Goals(codec), ratio / (1 + ratio)
        self.on_reset()
        self._episodes, self._last = 0, np.zeros(64, np.int64)  # number of episodes so far, and the newest row of each

    def ask(self, env: Any) -> None:
        """Gets the environment's reward function, see `Goals.ask`. Raises UserError if it has none."""
        self.goals.ask(env)

    # The episode of each row of the buffer

    def on_reset(self) -> None:
        """Called after every reset; drop per-episode state. num_envs may have changed."""
        self.current = np.empty(0, np.int64)

    def add(self, episode: Array, row: Array, step: Step) -> None:
        """Records a vector step that was written to rows [N] of the buffer, and fills their `episode`."""
        self.goals.check(step)
        if len(self.current) != len(row):
            self.current = np.full(len(row), NONE)
        self.current[~step.valid] = NONE  # the episode before it ended unseen, if it had not ended
        starts = np.flatnonzero(self.current == NONE)
        self.current[starts] = self._episodes + np.arange(len(starts))
        self._episodes += len(starts)
        if self._episodes > len(self._last):
            self._last = np.concatenate((self._last, np.zeros(self._episodes, np.int64)))
        episode[row], self._last[self.current] = self.current, row
        self.current = np.where(step.terminated | step.truncated, NONE, self.current)

    def restore(self, episode: Array, following: Array) -> None:
        """Restores the state from the filled rows [size] of a saved buffer: episode, and next row or NONE."""
        newest = np.flatnonzero(following == NONE)
        self._episodes = int(episode.max(initial=-1)) + 1
        self._last = np.zeros(max(64, self._episodes), np.int64)
        self._last[episode[newest]] = newest

    # Batches

    def goal(self, columns: Mapping[str, Tensor], indices: Tensor, generator: torch.Generator) -> Tensor:
        """New goals for the first rows of a batch.

        Args:
            columns: of the buffer.
            indices: [B] of the rows.
            generator: draws the later row of each goal uniformly.

        Returns:
            [M, G], M = B k / (1 + k), rounded.
        """
        indices = indices[: round(self.share * len(indices))]
        capacity = len(columns["following"]) - 1
        following = columns["following"][indices]
        # Consecutive rows of an episode are num_envs apart in the buffer; the last row has no next one.
        stride = torch.where(following == NONE, 1, (following - indices) % capacity)
        last = torch.from_numpy(self._last)[columns["episode"][indices]]
        ahead = (last - indices) % capacity // stride
        share = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        later = (indices + (share * (ahead + 1)).long() * stride) % capacity
        return columns["next_obs"][later, self.goals.achieved]

    def relabelled(self, columns: Mapping[str, Tensor], row: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Cost [B] and terminated [B] of rows [B], the first M of them under new goals [M, G]."""
        cost, ended, count = columns["cost"][row], columns["terminated"][row], len(goal)
        achieved = columns["next_obs"][row[:count], self.goals.achieved]
        outcome = self.goals.judge(achieved.numpy(), goal.numpy(), ended[:count].numpy())
        cost[:count], ended[:count] = (torch.from_numpy(value) for value in outcome)
        return cost, ended

    def set_goal(self, goal: Tensor, obs: Tensor) -> None:
        """Replaces the goals of the first M observations [B, F] by [M, G]."""
        obs[: len(goal), self.goals.desired] = goal
