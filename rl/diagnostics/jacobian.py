"""Jacobians of C and of a policy for a batch, in the environment's units, by autograd; no `.grad` is written.

By the chain rule the actor descends dC/da da/dtheta; dC/da da/dobs is the sensitivity of the cost to the observation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from costgrad.rl.errors import UserError
from costgrad.rl.networks.actor import DeterministicActor
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical
from costgrad.rl.spaces import to_env


def cost_jacobian(critic: Critic, obs: Tensor, action: Tensor) -> Tensor:
    """dC/da of the mean over the ensemble.

    Args:
        critic: C of continuous actions.
        obs: [B, *obs_shape], not normalised.
        action: [B, *action_shape] in the environment's units.

    Returns:
        [B, *action_shape] in the environment's units, cost per action.

    Raises:
        UserError: C is not of continuous actions.
    """
    if critic.spec.action != "box":
        raise UserError(f"dC/da is of continuous actions: this C has action={critic.spec.action!r}")
    action = action.detach().clone().requires_grad_()
    with torch.enable_grad():
        cost = critic(obs.detach(), action).mean(0)
    return torch.autograd.grad(cost.sum(), action)[0]


def action_jacobian(agent: Any, obs: np.ndarray | Tensor) -> Tensor:
    """da/dobs of the policy's mode.

    Args:
        agent: any with continuous actions.
        obs: [B, *obs_shape], not normalised.

    Returns:
        [B, A, *obs_shape] in the environment's units.

    Raises:
        UserError: the actions are discrete.
    """
    bounds = agent.codec.action_bounds
    if bounds is None:
        raise UserError(f"da/dobs is of continuous actions: these are {agent.codec.action_space}")
    kind: dict[str, Any] = {"dtype": agent.critic.low.dtype, "device": agent.codec.device}
    low, high = (torch.tensor(bound, **kind) for bound in bounds)
    obs = torch.as_tensor(obs, **kind).detach().clone().requires_grad_()
    with torch.enable_grad():
        pi = agent.actor(agent.critic.features(obs))
        assert not isinstance(pi, Categorical)
        action = pi if isinstance(agent.actor, DeterministicActor) else pi.action(pi.mode())
        action = to_env(action, low, high)
        rows = [torch.autograd.grad(action[:, a].sum(), obs, retain_graph=True)[0] for a in range(action.shape[1])]
    return torch.stack(rows, 1)
