"""Buffers of black-box evaluations that C is trained on: single rows, or sets of rows."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class Evaluations(NamedTuple):
    """A batch of evaluations; a set is B rows with one cost."""

    context: Tensor  # [R, *context_shape], or [R, 0] without context
    continuous: Tensor  # [R, D]
    choice: Tensor  # [R]
    cost: Tensor  # [R], or [R / B]


class RowBuffer:
    """A ring buffer of the newest rows, each with its own cost.

    Args:
        capacity: rows.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = self.next = 0
        self.data: Evaluations | None = None

    def to(self, device: torch.device) -> None:
        """Moves the data to a device."""
        if self.data is not None:
            self.data = Evaluations(*(column.to(device) for column in self.data))

    def add(self, rows: Evaluations) -> None:
        """Copies rows over the oldest."""
        if self.data is None:
            self.data = Evaluations(*(column.new_zeros(self.capacity, *column.shape[1:]) for column in rows))
        rows = Evaluations(*(column[-self.capacity :] for column in rows))
        indices = (self.next + torch.arange(len(rows.cost))) % self.capacity
        for column, values in zip(self.data, rows, strict=True):
            column[indices] = values
        self.next = (self.next + len(rows.cost)) % self.capacity
        self.size = min(self.size + len(rows.cost), self.capacity)

    def draw(self, rows: int, generator: torch.Generator) -> Evaluations:
        """Samples `rows` rows with replacement."""
        assert self.data is not None
        indices = torch.randint(self.size, (rows,), generator=generator)
        return Evaluations(*(column[indices] for column in self.data))


class SetBuffer:
    """The newest sets of rows, each with one cost.

    Args:
        capacity: sets.
    """

    def __init__(self, capacity: int) -> None:
        self.sets: deque[Evaluations] = deque(maxlen=capacity)

    def to(self, device: torch.device) -> None:
        """Moves the data to a device."""
        for i, rows in enumerate(self.sets):
            self.sets[i] = Evaluations(*(column.to(device) for column in rows))

    def add(self, rows: Evaluations) -> None:
        """Copies a set over the oldest."""
        self.sets.append(Evaluations(*(column.clone() for column in rows)))

    def draw(self, rows: int, generator: torch.Generator) -> Evaluations:
        """Samples sets of about `rows` rows in all, at least one, with replacement; all of the newest set's size."""
        size = len(self.sets[-1].choice)
        same_size = [i for i, each in enumerate(self.sets) if len(each.choice) == size]
        indices = torch.randint(len(same_size), (max(1, rows // size),), generator=generator)
        drawn = [self.sets[same_size[i]] for i in indices]
        return Evaluations(*(torch.cat(column) for column in zip(*drawn, strict=True)))
