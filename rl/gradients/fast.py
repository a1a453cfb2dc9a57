"""The losses of rl/gradients/losses.py and of PPO with their gradients by hand, for plain networks.

Off-policy agents take a hundred such steps a second, and with autograd's graph they take fewer. Every function takes
what its loss takes, and gives what the loss gives and the gradient, equal to autograd's up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from costgrad.rl.gradients.by_hand import (
    BACKWARD,
    ActorPass,
    Gradient,
    Pass,
    pass_of,
    sample_backward,
    tanh_backward,
)
from costgrad.rl.gradients.estimators import clipped_score
from costgrad.rl.gradients.losses import (
    ActorLoss,
    CriticLoss,
    DeterministicLoss,
    JointLoss,
    PPOLoss,
    joint_inputs,
    soft_target,
)
from costgrad.rl.networks.actor import CategoricalActor, DeterministicActor, GaussianActor, StochasticActor
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical, Policy
from costgrad.rl.networks.heads import HLGauss, Regression
from costgrad.rl.networks.mlp import MLP

_NO_TOTAL = torch.empty(0)  # of a step that nobody reads the total of


def refusal(module: nn.Module) -> str | None:
    """Why a network is not one of exactly those whose gradient is written by hand; None where it is."""
    if type(module) not in (CategoricalActor, GaussianActor, DeterministicActor, Critic):
        return f"{type(module).__name__} is a module of its own"
    if module.encoder is not None:
        return "there is an encoder"
    net = module.net
    if type(net) not in ((MLP, BatchNormMLP) if type(module) is Critic else (MLP,)):
        return f"its network is a {type(net).__name__}"
    assert isinstance(net, MLP)
    if type(module) is Critic and type(module.head) not in (Regression, HLGauss):
        return f"its head is a {type(module.head).__name__}"
    if net.activation not in BACKWARD:
        return f"activation {net.activation}"
    if type(net) is MLP and net.gains:
        return "layer normalisation"
    return "dropout" if net.dropout else None


class CriticActionGradient:
    """C's cost of a batch of continuous actions, and its gradient in them; C's weights get none.

    Args:
        critic: C of states and actions.
        x: features [B, F].
        action: [B, A] in [-1, 1].
        first: the first of the ensemble alone: K is 1.
    """

    @torch.no_grad()
    def __init__(self, critic: Critic, x: Tensor, action: Tensor, first: bool = False) -> None:
        self._critic = critic
        self._pass = pass_of(critic.net, critic.inputs(x, action), first, inputs=action.shape[-1])
        self._output = critic.shaped(self._pass.output)
        self.cost = critic.cost_of(self._output)  # [K, B]

    @torch.no_grad()
    def to_action(self, grad_cost: Tensor) -> Tensor:
        """D loss / d cost [K, B] -> d loss / d action [B, A]."""
        output = self._critic.head.to_output(self._output, grad_cost * self._critic.cost_scale.scale)
        return self._pass.to_input(output.view_as(self._pass.output))


def output_gradient(
    critic: Critic, output: Tensor, action: Tensor | None, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """C's losses [B], and the gradient of losses @ weight in the output of its net, of that one's shape.

    Args:
        critic: C.
        output: of the net, [K, B, outputs] or, of a single one, [B, outputs].
        action: [B, A] in [-1, 1], [B] or [B, D] int64 from 0; None for a C of states alone.
        target: cost-to-go [B] in the environment's units.
        weight: [B] of sum 1.
    """
    shaped = critic.shaped(output)
    taken = critic.taken(shaped, action) if critic.discrete and action is not None else shaped
    losses, gradient = critic.head.loss_and_gradient(taken, critic.cost_scale.scaled(target))
    gradient = gradient * weight.unsqueeze(-1)
    if critic.discrete and action is not None:
        places = critic.places(action, gradient)
        gradient = torch.zeros_like(shaped).scatter_(2, places, gradient.unsqueeze(2))
    return losses.sum(0), gradient.view_as(output)


@torch.no_grad()
def critic_step(
    critic: Critic, x: Tensor, action: Tensor | None, target: Tensor, weight: Tensor, masks: None, out: Gradient
) -> tuple[CriticLoss, Gradient]:
    """`critic_loss` and its gradient."""
    through = pass_of(critic.net, critic.inputs(x, None if critic.discrete else action))
    losses, gradient = output_gradient(critic, through.output, action, target, weight)
    return CriticLoss(losses @ weight, losses), through.gradient(gradient, out)


@torch.no_grad()
def soft_actor_step(
    actor: StochasticActor,
    critic: Critic,
    x: Tensor,
    noise: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    masks: None,
    out: Gradient,
) -> tuple[ActorLoss, Gradient]:
    """`soft_actor_loss` and its gradient."""
    acted = ActorPass(actor, x)
    pi: Policy = acted.pi
    sample = None if noise is None else pi.sample(noise)
    entropy = pi.entropy(sample)
    if isinstance(pi, Categorical):
        # d E f / d logit = sum over the actions that hold the choice of P(a) (f(a) - E f), with f = cost + alpha log P
        cost, log_prob = critic.cost(x).mean(0), pi.joint_log_probs(critic.combinations)
        probs = log_prob.exp()
        soft = (probs * (cost + alpha * log_prob)).sum(-1)
        gradient = probs * (cost + alpha * log_prob - soft.unsqueeze(-1)) * weight.unsqueeze(-1)
        loss = ActorLoss(soft @ weight, soft, entropy)
        return loss, acted.from_logits(pi.to_logits(gradient, critic.combinations), out)
    assert sample is not None, "continuous actions: noise is [1, B, A]"
    through = CriticActionGradient(critic, x, pi.action(sample[0]))
    cost, member = through.cost.max(0)
    grad_cost = torch.zeros_like(through.cost).scatter_(0, member.unsqueeze(0), weight.unsqueeze(0))
    grad_action = through.to_action(grad_cost).unsqueeze(0)
    gradients = sample_backward(pi, sample, grad_action, -alpha * weight)
    soft = cost - alpha * entropy
    return ActorLoss(soft @ weight, soft, entropy), acted.from_gaussian(*gradients, out)


@torch.no_grad()
def deterministic_actor_step(
    actor: DeterministicActor, critic: Critic, x: Tensor, weight: Tensor, out: Gradient
) -> tuple[DeterministicLoss, Gradient]:
    """`deterministic_actor_loss` and its gradient."""
    acted = Pass(actor.net, x)
    action = acted.output.tanh()
    through = CriticActionGradient(critic, x, action, first=True)
    gradient = tanh_backward(through.to_action(weight.unsqueeze(0)), action)
    return DeterministicLoss(through.cost[0] @ weight, through.cost[0]), acted.gradient(gradient, out)


@torch.no_grad()
def joint_critic_step(
    critic: Critic,
    x: Tensor,
    action: Tensor,
    cost: Tensor,
    discount: Tensor,
    next_x: Tensor,
    next_pi: Policy,
    next_sample: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    out: Gradient,
) -> tuple[JointLoss, Gradient]:
    """`joint_critic_loss` and its gradient."""
    both, both_actions = joint_inputs(critic, x, action, next_x, next_pi, next_sample)
    critic.net.training = True
    through = pass_of(critic.net, critic.inputs(both, both_actions))
    critic.net.training = False
    output, next_output = through.output.chunk(2, -2)
    target = soft_target(critic, critic.shaped(next_output), cost, discount, next_pi, next_sample, alpha)
    losses, gradient = output_gradient(critic, output, action, target, weight)
    return JointLoss(losses @ weight, losses, target), through.gradient(gradient, out)


@torch.no_grad()
def ppo_step(
    actor: StochasticActor, critic: Critic, batch: Any, noise: Tensor | None, config: Any, out: Gradient
) -> tuple[PPOLoss, Gradient]:
    """`ppo_loss` of agents/ppo.py and its gradient; no total, whose entropy takes up to 9 % of a step."""
    weight = batch.weight
    acted, through = ActorPass(actor, batch.x), Pass(critic.net, batch.x)
    log_ratio = acted.pi.log_prob(batch.sample) - batch.log_prob
    actor_loss, grad_log_prob = clipped_score(log_ratio, batch.advantage, config.clip_range)
    bonus = -config.ent_coef * weight if config.ent_coef else None
    samples = None if noise is None else acted.pi.sample(noise)
    mine = len(out) - 2 * len(through.inputs) if out else 0  # the actor's, in front of C's weights and biases
    of_actor = acted.gradient(batch.sample, grad_log_prob * weight, bonus, samples, out[:mine])
    critic_loss, gradient = critic.head.loss_and_gradient(
        through.output, batch.returns, batch.value, config.clip_range_vf
    )
    of_critic = through.gradient(gradient * (config.vf_coef * weight).unsqueeze(-1), out[mine:])
    return PPOLoss(_NO_TOTAL, log_ratio, actor_loss, critic_loss), (*of_actor, *of_critic)
