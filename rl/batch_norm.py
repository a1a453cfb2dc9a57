"""Perceptrons whose hidden units are normalised over the batch (1502.03167), K of one shape as one batched tensor.

In training (`module.train()`) a batch is normalised by its own statistics, so rows that are to be compared, such as a
state and the one that follows it, must pass together (CrossQ, 1902.05605). In use (`module.eval()`) the running
statistics count, and a row's output is its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.nets import MLP, Activation

MOMENTUM = 0.01  # share of a batch in the running statistics
EPSILON = 1e-5  # added to a variance


class BatchNormMLP(MLP):
    """An `MLP` with batch normalisation between each hidden layer's product and its activation.

    Inside, a unit is a row and the batch lies along it, [K, width, B]: that is where torch's kernel is quick.

    Args:
        sizes: widths from input to output, at least two.
        ensemble: K; None for a single one without that dimension.
        activation: after every layer but the last.
        out_gain: of the last layer; 0 makes the initial output exactly 0.
        generator: decides the initial weights.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        ensemble: int | None = None,
        activation: Activation = "relu",
        out_gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(sizes, ensemble, activation, out_gain=out_gain, generator=generator)
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
        members = 1 if first else self.ensemble or 1
        entries = (self._entries(name) for name in ("weights", "biases", "gains", "shifts"))
        lead = (self.ensemble or 1,)
        weights, biases, gains, shifts = ([p.view(*lead, -1, p.shape[-1])[:members] for p in ps] for ps in entries)
        x = x.mT.expand(members, -1, -1)
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias.mT, weight.mT, x)
            if i == last:
                break
            units = x.shape[:2].numel()
            mean, var = (getattr(self, f"{name}_{i}")[:units] for name in ("mean", "var"))
            gain, shift, rows = gains[i].reshape(-1), shifts[i].reshape(-1), x.reshape(1, units, -1)
            x = F.batch_norm(rows, mean, var, gain, shift, self.training, MOMENTUM, EPSILON).view(x.shape)
            x = self.activate(x)
        return x.mT if self.ensemble else x[0].mT
