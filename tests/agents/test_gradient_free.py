"""Agents without gradients: they find optima, and do not when the sign is wrong; steps by hand; resume to the bit."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import costgrad.rl.buffers.replay
import costgrad.rl.evolution.population
from costgrad.agents import (
    AGENTS,
    ARS,
    CMAES,
    ES,
    SPSA,
    ARSConfig,
    CMAESConfig,
    ESConfig,
    GuidedES,
    GuidedESConfig,
    SPSAConfig,
)
from costgrad.agents.random_search import RandomSearch, RandomSearchConfig
from costgrad.envs import make
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.evolution.search import centered_ranks
from costgrad.rl.loop import interact
from costgrad.rl.runs.train import train
from tests import streams
from tests.streams import GRADIENT_FREE, everything, feed, same
from tests.streams import make as small

ROOT = Path(__file__).resolve().parents[2]
OBS, BOX = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(np.float32([0, -4]), np.float32([10, 4]))
AIM = np.array([7.0, -1.0])  # in the environment's units: 0.4 and -0.25 of the agent's


class Bowl(gymnasium.Env):
    """One step, always the same: the cost is the square of how far the action is from AIM, in units of the agent."""

    observation_space, action_space = OBS, BOX

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), -float(np.square((action - AIM) / [5, 4]).sum()), True, False, {}


LINEAR: dict[str, Any] = {"hidden": (), "normalize_obs": False}
BOWL: dict[str, tuple[int, dict[str, Any]]] = {  # steps and settings
    "ars": (3_000, {"directions": 4, "top": 2, "sigma": 0.05, "learning_rate": 0.05, "decay_steps": 3_000}),
    "cmaes": (1_500, {}),
    "es": (3_000, {"directions": 4, "sigma": 0.1, "learning_rate": 0.05, "l2": 0.0, "decay_steps": 3_000}),
    "guidedes": (
        3_000,
        {
            "directions": 4,
            "learning_rate": 0.05,
            "learning_starts": 200,
            "update_ratio": 0.2,
            "batch_size": 32,
            "guide_batch_size": 64,
        }
        | {"decay_steps": 3_000, "critic_hidden": (32,), "buffer_size": 3_000},
    ),
    "randomsearch": (2_000, {}),
    "spsa": (3_000, {"directions": 2}),
}


def learn(name: str, env: Any, steps: int, num_envs: int = 4, seed: int = 100, **settings: Any) -> tuple[Any, float]:
    """The agent, and the mean return of what it found."""
    torch.set_num_threads(1)
    made = make(env, num_envs, seed)
    cls, config = AGENTS[name]
    agent = cls(made.single_observation_space, made.single_action_space, config(**settings), seed=seed)
    train(agent, made, steps, progress=False, seed=seed)
    mean = evaluate(agent, made, 200 if isinstance(env, str) else 1).mean
    made.close()
    return agent, mean


@pytest.mark.parametrize("name", BOWL)
def test_the_bottom_of_a_bowl_is_found(name: str) -> None:
    steps, settings = BOWL[name]
    agent, mean = learn(name, Bowl, steps, **LINEAR | settings)
    assert mean > -1e-3 and agent.updates > 50
    np.testing.assert_allclose(agent.predict(np.ones(1, np.float32))[0], AIM, atol=0.2)


@pytest.mark.parametrize("name", BOWL)
def test_a_reward_taken_for_a_cost_leads_away(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the farthest corner of the box costs 1.4^2 + 1.25^2."""
    for room in (costgrad.rl.evolution.population, costgrad.rl.buffers.replay):
        monkeypatch.setattr(room, "cost_of", lambda reward: reward)
    steps, settings = BOWL[name]
    assert learn(name, Bowl, steps, **LINEAR | settings)[1] < -1.0


