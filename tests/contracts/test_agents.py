"""What every agent promises, whatever it learns by: reproducible to the bit, endings understood, units of the user."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from costgrad.agents import AGENTS
from costgrad.envs import make as gym_make
from costgrad.rl.errors import UserError
from costgrad.rl.runs.train import train
from tests.streams import (
    BOX_ONLY,
    GRADIENT_FREE,
    ON_POLICY,
    SPACES,
    N,
    T,
    after_the_clock,
    changed,
    constant,
    every_fourth,
    everything,
    feed,
    finite,
    junk,
    make,
    never,
    observation,
    observations,
    same,
)

# Agents in all the ways that they differ in what they draw, keep and compute.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a2c": ("a2c", {}),
    "a2c pathwise": ("a2c", {"actor_gradient": "pathwise", "optimizer": "rmsprop", "dropout": 0.1}),
    "a2c score": ("a2c", {"actor_gradient": "score", "decay_steps": 1000}),
    "ars": ("ars", {"decay_steps": 1000}),
    "cmaes": ("cmaes", {}),
    "cmaes separable": ("cmaes", {"separable_from": 2, "hidden": (), "episodes": 2}),
    "crossq": ("crossq", {"decay_steps": 1000, "noise_correlation": 0.5}),
    "crossq regression": ("crossq", {"head": "regression", "n_step": 3}),
    "es": ("es", {"decay_steps": 1000}),
    "guidedes": ("guidedes", {"decay_steps": 1000}),
    "ppo": ("ppo", {"decay_steps": 1000}),
    "ppo clipped": ("ppo", {"clip_range_vf": 0.1, "target_kl": 0.01, "noise_correlation": 0.5}),
    "randomsearch": ("randomsearch", {}),
    "reppo": ("reppo", {"decay_steps": 1000}),
    "reppo regression": ("reppo", {"head": "regression", "state_std": False, "noise_correlation": 0.5}),
    "sac": ("sac", {"normalize_obs": True, "decay_steps": 1000}),
    "sac droq": ("sac", {"dropout": 0.1, "layer_norm": True, "n_step": 3, "n_critics": 3, "normalize_obs": True}),
    "spsa": ("spsa", {}),
    "td3": ("td3", {"normalize_obs": True, "noise_correlation": 0.5}),
    "td3 prioritised": ("td3", {"normalize_obs": True, "per_alpha": 0.6, "n_step": 2}),
    "ddpg": ("td3", {"n_critics": 1, "target_policy_noise": 0.0, "policy_delay": 1, "normalize_obs": True}),
}
every_case = pytest.mark.parametrize("case", CASES)
every_case_and_space = pytest.mark.parametrize(
    ("case", "space"),
    [(case, space) for case in CASES for space in SPACES if space == "box" or CASES[case][0] != "td3"],
)
every_agent = pytest.mark.parametrize("name", AGENTS)
every_agent_and_space = pytest.mark.parametrize(
    ("name", "space"), [(name, space) for name in AGENTS for space in SPACES if space == "box" or name not in BOX_ONLY]
)
on_policy = pytest.mark.parametrize("name", ON_POLICY)


def agent_of(case: str, space: str | None = None, seed: int = 0, **settings: Any) -> Any:
    name, own = CASES[case]
    return make(name, space, seed, **(own | settings))


@every_case_and_space
def test_the_seed_decides_everything(space: str, case: str) -> None:
    agents = [agent_of(case, space, seed) for seed in (3, 3, 4)]
    for i, agent in enumerate(agents):
        torch.manual_seed(i)
        feed(agent, 2 * T)
    first, again, other = (everything(agent) for agent in agents)
    assert same(first, again)
    assert agents[0].updates > 0 and changed(first, other, "actor.net")
    assert changed(first, other, "critic.net") or not hasattr(agents[0], "critic")


@every_case_and_space
def test_state_taken_up_by_a_fresh_agent_goes_on_bit_for_bit(space: str, case: str) -> None:
    agent, fresh = agent_of(case, space, 1), agent_of(case, space, 99)
    feed(agent, 2 * T)
    agent.predict(observation(5))
    tensors, meta = agent.state()
    fresh.load_state({name: value.clone() for name, value in tensors.items()}, deepcopy(meta))
    for a in (agent, fresh):
        a.on_reset()  # noise that goes on from step to step ends where a run was cut
    torch.manual_seed(1)
    ours = feed(agent, 2 * T, start=2 * T)
    torch.manual_seed(2)
    theirs = feed(fresh, 2 * T, start=2 * T)
    assert same(everything(agent), everything(fresh)) and agent.state()[1] == fresh.state()[1]
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    np.testing.assert_array_equal(agent.predict(observation(7))[0], fresh.predict(observation(7))[0])


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] in ON_POLICY])
def test_a_rollout_under_way_is_dropped_when_state_is_taken_up(case: str) -> None:
    agent = agent_of(case)
    feed(agent, T)
    tensors, meta = agent.state()
    kept = {name: value.clone() for name, value in tensors.items()}
    feed(agent, 3, start=T)
    agent.load_state(kept, meta)
    fresh = agent_of(case, seed=9)
    fresh.load_state(kept, meta)
    for a in (agent, fresh):
        feed(a, T, start=T)
    assert same(everything(agent), everything(fresh))


@every_case_and_space
def test_global_random_state_is_neither_used_nor_touched(space: str, case: str) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    agent = agent_of(case, space)
    feed(agent, 2 * T)
    agent.predict(observation(0))
    assert states() == before


@every_agent
def test_a_saved_agent_comes_back(name: str, tmp_path: Path) -> None:
    agent = make(name, "box")
    feed(agent, 2 * T)
    agent.save(tmp_path / "a")
    again = AGENTS[name][0].load(tmp_path / "a")
    assert again.config == agent.config and same(everything(agent), everything(again))
    for a in (agent, again):
        a.on_reset()
        feed(a, T, start=2 * T)
    assert same(everything(agent), everything(again))


# What the environment says --------------------------------------------------------------------------------------------

HEADS = (*ON_POLICY, "crossq")  # agents whose C is a distribution or a number
HARD: dict[str, dict[str, Any]] = {  # C is trained hard, and entropy has no worth
    "crossq": {"critic_lr": 1e-2, "n_critics": 1, "alpha": 1e-9, "alpha_lr": 0.0, "update_ratio": 1.0},
    "a2c": {"critic_passes": 8, "critic_lr": 1e-2},
    "ppo": {"epochs": 8, "learning_rate": 1e-2, "vf_coef": 1.0},
    "reppo": {"epochs": 8, "critic_lr": 1e-2, "alpha": 1e-9, "multiplier_lr": 0.0},
    "sac": {"critic_lr": 1e-2, "tau": 0.1, "n_critics": 1, "alpha": 1e-9, "alpha_lr": 0.0, "update_ratio": 1.0},
    "td3": {"critic_lr": 1e-2, "tau": 0.1, "n_critics": 1, "update_ratio": 1.0},
}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (name, head)
        for name in HARD
        for head in ("regression", "hl_gauss")
        if name in (*ON_POLICY, "crossq") or head != "hl_gauss"
    ],
)
def test_c_predicts_r_over_one_minus_gamma_under_a_clock_and_less_under_an_end(name: str, head: Any) -> None:
    """Reward 1 for ever, an ending every 4 steps. A clock leaves the cost at -1 / (1 - gamma) = -5."""
    settings = HARD[name] | {"gamma": 0.8}
    if name in ON_POLICY:
        settings |= {"gae_lambda": 0.9, "batch_size": 64}
    if name in HEADS:
        settings |= {"head": head}
    clock, end, both = (make(name, **settings) for _ in range(3))
    metrics = feed(clock, 40 * T, terminated=never, truncated=every_fourth, reward=constant(1))
    cost = what_c_says(clock)
    assert (cost + 5).abs().mean() < 0.15
    if head == "hl_gauss":
        clipped = [m["clipped_targets"] for m in metrics if "clipped_targets" in m]
        assert len(clipped) > 30 and torch.stack(clipped).mean() < 1e-3
    # Negative control: the same flags as terminations, which win where both are set.
    feed(end, 40 * T, terminated=every_fourth, truncated=never, reward=constant(1))
    mean = what_c_says(end).mean().item()
    worth = [(1 - 0.8**k) / 0.2 for k in (1, 2, 3, 4)]  # with k steps to go; C cannot see how many
    one_step = 1 / (1 - 0.8 * 3 / 4)  # what bootstrapping makes of it: three of four rows go on
    assert mean == pytest.approx(-sum(worth) / 4 if name in ON_POLICY else -one_step, abs=0.3)
    feed(both, 40 * T, terminated=every_fourth, truncated=every_fourth, reward=constant(1))
    assert same(everything(both), everything(end))


def what_c_says(agent: Any) -> torch.Tensor:
    """Of the observations of `feed`, and of the policy's own actions where C takes one."""
    obs = observations(40)
    action = agent.predict(obs.numpy(), deterministic=True)[0] if agent.critic.spec.action == "box" else None
    return agent.critic(obs, None if action is None else torch.from_numpy(action))


