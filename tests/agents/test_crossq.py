"""CrossQ as a machine: the joint pass and its target by hand, what learns when, and what an update leaves alone."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from gymnasium import spaces

from costgrad.agents import CrossQ, CrossQConfig
from costgrad.agents.crossq import ADAPT
from costgrad.rl.data import Batch
from costgrad.rl.errors import UserError
from costgrad.rl.networks.heads import LIMIT
from costgrad.rl.returns import td_target
from tests import streams
from tests.streams import OBS, N, changed, count_steps, everything, feed

both_spaces = pytest.mark.parametrize("space", ["box", "discrete"])
both_paths = pytest.mark.parametrize("by_hand", [True, False])


def learnt(space: str, by_hand: bool = True, **settings: Any) -> Any:
    agent = streams.make("crossq", space, **settings)
    if not by_hand:
        streams.by_autograd(agent)
    feed(agent, 16)
    for part in ("actor_optimizer", "critic_optimizer"):
        streams.spread_out(getattr(agent, part), seed=len(part), by=0.3)
    return agent


def some_batch(agent: Any) -> Batch:
    return agent.critic.prepared(agent.memory.sample(32))


@both_spaces
@both_paths
@pytest.mark.parametrize("joint", [True, False])
def test_cs_loss_written_out_and_not_without_the_joint_pass(space: str, joint: bool, by_hand: bool) -> None:
    """Regression: sum_k (C_k(s, a) - (c + discount (amax_k C_k(s', a') + alpha log pi(a'|s'))))^2, all in one pass."""
    agent = learnt(space, by_hand, head="regression", alpha=0.3)
    batch = some_batch(agent)
    critic, scale, draw = deepcopy(agent.critic).train(), agent.critic.cost_scale.scale, torch.Generator()
    draw.set_state(agent.acting.generator.get_state())
    told = agent._update_critic(batch)["critic_loss"]
    alpha = agent.temperature.log_alpha.exp()
    with torch.no_grad():
        pi = agent.actor(batch.next_obs)
        x = torch.cat((batch.obs, batch.next_obs))
        if space == "box":
            sample = pi.mean + pi.log_std.exp() * torch.randn(1, 32, 2, generator=draw)[0]
            action = torch.cat((batch.action, sample.tanh()))
            if joint:
                now, following = critic.cost(x, action).chunk(2, 1)
            else:
                now = critic.cost(batch.obs, batch.action)
                following = critic.cost(batch.next_obs, sample.tanh())
            soft = following.amax(0) + alpha * pi.log_prob(sample)
        else:
            if joint:
                all_now, following = critic.cost(x).chunk(2, 1)
            else:
                all_now, following = critic.cost(batch.obs), critic.cost(batch.next_obs)
            now = torch.stack([all_now[:, b, batch.action[b]] for b in range(32)], 1)
            probs = pi.logits.softmax(-1)
            soft = (probs * (following.mean(0) + alpha * probs.log())).sum(-1)
        target = batch.cost + batch.discount * soft
        loss = ((now - target) / scale).square().sum(0).mean()
    assert (told.item() == pytest.approx(loss.item(), rel=1e-4)) == joint


@both_spaces
@both_paths
def test_the_gradient_of_c_does_not_run_through_the_target(
    space: str, by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against finite differences of the loss with its target held still."""
    agent = learnt(space, by_hand, head="regression")
    agent.critic_optimizer.lr = agent.critic_optimizer.current_lr = 0.0
    agent.updates = 1  # the scale of C stays
    batch, state = some_batch(agent), agent.acting.generator.get_state()
    held: list[torch.Tensor] = []

    def once(*args: torch.Tensor) -> torch.Tensor:
        held.append(td_target(*args))
        return held[0]

    monkeypatch.setattr("costgrad.rl.gradients.losses.td_target", once)

    def loss() -> float:
        agent.acting.generator.set_state(state)
        return agent._update_critic(batch)["critic_loss"].item()

    loss()
    slope = agent.critic_optimizer.gradient.clone()
    direction = torch.nn.functional.normalize(slope, dim=0)
    flat, step = agent.critic_optimizer.flat, 1e-2 / float(slope.norm())
    flat.add_(direction, alpha=step)
    above = loss()
    flat.add_(direction, alpha=-2 * step)
    below = loss()
    assert (above - below) / (2 * step) == pytest.approx(float(slope.norm()), rel=0.05)


