"""Actors: networks that give a distribution over actions. Noise is an argument: a sample is a function of parameters.

A *sample* is what a distribution draws: the index of a discrete action, or the point before tanh of a continuous one.
`action(sample)` is what the environment gets to see of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.nets import MLP, Activation
from rl.spaces import Codec


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
        return self.log_probs.gather(-1, sample.unsqueeze(-1)).squeeze(-1)

    def entropy(self, sample: Tensor | None = None) -> Tensor:
        """-sum_a pi log pi [B] in nats, exact; no sample is needed."""
        return -(self.probs * self.log_probs).sum(-1)


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
        appendix C).

        Args:
            sample: [..., B, A] before tanh.

        Returns:
            [..., B], a density over [-1, 1]^A.
        """
        z = (sample - self.mean) * (-self.log_std).exp()
        gaussian = -0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - sample - F.softplus(-2 * sample))
        return (gaussian - log_slope).sum(-1)

    def entropy(self, sample: Tensor) -> Tensor:
        """The mean of -log pi over M reparameterised samples [M, B, A] -> [B]: unbiased, and its gradient runs."""
        return -self.log_prob(sample).mean(0)


class CategoricalActor(nn.Module):
    """pi(a|s) over n discrete actions.

    Args:
        features: width of a state's features.
        actions: n.
        hidden: widths of the hidden layers.
        activation: between them.
        layer_norm: whether they are normalised.
        generator: decides the initial weights.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "tanh",
        layer_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.actions = actions
        self.net = MLP((features, *hidden, actions), None, activation, layer_norm, out_gain=0.01, generator=generator)

    def forward(self, x: Tensor) -> Categorical:
        """Features [B, F] -> distributions over n actions."""
        return Categorical(self.net(x))

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """What `Categorical.sample` takes: Gumbel noise [*batch, n]."""
        noise = torch.empty(*batch, self.actions, device=generator.device)
        return noise.exponential_(generator=generator).log_().neg_()


class GaussianActor(nn.Module):
    """pi(a|s) over [-1, 1]^A, its spread free of the state.

    Args:
        features: width of a state's features.
        actions: A.
        hidden: widths of the hidden layers of the network that gives the mean.
        activation: between them.
        layer_norm: whether they are normalised.
        log_std: initial log of the spread before tanh.
        generator: decides the initial weights.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "tanh",
        layer_norm: bool = False,
        log_std: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.actions = actions
        self.net = MLP((features, *hidden, actions), None, activation, layer_norm, out_gain=0.01, generator=generator)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, x: Tensor) -> SquashedGaussian:
        """Features [B, F] -> distributions over A numbers in [-1, 1]."""
        return SquashedGaussian(self.net(x), self.log_std.clamp(-5.0, 2.0))

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """What `SquashedGaussian.sample` takes: [*batch, A]."""
        return torch.randn(*batch, self.actions, generator=generator, device=generator.device)


Actor = CategoricalActor | GaussianActor
Policy = Categorical | SquashedGaussian


def actor_for(
    codec: Codec,
    hidden: tuple[int, ...],
    activation: Activation,
    layer_norm: bool,
    log_std: float,
    generator: torch.Generator,
) -> Actor:
    """The actor that fits an environment's spaces: categorical for discrete actions, else a squashed Gaussian."""
    features, actions = math.prod(codec.obs_shape), codec.action_size
    if codec.discrete:
        return CategoricalActor(features, actions, hidden, activation, layer_norm, generator)
    return GaussianActor(features, actions, hidden, activation, layer_norm, log_std, generator)
