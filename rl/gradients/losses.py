"""The losses of actors and of C that several agents share, as pure functions: autograd is what defines an update.

Each takes networks, data and noise, and gives a scalar to descend first, then what else it came to. `x` are prepared
observations, those of `Critic.features`; networks with an encoder encode them. Noise is an argument, so that a loss can
be held against finite differences. rl/gradients/fast.py has the same steps by hand for plain networks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from costgrad.rl.gradients.entropy import soft_cost
from costgrad.rl.gradients.estimators import joint_probs
from costgrad.rl.networks.actor import DeterministicActor, StochasticActor
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical, Policy
from costgrad.rl.returns import td_target


class CriticLoss(NamedTuple):
    """What a step of C came to."""

    total: Tensor  # scalar: losses @ weight
    losses: Tensor  # [B], summed over the ensemble


class ActorLoss(NamedTuple):
    """What a step of a soft actor came to."""

    total: Tensor  # scalar: soft @ weight
    soft: Tensor  # [B] C + alpha log pi
    entropy: Tensor  # [B]


class DeterministicLoss(NamedTuple):
    """What a step of a deterministic actor came to."""

    total: Tensor  # scalar: cost @ weight
    cost: Tensor  # [B]


class PPOLoss(NamedTuple):
    """What a step of PPO's actor and C came to."""

    total: Tensor  # scalar; [0] of a step by hand, where nobody reads it
    log_ratio: Tensor  # [B] log pi - log pi_old of each sample, before the step
    actor_loss: Tensor  # [B]
    critic_loss: Tensor  # [B]


class JointLoss(NamedTuple):
    """What a step of a C without target network came to."""

    total: Tensor  # scalar: losses @ weight
    losses: Tensor  # [B], summed over the ensemble
    target: Tensor  # [B] temporal-difference targets


def critic_loss(
    critic: Critic, x: Tensor, action: Tensor | None, target: Tensor, weight: Tensor, masks: list[Tensor] | None = None
) -> CriticLoss:
    """C's loss against given targets: squared error, or cross-entropy of a distribution over costs.

    Args:
        critic: C.
        x: prepared observations [B, ...].
        action: [B, A] in [-1, 1], [B] or [B, D] int64 from 0; None for a C of states alone.
        target: cost-to-go [B] in the environment's units, without a graph.
        weight: [B] of sum 1.
        masks: of dropout.
    """
    losses = critic.losses(critic.encode(x), action, target, masks)
    return CriticLoss(losses @ weight, losses)


def soft_actor_loss(
    actor: StochasticActor,
    critic: Critic,
    x: Tensor,
    noise: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    masks: list[Tensor] | None = None,
) -> ActorLoss:
    """SAC's actor loss, E_pi [C(s, a) + alpha log pi(a|s)] (1812.05905, eq. 7), reparameterised or exact.

    Args:
        actor: pi.
        critic: C of states and actions.
        x: prepared observations [B, ...].
        noise: what `sample` of a continuous pi takes [1, B, A]; None for a discrete one.
        alpha: the temperature, a scalar.
        weight: [B] of sum 1.
        masks: of C's dropout.
    """
    pi: Policy = actor(x)
    sample = None if noise is None else pi.sample(noise)
    soft, entropy = soft_cost(critic, critic.encode(x).detach(), pi, sample, alpha, masks)
    return ActorLoss(soft @ weight, soft, entropy)


def deterministic_actor_loss(actor: DeterministicActor, critic: Critic, x: Tensor, weight: Tensor) -> DeterministicLoss:
    """The deterministic policy gradient through the first critic (1802.09477, algorithm 1).

    Args:
        actor: mu.
        critic: C of states and actions.
        x: prepared observations [B, ...].
        weight: [B] of sum 1.
    """
    cost = critic.cost(critic.encode(x).detach(), actor(x), first=True)[0]
    return DeterministicLoss(cost @ weight, cost)


def joint_critic_loss(
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
) -> JointLoss:
    """CrossQ's loss of C (1902.05605): states and next states in one pass, which batch normalisation sees alike.

    The target is C's own value of the next state, without a gradient: no target network.

    Args:
        critic: C of states and actions; while it runs, its network is in training mode.
        x: prepared observations [B, ...].
        action: [B, A] in [-1, 1], [B] or [B, D] int64 from 0.
        cost: [B] of the transition.
        discount: [B] gamma^n, 0 where the task terminated.
        next_x: prepared observations [B, ...] that follow.
        next_pi: the policy there, without a graph.
        next_sample: a sample of a continuous `next_pi` [1, B, A]; None for a discrete one.
        alpha: the temperature, a scalar.
        weight: [B] of sum 1.
    """
    both, both_actions = joint_inputs(critic, x, action, next_x, next_pi, next_sample)
    critic.net.training = True  # the flag alone: `train()` asks every module, at 5 % of an update
    output, next_output = critic.output(critic.encode(both), both_actions).chunk(2, 1)
    critic.net.training = False
    target = soft_target(critic, next_output.detach(), cost, discount, next_pi, next_sample, alpha)
    losses = critic.output_losses(critic.taken(output, action) if critic.discrete else output, target)
    return JointLoss(losses @ weight, losses, target)


def joint_inputs(
    critic: Critic, x: Tensor, action: Tensor, next_x: Tensor, next_pi: Policy, next_sample: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """States and next states in one batch [2 B, ...], and their actions where C takes them as inputs."""
    both = torch.cat((x, next_x))
    if critic.discrete or isinstance(next_pi, Categorical):
        return both, None
    assert next_sample is not None, "continuous actions: next_sample is [1, B, A]"
    return both, torch.cat((action, next_pi.action(next_sample[0])))


@torch.no_grad()
def soft_target(
    critic: Critic,
    next_output: Tensor,
    cost: Tensor,
    discount: Tensor,
    next_pi: Policy,
    next_sample: Tensor | None,
    alpha: Tensor,
) -> Tensor:
    """The temporal-difference target of soft cost [B] from C's output at the next states [K, B, ..., head].

    The maximum cost of the ensemble counts for continuous actions; for discrete ones the mean, in exact expectation.
    """
    next_cost = critic.cost_of(next_output)
    if isinstance(next_pi, Categorical):
        expected = (joint_probs(critic, next_pi) * next_cost).sum(-1).mean(0)
    else:
        expected = next_cost.amax(0)
    return td_target(cost, discount, expected - alpha * next_pi.entropy(next_sample))
