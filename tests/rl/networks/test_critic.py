"""C as a module of its own: its units, its gradient in anybody's graph, its scale, its file."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from costgrad.rl import checkpoint
from costgrad.rl.errors import UserError
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.heads import LIMIT
from costgrad.rl.optim import Optimizer, descend
from costgrad.rl.returns import lambda_return
from costgrad.rl.spaces import Codec

OBS = spaces.Box(-10, 10, (3,))
BOX = spaces.Box(np.array([0, -3], np.float32), np.array([5, -1], np.float32))
STATE = CriticSpec((3,), "none")
DISCRETE = CriticSpec((3,), "discrete", 4, 2)
CONTINUOUS = CriticSpec((3,), "box", 2, low=(0.0, -3.0), high=(5.0, -1.0))
SPECS = {"none": STATE, "discrete": DISCRETE, "box": CONTINUOUS}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def critic(spec: CriticSpec, seed: int = 0, **settings: Any) -> Critic:
    """A C that has an opinion: weights, normaliser and scale off their initial values."""
    c = Critic(replace(spec, **settings), generator(seed))
    with torch.no_grad():
        for parameter in c.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator(seed + 1)))
        c.obs_norm.update(2 + 3 * normal(100, *spec.obs_shape))
        c.cost_scale.scale.fill_(7.0)
    return c


def actions(spec: CriticSpec, rows: int) -> Tensor | None:
    if spec.action == "none":
        return None
    if spec.action == "discrete":
        return torch.arange(rows) % spec.action_size + spec.action_start
    low, high = torch.tensor(spec.low), torch.tensor(spec.high)
    return low + (high - low) * torch.rand(rows, len(low), generator=generator(5))


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", SPECS)
def test_shapes_and_a_start_at_cost_zero(kind: str, head: Any) -> None:
    spec = replace(SPECS[kind], head=head, ensemble=3)
    c = Critic(spec, generator())
    cost = c(normal(6, 3), actions(spec, 6))
    assert cost.shape == (3, 6)
    assert cost.abs().max() < 1e-5
    if kind == "discrete":
        assert c(normal(6, 3)).shape == (3, 6, 4)


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_a_discrete_action_picks_its_column_in_the_environments_numbering(head: Any) -> None:
    c = critic(DISCRETE, head=head, ensemble=2)
    obs, action = normal(8, 3), torch.tensor([2, 3, 4, 5, 5, 4, 3, 2])
    every = c(obs)
    taken = c(obs, action)
    for row in range(8):
        assert torch.equal(taken[:, row], every[:, row, action[row] - 2])


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_expected_is_the_enumeration_and_its_gradient_is_cs_costs(head: Any, ensemble: int) -> None:
    c = critic(DISCRETE, head=head, ensemble=ensemble).double()
    obs = normal(5, 3).double()
    probs = torch.softmax(normal(5, 4, seed=2).double(), -1).requires_grad_()
    expected = c.expected(obs, probs)
    each = [c(obs, torch.full((5,), a + 2)) for a in range(4)]
    torch.testing.assert_close(expected, sum(probs[:, a] * each[a] for a in range(4)))
    gradient = torch.autograd.grad(expected.sum(), probs)[0]
    torch.testing.assert_close(gradient, torch.stack(each, -1).sum(0))


def test_expected_is_refused_where_there_is_nothing_to_enumerate() -> None:
    for spec in (STATE, CONTINUOUS):
        with pytest.raises(UserError, match="discrete"):
            Critic(spec)(normal(1, 3), actions(spec, 1)).sum()
            Critic(spec).expected(normal(1, 3), torch.ones(1, 2))


def test_a_missing_or_needless_action_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="2 numbers"):
        Critic(CONTINUOUS)(normal(1, 3))
    with pytest.raises(UserError, match="no action"):
        Critic(STATE)(normal(1, 3), torch.zeros(1, 2))


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_box_actions_are_taken_in_the_environments_units(head: Any) -> None:
    c = critic(CONTINUOUS, head=head)
    obs = normal(3, 3)
    x = c.features(obs)
    for env_action, agent_action in (([0, -3], [-1, -1]), ([5, -1], [1, 1]), ([2.5, -2], [0, 0]), ([5, -3], [1, -1])):
        user = c(obs, torch.tensor(env_action, dtype=torch.float32).expand(3, 2))
        torch.testing.assert_close(user, c.cost(x, torch.tensor(agent_action, dtype=torch.float32).expand(3, 2)))
    corners = c(obs, torch.tensor([[0.0, -3.0]] * 3)), c(obs, torch.tensor([[5.0, -1.0]] * 3))
    assert (corners[0] - corners[1]).abs().max() > 0.1  # it does depend on the action


def test_a_box_of_rows_may_be_given_in_its_own_shape() -> None:
    codec = Codec(OBS, spaces.Box(np.float32(0), np.float32(2), (2, 3)))
    c = critic(CriticSpec.of(codec))
    action = 2 * torch.rand(5, 2, 3, generator=generator())
    assert torch.equal(c(normal(5, 3), action), c(normal(5, 3), action.flatten(1)))


def test_spec_follows_the_spaces() -> None:
    assert CriticSpec.of(Codec(OBS, spaces.Discrete(4, start=2))) == DISCRETE
    assert CriticSpec.of(Codec(OBS, BOX)) == CONTINUOUS
    assert CriticSpec.of(Codec(OBS, BOX), state_only=True) == STATE


def test_raw_observations_are_normalised_inside() -> None:
    c = critic(STATE)
    obs = 2 + 3 * normal(6, 3)
    plain = critic(STATE)
    plain.obs_norm = type(plain.obs_norm)((3,))  # knows nothing: the identity
    mean, var = c.obs_norm.mean.float(), c.obs_norm.var.float()
    torch.testing.assert_close(c(obs), plain((obs - mean) / var.sqrt()), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(c(obs), plain(obs), atol=1e-2)


def test_cost_comes_back_in_the_environments_units() -> None:
    c = critic(STATE, head="regression")
    obs = normal(4, 3)
    before = c(obs)
    c.cost_scale.scale.mul_(10)
    torch.testing.assert_close(c(obs), 10 * before)


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", SPECS)
def test_each_member_of_an_ensemble_is_a_critic_of_its_own(kind: str, head: Any) -> None:
    spec = replace(SPECS[kind], head=head)
    c, action, obs = critic(spec, ensemble=3), actions(spec, 5), normal(5, 3)
    single = critic(spec)
    for member in range(3):
        with torch.no_grad():
            for mine, theirs in zip(single.parameters(), c.parameters(), strict=True):
                mine.copy_(theirs[member].view_as(mine))
        torch.testing.assert_close(single(obs, action)[0], c(obs, action)[member], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", SPECS)
def test_training_leads_every_kind_of_c_to_its_targets(kind: str, head: Any) -> None:
    spec = replace(SPECS[kind], head=head, ensemble=2)
    codec = Codec(OBS, spaces.Discrete(4, start=2) if kind == "discrete" else BOX)
    c, obs, action = Critic(spec, generator()), normal(128, 3), actions(spec, 128)
    inner = None if action is None else codec.tensor(codec.agent_action(action.numpy()))
    target = 30 * obs[:, 0] + 100
    if action is not None:
        target = target + (10 * action if kind == "discrete" else 10 * action.sum(1))
    weight = torch.ones(128)
    weight[::7] = 0
    weight /= weight.sum()
    spoilt = torch.where(weight.bool(), target, -1e4)  # rows that do not count
    c.adapt(spoilt, weight)
    optimizer = Optimizer(c, lr=1e-2)
    for _ in range(300):
        descend(optimizer, c.loss(c.features(obs), inner, spoilt, weight))
    error = (c(obs, action) - target)[:, weight.bool()]
    assert error.abs().mean() < 0.1 * target.std()


def test_the_loss_of_discrete_actions_touches_the_taken_column_only() -> None:
    c = critic(DISCRETE)
    loss = c.loss(c.features(normal(6, 3)), torch.full((6,), 1), torch.zeros(6), torch.full((6,), 1 / 6))
    gradient = torch.autograd.grad(loss, c.net.biases[-1])[0].view(4, -1).abs().sum(1)
    assert gradient[1] > 0 and gradient[[0, 2, 3]].eq(0).all()


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_a_batch_of_reset_rows_alone_teaches_nothing_and_breaks_nothing(head: Any) -> None:
    c = critic(STATE, head=head)
    loss = c.loss(c.features(normal(4, 3)), None, torch.ones(4), torch.zeros(4))
    gradients = torch.autograd.grad(loss, list(c.parameters()))
    assert loss == 0 and all((g == 0).all() for g in gradients)


# The scale ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("cost", [1e-3, -1e-3, 1e3, -1e3])
def test_constant_cost_is_learnt_by_bootstrapping_without_clipping(cost: float, head: Any) -> None:
    gamma, rows = 0.99, 64
    c = Critic(CriticSpec((2,), "none", head=head, hidden=(16,)), generator())
    optimizer = Optimizer(c, lr=1e-2)
    draw, outside, clipped = generator(1), [], []
    column = torch.full((rows, 1), cost), torch.full((rows, 1), gamma)
    goes_on, weight = torch.zeros(rows, 1, dtype=torch.bool), torch.full((rows,), 1 / rows)
    for _ in range(100):
        obs = 2 * torch.rand(rows, 2, generator=draw) - 1
        with torch.no_grad():
            value = c(obs)[0].view(rows, 1)
        target = lambda_return(*column, value, goes_on, 1.0).flatten()
        clipped.append(c.adapt(target, weight).get("clipped_targets", torch.zeros(())))
        outside.append((c.cost_scale.scaled(target).abs() > LIMIT).float().mean())
        for _ in range(8):
            descend(optimizer, c.loss(c.features(obs), None, target, weight))
    assert torch.stack(clipped).mean() < 1e-3 and torch.stack(outside).mean() < 1e-3
    truth = cost / (1 - gamma)
    prediction = c(2 * torch.rand(500, 2, generator=draw) - 1)
    assert (prediction - truth).abs().max() < 0.05 * abs(truth)
    # Negative control: in units of 1, the large targets lie outside and the small ones within a single bin.
    assert abs(truth) > LIMIT if abs(cost) > 1 else 2 * abs(truth) < 3 * 2 * LIMIT / c.spec.bins


def test_costs_of_zero_do_not_spoil_the_first_real_one() -> None:
    for head in ("regression", "hl_gauss"):
        c = Critic(CriticSpec((2,), "none", head=head, hidden=(16,)), generator())  # type: ignore[arg-type]
        optimizer, obs, weight = Optimizer(c, lr=1e-2), normal(32, 2), torch.full((32,), 1 / 32)
        for target, passes in ((torch.zeros(32), 20), (3 + obs[:, 0], 300)):
            c.adapt(target, weight)
            before = c(obs)
            assert torch.isfinite(before).all()  # and somewhere between the old costs and the new
            assert before.min() > min(0, target.min()) - 1 and before.max() < max(0, target.max()) + 1
            for _ in range(passes):
                descend(optimizer, c.loss(c.features(obs), None, target, weight))
        assert (c(obs) - target).abs().mean() < 0.2, head


def test_the_clipped_share_is_counted() -> None:
    c = Critic(STATE)
    c.cost_scale.update = lambda target, weight: (1.0, 0.0)  # type: ignore[method-assign]
    target = torch.tensor([1.0, 4.9, 5.1, -100.0, 1e9])
    assert c.adapt(target, torch.full((5,), 1 / 5))["clipped_targets"].item() == pytest.approx(3 / 5)
    weight = torch.tensor([1.0, 1, 1, 1, 0]) / 4
    assert c.adapt(target, weight)["clipped_targets"].item() == pytest.approx(2 / 4)


def trained(head: Any) -> tuple[Critic, Tensor]:
    """A C that knows a cost which it saw with noise, as returns are."""
    c, obs, draw = Critic(CriticSpec((2,), "none", head=head), generator()), normal(256, 2), generator(3)
    cost, weight = 20 * torch.sin(2 * obs[:, 0]) + 10 * obs[:, 1].tanh(), torch.full((256,), 1 / 256)
    optimizer = Optimizer(c, lr=1e-2)
    for _ in range(400):
        target = cost + 10 * torch.randn(256, generator=draw)
        c.adapt(target, weight)
        descend(optimizer, c.loss(c.features(obs), None, target, weight))
    assert (c(obs)[0] - cost).abs().mean() < 0.15 * cost.std()
    return c, obs


def test_predictions_stay_when_the_scale_moves() -> None:
    for head in ("regression", "hl_gauss"):
        fitted, obs = trained(head)
        before, old, shift = fitted(obs).detach(), fitted.cost_scale.scale.item(), fitted.cost_scale.shift.item()
        for larger in (1.001, 1.5, 2.5):  # how far the largest target lies beyond the old support
            c = deepcopy(fitted)
            c.adapt(torch.full((256,), shift + larger * LIMIT * old), torch.full((256,), 1 / 256))
            new, moved = c.cost_scale.scale.item(), c.cost_scale.shift.item()
            assert new > 1.1 * old
            jump = (c(obs) - before).abs()
            if head == "regression":
                torch.testing.assert_close(c(obs), before, rtol=1e-4, atol=1e-4)
            else:
                assert jump.mean() < 0.1 * c.head.width * new
                assert jump.max() < 0.6 * c.head.width * new
            # Negative control: the same move of the scale without the last layer's correction.
            stale = deepcopy(fitted)
            stale.cost_scale.scale.fill_(new), stale.cost_scale.shift.fill_(moved)
            torch.testing.assert_close(stale(obs), moved + (before - shift) * (new / old), rtol=1e-3, atol=1e-3)
            assert (stale(obs) - before).abs().mean() > 5 * jump.mean()


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_a_prediction_that_only_the_bias_makes_stays_when_the_scale_moves(head: Any) -> None:
    """Where an observation never varies, ReLU leaves the last layer's weights at their initial 0 for ever."""
    c = Critic(replace(STATE, head=head, activation="relu"), generator())
    obs, target, weight = torch.zeros(20, 3), torch.linspace(4, 6, 20), torch.full((20,), 0.05)
    c.adapt(target, weight)
    optimizer = Optimizer(c, lr=1e-2)
    for _ in range(1000):
        descend(optimizer, c.loss(c.features(obs), None, target, weight))
    before = c(obs).detach()
    assert not c.net.weights[-1].any() and before.mean().item() == pytest.approx(5, abs=0.3)
    c.adapt(torch.tensor([5.0, 20.0]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(c(obs), before, rtol=0, atol=0.3)


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
def test_a_critic_that_has_learnt_nothing_starts_in_the_middle(head: Any) -> None:
    c = Critic(replace(STATE, head=head), generator())
    c.adapt(torch.tensor([90.0, 110.0]), torch.tensor([0.5, 0.5]))
    expected = 100.0 if head == "hl_gauss" else 0.0  # a number has no bounds to be in the middle of
    torch.testing.assert_close(c(normal(6, 3)), torch.full((1, 6), expected), rtol=1e-5, atol=1e-3)


def test_rescaling_keeps_every_action_and_member() -> None:
    c = critic(DISCRETE, head="regression", ensemble=3)
    obs = normal(6, 3)
    before = c(obs).detach()
    c.adapt(torch.full((4,), 1e5), torch.full((4,), 0.25))
    assert c.cost_scale.scale > 1e3
    torch.testing.assert_close(c(obs), before, rtol=1e-4, atol=1e-3)


# In a user's graph ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_the_gradient_runs_through_c_into_a_users_model(kind: str, head: Any) -> None:
    c = critic(SPECS[kind], head=head).double()
    torch.manual_seed(0)
    user = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4 if kind == "discrete" else 2)).double()
    obs, z = normal(7, 3).double(), normal(7, 5, seed=3).double()

    def loss() -> Tensor:
        out = user(z)
        if kind == "discrete":
            return c.expected(obs, out.softmax(-1)).mean()
        return c(obs, torch.tensor([2.5, -2.0]) + out.tanh() * torch.tensor([2.5, 1.0])).mean()

    loss().backward()
    for parameter in user.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, flat.numel(), 5):
            old, step = flat[i].item(), 1e-5
            flat[i] = old + step
            up = loss().item()
            flat[i] = old - step
            down = loss().item()
            flat[i] = old
            assert gradient[i].item() == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)
    assert max(p.grad.abs().max().item() for p in user.parameters() if p.grad is not None) > 1e-3