@every_case_and_space
def test_what_stands_in_a_reset_row_does_not_matter(space: str, case: str) -> None:
    settings: dict[str, Any] = {"num_steps": 14} if CASES[case][0] in ON_POLICY else {}
    agents = [agent_of(case, space, **settings | ({"dropout": 0.0} if "a2c" in case else {})) for _ in range(2)]
    for agent, size in zip(agents, (0.0, 50.0), strict=True):
        feed(agent, 28, valid=after_the_clock, reward=junk(100 * size), obs=junk(size), next_obs=junk(-size))
    a, b = (
        {name: value for name, value in everything(agent).items() if not name.startswith("memory")} for agent in agents
    )
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-4, atol=1e-5, msg=f"{name} differs")
    assert agents[0].steps == 28 * N - 4
    norms = [agents[0].policies.next_norm] if CASES[case][0] in GRADIENT_FREE else []
    norms += [agents[0].critic.obs_norm] if hasattr(agents[0], "critic") else []
    assert norms and all(norm.count == 28 * N - 4 for norm in norms)
    # Negative control: where the row counts, it does matter.
    counted = agent_of(case, space, **settings)
    feed(counted, 28, reward=junk(5000.0))
    assert changed(a, everything(counted), "critic.net" if hasattr(counted, "critic") else "actor.net")