@both_spaces
@both_paths
def test_an_actors_step_leaves_no_trace_in_c_nor_cs_in_the_actor(space: str, by_hand: bool) -> None:
    agent = learnt(space, by_hand)
    batch, before = some_batch(agent), everything(agent)
    agent._update_actor(batch)
    between = everything(agent)
    assert changed(before, between, "actor.") and not changed(before, between, "critic")  # its statistics neither
    agent._update_critic(batch)
    after = everything(agent)
    assert changed(between, after, "critic.net.mean_0") and not changed(between, after, "actor")
    assert not agent.critic.training and not agent.critic.net.training


@pytest.mark.parametrize("cost", [500.0, -500.0])
def test_a_rare_cost_between_two_looks_at_the_scale_is_not_clipped(cost: float) -> None:
    agent = learnt("box")
    batch, scale = some_batch(agent), agent.critic.cost_scale
    agent.updates = 1
    agent._update_critic(batch._replace(cost=torch.where(torch.arange(32) == 3, cost, batch.cost)))
    assert max(abs(float(scale.low)), abs(float(scale.high))) < 100  # not looked at yet
    agent.updates = ADAPT
    agent._update_critic(batch)
    assert abs(float(scale.scaled(torch.tensor(cost)))) < LIMIT
    agent._update_critic(batch)  # and what was seen once fades
    assert float(scale.high - scale.low) == pytest.approx(0.995 * 500, rel=0.1)


def test_how_often_each_part_learns() -> None:
    agent = streams.make("crossq", "box", learning_starts=8, update_ratio=0.75, policy_delay=4)
    optimizers = (agent.critic_optimizer, agent.actor_optimizer, agent.temperature_optimizer)
    taken = [count_steps(optimizer) for optimizer in optimizers]
    feed(agent, 12)
    due = int((12 * N - 8) * 0.75)
    assert agent.updates == due and [len(t) for t in taken] == [due, due // 4, due // 4]


@both_spaces
def test_the_temperature_reaches_the_target_entropy(space: str) -> None:
    agent = streams.make(
        "crossq", space, alpha_lr=0.02, actor_lr=1e-2, critic_lr=1e-2, gamma=0.5, update_ratio=2.0, policy_delay=1
    )
    feed(agent, 150)
    entropy = torch.stack([m["entropy"] for m in feed(agent, 50, start=150) if "entropy" in m]).mean().item()
    most = math.log(3) / 2 if space == "discrete" else -2.0
    assert agent.temperature.target == pytest.approx(most)
    assert entropy == pytest.approx(most, abs=0.35)


def test_settings_reach_what_they_set() -> None:
    base = streams.make("crossq", "box")
    feed(base, 16)
    changes: list[dict[str, Any]] = [
        {"gamma": 0.5}, {"n_step": 3}, {"batch_size": 8}, {"n_critics": 1}, {"critic_lr": 1e-2}, {"beta1": 0.9},
        {"normalize_obs": False}, {"l2": 1.0}, {"head": "regression"}, {"policy_delay": 1}, {"alpha": 0.1},
        {"activation": "tanh"}, {"activation": "silu"},
    ]  # fmt: skip
    for change in changes:
        other = streams.make("crossq", "box", **change)
        feed(other, 16)
        ours, theirs = base.critic_optimizer.flat, other.critic_optimizer.flat
        assert ours.shape != theirs.shape or not torch.equal(ours, theirs), change


def test_too_many_combinations_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="CrossQ takes up to 256 combinations of choices"):
        CrossQ(OBS, spaces.MultiDiscrete([20, 20]), CrossQConfig())
