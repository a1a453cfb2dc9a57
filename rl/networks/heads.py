"""What C's last layer means: a number, or a distribution over cost bins. Both work in units of a scale that adapts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costgrad.rl.data import to_numpy
from costgrad.rl.errors import Diverged
from costgrad.rl.networks.mlp import MLP

LIMIT = 5.0  # scaled costs lie in [-LIMIT, LIMIT]
FAR = 12.0  # how far a logit's bias may lie below the largest: next to no mass, yet not out of reach of learning


class Regression(nn.Module):
    """One output per cost, trained with its squared error."""

    outputs = 1
    bounded = False

    def mean(self, output: Tensor) -> Tensor:
        """[..., 1] -> [...] scaled cost."""
        return output.squeeze(-1)

    def to_output(self, output: Tensor, grad_mean: Tensor) -> Tensor:
        """D loss / d `mean` [...] -> d loss / d output [..., 1]."""
        return grad_mean.unsqueeze(-1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The squared error, [..., 1] and scaled target [...] -> [...]."""
        output = output.squeeze(-1)
        return F.mse_loss(output, target.expand_as(output), reduction="none")

    def loss_and_gradient(
        self, output: Tensor, target: Tensor, before: Tensor | None = None, clip: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """`loss`, and its gradient in the output, of that one's shape.

        Args:
            output: [..., 1].
            target: scaled, [...].
            before: scaled costs [...] that C should stay near, for `clip`.
            clip: as in PPO's code (not its paper), the larger of the losses of the output and of the output brought
                back to within `clip` of `before`; 0 does not.
        """
        cost = output.squeeze(-1)
        error = cost - target
        loss, gradient = error.square(), 2 * error
        if clip and before is not None:
            near = (cost.clamp(before - clip, before + clip) - target).square()
            loss, gradient = torch.maximum(loss, near), gradient * (loss >= near)
        return loss, gradient.unsqueeze(-1)

    def initial_bias(self) -> Tensor:
        """[1]: the scaled cost starts at 0."""
        return torch.zeros(1)

    def rescale(self, weight: Tensor, bias: Tensor, ratio: float, offset: float) -> tuple[Tensor, Tensor]:
        """PopArt's rescaled last layer [..., 1]: it gives (scaled cost - `offset`) / `ratio`, exactly."""
        return weight / ratio, (bias - offset) / ratio


class HLGauss(nn.Module):
    """A distribution over cost bins, trained with cross-entropy against a Gaussian put round the target.

    HL-Gauss: Imani & White 2018 (1806.04613), Farebrother et al. 2024 (2403.03950); sigma is 0.75 bin widths.

    Args:
        bins: how many cover [-LIMIT, LIMIT].
    """

    bounded = True
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

    def to_output(self, output: Tensor, grad_mean: Tensor) -> Tensor:
        """D loss / d `mean` [...] -> d loss / d output [..., bins]: probability (center - mean)."""
        probs = F.softmax(output, -1)
        return probs * (self.centers - (probs @ self.centers).unsqueeze(-1)) * grad_mean.unsqueeze(-1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the smoothed target: logits [..., bins], scaled cost [...] -> [...]."""
        return -(self._smoothed(target) * F.log_softmax(output, -1)).sum(-1)

    def loss_and_gradient(
        self, output: Tensor, target: Tensor, before: Tensor | None = None, clip: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """`loss`, and its gradient in the logits [..., bins]: probability - target. A distribution has no clip."""
        smoothed, log_probs = self._smoothed(target), F.log_softmax(output, -1)
        return -(smoothed * log_probs).sum(-1), log_probs.exp() - smoothed

    def _smoothed(self, target: Tensor) -> Tensor:
        inside = self.width / 2  # a target in the outermost half bin could not be met by the mean
        return self.target(target.clamp(-LIMIT + inside, LIMIT - inside))

    def initial_bias(self) -> Tensor:
        """[bins]: the logits of a target at 0, so that the scaled cost starts at 0."""
        return self.target(self.edges.new_zeros(())).clamp(min=math.exp(-FAR)).log()

    def rescale(self, weight: Tensor, bias: Tensor, ratio: float, offset: float) -> tuple[Tensor, Tensor]:
        """PopArt's rescaled last layer [..., bins]: it gives (scaled cost - `offset`) / `ratio`.

        The new logits are the old ones read off where the new bins lie, in a window as wide as two old bins, which
        interpolates, or nearly as two new ones: wide bins would step over a peak. What so wide a window levels is made
        up for by a factor. A new bin outside the old support gets next to no mass. The mean of a smoothed target moves
        by a small part of a new bin where bins grow up to twofold, and by less than one wherever they do.
        """
        position = (self.centers * ratio + offset - self.centers[0]) / self.width  # of new bins, counted in old ones
        inside = position.clamp(0, self.outputs - 1)
        old = torch.arange(self.outputs, device=inside.device)
        window = (1 - (inside.unsqueeze(-1) - old).abs() / max(1.0, 0.7 * ratio)).clamp(min=0)  # [new, old]
        window *= max(1.0, min(ratio, self.outputs) / 4) / window.sum(-1, keepdim=True)
        weight, bias = weight @ window.mT, bias @ window.mT
        bias = bias - 4.0 * (position - inside).abs()
        return weight, (bias - bias.amax(-1, keepdim=True)).clamp(min=-FAR)  # the largest is 0: float32 sees the others


class CostScale(nn.Module):
    """The scale of C's targets, cost = shift + scale * scaled: PopArt-style rescaling (1602.07714), no bounds to set.

    It follows the lowest and the highest target, which therefore are never clipped. It moves in jumps, each at most a
    quarter wider than is needed, since each jump touches C's last layer.

    Args:
        bounded: whether scaled costs have bounds to fill: then the middle between lowest and highest
            target is in the middle of them. Otherwise shift stays 0, and a scaled cost has the sign of the cost.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, bounded: bool = False) -> None:
        super().__init__()
        self.bounded = bounded
        for name, value in (("scale", 1.0), ("shift", 0.0), ("low", 0.0), ("high", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    def cost(self, scaled: Tensor) -> Tensor:
        """Scaled costs [...] in units of cost."""
        return torch.addcmul(self.shift, scaled, self.scale) if self.bounded else scaled * self.scale

    def scaled(self, cost: Tensor) -> Tensor:
        """Costs [...] in scaled units."""
        return (cost - self.shift) / self.scale if self.bounded else cost / self.scale

    def fit(self, net: MLP, head: HLGauss | Regression, target: Tensor, weight: Tensor) -> None:
        """`update`, and the last layer rescaled so that predictions are preserved (PopArt, 1602.07714, section 2.2).

        Args:
            net: its last layer is one of `head`, or several side by side.
            head: what the last layer means.
            target: [B] in units of cost.
            weight: [B] 0 where a row does not count.
        """
        ratio, offset = self.update(target, weight)
        last = net.weights[-1], net.biases[-1]
        weights, bias = (parameter.unflatten(-1, (-1, head.outputs)) for parameter in last)
        if (ratio, offset) == (1.0, 0.0) or not (weights.any() or _differ(bias, head.initial_bias())):
            return  # a C that has learnt nothing yet starts in the middle
        new = head.rescale(weights, bias, ratio, offset)
        with torch.no_grad():
            for parameter, value in zip(last, new, strict=True):
                parameter.copy_(value.flatten(-2))

    def update(self, target: Tensor, weight: Tensor) -> tuple[float, float]:
        """Takes in a rollout's targets, once a rollout; waits for the device.

        Args:
            target: [B] in units of cost.
            weight: [B] 0 where a row does not count.

        Returns:
            ratio, offset: what was `offset + ratio * x` in scaled units is x from now on; 1, 0 where nothing moved.

        Raises:
            Diverged: a target that counts is not a finite number.
        """
        old, shift, low, high = (float(to_numpy(buffer)) for buffer in (self.scale, self.shift, self.low, self.high))
        counted = to_numpy(target)[to_numpy(weight) > 0]
        if not len(counted):
            return 1.0, 0.0
        lowest, highest = float(counted.min()), float(counted.max())
        if not math.isfinite(lowest) or not math.isfinite(highest):
            raise Diverged("a target of C is not a finite number: learning diverged, lower its learning rates")
        if not self.bounded:
            highest = max(highest, -lowest)
            lowest = -highest
        begun, middle = high > low, (low + high) / 2
        if begun:  # what has not been seen for long fades
            low, high = (
                min(lowest, middle + 0.995 * (low - middle)),
                max(highest, middle + 0.995 * (high - middle)),
            )
        else:
            low, high = lowest, highest
        self.low.fill_(low)
        self.high.fill_(high)
        middle, half = (low + high) / 2, (high - low) / 2
        # The margin keeps the outermost targets out of the outermost bins, whose mean is short of their edge; costs
        # that hardly differ still get bins that float32 can tell apart.
        needed = max(half / (0.9 * LIMIT), 1e-3 * abs(middle), 1e-12)
        if begun and max(high - shift, shift - low) <= 0.9 * LIMIT * old and old <= 3 * needed:
            return 1.0, 0.0
        new = 1.25 * needed
        # New tensors: metrics hold on to the old ones.
        self.scale, self.shift = torch.full_like(self.scale, new), torch.full_like(self.shift, middle)
        return new / old, (middle - shift) / old


class Extremes(nn.Module):
    """The lowest and the highest target of many batches, for a scale that is looked at once in a while.

    A cost that one batch in a thousand holds would otherwise be missed, and then clipped. It waits for no device.
    """

    outermost: Tensor
    may_be_infinite = ("outermost",)  # where it has seen nothing since it was last asked

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("outermost", torch.full((2,), -math.inf))  # minus the lowest, and the highest

    @torch.no_grad()
    def take(self, target: Tensor) -> None:
        """Takes in a batch's targets [B], all of which count."""
        low, high = target.aminmax()
        torch.maximum(self.outermost, torch.stack((-low, high)), out=self.outermost)

    def seen(self) -> tuple[Tensor, Tensor]:
        """The two targets since it was last asked, and weights of sum 1, as `Critic.adapt` takes them."""
        target = torch.stack((-self.outermost[0], self.outermost[1]))
        self.outermost.fill_(-math.inf)
        return target, torch.full_like(target, 0.5)


def _differ(bias: Tensor, initial: Tensor) -> bool:
    """Whether a bias [..., outputs] has left what it started from [outputs]; devices round differently."""
    return not torch.allclose(bias, initial.to(bias.device), rtol=1e-6, atol=1e-6)
