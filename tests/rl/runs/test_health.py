"""Numbers that go wrong are found wherever they stand, named, and blamed on whom they come from."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from costgrad.agents import A2C, ARS, PPO, SAC
from costgrad.envs import make
from costgrad.rl.errors import Diverged, UserError
from costgrad.rl.extremes import Extremes
from costgrad.rl.networks.heads import Extremes as Targets
from costgrad.rl.norm import RunningNorm
from costgrad.rl.runs import health as health_module
from costgrad.rl.runs.health import Health


def agent_on(cls: Any, env_id: str = "CartPole-v1", **config: Any) -> Any:
    env = make(env_id, 2)
    return cls(env.single_observation_space, env.single_action_space, cls.config_class(**config))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -2e5])
def test_a_parameter_is_named_with_its_part(bad: float) -> None:
    agent = agent_on(SAC)
    health = Health(agent)
    health.check(0)
    with torch.no_grad():
        agent.critic.net.weights[1].view(-1)[7] = bad
    with pytest.raises(Diverged, match=rf"^critic.net.weights.1 is {re.escape(f'{bad:.4g}')} after 40 steps: learn"):
        health.check(40)


def test_moments_statistics_and_centres_are_looked_at_too() -> None:
    for cls, spoil, name in (
        (PPO, lambda agent: agent.optimizer.state["square"], r"optimizer.square is inf"),
        (A2C, lambda agent: agent.critic.obs_norm.mean, r"critic.*obs_norm.mean is inf"),
        (SAC, lambda agent: agent.target_critic.copy.net.weights[0], r"target_critic.copy.net.weights.0 is inf"),
        (SAC, lambda agent: agent.temperature_optimizer.flat, r"temperature.log_alpha is inf"),
        (ARS, lambda agent: agent.policies._parameters[0], r"center is inf"),
    ):
        agent = agent_on(cls)
        health = Health(agent)
        with torch.no_grad():
            spoil(agent).view(-1)[-1] = math.inf
        with pytest.raises(Diverged, match=name):
            health.check(0)


def test_a_large_number_that_is_no_parameter_is_none_of_a_runs_business() -> None:
    agent = agent_on(SAC, env_id="Pendulum-v1")
    agent.critic.obs_norm.var.fill_(1e12)
    agent.memory.largest = math.inf
    Health(agent).check(0)


def test_metrics_of_every_kind_but_those_that_may_have_no_value() -> None:
    health = Health(object())
    health.check_metrics(0, {"train/critic_loss": 1.0, "train/explained_variance": -math.inf, "train/approx_kl": 1e9})
    for name in ("train/actor_loss", "train/critic_grad_norm", "train/entropy", "train/alpha"):
        with pytest.raises(Diverged, match=f"{name} is nan after 8 steps"):
            health.check_metrics(8, {name: math.nan})


def test_what_an_environment_returned_is_blamed_before_a_learning_rate() -> None:
    for kind, value in (("reward", -3e38), ("observation", 1e30)):
        health = Health(agent_on(PPO))
        reward, obs = np.ones(3), np.ones((3, 4), np.float32)
        for step in (0, 3, 6):
            health.extremes.look(reward, obs, step)
        (reward if kind == "reward" else obs.reshape(-1)[4:8])[2] = value
        health.extremes.look(reward, obs, 4000)
        reward[:], obs[:] = 1e7, 1e7  # later ones are smaller
        health.extremes.look(reward, obs, 5000)
        where = f"environment {2 if kind == 'reward' else 1} returned {kind} {value:.4g} at step 4,000"
        with torch.no_grad():
            health.agent.critic.net.weights[0].fill_(math.nan)
        with pytest.raises(Diverged) as caught:
            health.check(6000)
        assert where in str(caught.value) and "learning rates" not in str(caught.value)


def test_a_number_that_is_not_finite_is_refused_at_once() -> None:
    for reward, obs, line in (
        ([0, math.nan], [0, 0], "environment 1 returned reward nan after 12 steps"),
        ([-1e39, 0], [0, 0], "environment 0 returned reward -1e\\+39"),
        ([0, 0], [0, math.inf], "environment 1 returned observation .*inf"),
    ):
        with pytest.raises(UserError, match=line):
            Extremes().look(np.array(reward, float), np.array(obs, float)[:, None], 12)


def test_large_rewards_of_an_ordinary_task_are_nobodys_fault() -> None:
    extremes = Extremes()
    for step in range(3):
        extremes.look(np.full(4, 1e8), np.full((4, 2), 255, np.uint8), step)
    assert extremes.blamed == "" and extremes.found["reward"] == (1e8, 0, 0)


def test_looking_now_and_then_takes_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    health, times, looked = Health(object()), iter([10.0, 10.5, 11.0, 260.0, 261.0, 262.0]), list[int]()
    monkeypatch.setattr(health_module, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    monkeypatch.setattr(health, "check", looked.append)
    for step in range(4):
        health.check_now_and_then(step)  # 0.5 s the first time: the next is due 250 s after it
    assert looked == [0, 3]


def test_what_may_be_infinite_may_be_so_after_a_start_where_it_was_not() -> None:
    """As in a run that goes on: CrossQ's outermost targets are forgotten each time they are looked at."""
    extremes = Targets()
    extremes.take(torch.tensor([1.0, 2.0]))
    agent = SimpleNamespace(extremes=extremes, norm=RunningNorm((2,)))
    health = Health(agent)
    extremes.seen()
    health.check(3)
    agent.norm.center.fill_(math.inf)  # negative control: a statistic may not
    with pytest.raises(Diverged, match=r"norm\.center is inf after 3 steps"):
        health.check(3)
