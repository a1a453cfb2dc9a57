"""Networks: one multilayer perceptron for actors and ensembles of C, and the small modules torch has no name for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["tanh", "relu", "silu"]
Init = Literal["orthogonal", "uniform"]
# What an activation is given is nobody else's: where backward needs only what came out, it is written over.
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_, "silu": F.silu}
assert set(_ACTIVATIONS) == set(get_args(Activation))


def affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """What a layer makes of x: x @ weight + bias.

    Args:
        bias: [out], or [K, 1, out] of K layers.
        x: [B, in], or [K, B, in].
        weight: [in, out], or [K, in, out].

    Returns:
        [B, out], or [K, B, out].
    """
    if weight.dim() == 2:
        return torch.addmm(bias, x, weight)
    if weight.shape[-1] == 1:  # sums over what comes in: a batch of products with columns takes six times as long
        return torch.linalg.vecdot(x, weight.mT).unsqueeze(-1) + bias
    return torch.baddbmm(bias, x, weight)


class Add(nn.Module):
    """y = x_1 + x_2 + ...; backward hands dy to every input."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors that broadcast to one shape -> their sum."""
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        return total


class Max(nn.Module):
    """y = max(x_1, x_2, ...) entry by entry; backward hands dy to the largest input alone, to the first of equals."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors that broadcast to one shape -> their maximum."""
        largest = inputs[0]
        for other in inputs[1:]:
            largest = torch.where(other > largest, other, largest)
        return largest


class Duplicate(nn.Module):
    """(x, x, ...): one value for several readers; backward adds up what they hand back.

    Args:
        copies: how many.
    """

    def __init__(self, copies: int = 2) -> None:
        super().__init__()
        self.copies = copies

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """X -> `copies` times x."""
        return (x,) * self.copies


class MLP(nn.Module):
    """A perceptron, or K of one shape as one batched tensor: one matrix product a layer whatever K is.

    Initial weights are "orthogonal" with gain sqrt(2), the last layer's with `out_gain`, and biases 0 (as in PPO,
    1707.06347); or "uniform", biases too, within 1 / sqrt(inputs) of 0 (as torch.nn.Linear has them, and with it most
    code of TD3 and SAC). Those are 0.4 times as large, so that a step of the same length turns the net further.

    Args:
        sizes: widths from input to output, at least two.
        ensemble: K; None for a single one without that dimension.
        activation: after every layer but the last.
        layer_norm: normalise each hidden layer before its activation (1607.06450).
        dropout: share of hidden units that a mask of `dropout_masks` turns off.
        out_gain: of an orthogonal last layer; 0 makes the initial output exactly 0.
        generator: decides the initial weights.
        init: how.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        ensemble: int | None = None,
        activation: Activation = "tanh",
        layer_norm: bool = False,
        dropout: float = 0.0,
        out_gain: float = 1.0,
        generator: torch.Generator | None = None,
        init: Init = "orthogonal",
    ) -> None:
        super().__init__()
        self.sizes, self.ensemble, self.dropout, self.activation = tuple(sizes), ensemble, dropout, activation
        lead = (ensemble, 1) if ensemble else ()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            gain = out_gain if i == len(sizes) - 2 else 2**0.5
            weight, bias = torch.empty(ensemble or 1, fan_in, fan_out), torch.zeros(*lead, fan_out)
            if init == "orthogonal":
                for member in weight:
                    nn.init.orthogonal_(member, gain, generator=generator)
            else:
                most = max(fan_in, 1) ** -0.5
                for parameter in (weight, bias):
                    parameter.uniform_(-most, most, generator=generator)
            self.weights.append(nn.Parameter(weight if ensemble else weight[0]))
            self.biases.append(nn.Parameter(bias))
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for name in ("weights", "biases", "gains", "shifts"):  # what L2 and L1 penalise, see rl/optim.py
            getattr(self, name).penalised = name == "weights"
        for width in sizes[1:-1] if layer_norm else ():
            self.gains.append(nn.Parameter(torch.ones(*lead, width)))
            self.shifts.append(nn.Parameter(torch.zeros(*lead, width)))

    def forward(self, x: Tensor, masks: list[Tensor] | None = None, first: bool = False) -> Tensor:
        """Runs the net, or all K members.

        Args:
            x: [B, sizes[0]], for all members alike, or [K, B, sizes[0]].
            masks: from `dropout_masks`; None drops nothing.
            first: of an ensemble, run its first member alone.

        Returns:
            [B, sizes[-1]], or [K, B, sizes[-1]] of an ensemble, [1, B, sizes[-1]] of its first member.
        """
        members = 1 if first and self.ensemble else self.ensemble
        if members and x.dim() == 2:
            x = x.expand(members, *x.shape)
        activation = _ACTIVATIONS[self.activation]
        weights, biases, gains, shifts = (self._entries(name) for name in ("weights", "biases", "gains", "shifts"))
        if members != self.ensemble:
            weights, biases, gains, shifts = ([p[:1] for p in entries] for entries in (weights, biases, gains, shifts))
            masks = masks and [mask[:1] for mask in masks]
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = affine(bias, x, weight)
            if i == last:
                break
            if gains and self.ensemble:
                x = torch.addcmul(shifts[i], F.layer_norm(x, x.shape[-1:]), gains[i])
            elif gains:
                x = F.layer_norm(x, x.shape[-1:], gains[i], shifts[i])
            x = activation(x)
            if masks is not None:
                x = x * masks[i]
        return x

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each."""
        return list(zip(self._entries("weights"), self._entries("biases"), strict=True))

    def activate(self, x: Tensor) -> Tensor:
        """What stands between two layers."""
        return _ACTIVATIONS[self.activation](x)

    def dropout_masks(self, batch: int, generator: torch.Generator) -> list[Tensor] | None:
        """Draws one mask [batch, width] or [K, batch, width] a hidden layer, of 0 and 1 / (1 - dropout): mean 1.

        Noise enters as an argument: the forward pass stays a pure function, and the agent's generator decides.
        """
        if not self.dropout:
            return None
        keep, lead = 1 - self.dropout, (self.ensemble,) if self.ensemble else ()
        return [
            torch.empty(*lead, batch, width, device=self.weights[0].device).bernoulli_(keep, generator=generator) / keep
            for width in self.sizes[1:-1]
        ]

    def _entries(self, name: str) -> list[Tensor]:
        """The tensors of one of the lists, as torch.func.functional_call may have swapped them.

        Iterating over a ParameterList makes up a name for each entry and looks that up, at ten times the cost.
        """
        return list(self._modules[name]._parameters.values())  # type: ignore[union-attr, arg-type]
