"""What an agent's C claims to estimate: the agent says it, and probe.py finds out whether it is so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from costgrad.rl.gradients.estimators import joint_probs
from costgrad.rl.networks.actor import StochasticActor
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical


@dataclass(frozen=True)
class Estimand:
    """What C estimates: the discounted cost of an action, and of a policy that acts from the next state on.

    Where entropy has a alpha, each state that follows costs alpha * log pi(a|s) more (1812.05905, eq. 2): the first
    action's own log pi is not in C. Where `n_step` steps are one transition, only every state that ends one does.
    Noise that remembers (`noise_correlation`) is left out: it is exploration's.
    """

    critic: Critic
    policy: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    """Features [N, F] and noise [N, ...] -> actions in the agent's units, and an estimate of the entropy [N]."""
    noise: Callable[..., Tensor]
    """`noise(*batch, generator=)` -> what `policy` takes."""
    gamma: float
    alpha: float = 0.0
    """What a nat of entropy is worth, in the environment's units of cost."""
    n_step: int = 1
    """Steps between two states whose entropy counts."""
    members: Literal["mean", "max", "first"] = "mean"
    """How the actor reads an ensemble."""
    probs: Callable[[Tensor], Tensor] | None = None
    """Features [N, F] -> the probability of each action that C lists [N, n], where it lists them."""

    def cost(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """What C says, as the actor reads it: features [B, F], action in the agent's units -> [B]; [B, n] of a list."""
        cost = self.critic.cost(self.critic.encode(x), action, first=self.members == "first")
        return cost.amax(0) if self.members == "max" else cost.mean(0)

    def slope(self, x: Tensor, action: Tensor) -> Tensor:
        """dC/da in the agent's units, as it reaches the actor: [B, F], [B, A] -> [B, A]."""
        action = action.detach().clone().requires_grad_()
        with torch.enable_grad():
            cost = self.cost(x.detach(), action).sum()
        return torch.autograd.grad(cost, action)[0]

    def taken(self, x: Tensor, action: Tensor) -> Tensor:
        """What C says of the actions taken, of whatever kind: [B, F] and [B, A], [B] or [B, D] -> [B]."""
        if self.critic.spec.action == "none":
            return self.cost(x)
        if self.critic.discrete:
            return self.cost(x).gather(-1, self.critic.index(action).unsqueeze(-1)).squeeze(-1)
        return self.cost(x, action)


def estimand_of(
    critic: Critic, actor: StochasticActor, gamma: float, alpha: float = 0.0, max_cost: bool = False, n_step: int = 1
) -> Estimand:
    """Of an agent whose C estimates the cost of its own stochastic policy.

    Args:
        critic: C.
        actor: the policy.
        gamma: discount of a step.
        alpha: what a nat of entropy is worth, where C counts it.
        max_cost: whether the actor descends the maximum of the ensemble, not its mean.
        n_step: steps that a transition spans: entropy is counted where one ends.
    """

    def policy(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        pi = actor(x)
        sample = pi.sample(noise)
        return pi.action(sample), pi.entropy(sample.unsqueeze(0)) if alpha else None

    def probs(x: Tensor) -> Tensor:
        pi = actor(x)
        assert isinstance(pi, Categorical)
        return joint_probs(critic, pi)

    members: Literal["mean", "max"] = "max" if max_cost else "mean"
    listed = probs if critic.discrete else None
    return Estimand(critic, policy, actor.noise, gamma, alpha, n_step, members, listed)
