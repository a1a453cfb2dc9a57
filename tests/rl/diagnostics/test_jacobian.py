"""Jacobians against finite differences, in the environment's own units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from costgrad.agents import A2C, SAC, TD3, A2CConfig
from costgrad.rl.diagnostics.jacobian import action_jacobian, cost_jacobian
from costgrad.rl.errors import UserError

SPACES = Box(-5, 5, (4,)), Box(np.array([0, -3], np.float32), np.array([5, -1], np.float32))
OBS = np.random.default_rng(0).normal(size=(3, 4))


def trained(cls: Any) -> Any:
    """As if: weights that say something, a normaliser that does something, all in float64."""
    agent = cls(*SPACES)
    generator = torch.Generator().manual_seed(0)
    for module in (agent.actor, agent.critic):
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    agent.critic.obs_norm.update(np.random.default_rng(1).normal(1, 2, (50, 4)))
    agent.actor.double(), agent.critic.double()
    return agent


def differences(function: Any, at: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """d function [B, ...] / d at [B, K] by central differences: [B, ..., K]."""
    columns = []
    for k in range(at.shape[1]):
        move = h * np.eye(at.shape[1])[k]
        columns.append((function(at + move) - function(at - move)) / (2 * h))
    return np.stack(columns, -1)


@pytest.mark.parametrize("cls", [A2C, SAC, TD3])
def test_jacobian_of_c_in_the_action(cls: Any) -> None:
    critic = trained(cls).critic
    action = np.array([[1.0, -2.0], [4.0, -1.5], [0.5, -2.9]])

    def cost(action: np.ndarray) -> np.ndarray:
        return critic(torch.tensor(OBS), torch.tensor(action)).mean(0).detach().numpy()

    found = cost_jacobian(critic, torch.tensor(OBS), torch.tensor(action))
    np.testing.assert_allclose(found, differences(cost, action), rtol=1e-4, atol=1e-7)
    assert float(found.abs().min()) > 1e-4
    assert all(parameter.grad is None for parameter in critic.parameters())


@pytest.mark.parametrize("cls", [A2C, SAC, TD3])
def test_jacobian_of_the_policy_in_the_observation(cls: Any) -> None:
    agent = trained(cls)
    low, high = np.array([0, -3]), np.array([5, -1])

    def mode(obs: np.ndarray) -> np.ndarray:
        pi = agent.actor(agent.critic.features(torch.tensor(obs)))
        action = pi if cls is TD3 else pi.mode().tanh()
        return low + (high - low) * (1 + action.detach().numpy()) / 2

    found = action_jacobian(agent, OBS)
    assert found.shape == (3, 2, 4)
    np.testing.assert_allclose(found, differences(mode, OBS), rtol=1e-4, atol=1e-7)
    assert float(found.abs().min()) > 1e-4


def test_it_is_in_the_environments_units() -> None:
    agent = A2C(*SPACES)
    agent.critic.obs_norm.update(np.random.default_rng(1).normal(1, 2, (50, 4)))
    obs = OBS.astype(np.float32)

    def mode(obs: np.ndarray) -> np.ndarray:
        return agent.predict(obs.astype(np.float32), deterministic=True)[0].astype(np.float64)

    np.testing.assert_allclose(action_jacobian(agent, obs), differences(mode, obs, 1e-2), rtol=0.01, atol=1e-4)


def test_discrete_actions_have_none() -> None:
    agent = A2C(Box(-5, 5, (4,)), Discrete(2), A2CConfig())
    with pytest.raises(UserError, match="dC/da is of continuous actions: this C has action='discrete'"):
        cost_jacobian(agent.critic, torch.tensor(OBS).float(), torch.zeros(3, 1))
    with pytest.raises(UserError, match=r"da/dobs is of continuous actions: these are Discrete\(2\)"):
        action_jacobian(agent, OBS)
