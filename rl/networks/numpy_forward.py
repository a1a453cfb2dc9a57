"""The forward pass of an actor among environments: in NumPy for a plain `MLP`, by torch for any other module.

To act, a few rows pass through small layers, and there a tensor operation costs several times the arithmetic in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from costgrad.rl.data import to_numpy
from costgrad.rl.networks.mlp import MLP, Activation
from costgrad.rl.norm import RunningNorm

Array = np.ndarray
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


class NumpyForward:
    """What `net(norm(obs))` gives, as an array, without a graph.

    On another device than the CPU, where NumPy cannot see the parameters, it is the tensors' own forward pass.

    Args:
        norm: of the observations; None leaves them.
        net: a single MLP, no ensemble. Make its `Optimizer` before: that moves the parameters to another memory.
    """

    def __init__(self, norm: RunningNorm | None, net: MLP) -> None:
        if type(net) is not MLP or net.ensemble is not None:
            raise TypeError(f"NumpyForward knows a single MLP, not {type(net).__name__}: use forward_of")
        self.norm, self.net = norm, net
        self.on_cpu = net.weights[0].device.type == "cpu"
        self._activation = ACTIVATIONS[net.activation]
        gains, shifts = ([to_numpy(p) for p in parameters] for parameters in (net.gains, net.shifts))
        self._layers = [(to_numpy(w), to_numpy(b)) for w, b in zip(net.weights, net.biases, strict=True)]
        self._scales = list(zip(gains, shifts, strict=True))
        self._norm = None if norm is None else (to_numpy(norm.center), to_numpy(norm.scale), np.float32(norm.clip))

    def __reduce__(self) -> tuple[type[NumpyForward], tuple[RunningNorm | None, MLP]]:
        """A copy reads the memory of the copied modules, not one of its own that no training reaches."""
        return NumpyForward, (self.norm, self.net)

    @np.errstate(over="ignore", invalid="ignore")  # as torch: a net that diverged gives inf and nan, and no warnings
    def __call__(self, obs: Array) -> Array:
        """[N, *obs_shape] float32 or uint8 -> [N, outputs]."""
        obs = obs.astype(np.float32, copy=False)
        if not self.on_cpu:
            return self._on_device(obs)
        if self._norm is not None:
            center, scale, clip = self._norm
            obs = np.minimum(np.maximum((obs - center) * scale, -clip), clip)
        x = obs.reshape(len(obs), -1)
        for i, (weight, bias) in enumerate(self._layers[:-1]):
            x = x @ weight + bias
            if self._scales:
                gain, shift = self._scales[i]
                x = _normalized(x) * gain + shift
            x = self._activation(x)
        weight, bias = self._layers[-1]
        return x @ weight + bias

    @torch.no_grad()
    def _on_device(self, obs: Array) -> Array:
        x = torch.from_numpy(obs).to(self.net.weights[0].device)
        return to_numpy(self.net((x if self.norm is None else self.norm(x)).flatten(1)))


class TorchForward:
    """What an actor's network gives for the environment's observations, by the modules' own forward pass.

    Modules are in evaluation mode while they act: dropout is off, batch normalisation uses its running statistics.

    Args:
        norm: of the observations; None leaves them.
        actor: has `encoder` (None, or what turns observations into features) and `net`.
    """

    def __init__(self, norm: RunningNorm | None, actor: Any) -> None:
        self.norm, self.actor = norm, actor

    @torch.no_grad()
    def __call__(self, obs: Array) -> Array:
        """[N, *obs_shape] float32 or uint8 -> [N, outputs]."""
        encoder, net = self.actor.encoder, self.actor.net
        device = next(net.parameters()).device
        x = torch.from_numpy(obs.astype(np.float32, copy=False)).to(device)
        x = x if self.norm is None else self.norm(x)
        modules = [net] if encoder is None else [net, getattr(encoder, "encoder", encoder)]
        training = [module.training for module in modules]
        for module in modules:
            module.eval()
        try:
            return to_numpy(net(x.flatten(1) if encoder is None else encoder(x)))
        finally:
            for module, was in zip(modules, training, strict=True):
                module.train(was)


def forward_of(norm: RunningNorm | None, actor: Any) -> NumpyForward | TorchForward:
    """The forward pass for an actor: in NumPy where its network is exactly an `MLP` without an encoder."""
    if actor.encoder is None and type(actor.net) is MLP and actor.net.ensemble is None:
        return NumpyForward(norm, actor.net)
    return TorchForward(norm, actor)


def _normalized(x: Array) -> Array:
    """Layer normalisation of the rows [N, F], as torch's."""
    width = np.float32(x.shape[-1])
    x = x - np.add.reduce(x, -1, keepdims=True) / width
    variance = np.add.reduce(x * x, -1, keepdims=True) / width
    return x / np.sqrt(variance + np.float32(1e-5))