@every_case_and_space
def test_a_rollout_of_reset_rows_alone_breaks_nothing(space: str, case: str) -> None:
    agent = agent_of(case, space, **({"num_steps": 1} if CASES[case][0] in ON_POLICY else {}))
    feed(agent, 3)
    feed(agent, 1, valid=never)
    assert finite(everything(agent)) and agent.steps == 3 * N


# For people -----------------------------------------------------------------------------------------------------------


@every_agent_and_space
def test_predict_takes_one_or_many_and_speaks_the_environments_units(space: str, name: str) -> None:
    agent = make(name, space)
    feed(agent, T)
    batch, state = agent.predict(observation(0), state="mine", deterministic=True)
    single, _ = agent.predict(observation(0)[1], deterministic=True)
    assert state == "mine" and isinstance(batch, np.ndarray)
    assert batch.shape == (N, *SPACES[space].shape) and np.shape(single) == SPACES[space].shape
    np.testing.assert_allclose(single, batch[1], rtol=1e-5)
    mode = agent.act(observation(0), explore=False)
    np.testing.assert_allclose(batch, agent.codec.env_action(mode), rtol=1e-5)
    draws = {tuple(np.ravel(agent.predict(observation(0))[0]).tolist()) for _ in range(20)}
    # A policy that is searched for has no noise of its own.
    assert (len(draws) == 1) == (name in GRADIENT_FREE) and all(SPACES[space].contains(a) for a in batch)


@every_agent_and_space
def test_predict_leaves_training_alone(space: str, name: str) -> None:
    quiet, asked = make(name, space), make(name, space)
    for agent in (quiet, asked):
        for start in (0, 3):
            feed(agent, T if start else 3, start=start)
            if agent is asked:
                agent.predict(observation(50))
                agent.predict(observation(51), deterministic=True)
    ours, theirs = everything(quiet), everything(asked)
    ours.pop("predict_generator", None), theirs.pop("predict_generator", None)
    assert same(ours, theirs)


# Used again, copied, diverged -----------------------------------------------------------------------------------------


@on_policy
def test_an_agent_is_trained_again_in_another_number_of_environments(name: str) -> None:
    """The first run ends amid a rollout; its rows must not be continued by other episodes."""
    agent: Any = None
    rows: list[int] = []

    def amid_the_third(tick: Any, agent: Any) -> bool:
        rows.append(agent.memory.filled)
        return len(rows) < 2 * agent.config.num_steps + 5

    cls, config = AGENTS[name]
    for num_envs in (8, 1, 4):
        env = gym_make("CartPole-v1", num_envs, backend="native")
        settings = config(**({} if name == "ppo" else {"critic_warmup": 0}), num_steps=16, hidden=(16,))
        agent = agent or cls(env.single_observation_space, env.single_action_space, settings)
        del rows[:]
        train(agent, env, 100_000, progress=False, hooks=[amid_the_third])
        assert rows[:3] == [1, 2, 3] and agent.memory.filled == 5
        env.close()
    assert agent.updates == 3 * 2


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in GRADIENT_FREE or name in ("es", "guidedes")])
def test_a_copied_agent_says_that_its_optimizer_is_not_its_own(name: str) -> None:
    agent = deepcopy(make(name))
    with pytest.raises(RuntimeError, match="make another optimizer"):
        feed(agent, T)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@on_policy
