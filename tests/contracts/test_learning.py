"""Every agent learns tasks of known optimum (A2C by each gradient), and does not learn when it is wired wrongly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import costgrad.rl.buffers.replay
import costgrad.rl.buffers.rollout
from costgrad.agents import AGENTS
from costgrad.agents.a2c import A2C, A2CConfig
from costgrad.agents.presets import preset_for
from costgrad.envs import make
from costgrad.envs.tasks.known import LQR, Chain, OneStepQuadratic
from costgrad.envs.tasks.staircase import staircase
from costgrad.rl.evaluate import evaluate
from costgrad.rl.runs.train import train

GRADIENTS = ("pathwise", "score", "control_variate")
ONE_STEP = {
    "num_envs": 32,
    "num_steps": 2,
    "actor_lr": 1e-2,
    "critic_lr": 3e-3,
    "critic_warmup": 1_000,
    "ent_coef": 0.0,
    "log_std": -1.0,
}
CHAIN = {"num_envs": 8, "num_steps": 8, "actor_lr": 3e-3, "critic_warmup": 500, "ent_coef": 0.02}


SHORT: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {  # steps and settings that do for each task
    ("ppo", "Chain"): (8_000, {"num_steps": 16, "hidden": (32,), "batch_size": 64, "learning_rate": 3e-3}),
    ("reppo", "Chain"): (
        6_000,
        {"num_steps": 16, "hidden": (32,), "batch_size": 64, "epochs": 4, "bins": 51, "critic_warmup": 500}
        | {"actor_lr": 1e-3, "critic_lr": 2e-3},
    ),
    ("ppo", "OneStepQuadratic"): (
        40_000,
        {"num_envs": 64, "num_steps": 8, "hidden": (32,), "batch_size": 128, "epochs": 8, "learning_rate": 3e-3}
        | {"ent_coef": 0.0, "log_std": -1.0, "decay_steps": 40_000},
    ),
    ("reppo", "OneStepQuadratic"): (
        25_000,
        {"num_envs": 64, "num_steps": 4, "hidden": (64,), "batch_size": 128, "epochs": 4, "bins": 51}
        | {"critic_warmup": 1_000, "actor_lr": 3e-3, "critic_lr": 3e-3, "log_std": -1.0, "entropy_target": 1.5}
        | {"decay_steps": 25_000},
    ),
    ("td3", "OneStepQuadratic"): (
        8_000,
        {"learning_starts": 500, "hidden": (64, 64), "batch_size": 128, "update_ratio": 0.25, "buffer_size": 10_000}
        | {"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.02, "exploration_noise": 0.2, "decay_steps": 8_000},
    ),
    ("sac", "OneStepQuadratic"): (
        8_000,
        {"learning_starts": 500, "hidden": (64, 64), "batch_size": 128, "update_ratio": 0.25, "buffer_size": 10_000}
        | {"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.02, "alpha": 0.1, "alpha_lr": 3e-3, "decay_steps": 8_000},
    ),
    ("crossq", "OneStepQuadratic"): (
        8_000,
        {"learning_starts": 500, "hidden": (64, 64), "batch_size": 128, "buffer_size": 10_000, "decay_steps": 8_000}
        | {"actor_lr": 3e-3, "critic_lr": 3e-3, "alpha": 0.1, "alpha_lr": 3e-3},
    ),
    ("crossq", "Chain"): (
        4_000,
        {"learning_starts": 500, "hidden": (32,), "batch_size": 64, "buffer_size": 10_000, "bins": 51}
        | {"actor_lr": 3e-3, "critic_lr": 3e-3, "alpha": 0.1, "alpha_lr": 3e-3, "entropy_target": 0.4},
    ),
    ("sac", "Chain"): (
        4_000,
        {"learning_starts": 500, "hidden": (32,), "batch_size": 64, "update_ratio": 0.5, "buffer_size": 10_000}
        | {"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.02, "alpha": 0.1, "alpha_lr": 3e-3, "entropy_target": 0.4},
    ),
}
QUADRATIC = [agent for agent, task in SHORT if task == "OneStepQuadratic"]
CHAINED = [agent for agent, task in SHORT if task == "Chain"]


def learn(
    env: Any, steps: int, episodes: int, num_envs: int = 8, seed: int = 100, agent_name: str = "a2c", **settings: Any
) -> float:
    """Mean return of the final, deterministic policy."""
    torch.set_num_threads(1)
    made = make(env, num_envs, seed, backend="native")
    cls, config = AGENTS[agent_name]
    agent = cls(made.single_observation_space, made.single_action_space, config(**settings), seed=seed)
    train(agent, made, steps, progress=False)
    mean = evaluate(agent, made, episodes).mean
    made.close()
    return mean


@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_contextual_quadratic_within_two_percent(kind: Any) -> None:
    optimum = OneStepQuadratic().optimal_return()
    mean = learn("costgrad/OneStepQuadratic-v0", 25_000, 500, actor_gradient=kind, decay_steps=25_000, **ONE_STEP)
    assert mean == pytest.approx(optimum, rel=0.02)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_chain_is_walked_the_shortest_way(kind: Any) -> None:
    assert learn("costgrad/Chain-v0", 8_000, 1, actor_gradient=kind, **CHAIN) == Chain().optimal_return()


@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_reward_taken_for_a_cost_is_not_learnt(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the two above: with the sign wrong the agent runs away from the goal."""
    monkeypatch.setattr(costgrad.rl.buffers.rollout, "cost_of", lambda reward: reward)
    chain = Chain()
    assert learn("costgrad/Chain-v0", 8_000, 1, actor_gradient=kind, **CHAIN) == -float(chain.horizon or 0)


