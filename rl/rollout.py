"""The memory of an on-policy agent: T steps of N environments, allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from rl.data import Rollout, Step, cost_of


class RolloutMemory:
    """Holds `num_steps` vector steps; the arrays are made at the first step, when N and the shapes are known.

    Args:
        num_steps: T.
        discount: gamma, written into every row whose task goes on.
        device: where it lives.
    """

    def __init__(self, num_steps: int, discount: float, device: torch.device) -> None:
        self.num_steps, self.gamma, self.device = num_steps, discount, device
        self.filled = 0
        self._tensors: dict[str, Tensor] = {}
        self._rows: list[tuple[Tensor, ...]] = []

    @property
    def full(self) -> bool:
        """Whether T steps are in."""
        return self.filled == self.num_steps

    def add(self, step: Step, extra: dict[str, Tensor]) -> None:
        """Copies one vector step in; `extra` is what the agent knew of its action, [N, ...] each."""
        row = (*step[:-1], *extra.values())
        if not self._rows:
            self._allocate(row, (*step._fields[:-1], *(f"extra.{name}" for name in extra)))
        for place, value in zip(self._rows[self.filled], row, strict=True):
            place.copy_(value)
        self.filled += 1

    def take(self) -> Rollout:
        """The T steps, as views that hold until the next `add`; the memory counts as empty from here on."""
        self.filled = 0
        kept = self._tensors
        return Rollout(
            obs=kept["obs"],
            action=kept["action"],
            cost=cost_of(kept["reward"]),
            discount=self.gamma * (~kept["terminated"]),
            next_obs=kept["next_obs"],
            done=kept["terminated"] | kept["truncated"],
            valid=kept["valid"],
            extra={name.removeprefix("extra."): value for name, value in kept.items() if name.startswith("extra.")},
        )

    def _allocate(self, row: tuple[Tensor, ...], names: tuple[str, ...]) -> None:
        for name, value in zip(names, row, strict=True):
            dtype = torch.float32 if name == "valid" else value.dtype  # a weight: 1 or 0
            self._tensors[name] = torch.empty((self.num_steps, *value.shape), dtype=dtype, device=self.device)
        # One view a cell, made once: indexing at every step costs as much as the copy.
        self._rows = list(zip(*(tensor.unbind(0) for tensor in self._tensors.values()), strict=True))
