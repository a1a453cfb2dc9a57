"""What a black box said, for C to learn from: rows in a ring, or whole sets."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """Evaluations, one behind the other; a set is B rows and one cost."""

    context: Tensor  # [R, *context_shape], or [R, 0] without
    continuous: Tensor  # [R, D]
    choice: Tensor  # [R]
    cost: Tensor  # [R], or [R / B]


class Rows:
    """The newest rows that each have a cost, in memory that is allocated once.

    Args:
        capacity: rows.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = self.next = 0
        self.known: Known | None = None

    def to(self, device: torch.device) -> None:
        """Moves them."""
        if self.known is not None:
            self.known = Known(*(column.to(device) for column in self.known))

    def add(self, fresh: Known) -> None:
        """Copies rows over the oldest."""
        if self.known is None:
            self.known = Known(*(column.new_zeros(self.capacity, *column.shape[1:]) for column in fresh))
        fresh = Known(*(column[-self.capacity :] for column in fresh))
        place = (self.next + torch.arange(len(fresh.cost))) % self.capacity
        for column, values in zip(self.known, fresh, strict=True):
            column[place] = values
        self.next = (self.next + len(fresh.cost)) % self.capacity
        self.size = min(self.size + len(fresh.cost), self.capacity)

    def draw(self, rows: int, generator: torch.Generator) -> Known:
        """So many of them, with replacement."""
        assert self.known is not None
        place = torch.randint(self.size, (rows,), generator=generator)
        return Known(*(column[place] for column in self.known))


class Sets:
    """The newest sets that each have a cost.

    Args:
        capacity: sets.
    """

    def __init__(self, capacity: int) -> None:
        self.sets: deque[Known] = deque(maxlen=capacity)

    def to(self, device: torch.device) -> None:
        """Moves them."""
        for i, known in enumerate(self.sets):
            self.sets[i] = Known(*(column.to(device) for column in known))

    def add(self, fresh: Known) -> None:
        """Copies a set in, over the oldest."""
        self.sets.append(Known(*(column.clone() for column in fresh)))

    def draw(self, rows: int, generator: torch.Generator) -> Known:
        """As many sets as have so many rows, one at least, with replacement; all of the newest's size."""
        size = len(self.sets[-1].choice)
        like = [i for i, known in enumerate(self.sets) if len(known.choice) == size]
        place = torch.randint(len(like), (max(1, rows // size),), generator=generator)
        return Known(*(torch.cat(column) for column in zip(*(self.sets[like[i]] for i in place), strict=True)))
