"""Maximum entropy: the soft cost that an actor minimises, and the temperature that is tuned to a target entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from costgrad.rl.gradients.estimators import joint_probs
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical, Policy
from costgrad.rl.spaces import Codec


def largest_entropy(codec: Codec) -> float:
    """The unit of a target entropy: log n of discrete actions, summed over choices; -1 per dimension of a box."""
    return sum(math.log(n) for n in codec.choices) if codec.discrete else -float(codec.action_size)


class Temperature(nn.Module):
    """The temperature alpha, in units of cost per nat, tuned by its log to a target entropy (1812.05905, eq. 18).

    Args:
        alpha: initial temperature.
        target: target entropy in nats.
    """

    def __init__(self, alpha: float, target: float) -> None:
        super().__init__()
        self.log_alpha, self.target = nn.Parameter(torch.tensor(math.log(alpha))), target

    @property
    def alpha(self) -> Tensor:
        """Without a graph."""
        return self.log_alpha.detach().exp()

    def gradient(self, entropy: Tensor) -> tuple[Tensor]:
        """Of log alpha (entropy - target), what `Optimizer.apply` takes: it rises where entropy falls short."""
        return (entropy - self.target,)


class Multipliers(nn.Module):
    """REPPO's Lagrange multipliers by their logs: the temperature alpha, and beta, the weight of the KL penalty.

    Each moves in proportion to the violation of its constraint, and not by steps of one length as Adam takes, so that
    the policy does not swing with them.
    """

    log_alpha: Tensor
    log_beta: Tensor

    def __init__(self, alpha: float, beta: float, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.register_buffer("log_alpha", torch.tensor(math.log(alpha)))
        self.register_buffer("log_beta", torch.tensor(math.log(beta)))

    @property
    def alpha(self) -> Tensor:
        """The temperature, a scalar."""
        return self.log_alpha.exp()

    @property
    def beta(self) -> Tensor:
        """The coefficient of the divergence, a scalar."""
        return self.log_beta.exp()

    def adjust(self, missing_entropy: Tensor, excess_kl: Tensor) -> None:
        """One step of both, once a rollout; the misses count up to 1.

        Args:
            missing_entropy: target less entropy, in nats a dimension of the action.
            excess_kl: divergence less bound, in units of the bound.
        """
        self.log_alpha.add_(missing_entropy.clamp(-1, 1), alpha=self.lr)
        self.log_beta.add_(excess_kl.clamp(-1, 1), alpha=self.lr)


def soft_cost(
    critic: Critic, x: Tensor, pi: Policy, sample: Tensor | None, alpha: Tensor, masks: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """E_pi [C(s, a) + alpha log pi(a|s)], what SAC's actor descends (1812.05905, eq. 7), and its entropy.

    The maximum cost of an ensemble counts for continuous actions (clipped double Q); for discrete ones the mean, in
    exact expectation (2209.10081).

    Args:
        critic: C of states and actions.
        x: features [B, F].
        pi: B distributions.
        sample: a reparameterised sample [1, B, A] of a continuous pi; None for a discrete one.
        alpha: the temperature, a scalar.
        masks: of C's dropout.

    Returns:
        [B], [B], with their graph to pi.
    """
    entropy = pi.entropy(sample)
    if isinstance(pi, Categorical):
        with torch.no_grad():  # the gradient reaches pi through its probabilities
            cost = critic.cost(x, masks=masks).mean(0)
        return (joint_probs(critic, pi) * cost).sum(-1) - alpha * entropy, entropy
    assert sample is not None, "continuous actions: sample is [1, B, A]"
    return critic.cost(x, pi.action(sample[0]), masks).amax(0) - alpha * entropy, entropy
