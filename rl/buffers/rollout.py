"""The memory of an on-policy agent: T steps of N environments, allocated once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from costgrad.rl.data import Rollout, Step, cost_of

RowsT = TypeVar("RowsT", bound=Any)


class RolloutMemory:
    """Holds `num_steps` vector steps; the arrays are made at the first step, when N and the shapes are known.

    Args:
        num_steps: T.
        discount: gamma, of every row whose task goes on.
    """

    def __init__(self, num_steps: int, discount: float) -> None:
        self.num_steps, self.gamma = num_steps, np.float32(discount)
        self.filled = 0
        self._arrays: dict[str, np.ndarray] = {}
        self._rows: list[tuple[np.ndarray, ...]] = []

    @property
    def full(self) -> bool:
        """Whether T steps are in."""
        return self.filled == self.num_steps

    def clear(self) -> None:
        """Drops what is in; the next step may come from another number of environments."""
        self.filled = 0
        self._rows = []

    def add(self, step: Step, extra: dict[str, np.ndarray]) -> None:
        """Copies one vector step in; `extra` is what the agent knew of its action, [N, ...] each."""
        row = (*step[:-1], *extra.values())
        if not self._rows:
            self._allocate(row, (*step._fields[:-1], *(f"extra.{name}" for name in extra)))
        for place, value in zip(self._rows[self.filled], row, strict=True):
            place[...] = value
        self.filled += 1

    def take(self) -> Rollout:
        """The T steps, valid until the next `add`; the memory counts as empty from here on."""
        self.filled = 0
        kept = self._arrays
        return Rollout(
            obs=kept["obs"],
            action=kept["action"],
            cost=cost_of(kept["reward"]),
            discount=self.gamma * ~kept["terminated"],
            next_obs=kept["next_obs"],
            done=kept["terminated"] | kept["truncated"],
            valid=kept["valid"],
            extra={name.removeprefix("extra."): value for name, value in kept.items() if name.startswith("extra.")},
        )

    def _allocate(self, row: tuple[np.ndarray, ...], names: tuple[str, ...]) -> None:
        for name, value in zip(names, row, strict=True):
            # Rewards come in float64 from most environments; `valid` becomes a weight of 1 or 0.
            dtype = np.float32 if name in ("reward", "valid") else value.dtype
            self._arrays[name] = np.empty((self.num_steps, *value.shape), dtype)
        # One view a cell, made once.
        self._rows = [tuple(array[t, ...] for array in self._arrays.values()) for t in range(self.num_steps)]


def minibatches(rows: RowsT, size: int, generator: torch.Generator) -> Iterator[RowsT]:
    """The rows in shuffled parts; rows that fit in one part are handed on as they are.

    Args:
        rows: a NamedTuple of tensors [B, ...], among them `weight` [B] of sum 1.
        size: of a part.
        generator: decides the order.

    Yields:
        NamedTuples of the same kind, each with weights of sum 1.
    """
    count = len(rows.weight)
    if count <= size:
        yield rows
        return
    order = torch.randperm(count, generator=generator, device=generator.device)
    shuffled = rows._make(column.index_select(0, order) for column in rows)
    weight = F.pad(shuffled.weight, (0, -count % size)).view(-1, size)  # a part a row: one operation for all
    weight /= weight.sum(1, keepdim=True).clamp(min=1e-12)
    shuffled = shuffled._replace(weight=weight.view(-1)[:count])
    yield from map(rows._make, zip(*(column.split(size) for column in shuffled), strict=True))
