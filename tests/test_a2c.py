"""A2C as a machine: reproducible to the bit, every setting does what it says. That it learns is tested elsewhere."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agents import a2c
from agents.a2c import A2C, DIAGNOSE_EVERY, A2CConfig
from envs import make as gym_make
from rl.data import Step
from rl.errors import UserError
from rl.host import HostPass
from rl.nets import MLP
from rl.returns import lambda_return
from rl.train import train

N, T = 4, 8
OBS = spaces.Box(-10, 10, (3,), np.float32)
SPACES: dict[str, Any] = {
    "discrete": spaces.Discrete(3, start=2),
    "box": spaces.Box(np.array([0, -3], np.float32), np.array([5, -1], np.float32)),
}
KINDS = ["pathwise", "score", "control_variate"]
SMALL = A2CConfig(
    num_steps=T,
    hidden=(16,),
    minibatch=16,
    critic_passes=2,
    critic_warmup=0,
    head="hl_gauss",
    bins=21,
    layer_norm=False,
    entropy_coef=0.01,
)


def make(space: str = "discrete", seed: int = 0, config: A2CConfig = SMALL, **settings: Any) -> A2C:
    return A2C(OBS, SPACES[space], replace(config, **settings), seed)


def observation(t: int, rows: int = N) -> np.ndarray:
    return (2 + 3 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(1000 + t))).numpy()


def observations(steps: int) -> Tensor:
    """What the first steps of `feed` show, [steps * N, 3]."""
    return torch.from_numpy(np.concatenate([observation(t) for t in range(steps)]))


def feed(agent: A2C, steps: int = T, start: int = 0, **override: Any) -> list[dict[str, Tensor]]:
    """A stream of transitions that depends on t and the agent's actions alone; `override` replaces parts of a step."""
    metrics = []
    for t in range(start, start + steps):
        obs = observation(t)
        action = agent.act(obs)
        value = action.astype(np.float32) if agent.codec.discrete else action.sum(1)
        step = Step(
            obs=obs,
            action=action,
            reward=obs[:, 0] * value - value**2,
            next_obs=observation(t + 1),
            terminated=np.array([t % 5 == 4, False, False, False]),
            truncated=np.array([False, t % 7 == 6, False, False]),
            valid=np.ones(N, dtype=bool),
            extra={},
        )
        parts = {name: part(t, getattr(step, name)) for name, part in override.items()}
        agent.observe(step._replace(**parts))
        metrics.append(agent.update())
    return [m for m in metrics if m]


def everything(agent: A2C) -> dict[str, Tensor]:
    """Its state, the numbers that JSON holds among the tensors."""
    tensors, meta = agent.state()
    numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in meta.items()}
    return {name: value.clone() for name, value in (tensors | numbers).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def changed(a: dict[str, Tensor], b: dict[str, Tensor], prefix: str) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a if name.startswith(prefix))


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES)
def test_every_combination_learns_something_finite(space: str, kind: Any, head: Any, ensemble: int) -> None:
    agent = make(space, actor_gradient=kind, head=head, ensemble=ensemble, layer_norm=ensemble == 3)
    before = everything(agent)
    metrics = feed(agent, 3 * T)
    assert len(metrics) == 3 and all(torch.isfinite(value).all() for m in metrics for value in m.values())
    after = everything(agent)
    assert all(torch.isfinite(value).all() for value in after.values() if value.is_floating_point())
    parts = ("actor.", "critic.net", "critic.obs_norm", "critic.cost_scale", "actor_optimizer", "critic_optimizer")
    for part in (*parts, "advantage_square"):
        assert changed(before, after, part), part
    env_action, _ = agent.predict(observation(0))
    assert all(SPACES[space].contains(a) for a in env_action)


