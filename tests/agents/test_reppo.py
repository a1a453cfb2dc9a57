"""REPPO as a machine: its targets by hand, the gate, the multipliers. What every agent promises: test_agents.py."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from costgrad.agents.reppo import REPPO, Bounds, Rows
from costgrad.rl.gradients.entropy import Multipliers
from costgrad.rl.gradients.estimators import gated_cost
from costgrad.rl.networks.distributions import Categorical
from tests import streams
from tests.streams import SPACES, N, T, changed, constant, count_steps, every_fourth, everything, feed, finite

ALL = 10_000  # a minibatch that holds any rollout


def make(space: str = "discrete", seed: int = 0, **settings: Any) -> REPPO:
    return streams.make("reppo", space, seed, **settings)


def spread_out(agent: REPPO) -> REPPO:
    streams.spread_out(agent.actor_optimizer)
    streams.spread_out(agent.critic_optimizer, seed=8)
    return agent


def watched(agent: REPPO) -> list[Rows]:
    """The rows of every rollout from now on."""
    seen: list[Rows] = []
    targets = agent._targets
    agent._targets = lambda rollout: seen.append(targets(rollout)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    return seen


def some_rows(agent: REPPO) -> Rows:
    """A rollout's rows, from an actor and a C far from where they start."""
    seen = watched(agent)
    feed(agent, T)
    spread_out(agent)
    feed(agent, T, start=T)
    return seen[-1]


@pytest.mark.parametrize("kl_gate", [True, False])
@pytest.mark.parametrize("state_std", [False, True])
@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("space", SPACES)
def test_every_combination_learns_something_finite(space: str, head: Any, state_std: bool, kl_gate: bool) -> None:
    agent = make(space, head=head, state_std=state_std, kl_gate=kl_gate, layer_norm=state_std)
    before = everything(agent)
    metrics = feed(agent, 3 * T)
    assert len(metrics) == 3 and all(map(finite, metrics))
    after = everything(agent)
    assert finite(after)
    parts = (
        "actor.",
        "critic.net",
        "critic.obs_norm",
        "critic.cost_scale",
        "multipliers.log_alpha",
        "actor_optimizer",
        "unit.",
    )
    for part in (*parts, "multipliers.log_beta", "critic_optimizer", "steps", "updates"):
        assert changed(before, after, part), part


# Targets --------------------------------------------------------------------------------------------------------------