@pytest.mark.parametrize(
    ("name", "normalize"),
    [("ars", False), ("cmaes", False), ("es", False), ("randomsearch", False), ("randomsearch", True)],
)
def test_a_contextual_quadratic_is_learnt(name: str, normalize: bool) -> None:
    """The best return is -1; a policy that does not look at the context has -1.83 at best."""
    settings: dict[str, Any] = {
        "ars": {"directions": 8, "sigma": 0.1, "learning_rate": 0.1, "top": 8, "decay_steps": 40_000, "episodes": 8},
        "cmaes": {"episodes": 32},
        "es": {"directions": 8, "learning_rate": 0.05, "l2": 0.0, "decay_steps": 40_000, "episodes": 8},
        "randomsearch": {"population": 4, "episodes": 32},
    }[name]
    settings |= {"normalize_obs": normalize}
    mean = learn(name, "costgrad/OneStepQuadratic-v0", 40_000, 32, **LINEAR | settings)[1]
    assert mean == pytest.approx(-1.0, rel=0.1)


def test_cs_gradient_guides_the_search_and_alone_suffices() -> None:
    """With noise in C's subspace alone, candidates move by what C says, and still the bottom is found."""
    steps, settings = BOWL["guidedes"]
    settings = LINEAR | settings | {"isotropic": 0.0, "subspace": 2}
    agent, mean = learn("guidedes", Bowl, steps, **settings)
    assert mean > -1e-2
    noise = agent.population.candidates - agent.policies.center
    assert np.linalg.matrix_rank(noise, tol=1e-4) == 2 < agent.policies.size


# One step by hand -----------------------------------------------------------------------------------------------------


