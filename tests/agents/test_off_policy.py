"""SAC and TD3 as machines: targets by hand, targets that follow, the exact expectation, the temperature."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from costgrad.agents import SAC, SACConfig
from costgrad.rl.data import Batch
from costgrad.rl.errors import UserError
from costgrad.rl.gradients.entropy import soft_cost
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.optim import Optimizer, Target
from tests import streams
from tests.streams import OBS, N, changed, constant, count_steps, everything, feed, never

NAMES = ["sac", "td3"]
both_paths = pytest.mark.parametrize("by_hand", [True, False])


def learnt(name: str, space: str = "box", steps: int = 16, by_hand: bool = True, **settings: Any) -> Any:
    agent = streams.make(name, space, **settings)
    if not by_hand:
        streams.by_autograd(agent)
    feed(agent, steps)
    for part in ("actor_optimizer", "critic_optimizer"):
        streams.spread_out(getattr(agent, part), seed=len(part), by=0.3)
    return agent


def some_batch(agent: Any) -> Batch:
    return agent.critic.prepared(agent.memory.sample(32))


# Targets that follow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.3, 1.0])
def test_a_target_moves_by_tau_exactly_and_shares_what_is_no_parameter(tau: float) -> None:
    critic = Critic(CriticSpec((3,), "box", 2, low=(-1.0, -1.0), high=(1.0, 1.0), ensemble=2), torch.Generator())
    optimizer = Optimizer(critic)
    target = Target(critic, optimizer, tau)
    before = [p.clone() for p in target.copy.parameters()]
    optimizer.flat.add_(torch.randn(optimizer.flat.shape, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(p, q) for p, q in zip(before, target.copy.parameters(), strict=True))
    target.soft_update()
    for old, now, online in zip(before, target.copy.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(now, (1 - tau) * old + tau * online)
    critic.obs_norm.update(np.ones((4, 3), np.float32))
    critic.cost_scale.update(torch.tensor([90.0, 100.0]), torch.ones(2))
    assert target.copy.obs_norm.count == 4 and target.copy.cost_scale.scale == critic.cost_scale.scale


@pytest.mark.parametrize(("name", "delay"), [("sac", 1), ("td3", 2)])
def test_how_often_each_part_learns(name: str, delay: int) -> None:
    agent = streams.make(name, "box", learning_starts=8, update_ratio=0.75)
    taken = [count_steps(optimizer) for optimizer in (agent.critic_optimizer, agent.actor_optimizer)]
    feed(agent, 12)
    due = int((12 * N - 8) * 0.75)
    assert agent.steps == 48 and agent.updates == due and [len(t) for t in taken] == [due, due // delay]


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_actions_are_uniform_before_learning_and_the_policys_after(name: str, correlation: float) -> None:
    settings = {} if name == "crossq" else {"init": "orthogonal"}  # the first actions are near 0, far from a clip
    agent = streams.make(name, "box", learning_starts=4_000, noise_correlation=correlation, **settings)
    obs = streams.observation(0)
    drawn = np.concatenate([agent.act(obs) for _ in range(2_000)])
    counts, _ = np.histogram(drawn, bins=10, range=(-1, 1))
    assert abs(counts / counts.sum() - 0.1).max() < 0.01 / (1 - correlation)
    assert not changed(before := everything(agent), everything(agent), "critic") and before["updates"] == 0
    agent.steps = 4_000
    if name == "td3":
        drawn = np.stack([agent.act(obs) for _ in range(4_000)])
        torch.testing.assert_close(torch.from_numpy(drawn.std(0)), torch.full((N, 2), 0.1), rtol=0.05, atol=0)


# What C is trained towards --------------------------------------------------------------------------------------------


def test_td3s_target_by_hand() -> None:
    agent = learnt("td3", target_noise_clip=0.3, target_policy_noise=0.2)
    batch = some_batch(agent)
    streams.spread_out(agent.critic_optimizer, seed=3)  # the target is not the critic
    noise = torch.linspace(-3, 3, 64).view(32, 2)
    with torch.no_grad():
        mu = agent.target_actor.copy(batch.next_obs)
        near = torch.where((0.2 * noise).abs() < 0.3, 0.2 * noise, 0.3 * noise.sign())
        action = torch.minimum(torch.maximum(mu + near, -torch.ones(())), torch.ones(()))
        each = agent.target_critic.copy.cost(batch.next_obs, action)
        got = agent.target_cost(batch.next_obs, noise)
    torch.testing.assert_close(got, torch.stack(list(each)).max(0).values)
    assert (each[0] != each[1]).all() and (got - agent.critic.cost(batch.next_obs, action).amax(0)).abs().max() > 1e-2


@pytest.mark.parametrize("space", ["box", "discrete"])
def test_sacs_soft_cost_by_hand(space: str) -> None:
    """Box: the dearer critic at a fresh action + alpha log pi. Discrete: sum_a pi(a) (mean_k C_k + alpha log pi)."""
    agent = learnt("sac", space, alpha=0.3)
    x = some_batch(agent).obs
    pi, draw = agent.actor(x), torch.Generator()
    draw.set_state(agent.acting.generator.get_state())
    sample = agent.acting.sample_actions(pi, len(x))
    got, entropy = soft_cost(agent.critic, x, pi, sample, agent.temperature.alpha)
    alpha = agent.temperature.log_alpha.exp().item()
    if space == "discrete":
        probs = pi.logits.softmax(-1)
        by_hand = sum(
            probs[:, a] * (agent.critic.cost(x)[:, :, a].mean(0) + alpha * probs[:, a].log()) for a in range(3)
        )
        torch.testing.assert_close(entropy, -(probs * probs.log()).sum(-1))
    else:
        sample = pi.mean + pi.log_std.exp() * torch.randn(1, 32, 2, generator=draw)[0]
        each, log_prob = agent.critic.cost(x, sample.tanh()), pi.log_prob(sample)
        by_hand = torch.maximum(each[0], each[1]) + alpha * log_prob
        torch.testing.assert_close(entropy, -log_prob)
    torch.testing.assert_close(got, by_hand)
    slopes = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(value.sum(), list(agent.actor.parameters()), retain_graph=True)]
        )
        for value in (got, by_hand)
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)
    assert slopes[0].norm() > 1e-3


@pytest.mark.parametrize(("name", "space"), [("sac", "box"), ("sac", "discrete"), ("td3", "box")])
@both_paths
def test_an_actors_step_leaves_no_trace_in_c_nor_cs_in_the_actor(name: str, space: str, by_hand: bool) -> None:
    agent = learnt(name, space, by_hand=by_hand)
    batch, before = some_batch(agent), everything(agent)
    agent._update_actor(batch)
    between = everything(agent)
    assert changed(before, between, "actor.") and not changed(before, between, "critic")
    agent._update_critic(batch)
    after = everything(agent)
    assert changed(between, after, "critic.net") and not changed(between, after, "actor")
    assert not changed(before, after, "target")


@both_paths
def test_td3s_actor_descends_the_first_critic_alone(by_hand: bool) -> None:
    agent = learnt("td3", by_hand=by_hand)
    batch, actor = some_batch(agent), deepcopy(agent.actor)
    told = agent._update_actor(batch)["actor_loss"]
    each = agent.critic.cost(batch.obs, actor(batch.obs)).mean(1)
    assert told.item() == pytest.approx(each[0].item(), rel=1e-4) and abs(each[0] - each[1]) > 1e-3
    slopes = torch.autograd.grad(each[0], list(actor.parameters()))
    torch.testing.assert_close(
        agent.actor_optimizer.gradient, torch.cat([g.flatten() for g in slopes]), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("space", ["box", "discrete"])
def test_the_temperature_reaches_the_target_entropy(space: str) -> None:
    """Costs that say little: the entropy would be the largest that there is, and the temperature falls to let it go."""
    agent = streams.make(
        "sac", space, alpha=0.1, alpha_lr=0.02, actor_lr=1e-2, critic_lr=1e-2, gamma=0.5, update_ratio=2.0
    )
    feed(agent, 150)
    entropy = torch.stack([m["entropy"] for m in feed(agent, 50, start=150)]).mean().item()
    most = math.log(3) / 2 if space == "discrete" else -2.0
    assert agent.temperature.target == pytest.approx(most)
    assert entropy == pytest.approx(most, abs=0.35)


def test_the_temperature_sees_the_mean_entropy_whatever_rows_weigh() -> None:
    """A policy of one entropy everywhere: ln 3 of three actions alike."""
    agent = streams.make("sac", "discrete", per_alpha=1.0, per_beta=1.0, learning_starts=40)
    with torch.no_grad():
        agent.actor.net.weights[-1].zero_()
        agent.actor.net.biases[-1].zero_()
    feed(agent, 10)
    place = torch.arange(40)
    agent.memory.prioritise(place, 10.0 ** (place % 5).float())
    batch = agent.critic.prepared(agent.memory.sample(64))
    assert batch.weight.sum() < 0.5
    assert agent._update_actor(batch)["entropy"].item() == pytest.approx(math.log(3), rel=1e-5)


def test_the_temperature_can_be_kept() -> None:
    agent = streams.make("sac", "box", alpha=0.25, alpha_lr=0.0)
    metrics = feed(agent, 16)[-1]
    assert metrics["alpha"].item() == pytest.approx(0.25)
    assert (agent.temperature.target, agent.temperature.log_alpha.item()) == (-2.0, pytest.approx(math.log(0.25)))


def test_dropout_is_drawn_anew_and_the_target_has_it_too() -> None:
    agent = learnt("td3", dropout=0.5)
    x, noise = some_batch(agent).obs, torch.zeros(32, 2)
    assert not torch.equal(agent.target_cost(x, noise), agent.target_cost(x, noise))
    plain = learnt("td3")
    assert torch.equal(plain.target_cost(x, noise), plain.target_cost(x, noise))


def test_an_actors_step_goes_through_a_c_with_dropout() -> None:
    """A choice's expectation is exact: nothing but dropout tells one step from the next where nothing learns."""
    for dropout in (0.0, 0.5):
        agent = learnt("sac", "discrete", dropout=dropout, actor_lr=0.0, alpha_lr=0.0)
        batch = some_batch(agent)
        told = [agent._update_actor(batch)["actor_loss"].item() for _ in range(2)]
        assert (told[0] == told[1]) == (dropout == 0.0)