def test_one_step_by_hand() -> None:
    """C says 0 and pi is uniform: c - gamma alpha unit log 3 where the task goes on, and c where it ends.

    The first costs are all 3: the unit is a fifth of that.
    """
    agent = make(num_steps=1, alpha=0.5, gamma=0.9)
    with torch.no_grad():
        agent.actor.net.weights[-1].zero_()
    seen = watched(agent)
    flags = np.array([[True, False], [False, True], [True, True], [False, False]])
    feed(agent, 1, reward=constant(-3), terminated=lambda t, v: flags[:, 0], truncated=lambda t, v: flags[:, 1])
    goes_on = 3 - 0.9 * 0.5 * (3 / 5) * math.log(3)
    torch.testing.assert_close(seen[0].returns, torch.tensor([3.0, goes_on, 3.0, goes_on]))


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("space", SPACES)
def test_targets_by_brute_force_over_every_ending(space: str, head: Any) -> None:
    """G_t = c_t + d_t (-alpha H_t + (V'_t where the row is the episode's last, else l G_{t+1} + (1 - l) V'_t))."""
    agent = make(space, head=head, alpha=0.3, gamma=0.9, gae_lambda=0.6, multiplier_lr=0.0)
    feed(agent, T)
    spread_out(agent)
    steps, seen, observe, targets = [], [], agent.observe, agent._targets

    def watch(rollout: Any) -> Rows:
        draw, c, actor = deepcopy(agent.acting.generator.get_state()), deepcopy(agent.critic), deepcopy(agent.actor)
        seen.append((draw, c, actor, agent.unit.value, targets(rollout)))
        return seen[-1][-1]

    agent.observe = lambda step: steps.append(step) or observe(step)  # type: ignore[method-assign,func-returns-value]
    agent._targets = watch  # type: ignore[method-assign]
    both = {"terminated": lambda t, v: v | (t % 6 == 2), "truncated": lambda t, v: v | (t % 6 == 2)}
    feed(agent, T, start=T, **both)
    state, c, actor, _, rows = seen[0]
    draw = torch.Generator()
    draw.set_state(state)
    assert not any(column.requires_grad for column in rows)
    with torch.no_grad():
        x, following = (
            c.features(torch.from_numpy(np.concatenate([getattr(s, f) for s in steps]))) for f in ("obs", "next_obs")
        )
        pi = actor(following)
        if space == "discrete":
            probs = pi.logits.softmax(-1)
            value, entropy = (probs * c.cost(following)[0]).sum(-1), -(probs * probs.log()).sum(-1)
        else:
            sample = pi.mean + pi.log_std.exp() * torch.randn(1, T * N, 2, generator=draw)[0]
            value, entropy = c.cost(following, sample.tanh())[0], -pi.log_prob(sample)
    worth = 0.3 * seen[0][3] * entropy
    value, worth = value.view(T, N).tolist(), worth.view(T, N).tolist()
    expected = np.zeros((T, N))
    for i in range(N):
        for t in reversed(range(T)):
            cost = -float(steps[t].reward[i])
            if steps[t].terminated[i]:
                expected[t, i] = cost
            elif steps[t].truncated[i] or t == T - 1:
                expected[t, i] = cost + 0.9 * (-worth[t][i] + value[t][i])
            else:
                expected[t, i] = cost + 0.9 * (-worth[t][i] + 0.6 * expected[t + 1, i] + 0.4 * value[t][i])
    torch.testing.assert_close(rows.returns, torch.from_numpy(expected).float().flatten(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(rows.x, x)
    torch.testing.assert_close(rows.old, actor(x).columns().detach())
    assert max(map(abs, np.ravel(worth))) > 0.1 and max(map(abs, np.ravel(value))) > 0.1


@pytest.mark.parametrize("reward", [1e3, 1e-3])
def test_what_entropy_is_worth_follows_the_costs_and_not_itself(reward: float) -> None:
    """A temperature in units of C's scale, which follows soft returns, would grow by what it added."""
    worths, units = [], []
    for alpha in (1e-6, 10.0):
        agent = make(alpha=alpha, multiplier_lr=0.0)
        seen = watched(agent)
        for k in range(4):
            feed(agent, T, start=k * T, reward=constant(reward), terminated=every_fourth)
        units.append(agent.unit.value)
        worths.append(max(rows.returns.abs().max().item() for rows in seen))
    assert units[0] == units[1]  # of costs that went up to 4 in a row
    assert 0.5 * reward < units[0] < 2 * reward
    assert worths[0] < 4.3 * reward < worths[1]


# The actor ------------------------------------------------------------------------------------------------------------


def test_a_row_descends_its_soft_cost_or_is_pulled_back() -> None:
    cost, entropy, kl = (
        torch.tensor(v, requires_grad=True) for v in ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [0.0, 0.09, 0.11])
    )
    alpha, beta = torch.tensor(0.2), torch.tensor(7.0)
    loss = gated_cost(cost, entropy, kl, alpha, beta, 0.1)
    torch.testing.assert_close(loss, torch.tensor([0.9, 1.9, 0.77]))
    slopes = torch.autograd.grad(loss.sum(), (cost, entropy, kl))
    for slope, expected in zip(slopes, ([1, 1, 0], [-0.2, -0.2, 0], [0, 0, 7]), strict=True):
        torch.testing.assert_close(slope, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(gated_cost(cost, entropy, kl, alpha, beta, math.inf), cost - 0.2 * entropy)


@pytest.mark.parametrize("space", SPACES)
def test_the_actors_gradient_is_that_of_the_loss_written_out(space: str) -> None:
    """Discrete: sum_a pi(a) (C(s, a) / unit + alpha log pi(a)), enumerated; a box: through C at the sample drawn."""
    agent = make(space, max_grad_norm=0.0, alpha=0.3, beta=0.4, kl_bound=0.05, batch_size=ALL, epochs=1)
    taken = []

    def look(step: Any, row: Rows, noise: Tensor | None, bounds: Bounds) -> Any:
        alpha, beta = (getattr(agent.multipliers, f"log_{name}").exp().item() for name in ("alpha", "beta"))
        critic, actor, scale = deepcopy(agent.critic), deepcopy(agent.actor), agent.unit.value
        told, norm = step(row, noise, bounds)
        pi = actor(row.x)
        if space == "discrete":
            probs, old = pi.logits.softmax(-1), row.old.softmax(-1)
            soft = sum(
                probs[:, a] * (critic.cost(row.x)[0, :, a] / scale + alpha * probs[:, a].log()) for a in range(3)
            )
            entropy, kl = -(probs * probs.log()).sum(-1), (old * (old / probs).log()).sum(-1)
            assert noise is None
        else:
            assert noise is not None and noise.shape == (1, T * N, 2) and 0.7 < noise.std() < 1.3
            sample = pi.mean + pi.log_std.exp() * noise[0]
            entropy = -pi.log_prob(sample)
            soft = critic.cost(row.x, sample.tanh())[0] / scale - alpha * entropy
            kl = torch.distributions.kl_divergence(*normals_of(row, pi)).sum(-1)
        near = kl < 0.05
        assert near.any() and not near.all()
        loss = torch.cat((soft[near], beta * kl[~near])).mean()
        slopes = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(actor.parameters()))])
        torch.testing.assert_close(agent.actor_optimizer.gradient, slopes, rtol=1e-3, atol=1e-5)
        assert slopes.norm() > 1e-2 and norm.item() == pytest.approx(slopes.norm().item(), rel=1e-3)
        taken.append(loss.item())
        return told, norm

    metrics = learn_far_from_the_old_policy(agent, look)
    assert [metrics["actor_loss"].item()] == pytest.approx(taken, rel=1e-3)


