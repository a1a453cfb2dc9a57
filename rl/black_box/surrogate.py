"""C of a black box: of each row, or of a whole set where only the set has a cost. Both speak the black box's units.

Rows are features [B, F] (what C may know of the context, and continuous outputs) and one of P choices each; where
nothing is chosen P is 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.heads import CostScale, HLGauss, Regression
from costgrad.rl.networks.mlp import MLP

TINY = 1e-9  # a sum of shares of which none is above 0


class SampleCritic(nn.Module):
    """C of rows that each have a cost: a `Critic` that gives the cost of every choice at once.

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

    def expected(self, x: Tensor, probs: Tensor, choice: Tensor, share: Tensor | None = None) -> Tensor:
        """The mean over rows of E C over choices, exact: a scalar with its graph to x and probs [B, P].

        With shares [B] rows count in proportion to them.
        """
        cost = (probs * self._costs(x)).sum(-1)
        return cost.mean() if share is None else cost @ share.to(cost) / share.sum().clamp(min=TINY)

    def said(self, x: Tensor, choice: Tensor) -> Tensor:
        """C of rows and what was chosen in them [B]: -> [B]."""
        return self._costs(x).gather(1, choice.unsqueeze(1)).squeeze(1)

    def losses(self, x: Tensor, choice: Tensor, cost: Tensor) -> Tensor:
        """How far C is off the costs [B]: -> [B]."""
        return self.c.losses(x, choice if self.c.discrete else None, cost)

    def adapt(self, cost: Tensor) -> None:
        """Fits the scale to new costs [B]."""
        self.c.adapt(cost, torch.ones_like(cost))

    def _costs(self, x: Tensor) -> Tensor:
        """[B, F] -> [B, P], the mean over the ensemble."""
        return self.c.cost(x).mean(0).view(len(x), -1)


class SetCritic(nn.Module):
    """C of sets of rows, of any size and in any order.

    Every row is embedded, embeddings are averaged, and the cost is read off the mean (Deep Sets, 1703.06114).

    Args:
        features: F.
        choices: P.
        config: a `CostConfig`; the last of its `hidden` is the embedding's width H. It has no ensemble.
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

    def expected(self, x: Tensor, probs: Tensor, choice: Tensor, share: Tensor | None = None) -> Tensor:
        """C of the set as sampled, whose gradient is that of E C: a scalar with its graph to x and probs [B, P].

        With a share [1] of 0 nothing counts.

        In probs the gradient is that of every row's exact expectation over its own choices while the other rows stay as
        sampled (local expectation gradients, 1503.01494), which is unbiased; in x it is that of C.
        """
        each = self._embeddings(x)
        taken = each[torch.arange(len(x), device=x.device), choice]
        pooled = taken.mean(0, keepdim=True)
        value = self._cost(pooled)[0]
        if share is not None:
            value, probs = value * (share[0] > 0), probs * (share[0] > 0)
        if self.choices == 1:
            return value
        with torch.no_grad():
            others = pooled + (each - taken.unsqueeze(1)).flatten(0, 1) / len(x)
            cost = self._cost(others).view(len(x), self.choices)
        local = (probs * cost).sum()
        return value + local - local.detach()

    def said(self, x: Tensor, choice: Tensor) -> Tensor:
        """C of the set [B] rows make: -> [1]."""
        return self._cost(self._taken(x, choice).mean(0, keepdim=True))

    def losses(self, x: Tensor, choice: Tensor, cost: Tensor) -> Tensor:
        """How far C is off the costs [S] of S sets of equal size, their rows one set behind the other: -> [S]."""
        pooled = self._taken(x, choice).view(len(cost), -1, self.width).mean(1)
        return self.head.loss(self.read(pooled), self.cost_scale.scaled(cost))

    def adapt(self, cost: Tensor) -> None:
        """Fits the scale to new costs [S], and the last layer so that predictions stay where they were."""
        self.cost_scale.fit(self.read, self.head, cost, torch.ones_like(cost))

    def _embeddings(self, x: Tensor) -> Tensor:
        """Of each row with each choice: [B, F] -> [B, P, H]."""
        return self.embed(x).view(len(x), self.choices, self.width)

    def _taken(self, x: Tensor, choice: Tensor) -> Tensor:
        return self._embeddings(x)[torch.arange(len(x), device=x.device), choice]

    def _cost(self, pooled: Tensor) -> Tensor:
        """[S, H] -> [S]."""
        return self.cost_scale.cost(self.head.mean(self.read(pooled)))