@pytest.mark.parametrize("space", SPACES)
def test_the_seed_decides_everything(space: str) -> None:
    agents = [make(space, seed) for seed in (3, 3, 4)]
    for i, agent in enumerate(agents):
        torch.manual_seed(i)
        feed(agent, 2 * T)
    first, again, other = (everything(agent) for agent in agents)
    assert same(first, again)
    assert changed(first, other, "actor.net") and changed(first, other, "critic.net")


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize(
    ("space", "kind"), [("discrete", "control_variate"), ("box", "pathwise"), ("box", "control_variate")]
)
def test_state_taken_up_by_a_fresh_agent_goes_on_bit_for_bit(space: str, kind: Any, optimizer: Any) -> None:
    settings = {"actor_gradient": kind, "optimizer": optimizer, "dropout": 0.1, "decay_steps": 1000}
    agent, fresh = make(space, 1, **settings), make(space, 99, **settings)
    feed(agent, 2 * T)
    agent.predict(observation(5))
    tensors, meta = agent.state()
    fresh.load_state({name: value.clone() for name, value in tensors.items()}, deepcopy(meta))
    torch.manual_seed(1)
    ours = feed(agent, 2 * T, start=2 * T)
    torch.manual_seed(2)
    theirs = feed(fresh, 2 * T, start=2 * T)
    assert same(everything(agent), everything(fresh)) and agent.state()[1] == fresh.state()[1]
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    np.testing.assert_array_equal(agent.predict(observation(7))[0], fresh.predict(observation(7))[0])


def test_a_rollout_under_way_is_dropped_when_state_is_taken_up() -> None:
    agent = make()
    feed(agent, T)
    tensors, meta = agent.state()
    kept = {name: value.clone() for name, value in tensors.items()}
    feed(agent, 3, start=T)
    agent.load_state(kept, meta)
    fresh = make(seed=9)
    fresh.load_state(kept, meta)
    for a in (agent, fresh):
        feed(a, T, start=T)
    assert same(everything(agent), everything(fresh))


@pytest.mark.parametrize("space", SPACES)
def test_global_random_state_is_neither_used_nor_touched(space: str) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    agent = make(space, dropout=0.2)
    feed(agent, 2 * T)
    agent.predict(observation(0))
    assert states() == before


def test_a_saved_agent_comes_back(tmp_path: Path) -> None:
    agent = make("box")
    feed(agent, 2 * T)
    agent.save(tmp_path / "a")
    again = A2C.load(tmp_path / "a")
    assert again.config == agent.config and same(everything(agent), everything(again))
    for a in (agent, again):
        feed(a, T, start=2 * T)
    assert same(everything(agent), everything(again))


# What the environment says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_c_predicts_r_over_one_minus_gamma_under_a_clock_and_less_under_an_end(head: Any) -> None:
    """Reward 1 for ever, an ending every 4 steps. A clock leaves the cost at -1 / (1 - gamma) = -5."""
    config = replace(SMALL, gamma=0.8, head=head, critic_passes=8, minibatch=64, critic_lr=1e-2, gae_lambda=0.9)
    clock, end = (A2C(OBS, SPACES["discrete"], config) for _ in range(2))
    never = {"terminated": lambda t, v: np.zeros(N, dtype=bool)}
    often = {"truncated": lambda t, v: np.full(N, t % 4 == 3)}
    ones = {"reward": lambda t, v: np.ones(N)}
    metrics = feed(clock, 40 * T, **never, **often, **ones)
    cost = clock.critic(observations(40))
    assert (cost + 5).abs().mean() < 0.15
    if head == "hl_gauss":
        assert torch.stack([m["clipped_targets"] for m in metrics]).mean() < 1e-3
    # Negative control: the same flags as terminations.
    feed(end, 40 * T, **{"truncated": never["terminated"], "terminated": often["truncated"]}, **ones)
    mean = end.critic(observations(40)).mean().item()
    worth = [(1 - 0.8**k) / 0.2 for k in (1, 2, 3, 4)]  # with k steps to go; C cannot see how many
    assert mean == pytest.approx(-sum(worth) / 4, abs=0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES)
