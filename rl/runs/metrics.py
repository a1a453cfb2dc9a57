"""Metrics of updates, which stay tensors on their device until they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_KEPT = 128  # maximum number of updates whose metrics are averaged


class Thinned:
    """Metrics of evenly spaced updates between two writes, as tensors on their device."""

    def __init__(self, kept: list[dict[str, Tensor]] | None = None, seen: int = 0, stride: int = 1) -> None:
        self.kept = kept or []
        self.seen = seen
        self.stride = stride

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Keeps every update at first, then every second, every fourth, ... to bound memory and time."""
        self.seen += 1
        if self.seen % self.stride == 0:
            self.kept.append(metrics)
            if len(self.kept) == _KEPT:
                self.kept = self.kept[1::2]
                self.stride *= 2


def means(groups: Mapping[tuple[str, ...], Thinned]) -> dict[str, float]:
    """The mean of each metric over the updates that report it; synchronises with the device once per group.

    Args:
        groups: updates by the names of their metrics, which may differ between updates.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for names, sample in groups.items():
        rows = torch.stack([value for metrics in sample.kept for value in metrics.values()]).view(-1, len(names))
        for name, mean in zip(names, rows.double().mean(0).tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + mean * sample.seen
            counts[name] = counts.get(name, 0) + sample.seen
    return {name: total / counts[name] for name, total in sums.items()}
