"""The steps of C and of an actor through C, by hand: losses with their gradients, and no graph of autograd's.

What is written here as a slope is what autograd gives for the loss that stands beside it, up to rounding. Off-policy
agents take a hundred such steps a second, and with a graph they take fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from costgrad.rl.gradients.by_hand import ActorPass, Gradient, Pass, back_tanh, passed, sample_slopes
from costgrad.rl.networks.actor import DeterministicActor
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical


@torch.no_grad()
def critic_step(
    critic: Critic,
    x: Tensor,
    action: Tensor,
    target: Tensor,
    weight: Tensor,
    masks: list[Tensor] | None = None,
    into: Gradient = (),
) -> tuple[Tensor, Gradient]:
    """The losses of C on a batch, and the gradient of their mean by `weight`.

    Args:
        critic: C of states and actions.
        x: features [B, F].
        action: [B, A] in [-1, 1], [B] or [B, D] int64 from 0.
        target: cost-to-go [B] in the environment's units.
        weight: [B] of sum 1.
        masks: of dropout.
        into: where the gradient may lie, as `Optimizer.slots` are.

    Returns:
        `critic.losses(x, action, target, masks)` [B], and of it @ weight the gradient, for each of `parameters()`.
    """
    through = passed(critic.net, critic.inputs(x, None if critic.discrete else action), masks)
    losses, slope = loss_slope(critic, through.output, action, target, weight)
    return losses, through.gradient(slope, into)


def loss_slope(critic: Critic, output: Tensor, action: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of C [B], and the slope of their mean by `weight` in what its net said, of that one's shape.

    Args:
        critic: C of states and actions.
        output: of the net, [K, B, outputs] or, of a single one, [B, outputs].
        action: [B, A] in [-1, 1], [B] or [B, D] int64 from 0.
        target: cost-to-go [B] in the environment's units.
        weight: [B] of sum 1.
    """
    shaped = critic.shaped(output)
    taken = critic.taken(shaped, action) if critic.discrete else shaped
    losses, slope = critic.head.loss_and_slope(taken, critic.cost_scale.scaled(target))
    slope = slope * weight.unsqueeze(-1)
    if critic.discrete:
        slope = torch.zeros_like(shaped).scatter_(2, critic.places(action, slope), slope.unsqueeze(2))
    return losses.sum(0), slope.view_as(output)


class CriticActionGradient:
    """C's cost of a batch of continuous actions, and its slope in them, for an actor's step; C's weights get none.

    Args:
        critic: C of states and actions.
        x: features [B, F].
        action: [B, A] in [-1, 1].
        masks: of dropout.
        first: the first of the ensemble alone: K is 1.
    """

    @torch.no_grad()
    def __init__(
        self, critic: Critic, x: Tensor, action: Tensor, masks: list[Tensor] | None = None, first: bool = False
    ) -> None:
        self._critic = critic
        self._pass = passed(critic.net, critic.inputs(x, action), masks, first, wanted=action.shape[-1])
        self._output = critic.shaped(self._pass.output)
        self.cost = critic.cost_of(self._output)  # [K, B]

    @torch.no_grad()
    def slope(self, of_cost: Tensor) -> Tensor:
        """D loss / d cost [K, B] -> d loss / d action [B, A]."""
        output = self._critic.head.back(self._output, of_cost * self._critic.cost_scale.scale)
        return self._pass.to_input(output.view_as(self._pass.output))


@torch.no_grad()
def soft_step(
    critic: Critic,
    acted: ActorPass,
    x: Tensor,
    sample: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    masks: list[Tensor] | None = None,
    into: Gradient = (),
) -> tuple[Tensor, Tensor, Gradient]:
    """What a soft actor descends on a batch, and the gradient of its mean by `weight` (1812.05905, eq. 7).

    Args:
        critic: C of states and actions.
        acted: the actor's pass over `x`.
        x: features [B, F].
        sample: a reparameterised sample [1, B, A] of a continuous pi; None for a discrete one.
        alpha: the temperature, a scalar.
        weight: [B] of sum 1.
        masks: of C's dropout.
        into: where the gradient may lie, as `Optimizer.slots` are.

    Returns:
        `soft_cost` of entropy.py: [B], the entropy [B], and of the former @ weight the gradient, for each of the
        actor's `parameters()`.
    """
    pi, entropy = acted.pi, acted.pi.entropy(sample)
    if isinstance(pi, Categorical):
        # d E f / d logit = sum over the actions that hold the choice of P(a) (f(a) - E f), with f = cost + alpha log P
        cost, log_prob = critic.cost(x, masks=masks).mean(0), pi.joint_log_probs(critic.combinations)
        probs = log_prob.exp()
        soft = (probs * (cost + alpha * log_prob)).sum(-1)
        slope = probs * (cost + alpha * log_prob - soft.unsqueeze(-1)) * weight.unsqueeze(-1)
        return soft, entropy, acted.from_logits(pi.to_logits(slope, critic.combinations), into)
    assert sample is not None, "continuous actions: sample is [1, B, A]"
    through = CriticActionGradient(critic, x, pi.action(sample[0]), masks)
    cost, dearest = through.cost.max(0)
    of_cost = torch.zeros_like(through.cost).scatter_(0, dearest.unsqueeze(0), weight.unsqueeze(0))
    of_action = through.slope(of_cost).unsqueeze(0)
    slopes = sample_slopes(pi, sample, of_action, -alpha * weight)
    return cost - alpha * entropy, entropy, acted.from_gaussian(*slopes, into)


@torch.no_grad()
def deterministic_step(
    critic: Critic, actor: DeterministicActor, x: Tensor, weight: Tensor, into: Gradient = ()
) -> tuple[Tensor, Gradient]:
    """The deterministic policy gradient through the first of C (1802.09477, algorithm 1).

    Args:
        critic: C of states and actions.
        actor: mu.
        x: features [B, F].
        weight: [B] of sum 1.
        into: where the gradient may lie, as `Optimizer.slots` are.

    Returns:
        C(s, mu(s)) [B], and the gradient of its mean by `weight`, for each of `actor.parameters()`.
    """
    acted = Pass(actor.net, x)
    action = acted.output.tanh()
    through = CriticActionGradient(critic, x, action, first=True)
    slope = back_tanh(through.slope(weight.unsqueeze(0)), action)
    return through.cost[0], acted.gradient(slope, into)