def test_settings_reach_what_they_set() -> None:
    for name in NAMES:
        base = streams.make(name, "box")
        feed(base, 16)
        changes: list[dict[str, Any]] = [
            {"gamma": 0.5}, {"n_step": 3}, {"batch_size": 8}, {"tau": 0.5}, {"n_critics": 1}, {"critic_lr": 1e-2},
            {"layer_norm": True}, {"dropout": 0.2}, {"normalize_obs": True}, {"l2": 1.0}, {"max_grad_norm": 1e-3},
        ]  # fmt: skip
        own: list[dict[str, Any]] = [{"target_policy_noise": 1.0}, {"policy_delay": 1}, {"exploration_noise": 0.5}]
        changes += own if name == "td3" else [{"alpha": 0.1}, {"entropy_target": 0.0, "alpha_lr": 0.1}]
        for change in changes:
            other = streams.make(name, "box", **change)
            feed(other, 16)
            ours, theirs = base.critic_optimizer.flat, other.critic_optimizer.flat
            assert ours.shape != theirs.shape or not torch.equal(ours, theirs), (name, change)


def test_spaces_that_do_not_fit_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="TD3 acts in a bounded Box, not in Discrete"):
        streams.make("td3", "discrete")
    many = __import__("gymnasium").spaces.MultiDiscrete([20, 20])
    with pytest.raises(UserError, match="SAC takes up to 256 combinations of choices"):
        SAC(OBS, many, SACConfig())


@pytest.mark.parametrize("name", NAMES)
def test_costs_that_never_end_are_known_with_any_fold(name: str) -> None:
    """Reward 1 for ever: C is -1 / (1 - gamma) whatever n is."""
    for n_step in (1, 5):
        settings = {"critic_lr": 1e-2, "tau": 0.1, "update_ratio": 1.0, "gamma": 0.8, "n_step": n_step}
        agent = streams.make(name, "box", **settings | ({"alpha": 1e-9, "alpha_lr": 0.0} if name == "sac" else {}))
        feed(agent, 250, reward=constant(1), terminated=never)
        obs = streams.observations(20)
        action = torch.from_numpy(agent.predict(obs.numpy(), deterministic=True)[0])
        assert (agent.critic(obs, action) + 5).abs().mean() < 0.3, n_step
