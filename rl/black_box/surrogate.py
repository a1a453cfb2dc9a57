"""C as a surrogate of a black box: of each row, or of a set of rows with one cost. Costs are in the black box's units.

A row is features [B, F] (of the context, and continuous outputs) and one of P choices; P is 1 without choices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.heads import CostScale, HLGauss, Regression
from costgrad.rl.networks.mlp import MLP

TINY = 1e-9  # minimum of a sum of weights, which may all be 0


class SampleCritic(nn.Module):
    """C of rows that each have a cost: a `Critic` with one output per choice.

    Args:
        features: F.
        choices: P.
        config: a `CostConfig`.
        generator: decides the initial weights.
    """

    def __init__(self, features: int, choices: int, config: Any, generator: torch.Generator) -> None:
        super().__init__()
        kind: dict[str, Any] = {"action": "discrete", "action_size": choices} if choices > 1 else {"action": "none"}
        ours = ("hidden", "head", "bins", "activation", "layer_norm")
        settings = {name: getattr(config, name) for name in ours} | {"ensemble": config.n_critics}
        self.c = Critic(CriticSpec((features,), **kind, **settings, normalize_obs=False), generator)

    def expected(self, x: Tensor, probs: Tensor, choice: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mean over rows of C's exact expectation over choices: a scalar, differentiable in x and probs [B, P].

        `weight` [B] weights the rows; None counts all alike.
        """
        cost = (probs * self._costs(x)).sum(-1)
        return cost.mean() if weight is None else cost @ weight.to(cost) / weight.sum().clamp(min=TINY)

    def cost(self, x: Tensor, choice: Tensor) -> Tensor:
        """C of rows with their choices [B]: -> [B]."""
        return self._costs(x).gather(1, choice.unsqueeze(1)).squeeze(1)

    def losses(self, x: Tensor, choice: Tensor, cost: Tensor) -> Tensor:
        """The losses of C for costs [B]: -> [B]."""
        return self.c.losses(x, choice if self.c.discrete else None, cost)

    def adapt(self, cost: Tensor) -> None:
        """PopArt-style rescaling to new costs [B]."""
        self.c.adapt(cost, torch.ones_like(cost))

    def _costs(self, x: Tensor) -> Tensor:
        """[B, F] -> [B, P], the mean over the ensemble."""
        return self.c.cost(x).mean(0).view(len(x), -1)


class SetCritic(nn.Module):
    """C of sets of rows, of any size and in any order.

    Rows are embedded, embeddings are averaged, and a network maps the mean to the cost (Deep Sets, 1703.06114).

    Args:
        features: F.
        choices: P.
        config: a `CostConfig`; the last of its `hidden` is the embedding's width H. There is no ensemble.
        generator: decides the initial weights.
    """

    def __init__(self, features: int, choices: int, config: Any, generator: torch.Generator) -> None:
        super().__init__()
        self.choices, self.width = choices, config.hidden[-1]
        self.head: HLGauss | Regression = HLGauss(config.bins) if config.head == "hl_gauss" else Regression()
        self.cost_scale = CostScale(self.head.bounded)
        layers = (config.activation, config.layer_norm)
        self.embed = MLP((features, *config.hidden, choices * self.width), None, *layers, generator=generator)
        read = (self.width, *config.hidden, self.head.outputs)
        self.read = MLP(read, None, *layers, out_gain=0.0, generator=generator)
        with torch.no_grad():
            self.read.biases[-1].add_(self.head.initial_bias())

    def expected(self, x: Tensor, probs: Tensor, choice: Tensor, weight: Tensor | None = None) -> Tensor:
        """C of the sampled set, with the gradient of E C: a scalar, differentiable in x and probs [B, P].

        A `weight` [1] of 0 ignores the set.

        The gradient in probs is that of each row's exact expectation over its own choices, with the other rows as
        sampled (local expectation gradients, 1503.01494), which is unbiased; the gradient in x is that of C.
        """
        each = self._embeddings(x)
        taken = each[torch.arange(len(x), device=x.device), choice]
        pooled = taken.mean(0, keepdim=True)
        value = self._cost(pooled)[0]
        if weight is not None:
            value, probs = value * (weight[0] > 0), probs * (weight[0] > 0)
        if self.choices == 1:
            return value
        with torch.no_grad():
            others = pooled + (each - taken.unsqueeze(1)).flatten(0, 1) / len(x)
            cost = self._cost(others).view(len(x), self.choices)
        local = (probs * cost).sum()
        return value + local - local.detach()

    def cost(self, x: Tensor, choice: Tensor) -> Tensor:
        """C of the set of all rows with their choices [B]: -> [1]."""
        return self._cost(self._taken(x, choice).mean(0, keepdim=True))

    def losses(self, x: Tensor, choice: Tensor, cost: Tensor) -> Tensor:
        """The losses of C for costs [S] of S sets of equal size, whose rows are concatenated: -> [S]."""
        pooled = self._taken(x, choice).view(len(cost), -1, self.width).mean(1)
        return self.head.loss(self.read(pooled), self.cost_scale.scaled(cost))

    def adapt(self, cost: Tensor) -> None:
        """PopArt-style rescaling to new costs [S]: the last layer is adapted so that predictions do not change."""
        self.cost_scale.fit(self.read, self.head, cost, torch.ones_like(cost))

    def _embeddings(self, x: Tensor) -> Tensor:
        """The embedding of each row with each choice: [B, F] -> [B, P, H]."""
        return self.embed(x).view(len(x), self.choices, self.width)

    def _taken(self, x: Tensor, choice: Tensor) -> Tensor:
        return self._embeddings(x)[torch.arange(len(x), device=x.device), choice]

    def _cost(self, pooled: Tensor) -> Tensor:
        """[S, H] -> [S]."""
        return self.cost_scale.cost(self.head.mean(self.read(pooled)))