def test_what_stands_in_a_reset_row_does_not_matter(space: str, kind: Any) -> None:
    def valid(t: int, plain: np.ndarray) -> np.ndarray:
        return np.array([True, t % 7 != 0, True, True])  # environment 1 is reset after its clock ran out

    def junk(size: float) -> Any:
        def part(t: int, plain: np.ndarray) -> np.ndarray:
            row = plain.copy()
            if t % 7 == 0:
                row[1] = size
            return row

        return part

    agents = [make(space, actor_gradient=kind, entropy_coef=0.1, num_steps=14) for _ in range(2)]
    for agent, size in zip(agents, (0.0, 50.0), strict=True):
        feed(agent, 28, valid=valid, reward=junk(100 * size), obs=junk(size), next_obs=junk(-size))
    a, b = (everything(agent) for agent in agents)
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-4, atol=1e-5, msg=f"{name} differs")
    assert agents[0].steps == 28 * N - 4
    assert agents[0].critic.obs_norm.count == 28 * N - 4


@pytest.mark.parametrize("space", SPACES)
def test_a_rollout_of_reset_rows_alone_changes_nothing_for_the_worse(space: str) -> None:
    agent = make(space, num_steps=1)
    feed(agent, 3)
    feed(agent, 1, valid=lambda t, v: np.zeros(N, dtype=bool))
    after = everything(agent)
    assert all(torch.isfinite(value).all() for value in after.values() if value.is_floating_point())
    assert agent.steps == 3 * N


