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
        row = {
            "obs": step.obs,
            "action": step.action,
            "cost": cost_of(step.reward),
            "discount": torch.where(step.terminated, 0.0, self.gamma),
            "next_obs": step.next_obs,
            "done": step.terminated | step.truncated,
            "valid": step.valid,
            **{f"extra.{name}": value for name, value in extra.items()},
        }
        if not self._rows:
            self._allocate(row)
        for place, value in zip(self._rows[self.filled], row.values(), strict=True):
            place.copy_(value)
        self.filled += 1

    def take(self) -> Rollout:
        """The T steps, as views that hold until the next `add`; the memory counts as empty from here on."""
        self.filled = 0
        plain = {name: value for name, value in self._tensors.items() if "." not in name}
        extra = {name.split(".")[1]: value for name, value in self._tensors.items() if "." in name}
        return Rollout(**plain, extra=extra)

    def _allocate(self, row: dict[str, Tensor]) -> None:
        for name, value in row.items():
            dtype = torch.float32 if name == "valid" else value.dtype
            self._tensors[name] = torch.empty((self.num_steps, *value.shape), dtype=dtype, device=self.device)
        # One view a cell, made once: indexing at every step costs as much as the copy.
        self._rows = list(zip(*(tensor.unbind(0) for tensor in self._tensors.values()), strict=True))
