"""Running normalisation, kept inside the modules that use it and therefore inside their checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    scale: Tensor
    shift: Tensor

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
        # x * scale + shift is one operation where (x - mean) / std is two.
        self.register_buffer("scale", torch.ones(kept))
        self.register_buffer("shift", torch.zeros(kept))

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *shape] -> [B, *shape], differentiable in obs."""
        return torch.addcmul(self.shift, obs, self.scale).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, obs: Tensor, weight: Tensor | None = None) -> None:
        """Takes a batch into the statistics.

        Args:
            obs: [B, *shape].
            weight: [B] 1 or 0; rows of weight 0 do not count. None counts all.
        """
        row = obs.to(torch.float64)
        per_row = row[0].numel() // self.mean.numel()
        if weight is None:
            count = torch.tensor(float(len(row) * per_row), dtype=torch.float64, device=row.device)
            var, mean = torch.var_mean(row, self.pooled, correction=0, keepdim=True)
        else:
            w = weight.to(torch.float64).reshape(-1, *[1] * len(self.shape))
            count = w.sum() * per_row
            mean = (row * w).sum(self.pooled, keepdim=True) / count.clamp(min=1.0)
            var = ((row - mean).square() * w).sum(self.pooled, keepdim=True) / count.clamp(min=1.0)
        total = (self.count + count).clamp(min=1.0)
        share = count / total
        delta = mean[0] - self.mean
        self.var.copy_(self.var * (1 - share) + var[0] * share + delta**2 * share * (1 - share))
        self.mean.add_(delta * share)
        self.count.copy_(self.count + count)
        self.scale.copy_((self.var + 1e-8).rsqrt())
        self.shift.copy_(-self.mean * self.scale)
