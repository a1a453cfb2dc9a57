"""Policies: distributions over actions, as functions of a network's output and of noise.

A *sample* is what a distribution draws: the index of a discrete action, or the point before tanh of a continuous one.
`action(sample)` is what the environment gets to see of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Categorical:
    """Probabilities over n discrete actions.

    Args:
        logits: [B, n], up to a constant a row.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self._log_probs: Tensor | None = None

    @property
    def log_probs(self) -> Tensor:
        """[B, n]."""
        kept = self._log_probs
        # One that was made under no_grad does not serve a reader who needs the graph.
        if kept is None or (self.logits.requires_grad and torch.is_grad_enabled() and not kept.requires_grad):
            kept = self._log_probs = F.log_softmax(self.logits, -1)
        return kept

    @property
    def probs(self) -> Tensor:
        """[B, n]."""
        return self.log_probs.exp()

    def sample(self, noise: Tensor) -> Tensor:
        """One index a row by the Gumbel-max trick: Gumbel noise [B, n] -> [B] int64."""
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The likeliest index [B]."""
        return self.logits.argmax(-1)

    def action(self, sample: Tensor) -> Tensor:
        """The sample itself."""
        return sample

    def log_prob(self, sample: Tensor) -> Tensor:
        """[B] int64 -> log pi [B]."""
        return -F.nll_loss(self.log_probs, sample, reduction="none")

    def entropy(self, sample: Tensor | None = None) -> Tensor:
        """-sum_a pi log pi [B] in nats, exact; no sample is needed."""
        return -(self.probs * self.log_probs).sum(-1)

    def kl(self, other: Policy) -> Tensor:
        """KL(self || other) [B] in nats."""
        assert isinstance(other, Categorical)
        return (self.probs * (self.log_probs - other.log_probs)).sum(-1)

    def joint_log_probs(self, combinations: Tensor) -> Tensor:
        """Log pi of each action that C lists [B, P]; `combinations` are of vectors of choices."""
        return self.log_probs

    def to_logits(self, gradient: Tensor, combinations: Tensor) -> Tensor:
        """From gradients in `joint_log_probs` [B, P], of sum 0 a row, to those in the logits, of their shape."""
        return gradient

    def columns(self) -> Tensor:
        """All of it in one tensor [B, n], of which `Categorical` makes it again."""
        return self.logits

    @staticmethod
    def of(columns: Tensor) -> Categorical:
        """The inverse of `columns`."""
        return Categorical(columns)


LOG_STD = (-5.0, 2.0)  # within which a Gaussian's log std is kept
NEVER = -1e9  # a logit of what cannot be chosen: finite, so that 0 probability times it is 0


class MultiCategorical(Categorical):
    """D independent choices at once, each among at most M.

    Args:
        logits: [B, D, M], `NEVER` where a choice has fewer than M.
    """

    def log_prob(self, sample: Tensor) -> Tensor:
        """[B, D] int64 -> log pi [B]."""
        return self.log_probs.gather(-1, sample.unsqueeze(-1)).squeeze(-1).sum(-1)

    def entropy(self, sample: Tensor | None = None) -> Tensor:
        """The sum of the choices' entropies [B] in nats, exact; no sample is needed."""
        return super().entropy().sum(-1)

    def kl(self, other: Policy) -> Tensor:
        """KL(self || other) [B] in nats."""
        return super().kl(other).sum(-1)

    def joint(self, combinations: Tensor) -> Tensor:
        """The probability of whole actions [P, D] int64 -> [B, P]."""
        return self.joint_log_probs(combinations).exp()

    def joint_log_probs(self, combinations: Tensor) -> Tensor:
        """Log pi of whole actions [P, D] int64 -> [B, P]."""
        return self.log_probs.flatten(1)[:, self._places(combinations)].sum(-1)

    def to_logits(self, gradient: Tensor, combinations: Tensor) -> Tensor:
        """A logit gets the gradients of all whole actions that hold its choice: [B, P] -> [B, D, M]."""
        places = self._places(combinations)
        whole = torch.zeros_like(self.logits).flatten(1)
        return whole.index_add_(1, places.flatten(), gradient.repeat_interleave(places.shape[1], 1)).view_as(
            self.logits
        )

    def _places(self, combinations: Tensor) -> Tensor:
        """Where the choices of whole actions lie among all logits of a row: [P, D] -> [P, D]."""
        _, choices, most = self.logits.shape
        return combinations + most * torch.arange(choices, device=combinations.device)

    @staticmethod
    def of(columns: Tensor) -> MultiCategorical:
        """The inverse of `columns`."""
        return MultiCategorical(columns)


class SquashedGaussian(NamedTuple):
    """A Gaussian squashed by tanh into [-1, 1]^A."""

    mean: Tensor  # [B, A] before tanh
    log_std: Tensor  # broadcasts to it

    def sample(self, noise: Tensor) -> Tensor:
        """The point mean + std * noise (1312.6114): normal noise [..., B, A] -> [..., B, A] before tanh."""
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def mode(self) -> Tensor:
        """The mean before tanh [B, A]."""
        return self.mean

    def action(self, sample: Tensor) -> Tensor:
        """Tanh of the sample, [..., A] in [-1, 1]."""
        return sample.tanh()

    def log_prob(self, sample: Tensor) -> Tensor:
        """Log pi of the action tanh(sample), from the sample: no atanh of a clipped action.

        log N(x) - log|d tanh(x)/dx|, the latter as 2 (log 2 - x - softplus(-2x)), which does not overflow (1812.05905,
        appendix C). F.softplus(x, -2) is -softplus(-2x) / 2.

        Args:
            sample: [..., B, A] before tanh.

        Returns:
            [..., B], a density over [-1, 1]^A.
        """
        z = (sample - self.mean) * (-self.log_std).exp()
        surprise = torch.addcmul(self.log_std, z, z, value=0.5)  # -log N(x), and log slope of tanh, up to constants
        log_slope = torch.add(F.softplus(sample, -2.0), sample, alpha=-0.5)
        constant = 0.5 * math.log(2 * math.pi) + 2 * math.log(2)
        return -torch.add(surprise, log_slope, alpha=4.0).sum(-1) - constant * sample.shape[-1]

    def entropy(self, sample: Tensor | None) -> Tensor:
        """The mean of -log pi over M reparameterised samples [M, B, A] -> [B]: unbiased, and its gradient runs."""
        assert sample is not None, "the entropy behind tanh has no closed form: it needs samples"
        return -self.log_prob(sample).mean(0)

    def kl(self, other: Policy) -> Tensor:
        """KL(self || other) [B] in nats, exact: that of the Gaussians, for tanh is one to one."""
        assert isinstance(other, SquashedGaussian)
        log_ratio = other.log_std - self.log_std
        square = (self.log_std.exp().square() + (self.mean - other.mean).square()) * (-2 * other.log_std).exp()
        return (log_ratio + square / 2 - 0.5).sum(-1)

    def columns(self) -> Tensor:
        """All of it in one tensor [B, 2 A], of which `of` makes it again."""
        return torch.cat((self.mean, self.log_std.expand_as(self.mean)), -1)

    @staticmethod
    def of(columns: Tensor) -> SquashedGaussian:
        """The inverse of `columns`."""
        return SquashedGaussian(*columns.chunk(2, -1))


Policy = Categorical | SquashedGaussian