def test_divergence_is_said_and_not_saved(name: str, env_id: str, tmp_path: Path) -> None:
    env = gym_make(env_id, 2, backend="sync")
    cls, config = AGENTS[name]
    fast = {"learning_rate": 1e30} if name == "ppo" else {"actor_lr": 1e30, "critic_lr": 1e30, "critic_warmup": 0}
    settings = config(**fast, max_grad_norm=0.0, num_steps=16, hidden=(64, 64))
    agent = cls(env.single_observation_space, env.single_action_space, settings)
    with pytest.raises(UserError, match="diverged"):
        train(agent, env, 20_000, tmp_path / "run", eval_every=100_000, progress=False)
    assert not (tmp_path / "run" / "checkpoints" / "last").exists()
    env.close()


@pytest.mark.parametrize("name", ["ars", "randomsearch", "spsa"])  # a copy of cmaes's own objects is rounded
def test_an_agent_without_an_optimizer_is_copied_amid_a_generation(name: str) -> None:
    agent = make(name)
    feed(agent, T + 2)
    copy = deepcopy(agent)
    for a in (agent, copy):
        feed(a, T, start=T + 2)
    assert same(everything(agent), everything(copy)) and agent.updates > 0


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in GRADIENT_FREE])
def test_the_state_of_a_generator_of_another_device_is_replaced_by_a_seed(name: str) -> None:
    agent, other = make(name), make(name)
    tensors, meta = agent.state()
    other.load_state({**tensors, "generator": torch.zeros(16, dtype=torch.uint8)}, meta)
    a, b = torch.rand(4, generator=other.acting.generator), torch.rand(4, generator=agent.acting.generator)
    assert not torch.equal(a, b)


SHORT: dict[str, dict[str, Any]] = {
    **{name: {"num_steps": 16, "critic_warmup": 0} for name in ON_POLICY},
    "ppo": {"num_steps": 16},
    **{name: {"learning_starts": 64, "update_ratio": 0.1} for name in ("crossq", "sac", "td3")},
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("name", [name for name in AGENTS if name not in GRADIENT_FREE])
def test_on_a_gpu(name: str, env_id: str, tmp_path: Path) -> None:
    if name in BOX_ONLY and env_id == "CartPole-v1":
        pytest.skip("a Box alone")
    env = gym_make(env_id, 8, backend="native")
    cls, config = AGENTS[name]
    agent = cls(env.single_observation_space, env.single_action_space, config(**SHORT[name]), device="cuda")
    train(agent, env, 1_000, progress=False)
    due = 7 if name in ON_POLICY else 93  # whole rollouts of 16 x 8 steps; a tenth of what comes after the first 64
    assert agent.updates == due and next(agent.actor.parameters()).is_cuda
    assert all(torch.isfinite(p).all() for p in agent.critic.parameters())
    agent.save(tmp_path / "agent")
    obs = np.random.default_rng(0).normal(size=(3, *env.single_observation_space.shape)).astype(np.float32)
    there, here = cls.load(tmp_path / "agent", "cuda"), cls.load(tmp_path / "agent", "cpu")
    ours, theirs = (a.predict(obs, deterministic=True)[0] for a in (there, here))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    env.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["crossq", "sac", "td3"])
def test_an_update_on_a_gpu_is_that_on_the_cpu(name: str) -> None:
    """One step of C by hand, from the same weights, batch and noise."""
    steps = []
    for device in ("cpu", "cuda"):
        agent = make(name, "box")
        feed(agent, 16)
        other = AGENTS[name][0](agent.codec.observation_space, agent.codec.action_space, agent.config, device=device)
        for part in ("critic", "actor"):
            getattr(other, part).load_state_dict(getattr(agent, part).state_dict())
        other.memory.load_state_dict(agent.memory.state_dict())
        other.acting.fresh = lambda pi, rows, d=device: pi.sample(torch.zeros(1, rows, 2, device=d))
        other.actor.noise = lambda *shape, generator, d=device: torch.zeros(*shape, 2, device=d)
        other._update_critic(other.critic.prepared(other.memory.sample(32)))
        steps.append(other.critic_optimizer.gradient.cpu())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-4 * float(steps[0].abs().max()))
    assert steps[0].abs().max() > 0
