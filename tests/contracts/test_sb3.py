"""Stable-Baselines3's own evaluate_policy works on our agents, in the environment's units."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from stable_baselines3.common.evaluation import evaluate_policy

from costgrad.agents.a2c import A2C, A2CConfig
from costgrad.envs import make
from costgrad.rl.evaluate import SEED_OFFSET, evaluate
from costgrad.rl.runs.train import train

LOW, HIGH, BEST = np.array([0.0, -3.0]), np.array([5.0, -1.0]), np.array([4.0, -1.5])


class Aim(gymnasium.Env):
    """One step; the best action is (4, -1.5). An action in [-1, 1]^2 instead of the box would cost at least 11."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Box(LOW.astype(np.float32), HIGH.astype(np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return np.zeros(1, dtype=np.float32), -float(np.square(action - BEST).sum()), True, False, {}


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped:UserWarning")
def test_evaluate_policy_on_a_box_of_other_units() -> None:
    env = make(Aim, num_envs=16, backend="sync")
    config = A2CConfig(num_steps=4, actor_lr=1e-2, critic_lr=3e-3, critic_warmup=500, ent_coef=0.0)
    agent = A2C(env.single_observation_space, env.single_action_space, config)
    train(agent, env, 8_000, progress=False)
    mean, _ = evaluate_policy(agent, Aim(), n_eval_episodes=3, deterministic=True)  # type: ignore[arg-type]
    assert -0.1 < mean <= 0.0
    # One row or three at once round differently, by 1e-7 of an action that is 6e-2 off.
    assert mean == pytest.approx(evaluate(agent, env, 3).mean, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped:UserWarning")
def test_evaluate_policy_on_pendulum_agrees_with_ours() -> None:
    env = make("Pendulum-v1", num_envs=2)
    agent = A2C(env.single_observation_space, env.single_action_space)
    single = gymnasium.make("Pendulum-v1")
    single.reset(seed=SEED_OFFSET)  # evaluate_policy does not seed: it goes on with the generator that this one set
    theirs, _ = evaluate_policy(agent, single, n_eval_episodes=2, return_episode_rewards=True)  # type: ignore[arg-type]
    # Its first episode is the second one from this seed.
    assert evaluate(agent, env, 3, num_envs=1).returns[1:] == pytest.approx(theirs, rel=1e-4)