def played(agent: Any, cost: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Plays a generation of given costs [K]: the centre before and after, and the metrics."""
    before, population = agent.policies.center, agent.population
    population._cost[:], population.played[:] = np.asarray(cost), population.episodes
    return before, agent.policies.center if (metrics := agent.update()) else before, metrics


def test_ars_steps_along_the_top_pairs_over_their_deviation() -> None:
    agent = ARS(OBS, BOX, ARSConfig(directions=3, top=2, sigma=0.5, learning_rate=0.3), seed=1)
    noise = (agent.population.candidates[:3] - agent.policies.center) / 0.5
    cost = np.array([4.0, 1.0, 9.0, 2.0, 6.0, 8.0])  # pairs (4, 2), (1, 6), (9, 8): the third is left out
    before, after, _ = played(agent, cost)
    step = ((1 - 6) * noise[1] + (4 - 2) * noise[0]) / (2 * np.std([4.0, 1.0, 2.0, 6.0]))
    np.testing.assert_allclose(after, before - 0.3 * step, rtol=1e-4, atol=1e-6)


def test_ars_stays_where_all_costs_are_alike() -> None:
    agent = ARS(OBS, BOX, ARSConfig(directions=3, top=3), seed=1)
    before, after, _ = played(agent, np.full(6, 5.0))
    np.testing.assert_array_equal(before, after)


def test_es_gives_adam_the_slope_of_the_ranks_and_decays_weights() -> None:
    agent = ES(OBS, BOX, ESConfig(directions=2, sigma=0.2, l2=0.3, hidden=()), seed=1)
    agent.policies.move(np.float32([1.0, -1.0, 0.5, 0.0]))
    agent._ask()
    seen: list[torch.Tensor] = []
    apply = agent.optimizer.apply
    agent.optimizer.apply = lambda parts: seen.append(torch.cat([p.flatten() for p in parts])) or apply(parts)  # type: ignore[method-assign, func-returns-value]
    noise = (agent.population.candidates[:2] - agent.policies.center) / 0.2
    cost = np.array([1e6, 3.0, -2.0, 4.0])
    rank = centered_ranks(cost)
    before, after, _ = played(agent, cost)
    wanted = ((rank[0] - rank[2]) * noise[0] + (rank[1] - rank[3]) * noise[1]) / 2 / 0.4
    np.testing.assert_allclose(seen[0].numpy(), wanted, rtol=1e-4, atol=1e-5)
    decayed = wanted + 0.3 * before * [1, 1, 0, 0]  # weights, not biases
    np.testing.assert_allclose(
        after - before, -agent.config.learning_rate * np.sign(decayed), rtol=1e-2
    )  # Adam's first step


def test_spsa_fits_its_first_step_and_lets_gains_fall() -> None:
    agent = SPSA(OBS, BOX, SPSAConfig(directions=1, sigma=0.2, first_step=0.1, stability=3.0, hidden=()), seed=1)
    signs = np.sign(agent.population.candidates[0] - agent.policies.center)
    np.testing.assert_allclose(np.abs(agent.population.candidates - agent.policies.center), 0.2, rtol=1e-5)
    before, after, _ = played(agent, [3.0, 3.0])
    assert (before == after).all() and agent.gain == 0
    before, after, _ = played(agent, [3.0, 5.0])
    signs = np.sign(0.0 + signs)
    np.testing.assert_allclose(np.abs(after - before), 0.1, rtol=1e-4)
    sigma = 0.2 / 3**0.101
    np.testing.assert_allclose(np.abs(agent.population.candidates - after), sigma, rtol=1e-4)
    before, after, _ = played(agent, [3.0, 5.0])
    first = 2 / (2 * 0.2 / 2**0.101)  # |g| of the update before
    gain = 0.1 * (2 + 3) ** 0.602 / first
    np.testing.assert_allclose(np.abs(after - before), gain / (3 + 3) ** 0.602 * 2 / (2 * sigma), rtol=1e-4)


def test_random_search_keeps_what_lasts() -> None:
    agent = RandomSearch(OBS, BOX, RandomSearchConfig(population=2, sigma=0.4, shrink=0.5), seed=1)
    center, better = agent.policies.center, agent.population.candidates[2].copy()
    np.testing.assert_array_equal(agent.population.candidates[0], center)
    _, after, _ = played(agent, [5.0, 7.0, 6.0])
    np.testing.assert_array_equal(after, center)
    assert agent.sigma == 0.2
    better = agent.population.candidates[1].copy()
    _, after, _ = played(agent, [9.0, 6.5, 8.0])  # the best has cost 7 on average
    np.testing.assert_array_equal(after, better)
    assert (agent.sigma, agent.best_cost, agent.trials) == (0.4, 6.5, 1)
    _, after, _ = played(agent, [5.5, 6.1, 6.2])
    np.testing.assert_array_equal(after, better)
    assert agent.best_cost == 6.0 and agent.trials == 2


def test_cmaes_moves_the_mean_to_the_cheap_and_is_diagonal_when_large() -> None:
    agent = CMAES(OBS, BOX, CMAESConfig(candidates=6), seed=1)
    candidates = agent.population.candidates.copy()
    _, after, _ = played(agent, [5.0, 1.0, 4.0, 9.0, 8.0, 7.0])
    weights = np.log(3.5) - np.log([1, 2, 3])  # Hansen 2016, equation 49
    np.testing.assert_allclose(after, weights / weights.sum() @ candidates[[1, 2, 0]], rtol=1e-4, atol=1e-6)
    large = CMAES(OBS, BOX, CMAESConfig(hidden=(64,), separable_from=100))
    assert type(agent.search).__name__ == "CMA" and type(large.search).__name__ == "SepCMA"


def test_guided_es_looks_where_c_points() -> None:
    """C = (a_0 - 1)^2 has no slope in the second action: what guides reaches the first output's parameters alone."""
    agent = small("guidedes", "box", hidden=(), directions=1, isotropic=0.0)
    feed(agent, 40)
    assert agent.guided > 1 and len(agent.guides) == 4
    agent.critic.cost = lambda x, action, **_: (action[:, :1].T - 1).square()
    agent.guided = 0
    metrics = agent._guide(torch.ones(agent.policies.size))
    weight, bias = agent.policies.split(agent.guides[0])
    assert (weight[:, 1] == 0).all() and bias[1] == 0 and bias[0] < 0 and metrics["guide_norm"] > 0
    assert torch.linalg.vector_norm(agent.guides[0]) == pytest.approx(1)
    agent._ask()
    moved = agent.policies.split(torch.from_numpy(agent.population.candidates[0] - agent.policies.center))[0]
    assert (moved[:, 1] == 0).all() and (moved[:, 0] != 0).any()


def test_guided_es_takes_a_policy_of_fewer_parameters_than_guides() -> None:
    settings: dict[str, Any] = {
        "directions": 2,
        "learning_starts": 8,
        "update_ratio": 0.5,
        "batch_size": 8,
        "subspace": 8,
    }
    agent = GuidedES(streams.OBS, spaces.Box(-1, 1, (1,)), GuidedESConfig(**settings, **LINEAR))
    feed(agent, 160)
    assert agent.guided > agent.policies.size == 4


@pytest.mark.parametrize("space", ["box", "discrete", "choices"])
def test_guided_es_trains_c_to_the_centres_costs(space: str) -> None:
    """Reward 1 for ever, an ending by the clock every 4 steps: C says -1 / (1 - gamma) = -5."""
    agent = small(
        "guidedes", space, gamma=0.8, update_ratio=1.0, critic_lr=1e-2, tau=0.1, n_critics=1, learning_rate=0.0
    )
    every_fourth = {"truncated": lambda t, _: np.full(4, t % 4 == 3), "terminated": lambda t, _: np.zeros(4, bool)}
    feed(agent, 300, reward=lambda t, _: np.ones(4), **every_fourth)
    batch = agent.memory.sample(64)
    cost = agent.critic.cost_of(
        agent.critic.taken(agent.critic.output(agent.critic.features(batch.obs)), batch.action)
        if space != "box"
        else agent.critic.output(agent.critic.features(batch.obs), batch.action)
    )
    assert float(cost.detach().mean()) == pytest.approx(-5, abs=0.3)


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_a_generation_goes_on_where_it_was_saved_with_its_ended_episodes(name: str, tmp_path: Path) -> None:
    agent = small(name, "box", episodes=2)
    steps = 9
    feed(agent, steps)
    while agent.population.played.sum() == 0 and steps < 40:  # a generation has just begun
        feed(agent, 1, start=steps)
        steps += 1
    assert agent.population.played.sum() > 0
    agent.save(tmp_path / "agent")
    again = AGENTS[name][0].load(tmp_path / "agent")
    np.testing.assert_array_equal(again.population.played, agent.population.played)
    for a in (agent, again):
        a.on_reset()
        feed(a, 40, start=steps)
    assert same(everything(agent), everything(again)) and agent.updates > 1


def test_a_checkpoint_of_another_population_is_refused(tmp_path: Path) -> None:
    agent, other = (small("ars", "box", directions=d) for d in (2, 3))
    tensors, meta = agent.state()
    with pytest.raises(ValueError, match=r"candidates is float32 \[4, 8\]: it must be float32 \[6, 8\]"):
        other.load_state(tensors, deepcopy(meta))


def test_cmaes_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(UserError, match=r"cmaes needs a package: pip install 'costgrad\[cma\]'"):
        small("cmaes")


def test_choices_too_many_to_list_are_refused_by_guided_es_alone() -> None:
    many = spaces.MultiDiscrete([7, 7, 7])
    with pytest.raises(UserError, match="GuidedES takes up to 256 combinations of choices"):
        GuidedES(OBS, many, GuidedESConfig())
    assert ES(OBS, many).predict(np.zeros(1, np.float32))[0].shape == (3,)


def test_ars_learns_cartpole_within_four_generations() -> None:
    env = make("CartPole-v1", 1, 100)
    agent = ARS(env.single_observation_space, env.single_action_space, ARSConfig(), seed=100)
    ticks = interact(agent, env, seed=100)
    step = 0
    while agent.updates < 4 and step < 20_000:
        step = next(ticks).step
    assert step < 20_000 and evaluate(agent, env, 10).mean > 100
    env.close()