def normals_of(row: Rows, pi: Any) -> tuple[torch.distributions.Normal, torch.distributions.Normal]:
    """The old policy's and the policy's, before tanh."""
    mean, log_std = row.old.chunk(2, -1)
    return torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(pi.mean, pi.log_std.exp())


def learn_far_from_the_old_policy(agent: REPPO, look: Any) -> dict[str, Tensor]:
    """Its second update, after the policy was moved, some rows beyond the bound; `look` takes the actor's steps."""
    feed(agent, T)
    spread_out(agent)
    targets, by = agent._targets, 0.02 if agent.codec.action_size == 2 else 0.1

    def move(rollout: Any) -> Rows:
        rows = targets(rollout)
        streams.spread_out(agent.actor_optimizer, seed=9, by=by)
        return rows

    agent._targets = move  # type: ignore[method-assign]
    agent.descend_actor = streams.Watched(agent.descend_actor, look)  # type: ignore[assignment]
    return feed(agent, T, start=T)[0]


@pytest.mark.parametrize("space", SPACES)
def test_entropy_and_divergence_are_told_as_the_update_has_left_them(space: str) -> None:
    agent = make(space)
    row = some_rows(agent)
    streams.spread_out(agent.actor_optimizer, seed=9, by=0.1)
    draw = torch.Generator()
    draw.set_state(agent.acting.generator.get_state())
    told, pi = agent._adjust_multipliers(row), agent.actor(row.x)
    if space == "discrete":
        probs, old = pi.logits.softmax(-1), row.old.softmax(-1)
        entropy, kl = -(probs * probs.log()).sum(-1), (old * (old / probs).log()).sum(-1)
    else:
        sample = pi.mean + pi.log_std.exp() * torch.randn(1, len(row.x), 2, generator=draw)[0]
        entropy, (mean, log_std) = -pi.log_prob(sample), row.old.chunk(2, -1)
        normals = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(pi.mean, pi.log_std.exp())
        kl = torch.distributions.kl_divergence(*normals).sum(-1)
    expected = [entropy.mean().item(), kl.mean().item()]
    assert [told[name].item() for name in ("entropy", "kl")] == pytest.approx(expected, rel=1e-3) and expected[1] > 1e-3


@pytest.mark.parametrize("space", SPACES)
def test_an_actors_step_leaves_no_trace_in_c_nor_cs_in_the_actor(space: str) -> None:
    agent = make(space, epochs=1, batch_size=ALL)
    looked = []

    def of_actor(step: Any, *args: Any) -> Any:
        before, taken = everything(agent), step(*args)
        after = everything(agent)
        assert changed(before, after, "actor.")
        assert not changed(before, after, "critic") and not changed(before, after, "multipliers.")
        looked.append("actor")
        return taken

    def of_critic(step: Any, *args: Any) -> Any:
        before, taken = everything(agent), step(*args)
        after = everything(agent)
        assert changed(before, after, "critic.net")
        assert not any(changed(before, after, part) for part in ("actor", "multiplier"))
        looked.append("critic")
        return taken

    agent.descend_critic = streams.Watched(agent.descend_critic, of_critic)  # type: ignore[assignment]
    learn_far_from_the_old_policy(agent, of_actor)
    assert looked == ["critic", "critic", "actor"]