@pytest.mark.parametrize("name", QUADRATIC)
def test_the_other_agents_learn_the_quadratic_within_two_percent(name: str) -> None:
    steps, settings = SHORT[name, "OneStepQuadratic"]
    mean = learn("costgrad/OneStepQuadratic-v0", steps, 500, agent_name=name, **settings)
    assert mean == pytest.approx(OneStepQuadratic().optimal_return(), rel=0.02)


@pytest.mark.parametrize("name", CHAINED)
def test_the_other_agents_walk_the_chain_the_shortest_way(name: str) -> None:
    steps, settings = SHORT[name, "Chain"]
    assert learn("costgrad/Chain-v0", steps, 1, agent_name=name, **settings) == Chain().optimal_return()


@pytest.mark.parametrize("name", CHAINED)
def test_the_other_agents_do_not_learn_from_a_reward_taken_for_a_cost(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (costgrad.rl.buffers.rollout, costgrad.rl.buffers.replay):
        monkeypatch.setattr(room, "cost_of", lambda reward: reward)
    (steps, settings), chain = SHORT[name, "Chain"], Chain()
    assert learn("costgrad/Chain-v0", steps, 1, agent_name=name, **settings) == -float(chain.horizon or 0)


def test_the_bottom_step_of_a_staircase_is_found() -> None:
    """A cost whose gradient is 0 wherever it exists; C's is not."""
    assert learn(staircase, 20_000, 1, decay_steps=20_000, **ONE_STEP) == -1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 103))
def test_lqr_within_two_percent(seed: int) -> None:
    settings = preset_for("a2c", "costgrad/LQR-v0", 600_000)
    mean = learn("costgrad/LQR-v0", 600_000, 2_000, seed=seed, **settings)
    assert mean == pytest.approx(LQR().optimal_return(), rel=0.02)


@pytest.mark.parametrize("reward", [1e3, -1e-3])
def test_no_cost_bounds_are_set_by_hand(reward: float) -> None:
    """C comes near -r / (1 - gamma) whatever the environment counts in, and next to none of its targets is clipped."""
    torch.set_num_threads(1)
    made = make("costgrad/ConstantCost-v0", 8, 100, env_kwargs={"reward": reward}, backend="native")
    config = A2CConfig(head="hl_gauss", gamma=0.95, critic_warmup=0)
    agent = A2C(made.single_observation_space, made.single_action_space, config, seed=100)
    clipped: list[float] = []

    def hook(tick: Any, _: Any) -> None:
        if tick.metrics:
            clipped.append(float(tick.metrics["clipped_targets"]))

    train(agent, made, 12_000, progress=False, hooks=[hook])
    with torch.no_grad():
        cost = agent.critic(2 * torch.rand(64, 2) - 1).mean()
    assert float(cost) == pytest.approx(-reward / (1 - 0.95), rel=0.1)
    assert len(clipped) > 50 and sum(clipped) / len(clipped) < 1e-3
