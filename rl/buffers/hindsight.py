"""Hindsight: failed attempts at one goal are taken for attempts at the goal that they did reach.

Andrychowicz et al. 2017, 1707.01495, strategy "future": of every 1 + k rows of a batch k get, in place of their own
goal, one that was achieved after a random row of the same episode, that row itself or a later one; and the cost and the
end of the task that the environment would have given under it. The ring keeps what happened; only batches are changed.
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
    """Relabels the goals of a replay's batches.

    An agent that has one under the name `hindsight` is handed the environment's functions by the loop;
    without them it acts and is evaluated, but does not learn.

    Args:
        codec: of an observation space with goals, see rl/buffers/goals.py.
        ratio: k, relabelled rows for each that keeps its goal.

    Raises:
        UserError: a space without goals.
    """

    def __init__(self, codec: Codec, ratio: float) -> None:
        self.known, self.share = Goals(codec), ratio / (1 + ratio)
        self.on_reset()
        self._begun, self._last = 0, np.zeros(64, np.int64)  # episodes so far, and the newest row of each

    def ask(self, env: Any) -> None:
        """Takes the environment's functions, as `Goals.ask` does. Raises UserError where it has none."""
        self.known.ask(env)

    # Which episode each row of the ring is of.

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number."""
        self._going = np.empty(0, np.int64)  # [N] the episode of each environment; NONE where the next row begins one

    def add(self, episode: Array, row: Array, step: Step) -> None:
        """Takes in that a vector step was put into the rows [N] of a ring, whose column `episode` is filled here."""
        self.known.check(step)
        if len(self._going) != len(row):
            self._going = np.full(len(row), NONE)
        fresh = np.flatnonzero(self._going == NONE)
        self._going[fresh] = self._begun + np.arange(len(fresh))
        self._begun += len(fresh)
        if self._begun > len(self._last):
            self._last = np.concatenate((self._last, np.zeros(self._begun, np.int64)))
        episode[row], self._last[self._going] = self._going, row
        self._going = np.where(step.terminated | step.truncated, NONE, self._going)

    def take_up(self, episode: Array, following: Array) -> None:
        """Takes up the filled rows [size] of a ring that was saved: their episodes, and the row after each or NONE."""
        newest = np.flatnonzero(following == NONE)
        self._begun = int(episode.max(initial=-1)) + 1
        self._last = np.zeros(max(64, self._begun), np.int64)
        self._last[episode[newest]] = newest

    # Batches.

    def goal(self, columns: Mapping[str, Tensor], place: Tensor, generator: torch.Generator) -> Tensor:
        """New goals for the first rows of a batch.

        Args:
            columns: of the ring.
            place: [B] where the rows lie.
            generator: decides which later row each goal is from, all with equal chances.

        Returns:
            [M, G], M = B k / (1 + k), rounded.
        """
        place = place[: round(self.share * len(place))]
        capacity = len(columns["following"]) - 1
        following = columns["following"][place]
        # The rows of an episode lie as far from one another as there are environments; the last row has no next one.
        stride = torch.where(following == NONE, 1, (following - place) % capacity)
        last = torch.from_numpy(self._last)[columns["episode"][place]]
        ahead = (last - place) % capacity // stride
        share = torch.rand(len(place), generator=generator, dtype=torch.float64)
        later = (place + (share * (ahead + 1)).long() * stride) % capacity
        return columns["next_obs"][later, self.known.achieved]

    def told(self, columns: Mapping[str, Tensor], row: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Cost [B] and terminated [B] of rows [B], the first M of them under other goals [M, G]."""
        cost, ended, count = columns["cost"][row], columns["terminated"][row], len(goal)
        achieved = columns["next_obs"][row[:count], self.known.achieved]
        said = self.known.judge(achieved.numpy(), goal.numpy(), ended[:count].numpy())
        cost[:count], ended[:count] = (torch.from_numpy(value) for value in said)
        return cost, ended

    def put(self, goal: Tensor, obs: Tensor) -> None:
        """Writes goals [M, G] over those of the first M observations [B, F]."""
        obs[: len(goal), self.known.desired] = goal
