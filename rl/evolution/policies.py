"""Deterministic policies of one architecture, as parameter vectors for a search.

N policies act at once, one per row: their parameters are one array [N, P], and a layer is one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from costgrad.rl.checks import same_form
from costgrad.rl.data import to_numpy
from costgrad.rl.networks.actor import CategoricalActor, DeterministicActor
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.networks.numpy_forward import ACTIVATIONS, NumpyForward
from costgrad.rl.norm import RunningNorm
from costgrad.rl.spaces import Codec

Array = np.ndarray
Layers = list[tuple[Array, Array]]  # weight [..., in, out] and bias [..., out] of each layer


class Policies:
    """The centre of the search is a network; every other policy is a vector of its P parameters.

    Actions are deterministic: tanh of the output for a Box, in [-1, 1]^A, and the mode for discrete choices. The last
    layer is initialised to 0, so that the centre acts alike in every state (as in 1803.07055).

    Observations are normalised by statistics that stay fixed until `renew_norm`, the same for all candidates of a
    generation.

    Args:
        codec: of the environment's spaces. The networks stay on the CPU, whatever its device.
        hidden: widths of the hidden layers; () is a linear policy.
        activation: between the layers.
        normalize_obs: shift and scale observations to mean 0 and variance 1.
        seed: decides the initial weights.

    Attributes:
        actor: the centre; `actor.net` alone has parameters.
        size: P.
        norm: the statistics that normalise observations; None without normalisation.
        next_norm: the statistics of the next generation.
    """

    def __init__(
        self, codec: Codec, hidden: tuple[int, ...], activation: Activation, normalize_obs: bool, seed: int
    ) -> None:
        self.codec = codec
        features, generator = math.prod(codec.obs_shape), torch.Generator().manual_seed(seed)
        self.actor: CategoricalActor | DeterministicActor
        if codec.discrete:
            choices = codec.choices if codec.multi else codec.action_size
            self.actor = CategoricalActor(features, choices, hidden, activation, generator=generator)
        else:
            self.actor = DeterministicActor(features, codec.action_size, hidden, activation, False, 0.0, generator)
        self._parameters: list[Tensor] = list(self.actor.net.parameters())  # all weights, then all biases
        with torch.no_grad():
            self.actor.net.weights[-1].zero_()
        self.size = sum(p.numel() for p in self._parameters)
        self._activation = ACTIVATIONS[activation]
        self.norm = RunningNorm(codec.obs_shape) if normalize_obs else None
        self.next_norm = RunningNorm(codec.obs_shape)
        self._output: NumpyForward | None = None

    @property
    def center(self) -> Array:
        """A copy of the centre's parameters [P] float32."""
        return np.concatenate([to_numpy(p).ravel() for p in self._parameters])

    def move(self, center: Array) -> None:
        """Sets the centre's parameters to [P]."""
        with torch.no_grad():
            for parameter, value in zip(self._parameters, self.split(torch.from_numpy(center)), strict=True):
                parameter.copy_(value)

    def split(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Splits a vector [P] into views, one per parameter tensor of the network."""
        parts = torch.split(vector, [p.numel() for p in self._parameters])
        return tuple(part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True))

    def layers(self, rows: Array) -> Layers:
        """Views of the parameters of N policies [N, P]: the layers follow writes to the rows."""
        parts, end = [], 0
        for p in self._parameters:
            start, end = end, end + p.numel()
            parts.append(rows[:, start:end].reshape(len(rows), *p.shape))
        count = len(parts) // 2
        return list(zip(parts[:count], parts[count:], strict=True))

    @np.errstate(over="ignore", invalid="ignore")
    def act(self, layers: Layers, obs: Array) -> Array:
        """Actions of N policies, each for its own row: [N, *obs_shape] -> [N, A], [N] or [N, D]."""
        x = obs.astype(np.float32, copy=False)
        if self.norm is not None:
            x = np.clip((x - to_numpy(self.norm.center)) * to_numpy(self.norm.scale), -self.norm.clip, self.norm.clip)
        x = x.reshape(len(x), 1, -1)
        for i, (weight, bias) in enumerate(layers):
            x = x @ weight + bias[:, None]
            if i < len(layers) - 1:
                x = self._activation(x)
        return self.actor.act(x[:, 0], None)[1]

    def best(self, obs: Array) -> Array:
        """Actions of the centre: [N, *obs_shape] -> [N, A], [N] or [N, D]."""
        if self._output is None:  # lazily: an optimizer, made after `__init__`, moves the parameters to its own memory
            self._output = NumpyForward(self.norm, self.actor.net)
        return self.actor.act(self._output(obs), None)[1]

    def predict(self, obs: Any, deterministic: bool = True) -> Array:
        """The centre's action, which is never sampled, for one observation or a batch; see `Codec.predict`."""
        return self.codec.predict(self.best, obs)

    def record_obs(self, obs: Array, valid: Array) -> None:
        """Adds observations [N, *obs_shape] where `valid` [N] to the statistics of the next generation."""
        if self.norm is not None:
            self.next_norm.update(obs, valid)

    def renew_norm(self) -> None:
        """Starts to normalise by the statistics of all observations so far."""
        if self.norm is not None:
            self.norm.load_state_dict(self.next_norm.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """The centre's parameters and the statistics."""
        parts = {"net": self.actor.net} | ({"norm": self.norm, "seen": self.next_norm} if self.norm is not None else {})
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned. Raises ValueError where it is of another policy, or damaged."""
        mine = self.state_dict()
        same_form(state_dict, mine, "policy")
        parts = {"norm": self.norm, "seen": self.next_norm} if self.norm is not None else {}
        for name, part in parts.items():
            part.load_state_dict({key: state_dict[f"{name}.{key}"] for key in part.state_dict()})
        with torch.no_grad():
            for name, value in self.actor.net.state_dict().items():
                value.copy_(state_dict[f"net.{name}"])