@pytest.mark.parametrize("space", SPACES)
def test_the_temperature_falls_where_there_is_more_entropy_than_wanted_and_rises_where_less(space: str) -> None:
    for target, falls in ((-20.0, True), (20.0, False)):
        agent = make(space, entropy_target=target if space == "discrete" else -target)
        assert agent.entropy_target == pytest.approx(target * (math.log(3) if space == "discrete" else 2))
        row = some_rows(agent)
        before = agent.multipliers.log_alpha.item()
        agent._adjust_multipliers(row)
        assert (agent.multipliers.log_alpha.item() < before) == falls


@pytest.mark.parametrize("space", SPACES)
def test_the_pull_back_strengthens_beyond_the_bound_and_weakens_within(space: str) -> None:
    for bound, rises in ((1e-9, True), (1e3, False)):
        agent = make(space, kl_bound=bound)
        row = some_rows(agent)
        streams.spread_out(agent.actor_optimizer, seed=9, by=0.1)
        before = agent.multipliers.log_beta.item()
        agent._adjust_multipliers(row)
        assert (agent.multipliers.log_beta.item() > before) == rises


@pytest.mark.parametrize("space", SPACES)
def test_without_the_gate_nothing_is_ever_pulled_back(space: str) -> None:
    def end(**settings: Any) -> dict[str, Tensor]:
        agent = make(space, multiplier_lr=0.0, epochs=4, actor_lr=3e-3, **settings)
        feed(agent, 2 * T)
        return everything(agent)

    open_gate, no_bound, gated = end(kl_gate=False, kl_bound=1e-6), end(kl_bound=1e6), end(kl_bound=1e-6)
    for part in ("actor", "critic"):
        assert not changed(open_gate, no_bound, part) and changed(open_gate, gated, part)


def test_the_gate_keeps_the_policy_near() -> None:
    moved = {}
    for gate in (True, False):
        agent = make("box", kl_gate=gate, beta=1.0, kl_bound=0.01, epochs=40, actor_lr=3e-3, critic_lr=1e-2, seed=1)
        feed(agent, T)
        row, kept = some_rows(agent), feed(agent, T, start=2 * T)
        assert kept and len(row.x)
        moved[gate] = kept[0]["kl"].item()
    assert moved[True] < 0.5 * moved[False]


@pytest.mark.parametrize("space", SPACES)
def test_the_old_policy_is_the_one_that_acted_through_all_of_an_update(space: str) -> None:
    agent = spread_out(make(space, epochs=3, batch_size=8, actor_lr=1e-2))
    seen, batches = watched(agent), []
    agent.descend_actor = streams.seen_by(agent.descend_actor, batches)  # type: ignore[assignment]
    actor, x = deepcopy(agent.actor), None
    feed(agent, T)
    x = seen[0].x
    torch.testing.assert_close(seen[0].old, actor(x).columns().detach())
    assert not torch.allclose(seen[0].old, agent.actor(x).columns().detach(), atol=1e-3)
    assert len(batches) == 3 * T * N // 8
    for batch, *_ in batches:
        torch.testing.assert_close(batch.old, actor(batch.x).columns().detach(), rtol=1e-4, atol=1e-5)


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [2 * T * N, T * N + 1])  # a rollout in which it ends is C's alone
def test_c_alone_learns_during_the_warmup(warmup: int) -> None:
    agent = make(critic_warmup=warmup)
    before = everything(agent)
    feed(agent, 2 * T)
    warm = everything(agent)
    assert changed(before, warm, "critic.net") and changed(before, warm, "critic.obs_norm")
    assert not any(changed(before, warm, part) for part in ("actor", "multiplier"))
    feed(agent, T, start=2 * T)
    assert all(changed(warm, everything(agent), part) for part in ("actor.", "multipliers."))


@pytest.mark.parametrize(("epochs", "minibatch", "steps"), [(1, ALL, 1), (3, 32, 3), (2, 16, 4), (2, 10, 8)])
def test_epochs_and_minibatch_count_the_steps_of_each(epochs: int, minibatch: int, steps: int) -> None:
    agent = make(epochs=epochs, batch_size=minibatch)
    taken = [count_steps(o) for o in (agent.actor_optimizer, agent.critic_optimizer)]
    feed(agent, T)
    assert [len(t) for t in taken] == [steps] * 2


def test_decay_steps_end_learning() -> None:
    agent = make(decay_steps=2 * T * N)
    feed(agent, 2 * T)
    frozen = agent.actor_optimizer.flat.clone(), agent.critic_optimizer.flat.clone()
    held = agent.multipliers.log_alpha.clone()
    feed(agent, T, start=2 * T, reward=lambda t, r: r.clip(-1, 1))
    assert torch.equal(agent.actor_optimizer.flat, frozen[0])
    assert torch.equal(agent.critic_optimizer.flat, frozen[1])
    assert agent.multipliers.log_alpha == held  # else they would wind up against an actor that cannot follow


