"""Maximum entropy: what an actor descends besides cost, and the temperature that says what entropy is worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from costgrad.rl.gradients.estimators import joint_probs
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical, Policy


class Temperature(nn.Module):
    """What a nat of entropy is worth in units of cost, by its log; it learns to hold an entropy (1812.05905, eq. 18).

    Args:
        alpha: where it starts.
        target: the entropy that it holds, in nats.
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


def soft_cost(
    critic: Critic, x: Tensor, pi: Policy, sample: Tensor | None, alpha: Tensor, masks: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """E_pi [C(s, a) + alpha log pi(a|s)], what SAC's actor descends (1812.05905, eq. 7), and its entropy.

    Of an ensemble the dearest counts for continuous actions; for discrete ones the mean does, exactly (2209.10081).

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
