"""Actors: networks that give a policy (distributions.py). Noise is an argument: samples are functions of parameters."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costgrad.rl.data import to_numpy
from costgrad.rl.networks.distributions import LOG_STD, NEVER, Categorical, MultiCategorical, SquashedGaussian
from costgrad.rl.networks.encoder import ActorEncoder
from costgrad.rl.networks.mlp import MLP, Activation, Init
from costgrad.rl.spaces import Codec


def normal_noise(*shape: int, generator: torch.Generator) -> Tensor:
    """Of mean 0 and variance 1, on the generator's device."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def encode(encoder: ActorEncoder, x: Tensor) -> Tensor:
    """The features [B, F] that an actor's network reads: x itself without an encoder."""
    return x if encoder is None else encoder(x)


class CategoricalActor(nn.Module):
    """pi(a|s) over n discrete actions, or over D such choices at once.

    Args:
        features: width of a state's features.
        actions: n, or the n of each choice as a tuple.
        hidden: widths of the hidden layers.
        activation: between them.
        layer_norm: whether they are normalised.
        generator: decides the initial weights.
        init: how, see `MLP`.
        encoder: turns observations into the features; None where they are features already.
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
        init: Init = "orthogonal",
        encoder: ActorEncoder = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.multi = isinstance(actions, tuple)
        self.choices = actions if isinstance(actions, tuple) else (actions,)
        sizes = (features, *hidden, sum(self.choices))
        self.net = MLP(sizes, None, activation, layer_norm, 0.0, 0.01, generator, init)
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
        return self.policy(self.net(encode(self.encoder, x)))

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
        """Gumbel noise of the same quantiles as normal noise, in NumPy: -log(-log Phi(z)) of each z."""
        return to_numpy(torch.special.log_ndtr(torch.from_numpy(normal)).neg_().log_().neg_())

    def act(self, output: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The same in NumPy: the net's outputs and noise (None: the mode) -> sample, action, both [N] or [N, D]."""
        if self.multi:
            if self.padded:
                output = np.pad(output, ((0, 0), (0, 1)), constant_values=NEVER)[:, self.slots.ravel()]
            output = output.reshape(-1, *self.slots.shape)
        sample = (output if noise is None else output + noise).argmax(-1)
        return sample, sample


class GaussianActor(nn.Module):
    """pi(a|s) over [-1, 1]^A, a squashed Gaussian; its standard deviation depends on the state or not.

    Args:
        features: width of a state's features.
        actions: A.
        hidden: widths of the hidden layers of the network that gives the mean.
        activation: between them.
        layer_norm: whether they are normalised.
        log_std: initial log standard deviation, before tanh.
        generator: decides the initial weights.
        state_std: whether the standard deviation depends on the state.
        init: how initial weights are drawn, see `MLP`.
        encoder: turns observations into the features; None where they are features already.
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
        init: Init = "orthogonal",
        encoder: ActorEncoder = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.actions, self.state_std = actions, state_std
        self.noise_shape = (actions,)
        outputs = 2 * actions if state_std else actions
        self.net = MLP((features, *hidden, outputs), None, activation, layer_norm, 0.0, 0.01, generator, init)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, x: Tensor) -> SquashedGaussian:
        """Features [B, F] -> distributions over A numbers in [-1, 1]."""
        return self.policy(self.net(encode(self.encoder, x)))

    def policy(self, output: Tensor) -> SquashedGaussian:
        """The net's output [B, A] or [B, 2 A] -> what `forward` gives."""
        mean = output[:, : self.actions] if self.state_std else output
        return SquashedGaussian(mean, self.free_log_std(output).clamp(*LOG_STD))

    def free_log_std(self, output: Tensor) -> Tensor:
        """Log standard deviation before it is clamped to `LOG_STD`: the net's output -> [A], or [B, A] of the state."""
        return self.log_std + output[:, self.actions :] if self.state_std else self.log_std

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """What `SquashedGaussian.sample` takes: [*batch, A]."""
        return normal_noise(*batch, self.actions, generator=generator)

    def noise_from(self, normal: np.ndarray) -> np.ndarray:
        """Normal noise as it is."""
        return normal

    def act(self, output: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """`SquashedGaussian` in NumPy: the net's outputs, noise [N, A] (None: the mode) -> sample, action [N, A]."""
        mean = output[:, : self.actions]
        if noise is None:
            return mean, np.tanh(mean)
        log_std = to_numpy(self.log_std) + output[:, self.actions :] if self.state_std else to_numpy(self.log_std)
        sample = mean + noise * np.exp(np.minimum(np.maximum(log_std, LOG_STD[0]), LOG_STD[1]))
        return sample, np.tanh(sample)


class DeterministicActor(nn.Module):
    """The action mu(s) in [-1, 1]^A, and Gaussian exploration noise around it (1802.09477).

    Args:
        features: width of a state's features.
        actions: A.
        hidden: widths of the hidden layers.
        activation: between them.
        layer_norm: whether they are normalised.
        noise: standard deviation of the exploration, in units of the action.
        generator: decides the initial weights.
        init: how, see `MLP`.
        encoder: turns observations into the features; None where they are features already.
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
        init: Init = "orthogonal",
        encoder: ActorEncoder = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.actions, self.noise_std = actions, noise
        self.noise_shape = (actions,)
        self.net = MLP((features, *hidden, actions), None, activation, layer_norm, 0.0, 0.01, generator, init)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, F] -> actions [B, A]."""
        return self.net(encode(self.encoder, x)).tanh()

    def noise(self, *batch: int, generator: torch.Generator) -> Tensor:
        """Normal noise [*batch, A]."""
        return normal_noise(*batch, self.actions, generator=generator)

    def noise_from(self, normal: np.ndarray) -> np.ndarray:
        """Normal noise as it is."""
        return normal

    def act(self, output: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The same in NumPy: the net's outputs, noise [N, A] (None: none) -> action, action [N, A]."""
        action = np.tanh(output)
        if noise is not None:
            action = np.minimum(np.maximum(action + np.float32(self.noise_std) * noise, -1), 1)
        return action, action


StochasticActor = CategoricalActor | GaussianActor
Actor = StochasticActor | DeterministicActor


def actor_for(
    codec: Codec,
    hidden: tuple[int, ...],
    activation: Activation,
    layer_norm: bool,
    log_std: float,
    generator: torch.Generator,
    state_std: bool = False,
    init: Init = "orthogonal",
    encoder: ActorEncoder = None,
) -> StochasticActor:
    """The actor that fits an environment's spaces: categorical for discrete actions, else a squashed Gaussian."""
    features = math.prod(codec.obs_shape) if encoder is None else encoder.features
    actions, shape = codec.action_size, (hidden, activation, layer_norm)
    if codec.discrete:
        choices = codec.choices if codec.multi else actions
        return CategoricalActor(features, choices, *shape, generator, init, encoder)
    return GaussianActor(features, actions, *shape, log_std, generator, state_std, init, encoder)
