"""A2C as a machine: every setting does what it says; tests/test_agents.py has what every agent promises."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from costgrad.agents.a2c import A2C, DIAGNOSE_EVERY, A2CConfig
from costgrad.rl.data import Step
from costgrad.rl.networks.mlp import MLP
from costgrad.rl.networks.numpy_forward import NumpyForward
from costgrad.rl.returns import lambda_return
from tests import streams
from tests.streams import SPACES, N, T, changed, everything, feed, finite, observation, observations, same

KINDS = ["pathwise", "score", "control_variate"]
SMALL = A2CConfig(**streams.SMALL["a2c"])


def make(space: str = "discrete", seed: int = 0, **settings: Any) -> A2C:
    return streams.make("a2c", space, seed, **settings)


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES)
def test_every_combination_learns_something_finite(space: str, kind: Any, head: Any, ensemble: int) -> None:
    agent = make(space, actor_gradient=kind, head=head, n_critics=ensemble, layer_norm=ensemble == 3)
    before = everything(agent)
    metrics = feed(agent, 3 * T)
    assert len(metrics) == 3 and all(map(finite, metrics))
    after = everything(agent)
    assert finite(after)
    parts = ("actor.", "critic.net", "critic.obs_norm", "critic.cost_scale", "actor_optimizer", "critic_optimizer")
    for part in (*parts, "advantage_square"):
        assert changed(before, after, part), part
    env_action, _ = agent.predict(observation(0))
    assert all(SPACES[space].contains(a) for a in env_action)


# What the environment says --------------------------------------------------------------------------------------------


def test_the_actors_first_step_is_the_same_in_any_currency() -> None:
    for kind in ("score", "control_variate"):
        ends = []
        for unit in (1.0, 1000.0):
            agent = make(actor_gradient=kind, head="regression", ent_coef=0.3)
            feed(agent, T, reward=lambda t, r, unit=unit: r * unit)
            ends.append(agent.actor_optimizer.flat.clone())
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)


# Order ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_only_pathwise_follows_c_as_it_is_after_this_rollout(kind: Any) -> None:
    ends = []
    for critic_lr in (1e-4, 1e-1):
        agent = make(actor_gradient=kind, critic_lr=critic_lr)
        feed(agent, T)
        ends.append(agent.actor_optimizer.flat.clone())
    assert torch.equal(*ends) == (kind != "pathwise")


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_sees_the_features_that_the_policy_saw(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = spread_out(make(actor_gradient=kind))
    feed(agent, 2 * T)  # from the second rollout on there are statistics
    identity = MLP((3, 3))
    with torch.no_grad():
        identity.weights[0].copy_(torch.eye(3))
    features = NumpyForward(agent.critic.obs_norm, identity)  # what a policy's own pass makes of the normaliser
    acting: list[tuple[np.ndarray, np.ndarray]] = []
    updating: list[tuple[np.ndarray, np.ndarray]] = []
    call = NumpyForward.__call__

    def act(policy: NumpyForward, obs: np.ndarray) -> np.ndarray:
        acting.append((call(features, obs), call(policy, obs)))
        return acting[-1][1]

    def update(module: Any, inputs: tuple[Tensor], pi: Any) -> None:
        updating.append((inputs[0].numpy().copy(), pi.logits.detach().numpy().copy()))

    monkeypatch.setattr(NumpyForward, "__call__", act)
    agent.actor.register_forward_hook(update)
    feed(agent, T, start=2 * T)
    assert len(acting) == T and updating
    x, logits = (np.concatenate(parts) for parts in zip(*acting, strict=True))
    for seen, given in updating:
        np.testing.assert_allclose(seen[: T * N], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(given[: T * N], logits, rtol=1e-5, atol=1e-5)
    # Negative control: and then the statistics moved.
    later = agent.critic.features(torch.from_numpy(observation(2 * T)))
    assert np.abs(later.numpy() - x[:N]).max() > 1e-2


@pytest.mark.parametrize("space", SPACES)
def test_the_sample_that_is_learnt_from_is_the_one_that_was_acted_on(space: str) -> None:
    agent, rollouts = make(space), []
    take = agent.memory.take
    agent.memory.take = lambda: rollouts.append(take()) or rollouts[-1]  # type: ignore[method-assign,func-returns-value]
    feed(agent, T)
    rollout = rollouts[0]
    acted = rollout.action if space == "discrete" else np.arctanh(rollout.action.astype(np.float64))
    np.testing.assert_allclose(rollout.extra["sample"], acted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("space", "kind"), [*(("discrete", kind) for kind in KINDS), ("box", "score")])
def test_an_update_learns_from_what_happened_by_c_as_it_was(space: str, kind: Any) -> None:
    """Row t N + i is step t of environment i; G and b(s) come from C before this rollout; nothing has a graph."""
    agent, steps, rows = make(space, actor_gradient=kind, gae_lambda=0.7), [], []
    observe = agent.observe
    agent.observe = lambda step: steps.append(step) or observe(step)  # type: ignore[method-assign,func-returns-value]
    agent.descend_actor = streams.seen_by(agent.descend_actor, rows)  # type: ignore[assignment]

    def valid(t: int, plain: np.ndarray) -> np.ndarray:
        return np.array([True, t % 7 != 0, True, True])

    squares = []
    for start in (0, T):
        del steps[:], rows[:]
        c, actor = deepcopy(agent.critic), deepcopy(agent.actor)
        metrics = feed(agent, T, start, valid=valid)[0]
        row, parts = rows[0][0], {name: np.stack([getattr(s, name) for s in steps]) for name in Step._fields[:-1]}
        assert not any(column.requires_grad for column in row)

        def cost_to_go(obs: np.ndarray, c: Any = c, actor: Any = actor) -> Tensor:
            x = c.features(torch.from_numpy(obs.reshape(-1, 3)))
            return c.cost(x)[0] if kind == "score" else (actor(x).log_probs.exp() * c.cost(x)[0]).sum(-1)

        with torch.no_grad():
            b, next_b = cost_to_go(parts["obs"]), cost_to_go(parts["next_obs"])
            expected_x = c.features(torch.from_numpy(parts["obs"].reshape(-1, 3)))
        cost, ended = torch.from_numpy(-parts["reward"]), torch.from_numpy(parts["terminated"])
        cut = ended | torch.from_numpy(parts["truncated"])
        returns = lambda_return(cost, agent.config.gamma * ~ended, next_b.view(T, N), cut, 0.7).flatten()
        weight = torch.from_numpy(parts["valid"]).flatten() / parts["valid"].sum()
        torch.testing.assert_close(row.x, expected_x)
        torch.testing.assert_close(row.action, torch.from_numpy(parts["action"]).flatten(0, 1))
        torch.testing.assert_close(row.returns, returns, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(row.advantage, returns - b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(row.weight, weight)
        squares.append((weight @ (returns - b).square()).item())
        if start == 0:
            spread = weight @ (returns - weight @ returns).square()
            assert metrics["explained_variance"].item() == pytest.approx(1 - squares[0] / spread.item(), rel=1e-3)
    assert b.abs().max() > 1e-3 and not torch.allclose(b, next_b)  # there was something to mix up
    running = squares[0] + 0.05 * (squares[1] - squares[0])
    assert agent.state()[1]["advantage_square"] == pytest.approx(running, rel=1e-4)
    assert abs(running - squares[1]) > 1e-2 * running


def test_what_costs_extra_is_reported_now_and_then() -> None:
    for coefficient in (0.0, 0.1):
        metrics = feed(make(ent_coef=coefficient), (2 * DIAGNOSE_EVERY + 1) * T)
        for name in ("entropy", "explained_variance"):
            reported = [i for i, m in enumerate(metrics) if name in m]
            assert reported == [0, DIAGNOSE_EVERY, 2 * DIAGNOSE_EVERY]
        assert all("actor_loss" in m for m in metrics)


# Settings -------------------------------------------------------------------------------------------------------------


def spread_out(agent: A2C) -> A2C:
    """An actor that is far from uniform, so that its entropy has a slope."""
    streams.spread_out(agent.actor_optimizer)
    return agent


def no_reward(t: int, reward: np.ndarray) -> np.ndarray:
    return np.zeros(N)


def test_the_entropy_bonus_is_its_coefficient_times_the_entropys_gradient_once() -> None:
    norms, slope = {}, torch.zeros(())
    for coefficient in (0.0, 0.25, 0.5):
        agent = spread_out(make(actor_gradient="pathwise", head="regression", ent_coef=coefficient, max_grad_norm=0.0))
        x = agent.critic.features(observations(T))
        pi = torch.distributions.Categorical(logits=agent.actor(x).log_probs)  # type: ignore[union-attr]
        slopes = torch.autograd.grad(pi.entropy().mean(), list(agent.actor.parameters()))
        slope = torch.cat([s.flatten() for s in slopes]).norm()
        before = pi.entropy().mean().item()
        metrics = feed(agent, T, reward=no_reward)[0]  # nothing but the bonus moves the actor
        norms[coefficient] = metrics["actor_grad_norm"].item()
        assert metrics["entropy"].item() == pytest.approx(before, rel=1e-5)
        with torch.no_grad():
            after = agent.actor.net(x).log_softmax(-1)
        if coefficient:
            assert -(after.exp() * after).sum(-1).mean().item() > before + 1e-4
    assert norms == pytest.approx({0.0: 0.0, 0.25: 0.25 * slope.item(), 0.5: 0.5 * slope.item()}, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("space", SPACES)
def test_more_entropy_bonus_leaves_more_entropy(space: str) -> None:
    ends = []
    for coefficient in (0.0, 2.0):
        agent = spread_out(make(space, ent_coef=coefficient, actor_lr=0.01, log_std=-1.5))
        feed(agent, 10 * T)
        pi = agent.actor(agent.critic.features(observations(1)))
        noise = agent.actor.noise(50, N, generator=torch.Generator().manual_seed(1))
        ends.append(pi.entropy(pi.sample(noise) if space == "box" else None).mean().item())
    assert ends[1] > ends[0] + 0.05


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_clip_norm_bounds_the_gradients(optimizer: Any) -> None:
    for clip in (0.01, 0.0):
        agent = make(max_grad_norm=clip, optimizer=optimizer)
        metrics = feed(agent, T)[-1]
        for name, o in (("actor", agent.actor_optimizer), ("critic", agent.critic_optimizer)):
            length, before = o.gradient.norm().item(), metrics[f"{name}_grad_norm"].item()
            assert before > 0.02
            assert length == pytest.approx(clip or before, rel=1e-3)


@pytest.mark.parametrize("warmup", [2 * T * N, T * N + 1])  # a rollout in which it ends is C's alone
@pytest.mark.parametrize("kind", KINDS)
def test_c_alone_learns_during_the_warmup(kind: Any, warmup: int) -> None:
    agent = make(actor_gradient=kind, critic_warmup=warmup)
    before = everything(agent)
    feed(agent, 2 * T)
    warm = everything(agent)
    assert changed(before, warm, "critic.net") and changed(before, warm, "critic.obs_norm")
    assert not changed(before, warm, "actor.") and not changed(before, warm, "actor_optimizer")
    feed(agent, T, start=2 * T)
    assert changed(warm, everything(agent), "actor.")


def test_decay_steps_end_learning() -> None:
    agent = make(decay_steps=2 * T * N)
    feed(agent, T)
    for o, lr in ((agent.actor_optimizer, SMALL.actor_lr), (agent.critic_optimizer, SMALL.critic_lr)):
        assert o.current_lr == pytest.approx(lr / 2)
    feed(agent, T, start=T)
    frozen = agent.actor_optimizer.flat.clone(), agent.critic_optimizer.flat.clone()
    feed(agent, T, start=2 * T, reward=lambda t, r: r.clip(-1, 1))
    assert torch.equal(agent.actor_optimizer.flat, frozen[0])
    assert torch.equal(agent.critic_optimizer.flat, frozen[1])
    steady = make()
    feed(steady, 3 * T)
    assert steady.actor_optimizer.current_lr == SMALL.actor_lr


@pytest.mark.parametrize(
    ("passes", "minibatch", "steps"), [(1, 1000, 1), (3, 32, 3), (2, 16, 4), (2, 10, 8), (5, 31, 10)]
)
def test_passes_and_minibatch_count_the_steps_of_c(passes: int, minibatch: int, steps: int) -> None:
    agent, taken = make(critic_passes=passes, batch_size=minibatch), {"actor": 0, "critic": 0}
    for name, optimizer in (("actor", agent.actor_optimizer), ("critic", agent.critic_optimizer)):

        def counted(name: str = name, step: Any = optimizer._step) -> Tensor:
            taken[name] += 1
            return step()

        optimizer._step = counted  # type: ignore[method-assign]
    feed(agent, T)
    assert taken == {"actor": 1, "critic": steps}


def test_every_pass_shows_each_row_once_in_an_order_of_its_own() -> None:
    agent, shown = make(critic_passes=2, batch_size=10), []
    agent.descend_critic = streams.seen_by(agent.descend_critic, shown)  # type: ignore[assignment]
    feed(agent, T)
    shown = [x for x, *_ in shown]
    passes = torch.cat(shown[:4]), torch.cat(shown[4:])
    assert passes[0].shape == passes[1].shape == (T * N, 3)
    assert not torch.equal(*passes)
    sets = [sorted(map(tuple, rows.tolist())) for rows in passes]
    assert sets[0] == sets[1] and len(set(sets[0])) == T * N


@pytest.mark.parametrize("name", ["l2", "l1"])
def test_penalties_shrink_the_weights_of_actor_and_c(name: str) -> None:
    def sizes(agent: A2C) -> list[float]:
        return [module.net.weights[0].abs().sum().item() for module in (agent.actor, agent.critic)]

    plain, penalised = make(max_grad_norm=0.0), make(max_grad_norm=0.0, **{name: 3.0})
    for agent in (plain, penalised):
        feed(agent, 10 * T)
    assert all(small < 0.98 * large for small, large in zip(sizes(penalised), sizes(plain), strict=True))


def test_dropout_changes_the_training_of_c_and_nothing_else() -> None:
    plain, dropped, again = make(), make(dropout=0.5), make(dropout=0.5)
    obs = observation(0)
    assert np.array_equal(plain.act(obs), dropped.act(obs))  # the same weights, the same draws
    again.act(obs)
    for agent in (plain, dropped, again):
        feed(agent, T)
    assert changed(everything(plain), everything(dropped), "critic.net")
    assert same(everything(dropped), everything(again))
    assert torch.equal(dropped.critic(observations(1)), dropped.critic(observations(1)))
    assert np.array_equal(dropped.act(obs, explore=False), dropped.act(obs, explore=False))


def test_without_normalisation_the_statistics_are_left_alone() -> None:
    agent, usual = make(normalize_obs=False), make()
    for a in (agent, usual):
        feed(a, 2 * T)
    assert agent.critic.obs_norm.count == 0 and usual.critic.obs_norm.count == 2 * T * N
    assert torch.equal(agent.critic.features(observations(1)), observations(1))
    seen = observations(2 * T).double()
    torch.testing.assert_close(usual.critic.obs_norm.mean, seen.mean(0))
    torch.testing.assert_close(usual.critic.obs_norm.var, seen.var(0, correction=0))


def test_shapes_follow_the_settings() -> None:
    agent = make(hidden=(5, 7), n_critics=3, layer_norm=True, bins=31, head="hl_gauss", log_std=-0.5, space="box")
    assert [tuple(w.shape[-2:]) for w in agent.critic.net.weights] == [(5, 5), (5, 7), (7, 31)]
    assert all(w.shape[0] == 3 for w in agent.critic.net.weights)
    assert len(agent.actor.net.gains) == len(agent.critic.net.gains) == 2
    assert agent.actor.log_std.tolist() == [-0.5, -0.5]  # type: ignore[union-attr]
    assert make(actor_gradient="score").critic.spec.action == "none"
    assert make().critic.spec.action == "discrete" and make("box").critic.spec.action == "box"


@pytest.mark.parametrize("kind", KINDS)
def test_a_spread_of_the_state_is_learnt(kind: Any) -> None:
    agent, again, plain = (make("box", actor_gradient=kind, state_std=on) for on in (True, True, False))
    before = everything(agent)
    for a in (agent, again, plain):
        feed(a, 3 * T)
    assert same(everything(agent), everything(again))
    assert finite(everything(agent))
    stds = [a.actor(a.critic.features(observations(1))).log_std for a in (agent, plain)]  # type: ignore[union-attr]
    assert stds[0].shape == (N, 2) and stds[0].std(0).min() > 1e-4 and stds[1].shape == (2,)
    width = before["actor.net.biases.1"].numel() // 2
    moved = everything(agent)["actor.net.biases.1"] - before["actor.net.biases.1"]
    assert (moved[width:] != 0).all()


def test_noise_correlation_ties_one_action_to_the_next() -> None:
    ties = {}
    for correlation in (0.0, 0.95):
        agent = make("box", noise_correlation=correlation, num_steps=200, log_std=-1.0)
        agent.on_reset()
        obs, samples = observation(0, rows=64), []
        for _ in range(199):
            action = agent.act(obs)
            samples.append(np.arctanh(action.astype(np.float64)))
            flags = np.zeros(64, dtype=bool)
            agent.observe(Step(obs, action, np.zeros(64), obs, flags, flags, ~flags, {}))
        noise = (np.stack(samples) - np.arctanh(agent.act(obs, explore=False).astype(np.float64))) * np.exp(1)
        ties[correlation] = (noise[1:] * noise[:-1]).mean()
        assert noise.var() == pytest.approx(1, abs=0.2)
    assert ties == pytest.approx({0.0: 0.0, 0.95: 0.95}, abs=0.2)


def test_action_samples_draw_as_many_fresh_actions() -> None:
    agent, rows = make("box", action_samples=6, actor_gradient="pathwise"), []
    cost = agent.critic.cost
    agent.critic.cost = lambda x, action=None: rows.append(len(x)) or cost(x, action)  # type: ignore[method-assign,func-returns-value]
    feed(agent, T)
    assert rows == [6 * 2 * T * N, 6 * T * N]


def test_gamma_and_lambda_reach_the_targets() -> None:
    ends = [make(gamma=gamma, gae_lambda=gae_lambda) for gamma, gae_lambda in ((0.99, 0.95), (0.5, 0.95), (0.99, 0.0))]
    for agent in ends:
        feed(agent, T)
    flats = [agent.critic_optimizer.flat for agent in ends]
    assert not torch.equal(flats[0], flats[1]) and not torch.equal(flats[0], flats[2])
