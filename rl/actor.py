"""Actors: networks that give a distribution over actions. Noise is an argument: a sample is a function of parameters.

A *sample* is what a distribution draws: the index of a discrete action, or the point before tanh of a continuous one.
`action(sample)` is what the environment gets to see of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.data import host
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
        return -F.nll_loss(self.log_probs, sample, reduction="none")

    def entropy(self, sample: Tensor | None = None) -> Tensor:
        """-sum_a pi log pi [B] in nats, exact; no sample is needed."""
        return -(self.probs * self.log_probs).sum(-1)

    def kl(self, other: Policy) -> Tensor:
        """KL(self || other) [B] in nats."""
        assert isinstance(other, Categorical)
        return (self.probs * (self.log_probs - other.log_probs)).sum(-1)

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
        _, choices, most = self.logits.shape
        place = combinations + most * torch.arange(choices, device=combinations.device)
        return self.log_probs.flatten(1)[:, place].sum(-1).exp()

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


def normal_noise(*shape: int, generator: torch.Generator) -> Tensor:
    """Of mean 0 and variance 1, on the generator's device."""
    return torch.randn(*shape, generator=generator, device=generator.device)


class CategoricalActor(nn.Module):
    """pi(a|s) over n discrete actions, or over D such choices at once.

    Args:
        features: width of a state's features.
        actions: n, or the n of each choice as a tuple.
        hidden: widths of the hidden layers.
        activation: between them.
        layer_norm: whether they are normalised.
        generator: decides the initial weights.
    """

    order: Tensor
    place: Tensor

    def __init__(
        self,
        features: int,
        actions: int | tuple[int, ...],
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "tanh",
        layer_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.multi = isinstance(actions, tuple)
        self.choices = actions if isinstance(actions, tuple) else (actions,)
        sizes = (features, *hidden, sum(self.choices))
        self.net = MLP(sizes, None, activation, layer_norm, out_gain=0.01, generator=generator)
        # [D, M]: the output that says how likely choice d is to be m; one past the last where it cannot be.
        slots = np.full((len(self.choices), max(self.choices)), sum(self.choices))
        for d, n in enumerate(self.choices):
            slots[d, :n] = np.arange(n) + sum(self.choices[:d])
        self.slots = slots
        self.register_buffer("order", torch.from_numpy(slots.ravel()), persistent=False)
        # The other way round: in which slot each output stands.
        self.register_buffer("place", torch.from_numpy(np.flatnonzero(slots < sum(self.choices))), persistent=False)
        self.padded = bool((slots == sum(self.choices)).any())
        self.noise_shape = slots.shape if self.multi else self.choices

    def forward(self, x: Tensor) -> Categorical:
        """Features [B, F] -> distributions over n actions, or over D choices."""
        return self.policy(self.net(x))

    def policy(self, logits: Tensor) -> Categorical:
        """The net's output [B, sum of choices] -> what `forward` gives."""
        if not self.multi:
            return Categorical(logits)
        if self.padded:
            logits = F.pad(logits, (0, 1), value=NEVER)[:, self.order]
        return MultiCategorical(logits.view(-1, *self.slots.shape))

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """What `sample` takes: Gumbel noise [*batch, n] or [*batch, D, M]."""
        noise = torch.empty(*batch, *self.noise_shape, device=generator.device)
        return noise.exponential_(generator=generator).log_().neg_()

    def noise_from(self, normal: np.ndarray) -> np.ndarray:
        """Gumbel noise of the same quantiles as normal noise, on the host: -log(-log Phi(z)) of each z."""
        return host(torch.special.log_ndtr(torch.from_numpy(normal)).neg_().log_().neg_())

    def act(self, output: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The same on the host: net's outputs and noise (None: the mode) -> sample, action, both [N] or [N, D]."""
        if self.multi:
            if self.padded:
                output = np.pad(output, ((0, 0), (0, 1)), constant_values=NEVER)[:, self.slots.ravel()]
            output = output.reshape(-1, *self.slots.shape)
        sample = (output if noise is None else output + noise).argmax(-1)
        return sample, sample


class GaussianActor(nn.Module):
    """pi(a|s) over [-1, 1]^A, its spread free of the state or an output like the mean.

    Args:
        features: width of a state's features.
        actions: A.
        hidden: widths of the hidden layers of the network that gives the mean.
        activation: between them.
        layer_norm: whether they are normalised.
        log_std: initial log of the spread before tanh.
        generator: decides the initial weights.
        state_std: whether the spread depends on the state.
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
        state_std: bool = False,
    ) -> None:
        super().__init__()
        self.actions, self.state_std = actions, state_std
        self.noise_shape = (actions,)
        outputs = 2 * actions if state_std else actions
        self.net = MLP((features, *hidden, outputs), None, activation, layer_norm, out_gain=0.01, generator=generator)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, x: Tensor) -> SquashedGaussian:
        """Features [B, F] -> distributions over A numbers in [-1, 1]."""
        return self.policy(self.net(x))

    def policy(self, output: Tensor) -> SquashedGaussian:
        """The net's output [B, A] or [B, 2 A] -> what `forward` gives."""
        mean = output[:, : self.actions] if self.state_std else output
        return SquashedGaussian(mean, self.free_log_std(output).clamp(*LOG_STD))

    def free_log_std(self, output: Tensor) -> Tensor:
        """Log of the spread before it is kept within `LOG_STD`: the net's output -> [A], or [B, A] of the state."""
        return self.log_std + output[:, self.actions :] if self.state_std else self.log_std

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """What `SquashedGaussian.sample` takes: [*batch, A]."""
        return normal_noise(*batch, self.actions, generator=generator)

    def noise_from(self, normal: np.ndarray) -> np.ndarray:
        """Normal noise as it is."""
        return normal

    def act(self, output: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """`SquashedGaussian` on the host: net's outputs, noise [N, A] (None: the mode) -> sample, action [N, A]."""
        mean = output[:, : self.actions]
        if noise is None:
            return mean, np.tanh(mean)
        log_std = host(self.log_std) + output[:, self.actions :] if self.state_std else host(self.log_std)
        sample = mean + noise * np.exp(np.minimum(np.maximum(log_std, LOG_STD[0]), LOG_STD[1]))
        return sample, np.tanh(sample)


class DeterministicActor(nn.Module):
    """The action mu(s) in [-1, 1]^A, and noise round it where the agent explores (1802.09477).

    Args:
        features: width of a state's features.
        actions: A.
        hidden: widths of the hidden layers.
        activation: between them.
        layer_norm: whether they are normalised.
        noise: standard deviation of the exploration, in units of the action.
        generator: decides the initial weights.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        hidden: tuple[int, ...],
        activation: Activation,
        layer_norm: bool,
        noise: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.actions, self.spread = actions, noise
        self.noise_shape = (actions,)
        self.net = MLP((features, *hidden, actions), None, activation, layer_norm, out_gain=0.01, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, F] -> actions [B, A]."""
        return self.net(x).tanh()

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """Normal noise [*batch, A]."""
        return normal_noise(*batch, self.actions, generator=generator)

    def noise_from(self, normal: np.ndarray) -> np.ndarray:
        """Normal noise as it is."""
        return normal

    def act(self, output: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The same on the host: net's outputs, noise [N, A] (None: none) -> action, action [N, A]."""
        action = np.tanh(output)
        if noise is not None:
            action = np.minimum(np.maximum(action + np.float32(self.spread) * noise, -1), 1)
        return action, action


StochasticActor = CategoricalActor | GaussianActor
Actor = StochasticActor | DeterministicActor
Policy = Categorical | SquashedGaussian


def actor_for(
    codec: Codec,
    hidden: tuple[int, ...],
    activation: Activation,
    layer_norm: bool,
    log_std: float,
    generator: torch.Generator,
    state_std: bool = False,
) -> StochasticActor:
    """The actor that fits an environment's spaces: categorical for discrete actions, else a squashed Gaussian."""
    features, actions = math.prod(codec.obs_shape), codec.action_size
    if codec.discrete:
        choices = codec.choices if codec.multi else actions
        return CategoricalActor(features, choices, hidden, activation, layer_norm, generator)
    return GaussianActor(features, actions, hidden, activation, layer_norm, log_std, generator, state_std)