@pytest.mark.parametrize("space", SPACES)
def test_the_bound_falls_with_the_learning_rate(space: str) -> None:
    """Half way, a divergence between half the bound and the bound is beyond it: the row is pulled back."""
    agent = make(space, max_grad_norm=0.0, kl_bound=0.05, decay_steps=4 * T * N, epochs=1, batch_size=ALL)
    pulled = []

    def look(step: Any, row: Rows, noise: Tensor | None, bounds: Bounds) -> Any:
        assert agent.pace == 0.5
        with torch.no_grad():
            pi = agent.actor(row.x)
            kl = type(pi).of(row.old).kl(pi)
        between = (kl > 0.025) & (kl < 0.05)
        assert between.any()
        alone = Rows(*(column[between] for column in row))
        alone = alone._replace(weight=torch.full_like(alone.weight, 1 / len(alone.weight)))
        beta = agent.multipliers.log_beta.exp().item()
        told, norm = step(alone, None if noise is None else noise[:, between], bounds)
        assert told[0].item() == pytest.approx(beta * kl[between].mean().item(), rel=1e-3)
        pulled.append(told)
        return told, norm

    learn_far_from_the_old_policy(agent, look)
    assert len(pulled) == 1


def test_multipliers_start_where_they_are_set_and_stay_positive() -> None:
    agent = make(alpha=0.2, beta=3.0, multiplier_lr=0.5, entropy_target=-20.0, kl_bound=1e3)
    start = agent.multipliers.log_alpha.exp().item(), agent.multipliers.log_beta.exp().item()
    assert start == pytest.approx((0.2, 3.0))
    metrics = feed(agent, 5 * T)[-1]
    assert 0 < metrics["alpha"] < 0.02 and 0 < metrics["beta"] < 0.3
    assert isinstance(agent.actor(torch.zeros(1, 3)), Categorical)


def test_multipliers_follow_in_proportion_to_what_they_miss_and_no_faster_than_their_rate() -> None:
    m = Multipliers(alpha=0.2, beta=3.0, lr=0.1)
    for missing, excess, alpha, beta in (
        (0.5, 0.0, 0.2 * math.exp(0.05), 3.0),
        (-0.5, -0.2, 0.2, 3.0 * math.exp(-0.02)),
        (50.0, 1e9, 0.2 * math.exp(0.1), 3.0 * math.exp(0.08)),
    ):
        m.adjust(torch.tensor(missing), torch.tensor(excess))
        assert m.log_alpha.exp().item() == pytest.approx(alpha) and m.log_beta.exp().item() == pytest.approx(beta)


@pytest.mark.parametrize("space", SPACES)
def test_the_temperature_misses_are_counted_a_dimension(space: str) -> None:
    agent = make(space, multiplier_lr=0.1, alpha=0.5, entropy_target=0.5 if space == "discrete" else -0.4)
    feed(agent, T)
    seen = watched(agent)
    feed(agent, T, start=T)
    row = seen[0]
    before, metrics = agent.multipliers.log_alpha.item(), agent._adjust_multipliers(row)
    dimensions = 1 if space == "discrete" else 2
    missing = (agent.entropy_target - metrics["entropy"].item()) / dimensions
    assert -1 < missing < 1 and abs(missing) > 1e-3
    assert agent.multipliers.log_alpha.item() - before == pytest.approx(0.1 * missing, rel=1e-3, abs=1e-6)


def test_settings_reach_what_they_set() -> None:
    base = make()
    feed(base, 2 * T)
    actor, critic = base.actor_optimizer.flat, base.critic_optimizer.flat
    for change in ({"gamma": 0.5}, {"gae_lambda": 0.0}, {"alpha": 1.0}, {"critic_lr": 1e-2}, {"normalize_obs": False}):
        other = make(**change)  # type: ignore[arg-type]
        feed(other, 2 * T)
        assert not torch.equal(critic, other.critic_optimizer.flat), change
    for change in ({"actor_lr": 1e-2}, {"max_grad_norm": 1e-3}, {"multiplier_lr": 1.0}, {"l2": 1.0}):
        other = make(**change)
        feed(other, 2 * T)
        assert not torch.equal(actor, other.actor_optimizer.flat), change