def test_the_actors_first_step_is_the_same_in_any_currency() -> None:
    for kind in ("score", "control_variate"):
        ends = []
        for unit in (1.0, 1000.0):
            agent = make(actor_gradient=kind, head="regression", entropy_coef=0.3)
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
    features = HostPass(agent.critic.obs_norm, identity)  # what a policy's own pass makes of the normaliser
    acting: list[tuple[np.ndarray, np.ndarray]] = []
    updating: list[tuple[np.ndarray, np.ndarray]] = []
    call = HostPass.__call__

    def act(policy: HostPass, obs: np.ndarray) -> np.ndarray:
        acting.append((call(features, obs), call(policy, obs)))
        return acting[-1][1]

    def update(module: Any, inputs: tuple[Tensor], pi: Any) -> None:
        updating.append((inputs[0].numpy().copy(), pi.logits.detach().numpy().copy()))

    monkeypatch.setattr(HostPass, "__call__", act)
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
def test_an_update_learns_from_what_happened_by_c_as_it_was(
    space: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row t N + i is step t of environment i; G and b(s) come from C before this rollout; nothing has a graph."""
    agent, steps, rows = make(space, actor_gradient=kind, gae_lambda=0.7), [], []
    observe, loss = agent.observe, a2c.actor_loss
    agent.observe = lambda step: steps.append(step) or observe(step)  # type: ignore[method-assign,func-returns-value]
    monkeypatch.setattr(a2c, "actor_loss", lambda *args: rows.append(args[-1]) or loss(*args))

    def valid(t: int, plain: np.ndarray) -> np.ndarray:
        return np.array([True, t % 7 != 0, True, True])

    squares = []
    for start in (0, T):
        del steps[:], rows[:]
        c, actor = deepcopy(agent.critic), deepcopy(agent.actor)
        metrics = feed(agent, T, start, valid=valid)[0]
        row, parts = rows[0], {name: np.stack([getattr(s, name) for s in steps]) for name in Step._fields[:-1]}
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
        metrics = feed(make(entropy_coef=coefficient), (2 * DIAGNOSE_EVERY + 1) * T)
        for name in ("entropy", "explained_variance"):
            reported = [i for i, m in enumerate(metrics) if name in m]
            assert reported == [0, DIAGNOSE_EVERY, 2 * DIAGNOSE_EVERY]
        assert all("actor_loss" in m for m in metrics)


# Settings -------------------------------------------------------------------------------------------------------------


def spread_out(agent: A2C) -> A2C:
    """An actor that is far from uniform, so that its entropy has a slope."""
    draw = torch.Generator().manual_seed(7)
    agent.actor_optimizer.flat.add_(0.7 * torch.randn(agent.actor_optimizer.flat.shape, generator=draw))
    return agent


def no_reward(t: int, reward: np.ndarray) -> np.ndarray:
    return np.zeros(N)


def test_the_entropy_bonus_is_its_coefficient_times_the_entropys_gradient_once() -> None:
    norms, slope = {}, torch.zeros(())
    for coefficient in (0.0, 0.25, 0.5):
        agent = spread_out(make(actor_gradient="pathwise", head="regression", entropy_coef=coefficient, clip_norm=0.0))
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
        agent = spread_out(make(space, entropy_coef=coefficient, actor_lr=0.01, log_std=-1.5))
        feed(agent, 10 * T)
        pi = agent.actor(agent.critic.features(observations(1)))
        noise = agent.actor.noise(50, N, generator=torch.Generator().manual_seed(1))
        ends.append(pi.entropy(pi.sample(noise) if space == "box" else None).mean().item())
    assert ends[1] > ends[0] + 0.05


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_clip_norm_bounds_the_gradients(optimizer: Any) -> None:
    for clip in (0.01, 0.0):
        agent = make(clip_norm=clip, optimizer=optimizer)
        metrics = feed(agent, T)[-1]
        for name, o in (("actor", agent.actor_optimizer), ("critic", agent.critic_optimizer)):
            length, before = o.gradient.norm().item(), metrics[f"{name}_grad_norm"].item()
            assert before > 0.02
            assert length == pytest.approx(clip or before, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_c_alone_learns_during_the_warmup(kind: Any) -> None:
    agent = make(actor_gradient=kind, critic_warmup=2 * T * N)
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
    agent, taken = make(critic_passes=passes, minibatch=minibatch), {"actor": 0, "critic": 0}
    for name, optimizer in (("actor", agent.actor_optimizer), ("critic", agent.critic_optimizer)):

        def counted(gradient: Any, name: str = name, apply: Any = optimizer.apply) -> Tensor:
            taken[name] += 1
            return apply(gradient)

        optimizer.apply = counted  # type: ignore[method-assign]
    feed(agent, T)
    assert taken == {"actor": 1, "critic": steps}


def test_every_pass_shows_each_row_once_in_an_order_of_its_own() -> None:
    agent, shown = make(critic_passes=2, minibatch=10), []
    loss = agent.critic.loss
    agent.critic.loss = lambda x, *rest: shown.append(x.clone()) or loss(x, *rest)  # type: ignore[method-assign,func-returns-value]
    feed(agent, T)
    passes = torch.cat(shown[:4]), torch.cat(shown[4:])
    assert passes[0].shape == passes[1].shape == (T * N, 3)
    assert not torch.equal(*passes)
    sets = [sorted(map(tuple, rows.tolist())) for rows in passes]
    assert sets[0] == sets[1] and len(set(sets[0])) == T * N


@pytest.mark.parametrize("name", ["l2", "l1"])
def test_penalties_shrink_the_weights_of_actor_and_c(name: str) -> None:
    def sizes(agent: A2C) -> list[float]:
        return [module.net.weights[0].abs().sum().item() for module in (agent.actor, agent.critic)]

    plain, penalised = make(clip_norm=0.0), make(clip_norm=0.0, **{name: 3.0})
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
    agent = make(hidden=(5, 7), ensemble=3, layer_norm=True, bins=31, head="hl_gauss", log_std=-0.5, space="box")
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
    assert all(torch.isfinite(value).all() for value in everything(agent).values() if value.is_floating_point())
    stds = [a.actor(a.critic.features(observations(1))).log_std for a in (agent, plain)]  # type: ignore[union-attr]
    assert stds[0].shape == (N, 2) and stds[0].std(0).min() > 1e-4 and stds[1].shape == (2,)
    width = before["actor.net.biases.1"].numel() // 2
    moved = everything(agent)["actor.net.biases.1"] - before["actor.net.biases.1"]
    assert (moved[width:] != 0).all()


def test_noise_correlation_ties_one_action_to_the_next() -> None:
    ties = {}
    for correlation in (0.0, 0.95):
        agent = make("box", noise_correlation=correlation, num_steps=200, log_std=-1.0)
        agent.begin()
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


# For people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_predict_takes_one_or_many_and_speaks_the_environments_units(space: str) -> None:
    agent = make(space)
    feed(agent, T)
    batch, state = agent.predict(observation(0), state="mine", deterministic=True)
    single, _ = agent.predict(observation(0)[1], deterministic=True)
    assert state == "mine" and isinstance(batch, np.ndarray)
    assert batch.shape == (N, *SPACES[space].shape) and np.shape(single) == SPACES[space].shape
    np.testing.assert_allclose(single, batch[1], rtol=1e-5)
    mode = agent.act(observation(0), explore=False)
    np.testing.assert_allclose(batch, agent.codec.env_action(mode), rtol=1e-5)
    draws = {tuple(np.ravel(agent.predict(observation(0))[0]).tolist()) for _ in range(20)}
    assert len(draws) > 1 and all(SPACES[space].contains(a) for a in batch)


@pytest.mark.parametrize("space", SPACES)
def test_predict_leaves_training_alone(space: str) -> None:
    quiet, asked = make(space), make(space)
    for agent in (quiet, asked):
        for start in (0, 3):
            feed(agent, T if start else 3, start=start)
            if agent is asked:
                agent.predict(observation(50))
                agent.predict(observation(51), deterministic=True)
    ours, theirs = everything(quiet), everything(asked)
    ours.pop("predict_generator"), theirs.pop("predict_generator")
    assert same(ours, theirs)


# Used again, copied, diverged -----------------------------------------------------------------------------------------


def test_an_agent_is_trained_again_in_another_number_of_environments() -> None:
    """The first run ends amid a rollout; its rows must not be continued by other episodes."""
    agent: A2C | None = None
    rows: list[int] = []

    def amid_the_third(tick: Any, agent: A2C) -> bool:
        rows.append(agent.memory.filled)
        return len(rows) < 2 * agent.config.num_steps + 5

    for num_envs in (8, 1, 4):
        env = gym_make("CartPole-v1", num_envs, backend="native")
        agent = agent or A2C(env.single_observation_space, env.single_action_space, A2CConfig(critic_warmup=0))
        del rows[:]
        train(agent, env, 100_000, progress=False, hooks=[amid_the_third])
        assert rows[:3] == [1, 2, 3] and agent.memory.filled == 5
        env.close()
    assert agent is not None and agent.updates == 3 * 2


def test_a_copied_agent_says_that_its_optimizer_is_not_its_own() -> None:
    agent = deepcopy(make())
    with pytest.raises(RuntimeError, match="make another optimizer"):
        feed(agent, T)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_divergence_is_said_and_not_saved(env_id: str, tmp_path: Path) -> None:
    env = gym_make(env_id, 2, backend="sync")
    config = A2CConfig(actor_lr=1e30, critic_lr=1e30, critic_warmup=0, clip_norm=0.0)
    agent = A2C(env.single_observation_space, env.single_action_space, config)
    with pytest.raises(UserError, match="diverged"):
        train(agent, env, 20_000, tmp_path / "run", eval_every=100_000, progress=False)
    assert not (tmp_path / "run" / "checkpoints" / "last").exists()
    env.close()


def test_the_state_of_a_generator_of_another_device_is_replaced_by_a_seed() -> None:
    agent, other = make(), make()
    tensors, meta = agent.state()
    other.load_state({**tensors, "generator": torch.zeros(16, dtype=torch.uint8)}, meta)
    a, b = torch.rand(4, generator=other.acting.generator), torch.rand(4, generator=agent.acting.generator)
    assert not torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    env = gym_make("CartPole-v1", 8, backend="native")
    agent = A2C(env.single_observation_space, env.single_action_space, A2CConfig(critic_warmup=0), device="cuda")
    train(agent, env, 1_000, progress=False)
    assert agent.updates == 7 and agent.actor_optimizer.flat.is_cuda
    agent.save(tmp_path / "agent")
    obs = np.zeros((3, 4), dtype=np.float32)
    there, here = A2C.load(tmp_path / "agent", "cuda"), A2C.load(tmp_path / "agent", "cpu")
    assert (there.predict(obs, deterministic=True)[0] == here.predict(obs, deterministic=True)[0]).all()
    env.close()
