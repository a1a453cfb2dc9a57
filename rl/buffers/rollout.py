"""The rollout buffer of on-policy agents: T steps of N environments, allocated once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from costgrad.rl.checks import finite, tensor
from costgrad.rl.data import Rollout, Step, cost_of

RowsT = TypeVar("RowsT", bound=Any)


class RolloutMemory:
    """Holds `num_steps` vector steps; allocates at the first step, which tells N and the shapes.

    Args:
        num_steps: T.
        discount: gamma, used where the task did not terminate.
        extra: names of the further data of the agent that a saved rollout must hold; None takes any.
    """

    def __init__(self, num_steps: int, discount: float, extra: tuple[str, ...] | None = None) -> None:
        self.num_steps, self.gamma, self.extra = num_steps, np.float32(discount), extra
        self.filled = 0
        self._arrays: dict[str, np.ndarray] = {}
        self._rows: list[tuple[np.ndarray, ...]] = []

    @property
    def full(self) -> bool:
        """Whether T steps are stored."""
        return self.filled == self.num_steps

    def clear(self) -> None:
        """Drops all steps; num_envs may change before the next one."""
        self.filled = 0
        self._rows = []

    def add(self, step: Step, extra: dict[str, np.ndarray]) -> None:
        """Copies one vector step into the buffer; `extra` is further data of the agent, [N, ...] each."""
        row = (*step[:-1], *extra.values())
        if not self._rows:
            self._allocate(row, (*step._fields[:-1], *(f"extra.{name}" for name in extra)))
        for view, value in zip(self._rows[self.filled], row, strict=True):
            view[...] = value
        self.filled += 1

    def take(self) -> Rollout:
        """Returns the T steps, valid until the next `add`, and empties the buffer."""
        self.filled = 0
        arrays = self._arrays
        done = arrays["terminated"] | arrays["truncated"]
        done[:-1] |= arrays["valid"][1:] == 0.0  # cut off before a row that belongs to no episode
        return Rollout(
            obs=arrays["obs"],
            action=arrays["action"],
            cost=cost_of(arrays["reward"]),
            discount=self.gamma * ~arrays["terminated"],
            next_obs=arrays["next_obs"],
            done=done,
            valid=arrays["valid"],
            extra={name.removeprefix("extra."): value for name, value in arrays.items() if name.startswith("extra.")},
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The steps stored so far, [filled, N, ...] each; nothing where the rollout is empty."""
        return {name: torch.from_numpy(array[: self.filled]) for name, array in self._arrays.items() if self.filled}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            ValueError: it is of a rollout of another length, or its columns do not belong together.
        """
        self.clear()
        if not state_dict:
            return
        columns = {name: value.numpy() for name, value in state_dict.items()}
        stored, envs = (
            {(array.shape or (0,))[0] for array in columns.values()},
            {a.shape[1:2] for a in columns.values()},
        )
        if len(stored) != 1 or len(envs) != 1 or not 0 < (filled := stored.pop()) <= self.num_steps:
            raise ValueError(f"its rollout does not fit one of {self.num_steps} steps")
        fields = Step._fields[:-1]
        extra = [name for name in columns if name.startswith("extra.")]
        if self.extra is not None and {f"extra.{name}" for name in self.extra} != set(extra):
            raise ValueError(f"its rollout holds {', '.join(sorted(extra))[:60]} beside its steps")
        if columns.keys() != {*fields, *extra}:
            raise ValueError(f"its rollout has the columns {', '.join(columns)}")
        self._arrays = {}
        names = (*fields, *extra)
        for name, value in state_dict.items():
            finite(value, name)
        for name in ("terminated", "truncated"):
            tensor(state_dict, name, torch.bool, [filled, None])
        for name in ("reward", "valid"):
            tensor(state_dict, name, torch.float32, [filled, None])
        self._allocate(tuple(columns[name][0] for name in names), names)
        for name, array in columns.items():
            self._arrays[name][:filled] = array
        self.filled = filled

    def _allocate(self, row: tuple[np.ndarray, ...], names: tuple[str, ...]) -> None:
        for name, value in zip(names, row, strict=True):
            # Most environments return rewards in float64; `valid` becomes a weight of 1 or 0.
            dtype = np.float32 if name in ("reward", "valid") else value.dtype
            self._arrays[name] = np.empty((self.num_steps, *value.shape), dtype)
        # The views of each step, made once.
        self._rows = [tuple(array[t, ...] for array in self._arrays.values()) for t in range(self.num_steps)]


def minibatches(rows: RowsT, size: int, generator: torch.Generator) -> Iterator[RowsT]:
    """Shuffled minibatches; rows that fit in one are yielded as they are.

    Args:
        rows: a NamedTuple of tensors [B, ...], among them `weight` [B] of sum 1.
        size: batch size.
        generator: of the shuffle.

    Yields:
        NamedTuples of the same kind, each with weights of sum 1.
    """
    count = len(rows.weight)
    if count <= size:
        yield rows
        return
    order = torch.randperm(count, generator=generator, device=generator.device)
    shuffled = rows._make(column.index_select(0, order) for column in rows)
    weight = F.pad(shuffled.weight, (0, -count % size)).view(-1, size)  # one row per minibatch: one operation for all
    weight /= weight.sum(1, keepdim=True).clamp(min=1e-12)
    shuffled = shuffled._replace(weight=weight.view(-1)[:count])
    yield from map(rows._make, zip(*(column.split(size) for column in shuffled), strict=True))
