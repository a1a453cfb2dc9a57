"""PPO as a machine: what it learns from, the clip, the stop, the counts. What every agent promises: test_agents.py."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from costgrad.agents.ppo import PPO, PPOLoss, Rows
from costgrad.rl.data import Step
from costgrad.rl.returns import lambda_return
from tests import streams
from tests.streams import SPACES, N, T, changed, constant, count_steps, everything, feed, finite, observations, same

ALL = 10_000  # a minibatch that holds any rollout
PLAIN = {"epochs": 1, "batch_size": ALL, "max_grad_norm": 0.0, "ent_coef": 0.0, "vf_coef": 0.0}


def make(space: str = "discrete", seed: int = 0, **settings: Any) -> PPO:
    return streams.make("ppo", space, seed, **settings)


def watched(agent: PPO) -> list[tuple[Rows, Tensor]]:
    """Every minibatch from now on, and the log of the probability ratio when it is learnt from."""
    seen: list[tuple[Rows, Tensor]] = []
    learn = agent._descend

    def watch(batch: Rows) -> tuple[PPOLoss, Tensor]:
        with torch.no_grad():
            seen.append((batch, agent.actor(batch.x).log_prob(batch.sample) - batch.log_prob))
        return learn(batch)

    agent._descend = watch  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("clip_range_vf", [0.0, 0.2])
@pytest.mark.parametrize("state_std", [False, True])
@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("space", SPACES)
def test_every_combination_learns_something_finite(
    space: str, head: Any, state_std: bool, clip_range_vf: float
) -> None:
    agent = make(space, head=head, state_std=state_std, clip_range_vf=clip_range_vf, layer_norm=state_std)
    before = everything(agent)
    metrics = feed(agent, 3 * T)
    assert len(metrics) == 3 and all(map(finite, metrics))
    after = everything(agent)
    assert finite(after)
    for part in ("actor.", "critic.net", "critic.obs_norm", "critic.cost_scale", "optimizer", "steps", "updates"):
        assert changed(before, after, part), part
    if space == "box":
        assert changed(before, after, "actor.log_std")


@pytest.mark.parametrize("space", SPACES)
def test_an_update_learns_from_what_happened_by_c_and_the_policy_as_they_were(space: str) -> None:
    agent, steps = make(space, gae_lambda=0.7, batch_size=ALL, epochs=1, clip_range_vf=0.1), []
    seen, observe = watched(agent), agent.observe
    agent.observe = lambda step: steps.append(step) or observe(step)  # type: ignore[method-assign,func-returns-value]
    for start in (0, T):
        del steps[:], seen[:]
        c, actor = deepcopy(agent.critic), deepcopy(agent.actor)
        feed(agent, T, start, valid=streams.after_the_clock)
        (row, log_ratio), parts = seen[0], {f: np.stack([getattr(s, f) for s in steps]) for f in Step._fields[:-1]}
        assert not any(column.requires_grad for column in row)
        with torch.no_grad():
            b, next_b = (c(torch.from_numpy(parts[f].reshape(-1, 3)))[0] for f in ("obs", "next_obs"))
            x = c.features(torch.from_numpy(parts["obs"].reshape(-1, 3)))
            log_prob = actor(x).log_prob(row.sample)
        ended = torch.from_numpy(parts["terminated"])
        cost, cut = torch.from_numpy(-parts["reward"]), ended | torch.from_numpy(parts["truncated"])
        returns = lambda_return(cost, agent.config.gamma * ~ended, next_b.view(T, N), cut, 0.7).flatten()
        counts = torch.from_numpy(parts["valid"]).flatten()
        advantage = (returns - b)[counts].double()
        advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
        torch.testing.assert_close(row.x, x)
        acted = torch.from_numpy(parts["action"]).flatten(0, 1)
        torch.testing.assert_close(row.sample if space == "discrete" else row.sample.tanh(), acted)
        scale = agent.critic.cost_scale.scale
        torch.testing.assert_close(row.returns * scale, returns.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(row.advantage[counts], advantage.float(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(row.value * scale, b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(row.weight, counts / counts.sum())
        torch.testing.assert_close(row.log_prob, log_prob)
        assert log_ratio.abs().max() < 1e-5  # the policy has not moved when learning begins
    assert b.abs().max() > 1e-3 and not torch.allclose(b, next_b)  # there was something to mix up


@pytest.mark.parametrize("space", SPACES)
def test_the_first_step_of_the_actor_is_the_textbooks(space: str) -> None:
    """grad log pi (G - b) over advantages of size 1: what was dearer than expected becomes rarer."""
    agent = make(space, **PLAIN)
    seen, actor = watched(agent), deepcopy(agent.actor)
    feed(agent, T)
    row = seen[0][0]
    loss = (actor(row.x).log_prob(row.sample) * row.advantage).mean()
    slopes = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(actor.parameters()))])
    names = [name for name, p in agent.actor.named_parameters() for _ in range(p.numel())]
    torch.testing.assert_close(agent.optimizer.gradient[: len(names)], slopes, rtol=1e-3, atol=1e-6)
    assert slopes.norm() > 1e-2 and not agent.optimizer.gradient[len(names) :].any()
    moved = agent.actor(row.x).log_prob(row.sample) - row.log_prob
    assert moved @ row.advantage < -1e-3


def papers_loss(agent: PPO, batch: Rows, clipped: bool = True) -> Tensor:
    """Of a minibatch, by the paper and its code; the clips can be left out. Draws the noise that an update draws."""
    c, pi, output = agent.config, agent.actor(batch.x), agent.critic.output(batch.x)[0]
    ratio = (pi.log_prob(batch.sample) - batch.log_prob).exp()
    surrogate = ratio * batch.advantage
    critic_loss = agent.critic.head.loss(output, batch.returns)
    if clipped:
        surrogate = torch.maximum(surrogate, ratio.clamp(1 - c.clip_range, 1 + c.clip_range) * batch.advantage)
    if clipped and c.clip_range_vf and c.head == "regression":
        near = batch.value.unsqueeze(-1)
        near = near + (output - near).clamp(-c.clip_range_vf, c.clip_range_vf)
        critic_loss = torch.maximum(critic_loss, agent.critic.head.loss(near, batch.returns))
    entropy = pi.entropy(agent.acting.sample_actions(pi, len(batch.x)))
    return (surrogate - c.ent_coef * entropy + c.vf_coef * critic_loss) @ batch.weight


@pytest.mark.parametrize("clip_range_vf", [0.0, 0.05])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("space", [*SPACES, *streams.MORE])
def test_a_step_is_down_the_papers_loss(space: str, head: Any, layer_norm: bool, clip_range_vf: float) -> None:
    """Autograd through the whole of it, from the features to one number, gives the same gradient."""
    settings = {"learning_rate": 1e-2, "max_grad_norm": 0.0, "ent_coef": 0.1, "vf_coef": 0.3, "batch_size": 20}
    agent = make(space, head=head, layer_norm=layer_norm, clip_range_vf=clip_range_vf, state_std=True, **settings)
    learn, differences = agent._descend, []

    def compare(batch: Rows) -> tuple[PPOLoss, Tensor]:
        noise, gradients = agent.acting.generator.get_state(), []
        for clipped in (True, False):
            agent.acting.generator.set_state(noise)
            slopes = torch.autograd.grad(papers_loss(agent, batch, clipped), agent.optimizer.parameters)
            gradients.append(torch.cat([slope.flatten() for slope in slopes]))
        agent.acting.generator.set_state(noise)
        learnt = learn(batch)
        torch.testing.assert_close(agent.optimizer.gradient, gradients[0], rtol=1e-3, atol=2e-6)
        differences.append((gradients[1] - gradients[0]).abs().max().item())
        return learnt

    agent._descend = compare  # type: ignore[method-assign]
    feed(agent, 3 * T, valid=streams.after_the_clock)
    assert len(differences) == 12 and max(differences) > 1e-3  # negative control: without its clips it would be another


def test_the_entropy_bonus_is_its_coefficient_times_the_entropys_gradient_once() -> None:
    norms = {}
    for coefficient in (0.0, 0.25, 0.5):
        agent = make(**PLAIN | {"ent_coef": coefficient})
        streams.spread_out(agent.optimizer)
        with torch.no_grad():  # C as it starts: no cost, no advantage
            agent.critic.net.weights[-1].zero_(), agent.critic.net.biases[-1].zero_()
        x = agent.critic.features(observations(T))
        pi = torch.distributions.Categorical(logits=agent.actor(x).logits)  # type: ignore[union-attr]
        before = pi.entropy().mean()
        slope = torch.cat([s.flatten() for s in torch.autograd.grad(before, list(agent.actor.parameters()))]).norm()
        metrics = feed(agent, T, reward=constant(0))[0]  # nothing but the bonus moves the actor
        norms[coefficient] = metrics["grad_norm"].item() / slope.item()
        if coefficient:
            assert agent.actor(x).entropy().mean() > before + 1e-4
    assert norms == pytest.approx({0.0: 0.0, 0.25: 0.25, 0.5: 0.5}, rel=1e-3, abs=1e-6)


def test_the_clip_keeps_the_policy_near() -> None:
    moved = {}
    for clip in (0.05, 1.0):
        agent = make(clip_range=clip, epochs=30, batch_size=ALL, learning_rate=1e-2, ent_coef=0.0)
        moved[clip] = feed(agent, T)[0]["approx_kl"].item()
    assert 0 < moved[0.05] < 0.2 * moved[1.0]


def test_the_value_clip_holds_a_number_and_leaves_a_distribution() -> None:
    for head, holds in (("regression", True), ("hl_gauss", False)):
        ends = [
            make(head=head, clip_range_vf=clip, epochs=8, batch_size=ALL, learning_rate=1e-2) for clip in (0.0, 1e-3)
        ]
        for agent in ends:
            feed(agent, 2 * T)
        a, b = (everything(agent) for agent in ends)
        assert changed(a, b, "critic.net") == holds
    # Once C has moved by so little in the direction of its target, nothing moves it on.
    far = [agent.critic(observations(T)).abs().mean().item() for agent in ends_of_one_rollout()]
    assert far[1] < 0.5 * far[0]


def ends_of_one_rollout() -> list[PPO]:
    """Without and with a clip of C; its momentum forgotten soon, for that carries on."""
    agents = [
        make(clip_range_vf=clip, epochs=40, batch_size=ALL, learning_rate=3e-3, max_grad_norm=0.0)
        for clip in (0.0, 0.01)
    ]
    for agent in agents:
        feed(agent, T, reward=constant(-1))
    return agents


@pytest.mark.parametrize(
    ("epochs", "minibatch", "steps"), [(1, ALL, 1), (3, 32, 3), (2, 16, 4), (2, 10, 8), (5, 31, 10)]
)
def test_epochs_and_minibatch_count_the_steps(epochs: int, minibatch: int, steps: int) -> None:
    agent = make(epochs=epochs, batch_size=minibatch)
    taken, seen = count_steps(agent.optimizer), watched(agent)
    feed(agent, T)
    assert len(taken) == steps
    passes = torch.cat([batch.x for batch, _ in seen]).view(epochs, T * N, 3)
    for rows in passes:
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, passes[0].tolist()))
    assert steps == epochs or not torch.equal(passes[0], passes[1])


@pytest.mark.parametrize(("target_kl", "steps"), [(0.0, 20), (1e-9, 4), (1e3, 20)])
def test_a_policy_that_has_moved_far_ends_the_update_and_only_that(target_kl: float, steps: int) -> None:
    agent = make(epochs=5, batch_size=8, target_kl=target_kl)
    taken = count_steps(agent.optimizer)
    for start in (0, T):
        feed(agent, T, start)
        assert len(taken) == steps
        del taken[:]


@pytest.mark.parametrize("minibatch", [ALL, 200 * N - 1])  # the last part has all rows, or one
def test_the_divergence_that_is_told_is_an_estimate_of_kl_from_the_old_policy(minibatch: int) -> None:
    agent = make(epochs=6, batch_size=minibatch, learning_rate=1e-2, num_steps=200)
    seen = watched(agent)
    told = feed(agent, 200, valid=streams.after_the_clock)[0]["approx_kl"].item()
    row, log_ratio = last_pass(seen, 200)
    kl = (log_ratio.exp() - 1 - log_ratio) * row.share
    assert told == pytest.approx(kl.sum().item(), rel=1e-3) and told > 1e-3
    # r - 1 - log r estimates KL(old||new), which -log r estimates too.
    assert told == pytest.approx((-log_ratio @ row.share).item(), rel=0.5, abs=5e-3)
    assert len(seen) == 6 or kl[-1] < 0.1 * told  # negative control: the last part alone would tell nothing


def last_pass(seen: list[tuple[Rows, Tensor]], steps: int) -> tuple[Rows, Tensor]:
    """All parts of it as one."""
    parts = seen[-len(seen) * steps * N // sum(len(row.weight) for row, _ in seen) :]
    rows, log_ratios = zip(*parts, strict=True)
    row = Rows(*(torch.cat(column) for column in zip(*rows, strict=True)))
    assert row.share.sum().item() == pytest.approx(1) and row.share.max() < 0.1
    return row, torch.cat(log_ratios)


def test_the_losses_that_are_told_are_the_papers_over_the_last_pass() -> None:
    agent = make(epochs=6, batch_size=15, learning_rate=1e-2, ent_coef=0.3)
    seen = watched(agent)
    told = feed(agent, T, valid=streams.after_the_clock)[0]["actor_loss"]
    row, log_ratio = last_pass(seen, T)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(0.8, 1.2)
    assert not torch.equal(ratio, clipped)
    torch.testing.assert_close(told, torch.maximum(ratio * row.advantage, clipped * row.advantage) @ row.share)


def test_decay_steps_end_learning_and_penalties_shrink_weights() -> None:
    agent = make(decay_steps=2 * T * N)
    feed(agent, T)
    assert agent.optimizer.current_lr == pytest.approx(agent.config.learning_rate / 2)
    feed(agent, T, start=T)
    frozen = agent.optimizer.flat.clone()
    feed(agent, T, start=2 * T, reward=lambda t, r: r.clip(-1, 1))
    assert torch.equal(agent.optimizer.flat, frozen)
    for name in ("l2", "l1"):
        plain, shrunk = make(), make(**{name: 0.5})
        for a in (plain, shrunk):
            feed(a, 10 * T)
        for module in ("actor", "critic"):
            sizes = [getattr(a, module).net.weights[0].norm() for a in (plain, shrunk)]
            assert sizes[1] < 0.98 * sizes[0], (name, module)


def test_settings_reach_what_they_set() -> None:
    base = make()
    feed(base, 2 * T)
    for change in (
        {"gamma": 0.5},
        {"gae_lambda": 0.0},
        {"clip_range": 0.01},
        {"vf_coef": 0.1},
        {"learning_rate": 1e-2},
        {"normalize_obs": False},
        {"max_grad_norm": 0.01},
        {"activation": "relu"},
    ):
        other = make(**change)
        feed(other, 2 * T)
        assert not torch.equal(base.optimizer.flat, other.optimizer.flat), change
    assert same(everything(base), everything(feed_again()))
    assert other.critic.spec.action == "none" and make(normalize_obs=False).acting.output.norm is None


def feed_again() -> PPO:
    agent = make()
    feed(agent, 2 * T)
    return agent