def test_the_gradient_reaches_the_observation_too() -> None:
    c = critic(STATE).double()
    obs = normal(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: c(o), obs)


# As a file ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("kind", SPECS)
def test_a_saved_c_comes_back_bit_for_bit(kind: str, head: Any, tmp_path: Path) -> None:
    spec = replace(SPECS[kind], head=head, ensemble=2, layer_norm=True, hidden=(8, 9), activation="silu", dropout=0.1)
    c = critic(spec)
    c.save(tmp_path / "c")
    again = Critic.load(tmp_path / "c")
    assert again.spec == c.spec
    assert {name: value.tolist() for name, value in again.state_dict().items()} == {
        name: value.tolist() for name, value in c.state_dict().items()
    }
    obs, action = normal(5, 3), actions(spec, 5)
    assert torch.equal(again(obs, action), c(obs, action))
    assert again.cost_scale.scale == 7.0 and again.obs_norm.count == 100
    optimizer = Optimizer(again)  # it can go on learning
    before = again(obs, action).detach()
    inner = None if action is None else action - 2 if kind == "discrete" else torch.zeros(5, 2)
    descend(optimizer, again.loss(again.features(obs), inner, torch.ones(5), torch.full((5,), 0.2)))
    assert not torch.equal(again(obs, action), before)


