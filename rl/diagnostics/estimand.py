"""The estimand of an agent's C: the agent declares it, and probe.py measures the error."""

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
    """What C estimates: the discounted cost of an action, followed by a policy from the next state on.

    With alpha > 0 each following state adds alpha * log pi(a|s) (1812.05905, eq. 2); the first action's own log pi is
    not in C. With n-step transitions only every n-th state does. Correlated exploration noise (`noise_correlation`) is
    not included.
    """

    critic: Critic
    policy: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    """Features [N, F] and noise [N, ...] -> actions in the agent's units, and an estimate of the entropy [N]."""
    noise: Callable[..., Tensor]
    """`noise(*batch, generator=)` -> the noise that `policy` takes."""
    gamma: float
    alpha: float = 0.0
    """Entropy coefficient (temperature): cost per nat, in the environment's units of cost."""
    n_step: int = 1
    """Steps of a transition; entropy counts once per transition."""
    members: Literal["mean", "max", "first"] = "mean"
    """How the actor aggregates the ensemble."""
    probs: Callable[[Tensor], Tensor] | None = None
    """Features [N, F] -> the probabilities of all n actions [N, n], if C has one output per action."""

    def cost(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """C as the actor aggregates it: features [B, F], action in the agent's units -> [B], or [B, n] for all n."""
        cost = self.critic.cost(self.critic.encode(x), action, first=self.members == "first")
        return cost.amax(0) if self.members == "max" else cost.mean(0)

    def gradient(self, x: Tensor, action: Tensor) -> Tensor:
        """dC/da in the agent's units, as the actor receives it: [B, F], [B, A] -> [B, A]."""
        action = action.detach().clone().requires_grad_()
        with torch.enable_grad():
            cost = self.cost(x.detach(), action).sum()
        return torch.autograd.grad(cost, action)[0]

    def taken(self, x: Tensor, action: Tensor) -> Tensor:
        """C of the given actions of any kind: [B, F] and [B, A], [B] or [B, D] -> [B]."""
        if self.critic.spec.action == "none":
            return self.cost(x)
        if self.critic.discrete:
            return self.cost(x).gather(-1, self.critic.index(action).unsqueeze(-1)).squeeze(-1)
        return self.cost(x, action)


def estimand_of(
    critic: Critic, actor: StochasticActor, gamma: float, alpha: float = 0.0, max_cost: bool = False, n_step: int = 1
) -> Estimand:
    """The estimand of a C that estimates the cost of the agent's own stochastic policy.

    Args:
        critic: C.
        actor: the policy.
        gamma: discount of a step.
        alpha: entropy coefficient in C; 0 without entropy.
        max_cost: whether the actor minimises the maximum of the ensemble (clipped double Q) rather than its mean.
        n_step: steps of a transition.
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
    all_probs = probs if critic.discrete else None
    return Estimand(critic, policy, actor.noise, gamma, alpha, n_step, members, all_probs)
