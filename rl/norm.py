"""Running normalisation. The statistics are buffers of the modules that use them, so checkpoints hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from costgrad.rl.checks import within
from costgrad.rl.data import to_numpy


class RunningNorm(nn.Module):
    """Normalises observations to mean 0 and variance 1 by running statistics over all batches of `update`.

    Vectors are normalised per entry. Images (three dimensions) are normalised per channel: the statistics of a channel
    are pooled over rows and columns, so the image keeps its spatial structure.

    Statistics merge as in Chan, Golub & LeVeque 1979 (parallel variance), in float64: float32 drifts after 1e7 rows.

    Args:
        shape: of one observation, without the batch.
        channel_axis: of an image, counted in `shape`; -1 is gymnasium's height x width x channel.
        clip: normalised values stay within [-clip, clip].
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], channel_axis: int = -1, clip: float = 10.0) -> None:
        super().__init__()
        self.shape, self.clip = tuple(shape), clip
        channel_axis %= max(len(shape), 1)
        # Axes of [B, *shape] that share one statistic.
        self.pooled = (0, *(i + 1 for i in range(len(shape)) if len(shape) == 3 and i != channel_axis))
        kept = [1 if i + 1 in self.pooled else n for i, n in enumerate(shape)]
        for name, value in (("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full(kept, value, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # float32 copies that `forward` uses. x * scale + shift would be one operation, but would cancel two large
        # numbers where the mean is far from 0: for a constant entry only the rounding error would remain.
        self.register_buffer("center", torch.zeros(kept))
        self.register_buffer("scale", torch.ones(kept))

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *shape] -> [B, *shape], differentiable in obs."""
        return ((obs - self.center) * self.scale).clamp(-self.clip, self.clip)

    def update(self, obs: np.ndarray | Tensor, weight: np.ndarray | Tensor | None = None) -> None:
        """Adds a batch to the statistics, computed in NumPy because observations are on the CPU.

        Args:
            obs: [B, *shape].
            weight: [B] 1 or 0; rows of weight 0 are ignored. None counts all.
        """
        row = _array(obs)
        if weight is not None and not (counted := _array(weight) > 0).all():
            row = row[counted]
        if not len(row):
            return
        row = row.astype(np.float64)
        old_mean, old_var, old_count = (to_numpy(value) for value in (self.mean, self.var, self.count))
        mean = row.mean(self.pooled, keepdims=True)
        deviation = row - mean
        var = np.multiply(deviation, deviation, out=deviation).mean(self.pooled, keepdims=True)[0]
        count = row.size // mean.size
        total = old_count + count
        share, delta = count / total, mean[0] - old_mean
        new = {"mean": old_mean + delta * share, "count": total}
        new["var"] = old_var * (1 - share) + var * share + delta**2 * share * (1 - share)
        new["center"] = new["mean"]
        new["scale"] = 1 / np.sqrt(new["var"] + 1e-8)
        for name, value in new.items():
            getattr(self, name).copy_(torch.as_tensor(value))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """As torch's. Raises ValueError where a variance or a count is negative, or a scale is not above 0."""
        for name, least in (("var", 0.0), ("count", 0.0), ("scale", 1e-38)):
            if (value := state_dict.get(f"{prefix}{name}")) is not None:
                within(value, f"{prefix}{name}", least, math.inf)
        super()._load_from_state_dict(state_dict, prefix, *args)


class CostUnit(nn.Module):
    """The scale of a task's discounted costs: the unit of a temperature or of a loss coefficient.

    max(std(G), max|G| / 5) of the backward discounted sum G_t = cost_t + discount_{t-1} G_{t-1} within an episode
    (as FlashSAC scales rewards, 2604.04539). It depends on the task's costs alone, not on C or on entropy terms: a
    temperature relative to the scale of soft returns would amplify itself.
    """

    largest: Tensor
    going: Tensor
    resized = "going"  # which tensor of a file may have any length, that of its number of environments

    def __init__(self) -> None:
        super().__init__()
        self.past = RunningNorm(())
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("going", torch.zeros(0, dtype=torch.float64))  # [N] of the unfinished episodes

    @property
    def value(self) -> float:
        """In the environment's units of cost; 1 until a nonzero cost was seen."""
        return (
            max(float(to_numpy(self.past.var)) ** 0.5 * bool(self.past.count), float(to_numpy(self.largest)) / 5) or 1.0
        )

    def on_reset(self) -> None:
        """Called after every reset; drops the sums of unfinished episodes. num_envs may have changed."""
        self.going = self.going[:0]

    def update(self, cost: np.ndarray, discount: np.ndarray, done: np.ndarray, valid: np.ndarray) -> None:
        """Adds a rollout to the statistics.

        Args:
            cost: [T, N].
            discount: [T, N].
            done: [T, N] whether the episode ended with this step.
            valid: [T, N] 1 or 0; rows of 0 are ignored, and no episode goes on across them.
        """
        carry = to_numpy(self.going) if len(self.going) else np.zeros(cost.shape[1])
        past = np.empty(cost.shape)
        for t in range(len(cost)):
            past[t] = cost[t] * valid[t] + carry
            carry = np.where(done[t] | (valid[t] == 0), 0.0, discount[t] * past[t])
        self.going = torch.from_numpy(carry)
        counted = past[valid > 0]
        if len(counted):
            self.past.update(counted)
            self.largest.fill_(max(float(np.abs(counted).max()), float(to_numpy(self.largest))))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """As torch's, for any number of environments."""
        self.going = torch.zeros_like(
            state_dict.get(f"{prefix}going", self.going)
        )  # of that shape: torch copies into it
        super()._load_from_state_dict(state_dict, prefix, *args)


def _array(value: np.ndarray | Tensor) -> np.ndarray:
    return to_numpy(value) if isinstance(value, Tensor) else value