def test_what_is_no_critic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        Critic.load(tmp_path / "nothing")
    checkpoint.write(tmp_path / "agent", {"w": torch.zeros(1)}, {"kind": "agent"})
    with pytest.raises(UserError, match="must be a critic"):
        Critic.load(tmp_path / "agent")


@pytest.mark.parametrize("damage", ["no tensor", "other shape", "no spec", "unknown field"])
def test_a_critic_whose_parts_do_not_fit_is_one_clear_line(damage: str, tmp_path: Path) -> None:
    c = critic(STATE)
    tensors, meta = c.state_dict(), {"kind": "critic", "spec": json.loads(json.dumps(c.spec.__dict__))}
    if damage == "no tensor":
        tensors.popitem()
    elif damage == "other shape":
        meta["spec"]["bins"] = 51
    elif damage == "no spec":
        del meta["spec"]
    else:
        meta["spec"]["colour"] = "red"
    checkpoint.write(tmp_path / "c", tensors, meta)
    with pytest.raises(UserError, match="is damaged") as caught:
        Critic.load(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_obs_of_another_shape_are_refused_and_not_broadcast() -> None:
    c = critic(SPECS["box"])
    for obs in (torch.zeros(3, 1), torch.zeros(3)):
        with pytest.raises(UserError, match="this C takes"):
            c(obs, torch.zeros(len(obs), 2))


@pytest.mark.parametrize(
    ("name", "action", "said"),
    [
        ("box", torch.zeros(4, 3), r"action has shape \(4, 3\): this C takes \[4, 2\] beside obs"),
        ("box", torch.zeros(3, 2), r"action has shape \(3, 2\): this C takes \[4, 2\] beside obs"),
        ("box", torch.zeros(2), r"action has shape \(2,\): this C takes \[4, 2\] beside obs"),
        ("discrete", torch.zeros(4, 1, dtype=torch.int64), r"action has shape \(4, 1\): this C takes \[4\] beside obs"),
        ("discrete", torch.zeros(5, dtype=torch.int64), r"action has shape \(5,\): this C takes \[4\] beside obs"),
        ("discrete", torch.zeros(4), r"action holds torch.float32: this C takes whole numbers"),
    ],
)
def test_an_action_of_another_form_is_refused(name: str, action: torch.Tensor, said: str) -> None:
    c = critic(SPECS[name])
    with pytest.raises(UserError, match=said):
        c(normal(4, 3), action)


def test_an_action_may_be_flat_or_shaped_and_probs_must_fit() -> None:
    flat = torch.zeros(4, 2)
    c = critic(SPECS["box"])
    assert torch.equal(c(normal(4, 3), flat), c(normal(4, 3), flat.view(4, 2, 1)))
    c = critic(SPECS["discrete"])
    n = SPECS["discrete"].action_size
    assert c.expected(normal(4, 3), torch.full((4, n), 1 / n)).shape[1:] == (4,)
    for wrong in (torch.ones(4, n + 1), torch.ones(n), torch.ones(1, n)):
        with pytest.raises(UserError, match=rf"probs has shape .*: this C takes \[4, {n}\] beside obs"):
            c.expected(normal(4, 3), wrong)


def test_equal_bounds_of_an_action_give_a_cost_and_no_nan() -> None:
    c = Critic(CriticSpec((3,), "box", 2, low=(0.0, 1.0), high=(2.0, 1.0)))
    assert torch.isfinite(c(normal(4, 3), torch.ones(4, 2))).all()
