"""Perceptrons whose hidden units are normalised over the batch (1502.03167), K of one shape as one batched tensor.

In training (`module.train()`) a batch is normalised by its own statistics, so rows that are to be compared, such as a
state and the one that follows it, must pass together (CrossQ, 1902.05605). In use (`module.eval()`) the running
statistics count, and a row's output is its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from costgrad.rl.networks.mlp import MLP, Activation, Init, affine

MOMENTUM = 0.01  # share of a batch in the running statistics
EPSILON = 1e-5  # added to a variance


class BatchNormMLP(MLP):
    """An `MLP` with batch normalisation between each hidden layer's product and its activation.

    Args:
        sizes: widths from input to output, at least two.
        ensemble: K; None for a single one without that dimension.
        activation: after every layer but the last.
        out_gain, generator, init: as of `MLP`.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        ensemble: int | None = None,
        activation: Activation = "relu",
        out_gain: float = 1.0,
        generator: torch.Generator | None = None,
        init: Init = "orthogonal",
    ) -> None:
        super().__init__(sizes, ensemble, activation, out_gain=out_gain, generator=generator, init=init)
        lead = (ensemble, 1) if ensemble else ()
        for i, width in enumerate(sizes[1:-1]):
            self.gains.append(nn.Parameter(torch.ones(*lead, width)))
            self.shifts.append(nn.Parameter(torch.zeros(*lead, width)))
            self.register_buffer(f"mean_{i}", torch.zeros((ensemble or 1) * width))
            self.register_buffer(f"var_{i}", torch.ones((ensemble or 1) * width))

    def forward(self, x: Tensor, masks: list[Tensor] | None = None, first: bool = False) -> Tensor:
        """Runs the net, or all K members.

        Args:
            x: [B, sizes[0]], for all members alike, or [K, B, sizes[0]].
            masks: None: nothing is dropped.
            first: of an ensemble, run its first member alone.

        Returns:
            [B, sizes[-1]], or [K, B, sizes[-1]] of an ensemble, [1, B, sizes[-1]] of its first member.
        """
        assert masks is None, "a batch-normalised net has no dropout"
        *hidden, (weight, bias) = self.members(first)
        x = x.expand(len(weight), -1, -1)
        for i, ((w, b), (gain, shift)) in enumerate(zip(hidden, self.scales(first), strict=True)):
            x = affine(b, x, w)
            mean, narrow = self.statistics(i, x)
            x = self.activate(torch.addcmul(shift - mean * narrow * gain, x, narrow * gain))
        x = affine(bias, x, weight)
        return x if self.ensemble else x[0]

    def members(self, first: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Weight [K, in, out] and bias [K, 1, out] of each layer; K is 1 of a single net, and of the first member."""
        return [(self._member(w, first), self._member(b, first)) for w, b in self.layers()]

    def scales(self, first: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Gain and shift of each hidden layer, [K, 1, width] alike."""
        pairs = zip(self._entries("gains"), self._entries("shifts"), strict=True)
        return [(self._member(gain, first), self._member(shift, first)) for gain, shift in pairs]

    def statistics(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1 / standard deviation [K, 1, width] that count for hidden layer i, before it is normalised.

        In training they are those of x [K, B, width], which the running ones follow.
        """
        means, variances = (getattr(self, f"{name}_{i}").view(-1, 1, x.shape[-1])[: len(x)] for name in ("mean", "var"))
        if not self.training:
            return means, (variances + EPSILON).rsqrt()
        mean = x.mean(1, keepdim=True)
        centered = x - mean
        variance = (centered * centered).mean(1, keepdim=True)  # a square is slower
        with torch.no_grad():
            means.lerp_(mean, MOMENTUM)
            variances.lerp_(variance * (x.shape[1] / (x.shape[1] - 1)), MOMENTUM)  # without bias
        return mean, (variance + EPSILON).rsqrt()

    def _member(self, entry: Tensor, first: bool) -> Tensor:
        rows = entry.view(self.ensemble or 1, -1, entry.shape[-1])
        return rows[:1] if first else rows
