"""What C's last layer means: a number, or a distribution over cost bins. Both work in units of a scale that adapts."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.data import host
from rl.errors import Diverged

LIMIT = 5.0  # scaled costs lie in [-LIMIT, LIMIT]
FAR = 12.0  # how far a logit's bias may lie below the largest: next to no mass, yet not out of reach of learning


class Regression(nn.Module):
    """One output per cost, trained with its squared error."""

    outputs = 1

    def mean(self, output: Tensor) -> Tensor:
        """[..., 1] -> [...] scaled cost."""
        return output.squeeze(-1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The squared error, [..., 1] and scaled target [...] -> [...]."""
        output = output.squeeze(-1)
        return F.mse_loss(output, target.expand_as(output), reduction="none")

    def initial_bias(self) -> Tensor:
        """[1]: the scaled cost starts at 0."""
        return torch.zeros(1)

    def rescale(self, weight: Tensor, bias: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        """The last layer [..., 1] that gives every scaled cost divided by `ratio`, exactly."""
        return weight / ratio, bias / ratio


class HLGauss(nn.Module):
    """A distribution over cost bins, trained with cross-entropy against a Gaussian put round the target.

    HL-Gauss: Imani & White 2018 (1806.04613), Farebrother et al. 2024 (2403.03950); sigma is 0.75 bin widths.

    Args:
        bins: how many cover [-LIMIT, LIMIT].
    """

    centers: Tensor
    edges: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.outputs = bins
        self.width = 2 * LIMIT / bins
        edges = torch.linspace(-LIMIT, LIMIT, bins + 1, dtype=torch.float64)
        self.register_buffer("edges", edges.float(), persistent=False)
        self.register_buffer("centers", ((edges[1:] + edges[:-1]) / 2).float(), persistent=False)

    def target(self, cost: Tensor) -> Tensor:
        """The Gaussian's mass in each bin, made to sum to 1: scaled cost [...] -> [..., bins]."""
        z = (self.edges - cost.unsqueeze(-1)) / (0.75 * self.width * math.sqrt(2))
        mass = torch.erf(z).diff(dim=-1)
        return mass / mass.sum(-1, keepdim=True)

    def mean(self, output: Tensor) -> Tensor:
        """Logits [..., bins] -> the distribution's mean [...], scaled cost."""
        return F.softmax(output, -1) @ self.centers

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the smoothed target: logits [..., bins], scaled cost [...] -> [...]."""
        inside = self.width / 2  # a target in the outermost half bin could not be met by the mean
        smoothed = self.target(target.clamp(-LIMIT + inside, LIMIT - inside))
        return -(smoothed * F.log_softmax(output, -1)).sum(-1)

    def initial_bias(self) -> Tensor:
        """[bins]: the logits of a target at 0, so that the scaled cost starts at 0."""
        return self.target(torch.zeros(())).clamp(min=math.exp(-FAR)).log()

    def rescale(self, weight: Tensor, bias: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        """The last layer [..., bins] that gives every scaled cost divided by `ratio`.

        The new logits are the old ones read off (linearly interpolated) where the new bins lie; a new bin outside the
        old support gets next to no mass. The mean of the distribution moves by a small part of a bin.
        """
        position = (self.centers * ratio - self.centers[0]) / self.width  # of each new bin, counted in old bins
        inside = position.clamp(0, self.outputs - 1)
        lower = inside.floor().clamp(max=self.outputs - 2).long()
        part = inside - lower
        weight, bias = (t[..., lower] * (1 - part) + t[..., lower + 1] * part for t in (weight, bias))
        bias = bias - 4.0 * (position - inside).abs()
        return weight, torch.maximum(bias, bias.amax(-1, keepdim=True) - FAR)


class CostScale(nn.Module):
    """How many units of cost one scaled unit stands for, so that nobody sets cost bounds by hand.

    It follows the largest target, which therefore is never clipped. It moves in jumps, each at most a quarter more than
    is needed, since each jump touches C's last layer.
    """

    scale: Tensor
    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("largest", torch.zeros(()))

    def update(self, target: Tensor, weight: Tensor) -> float:
        """Takes in a rollout's targets, once a rollout; waits for the device.

        Args:
            target: [B] in units of cost.
            weight: [B] 0 where a row does not count.

        Returns:
            new scale / old scale, 1 where nothing moved.

        Raises:
            Diverged: a target that counts is not a finite number.
        """
        old, before = float(host(self.scale)), float(host(self.largest))
        size = np.abs(host(target))
        largest = max(float(size.max(where=host(weight) > 0, initial=0.0)), 0.995 * before)
        if not math.isfinite(largest):
            raise Diverged("a target of C is not a finite number: learning diverged, lower its learning rates")
        # The margin keeps the largest target out of the outermost bins, whose mean is short of their edge.
        needed = max(largest / (0.9 * LIMIT), 1e-12)
        self.largest.fill_(largest)
        if old / 3 <= needed <= old and before:
            return 1.0
        self.scale = torch.full_like(self.scale, 1.25 * needed)  # a new one: metrics hold on to the old one
        return 1.25 * needed / old
