"""Running normalisation, kept inside the modules that use it and therefore inside their checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from costgrad.rl.data import to_numpy


class RunningNorm(nn.Module):
    """Shifts and scales observations to mean 0 and variance 1 with the statistics of all that `update` has seen.

    Vectors are normalised per entry. Images (three dimensions) are normalised per channel: the statistics of a channel
    are pooled over rows and columns, so that the picture keeps its shape.

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
        # What observations meet, in float32. x * scale + shift would be one operation, but then two large numbers
        # cancel wherever the mean is far from 0: of an entry that never varies the rounding alone would be left.
        self.register_buffer("center", torch.zeros(kept))
        self.register_buffer("scale", torch.ones(kept))

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *shape] -> [B, *shape], differentiable in obs."""
        return ((obs - self.center) * self.scale).clamp(-self.clip, self.clip)

    def update(self, obs: np.ndarray | Tensor, weight: np.ndarray | Tensor | None = None) -> None:
        """Takes a batch into the statistics; the arithmetic is NumPy's, as observations come from the host.

        Args:
            obs: [B, *shape].
            weight: [B] 1 or 0; rows of weight 0 do not count. None counts all.
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


class CostUnit(nn.Module):
    """The size of a task's discounted costs: what a temperature or a weight is counted in.

    max(std(G), max|G| / 5) of G_t = cost_t + discount_{t-1} G_{t-1}, what each episode has cost so far, looking back
    (as FlashSAC scales rewards, 2604.04539). It depends on the task's costs alone, not on C nor on what an agent adds
    to them: a temperature counted in the size of soft returns would feed on itself.
    """

    largest: Tensor
    going: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.past = RunningNorm(())
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("going", torch.zeros(0, dtype=torch.float64))  # [N] of the episodes under way

    @property
    def value(self) -> float:
        """In the environment's units of cost; 1 until costs other than 0 have been seen."""
        return (
            max(float(to_numpy(self.past.var)) ** 0.5 * bool(self.past.count), float(to_numpy(self.largest)) / 5) or 1.0
        )

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number."""
        self.going = self.going[:0]

    def update(self, cost: np.ndarray, discount: np.ndarray, done: np.ndarray, valid: np.ndarray) -> None:
        """Takes in a rollout.

        Args:
            cost: [T, N].
            discount: [T, N].
            done: [T, N] whether the episode ended with the row.
            valid: [T, N] 1 or 0; rows of weight 0 do not count.
        """
        going = to_numpy(self.going) if len(self.going) else np.zeros(cost.shape[1])
        past = np.empty(cost.shape)
        for t in range(len(cost)):
            past[t] = cost[t] * valid[t] + going
            going = np.where(done[t], 0.0, discount[t] * past[t])
        self.going = torch.from_numpy(going)
        counted = past[valid > 0]
        if len(counted):
            self.past.update(counted)
            self.largest.fill_(max(float(np.abs(counted).max()), float(to_numpy(self.largest))))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """As torch's, of whatever number of environments."""
        self.going = torch.zeros_like(state_dict.get(f"{prefix}going", self.going))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _array(value: np.ndarray | Tensor) -> np.ndarray:
    return to_numpy(value) if isinstance(value, Tensor) else value
