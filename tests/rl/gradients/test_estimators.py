"""The gradient that reaches the actor: equal to finite differences, unbiased where it claims to be, no trace in C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from costgrad.agents.a2c import Rows
from costgrad.rl.gradients.estimators import (
    clipped_score,
    control_variate,
    expected_and_taken,
    expected_cost,
    pathwise,
    policy_gradient,
    score,
)
from costgrad.rl.networks.actor import CategoricalActor, GaussianActor
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.distributions import Categorical, Policy, SquashedGaussian
from costgrad.rl.optim import Optimizer, descend

DISCRETE = CriticSpec((3,), "discrete", 4, hidden=(16,))
BOX = CriticSpec((3,), "box", 2, low=(0.0, -3.0), high=(5.0, -1.0), hidden=(16,))
Actor = CategoricalActor | GaussianActor
Module = TypeVar("Module", bound=torch.nn.Module)


def actor_loss(kind: str, critic: Critic, pi: Policy, samples: Tensor | None, row: Rows) -> Tensor:
    taken = (row.sample, row.action)
    return policy_gradient(kind, critic, row.x, pi, samples, taken, row.returns, row.advantage)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def opinionated(module: Module, seed: int) -> Module:
    """Float64, its weights far from where they start."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
    return module


def pair(spec: CriticSpec, **settings: Any) -> tuple[Critic, Actor]:
    critic = opinionated(Critic(replace(spec, **settings), generator()), 1)
    critic.cost_scale.scale.fill_(3.0)
    actor: Actor = CategoricalActor(3, 4, (8,)) if spec.action == "discrete" else GaussianActor(3, 2, (8,))
    return critic, opinionated(actor, 2)


def rows(actor: Actor, critic: Critic, n: int = 9) -> Rows:
    """A rollout of which row 3 does not count."""
    x = normal(n, 3)
    with torch.no_grad():
        pi = actor(x)
        sample = pi.sample(actor.noise(n, generator=generator(4)).double())
    weight = torch.ones(n, dtype=torch.float64)
    weight[3] = 0
    return Rows(x, pi.action(sample), sample, 5 * normal(n, seed=5), 5 * normal(n, seed=6), weight / weight.sum())


def taken_cost(critic: Critic, x: Tensor, action: Tensor) -> Tensor:
    """C(s, a) by its definition: the column of the action taken or the action put in, the mean over the ensemble."""
    if critic.spec.action == "box":
        return critic.cost(x, action).mean(0)
    return critic.cost(x).mean(0)[torch.arange(len(x)), action]


def finite_differences(loss: Callable[[], Tensor], parameter: Tensor, entries: range) -> list[float]:
    flat, slopes = parameter.data.view(-1), []
    for i in entries:
        old, step = flat[i].item(), 1e-5
        flat[i] = old + step
        up = loss().item()
        flat[i] = old - step
        slopes.append((up - loss().item()) / (2 * step))
        flat[i] = old
    return slopes


@pytest.mark.parametrize(
    "settings", [{"head": "regression"}, {"head": "hl_gauss"}, {"head": "hl_gauss", "ensemble": 3}]
)
@pytest.mark.parametrize("spec", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_actors_gradient_through_c_equals_finite_differences(spec: CriticSpec, settings: dict[str, Any]) -> None:
    critic, actor = pair(spec, **settings)
    row = rows(actor, critic)
    noise = None if spec.action == "discrete" else normal(4, 9, 2, seed=7)

    def loss() -> Tensor:
        pi = actor(row.x)
        return actor_loss("pathwise", critic, pi, None if noise is None else pi.sample(noise), row) @ row.weight

    agrees_with_finite_differences(loss, actor, torch.autograd.grad(loss(), list(actor.parameters())))


def agrees_with_finite_differences(
    loss: Callable[[], Tensor], actor: Actor, gradient: tuple[Tensor, ...], sign: int = 1
) -> None:
    largest = 0.0
    for parameter, slope in zip(actor.parameters(), gradient, strict=True):
        entries = range(0, parameter.numel(), 3)
        for got, expected in zip(slope.view(-1)[::3], finite_differences(loss, parameter, entries), strict=True):
            assert sign * got.item() == pytest.approx(expected, rel=1e-5, abs=1e-8)
            largest = max(largest, abs(expected))
    assert largest > 1e-3  # there was a gradient to get wrong


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("kind", ["pathwise", "control_variate"])
def test_with_discrete_actions_the_gradient_is_right_without_a_graph_through_c(kind: str, ensemble: int) -> None:
    critic, actor = pair(DISCRETE, ensemble=ensemble)
    row, costs = rows(actor, critic), watched(critic)

    def loss() -> Tensor:
        return actor_loss(kind, critic, actor(row.x), None, row) @ row.weight

    once = loss()
    assert len(costs) == 1 and not costs[0].requires_grad
    assert all(g is None for g in torch.autograd.grad(once, list(critic.parameters()), allow_unused=True))
    gradient = torch.autograd.grad(loss(), list(actor.parameters()))
    agrees_with_finite_differences(loss, actor, gradient)
    with pytest.raises(AssertionError):  # a wrong sign is noticed
        agrees_with_finite_differences(loss, actor, gradient, sign=-1)
    # And it is the gradient that the graph through C would give, for C is no function of theta.
    pi = actor(row.x)
    expected = (pi.log_probs.exp() * critic.cost(row.x).mean(0)).sum(-1)
    if kind == "control_variate":
        expected = expected + pi.log_prob(row.sample) * (row.returns - taken_cost(critic, row.x, row.action)).detach()
    through_c = torch.autograd.grad(expected @ row.weight, list(actor.parameters()))
    for ours, theirs in zip(gradient, through_c, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_with_continuous_actions_the_graph_runs_through_c_for_fresh_actions_alone() -> None:
    """The negative control of the above: here the gradient has no other way to the actor."""
    critic, actor = pair(BOX)
    row, costs = rows(actor, critic), watched(critic)
    pi = actor(row.x)
    loss = actor_loss("control_variate", critic, pi, pi.sample(normal(4, 9, 2, seed=7)), row) @ row.weight
    assert sorted((cost.shape[-1], cost.requires_grad) for cost in costs) == [(9, False), (4 * 9, True)]
    assert any(g is not None and g.any() for g in torch.autograd.grad(loss, list(critic.net.parameters())))


def watched(critic: Critic) -> list[Tensor]:
    """Every cost that C gives from now on."""
    given: list[Tensor] = []
    cost = critic.cost
    critic.cost = lambda x, action=None: given.append(cost(x, action)) or given[-1]  # type: ignore[method-assign,func-returns-value]
    return given


@pytest.mark.parametrize("kind", ["pathwise", "score", "control_variate"])
def test_rows_that_do_not_count_have_no_part_in_the_loss(kind: str) -> None:
    for spec in (DISCRETE, BOX):
        critic, actor = pair(spec)
        row = rows(actor, critic)
        noise = None if spec.action == "discrete" else normal(4, 9, 2, seed=7)
        changed = row._replace(returns=row.returns.clone(), x=row.x.clone(), advantage=row.advantage.clone())
        changed.returns[3], changed.x[3], changed.advantage[3] = 1e5, 2.0, -1e5
        losses = []
        for r in (row, changed):
            pi = actor(r.x)
            losses.append(actor_loss(kind, critic, pi, None if noise is None else pi.sample(noise), r))
        assert losses[0].shape == (9,)
        assert not torch.isclose(losses[0][3], losses[1][3])  # a row's loss is its own affair, and none of the others'
        torch.testing.assert_close(losses[0] @ row.weight, losses[1] @ row.weight)


@pytest.mark.parametrize("kind", ["pathwise", "score", "control_variate"])
@pytest.mark.parametrize("spec", [DISCRETE, BOX], ids=["discrete", "box"])
def test_an_actor_step_leaves_no_trace_in_c_nor_c_in_the_actor(spec: CriticSpec, kind: str) -> None:
    critic, actor = pair(spec)
    row = rows(actor, critic)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    actor_optimizer, critic_optimizer = Optimizer(actor, lr=0.1), Optimizer(critic, lr=0.1)
    start = {name: value.clone() for name, value in actor.state_dict().items()}
    pi = actor(row.x)
    fresh = None if spec.action == "discrete" else pi.sample(normal(4, 9, 2, seed=7))
    descend(actor_optimizer, actor_loss(kind, critic, pi, fresh, row) @ row.weight)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in critic.parameters())
    assert all(torch.equal(before[name], value) for name, value in critic.state_dict().items())
    moved = {name: value.clone() for name, value in actor.state_dict().items()}
    assert any(not torch.equal(start[name], value) for name, value in moved.items())

    descend(critic_optimizer, critic.loss(row.x, row.action, row.returns, row.weight))
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in actor.parameters())
    assert all(torch.equal(moved[name], value) for name, value in actor.state_dict().items())
    assert any(not torch.equal(before[name], value) for name, value in critic.state_dict().items())


def test_expected_cost_is_the_enumeration_and_the_mean_over_samples() -> None:
    critic, actor = pair(DISCRETE, ensemble=2)
    x = normal(6, 3)
    pi = actor(x)
    assert isinstance(pi, Categorical)
    each = torch.stack([taken_cost(critic, x, torch.full((6,), a)) for a in range(4)], -1)
    torch.testing.assert_close(expected_cost(critic, x, pi, None), (pi.log_probs.exp() * each).sum(-1))

    critic, actor = pair(BOX, ensemble=2)
    box = actor(x)
    assert isinstance(box, SquashedGaussian)
    sample = box.sample(normal(5, 6, 2, seed=1))
    each = torch.stack([taken_cost(critic, x, box.action(s)) for s in sample])
    torch.testing.assert_close(expected_cost(critic, x, box, sample), each.mean(0))

    critic = opinionated(Critic(CriticSpec((3,), "none"), generator()), 1)
    torch.testing.assert_close(expected_cost(critic, x, box, None), critic.cost(x)[0])


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("spec", [DISCRETE, BOX], ids=["discrete", "box"])
def test_expected_and_taken_are_the_expected_cost_and_the_cost_of_the_action(spec: CriticSpec, ensemble: int) -> None:
    critic, actor = pair(spec, ensemble=ensemble)
    row = rows(actor, critic)
    slopes = []
    for both in (True, False):
        pi = actor(row.x)
        fresh = None if spec.action == "discrete" else pi.sample(normal(4, 9, 2, seed=7))
        if both:
            expected, taken = expected_and_taken(critic, row.x, pi, fresh, row.action)
            torch.testing.assert_close(taken, taken_cost(critic, row.x, row.action))
            assert (taken - expected).abs().max() > 0.01  # they are not one and the same
        else:
            torch.testing.assert_close(expected, expected_cost(critic, row.x, pi, fresh))
            expected = expected_cost(critic, row.x, pi, fresh)
        slopes.append(torch.autograd.grad(expected.sum(), list(actor.parameters())))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("spec", [DISCRETE, BOX], ids=["discrete", "box"])
def test_advantage_and_residual_carry_no_gradient(spec: CriticSpec) -> None:
    critic, actor = pair(spec)
    row = rows(actor, critic)
    pi = actor(row.x)
    fresh = None if spec.action == "discrete" else pi.sample(normal(4, 9, 2, seed=7))
    expected, taken = expected_and_taken(critic, row.x, pi, fresh, row.action)
    assert expected.requires_grad and not taken.requires_grad
    log_prob = pi.log_prob(row.sample)
    loss = control_variate(expected, log_prob, row.returns, taken)
    slopes = torch.autograd.grad(loss.sum(), (expected, log_prob), retain_graph=True)
    torch.testing.assert_close(slopes[0], torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(slopes[1], row.returns - taken)
    assert torch.equal(torch.autograd.grad(score(log_prob, row.advantage).sum(), log_prob)[0], row.advantage)
    assert pathwise(expected) is expected
    if spec.action == "box":  # where C has a slope at all, it is the expectation's alone
        leaking = expected + log_prob * (row.returns - taken_cost(critic, row.x, row.action))
        of_expected, of_loss, of_leaking = (
            torch.autograd.grad(rows_loss.sum(), critic.net.biases[-1], retain_graph=True)[0]
            for rows_loss in (expected, loss, leaking)
        )
        torch.testing.assert_close(of_loss, of_expected)
        assert not torch.allclose(of_leaking, of_expected)  # negative control


# Bias: one state, four actions, all of it enumerable ------------------------------------------------------------------

COST = torch.tensor([4.0, -1.0, 2.0, 0.5], dtype=torch.float64)  # the truth, E[G | a]


def of_logits(logits: Tensor, critic: Critic, x: Tensor, action: Tensor, returns: Tensor, kind: str) -> Tensor:
    """The gradient estimate of one batch with respect to the four logits."""
    logits = logits.clone().requires_grad_()
    pi = Categorical(logits.expand(len(action), 4))
    n = len(action)
    value = expected_cost(critic, x, pi, None).detach()
    row = Rows(x, action, action, returns, returns - value, torch.full((n,), 1 / n, dtype=torch.float64))
    return torch.autograd.grad(actor_loss(kind, critic, pi, None, row) @ row.weight, logits)[0]


def true_gradient(logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(torch.softmax(logits, 0) @ COST, logits)[0]


def test_control_variate_and_score_are_exactly_unbiased_for_a_wrong_c_and_pathwise_is_not() -> None:
    critic, _ = pair(DISCRETE)  # knows nothing of COST
    logits, one = torch.tensor([0.3, -0.5, 0.2, 1.0], dtype=torch.float64), normal(1, 3)
    probs, truth = torch.softmax(logits, 0), true_gradient(logits)
    for kind in ("control_variate", "score", "pathwise"):
        mean = sum(
            probs[a] * of_logits(logits, critic, one, torch.tensor([a]), COST[a : a + 1], kind) for a in range(4)
        )
        if kind == "pathwise":
            assert (mean - truth).norm() > 0.3 * truth.norm()  # negative control: C's error comes through
        else:
            torch.testing.assert_close(mean, truth)


def within_three_standard_errors(estimates: list[Tensor], truth: Tensor) -> bool:
    stack = torch.stack(estimates)
    error = stack.std(0) / len(estimates) ** 0.5
    return bool(((stack.mean(0) - truth).abs() <= 3 * error + 1e-9).all())


def test_control_variate_is_unbiased_with_noisy_returns_discrete() -> None:
    critic, _ = pair(DISCRETE)
    logits, draw, n = torch.tensor([0.3, -0.5, 0.2, 1.0], dtype=torch.float64), generator(3), 500
    x, estimates = normal(1, 3).expand(n, 3), {"pathwise": [], "control_variate": []}
    for _ in range(100):
        action = torch.multinomial(torch.softmax(logits, 0), n, replacement=True, generator=draw)
        returns = COST[action] + torch.randn(n, generator=draw, dtype=torch.float64)
        for kind, found in estimates.items():
            found.append(of_logits(logits, critic, x, action, returns, kind))
    truth = true_gradient(logits)
    assert within_three_standard_errors(estimates["control_variate"], truth)
    assert not within_three_standard_errors(estimates["pathwise"], truth)
    assert (torch.stack(estimates["pathwise"]).mean(0) - truth).norm() > 0.3 * truth.norm()


def test_control_variate_is_unbiased_for_a_quadratic_cost_continuous() -> None:
    """G = (u - goal)^2 of the point u before tanh: d E[G] / d mean = 2 (mean - goal), d / d log std = 2 std^2."""
    critic, _ = pair(BOX)
    goal = torch.tensor([0.8, -0.3], dtype=torch.float64)
    mean = torch.tensor([0.2, 0.1], dtype=torch.float64)
    log_std = torch.tensor([-0.7, -0.4], dtype=torch.float64)
    truth = torch.cat((2 * (mean - goal), 2 * (2 * log_std).exp()))
    draw, n = generator(3), 500
    x, estimates = normal(1, 3).expand(n, 3), {"pathwise": [], "control_variate": []}
    for _ in range(120):
        parameters = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        pi = SquashedGaussian(parameters[0].expand(n, 2), parameters[1])
        with torch.no_grad():
            sample = pi.sample(torch.randn(n, 2, generator=draw, dtype=torch.float64))
            returns = (sample - goal).square().sum(-1) + torch.randn(n, generator=draw, dtype=torch.float64)
        fresh = pi.sample(torch.randn(2, n, 2, generator=draw, dtype=torch.float64))
        weight = torch.full((n,), 1 / n, dtype=torch.float64)
        row = Rows(x, pi.action(sample), sample, returns, returns, weight)
        for kind, found in estimates.items():
            loss = actor_loss(kind, critic, pi, fresh, row) @ row.weight
            found.append(torch.cat(torch.autograd.grad(loss, parameters, retain_graph=True)))
    assert within_three_standard_errors(estimates["control_variate"], truth)
    assert not within_three_standard_errors(estimates["pathwise"], truth)
    assert (torch.stack(estimates["pathwise"]).mean(0) - truth).norm() > 0.3 * truth.norm()


def test_a_good_c_makes_the_control_variate_less_noisy_than_the_score() -> None:
    """The last layer's biases of a C without hidden opinion are its costs: set them to the truth."""
    critic = Critic(replace(DISCRETE, head="regression"), generator()).double()
    with torch.no_grad():
        critic.net.biases[-1].view(-1).copy_(COST)
    logits, draw, n = torch.zeros(4, dtype=torch.float64), generator(3), 20
    x, estimates = normal(n, 3), {"score": [], "control_variate": []}
    for _ in range(200):
        action = torch.multinomial(torch.softmax(logits, 0), n, replacement=True, generator=draw)
        returns = COST[action] + 0.1 * torch.randn(n, generator=draw, dtype=torch.float64)
        for kind, found in estimates.items():
            found.append(of_logits(logits, critic, x, action, returns, kind))
    spread = {kind: torch.stack(found).std(0).norm() for kind, found in estimates.items()}
    assert spread["control_variate"] < 0.2 * spread["score"]


def test_an_overfitted_c_makes_the_residual_vanish_and_brings_the_bias_back() -> None:
    n = 24
    critic = opinionated(Critic(replace(DISCRETE, head="regression", hidden=(64,)), generator()), 1)
    logits, x = torch.tensor([0.3, -0.5, 0.2, 1.0], dtype=torch.float64), normal(n, 3)
    action = torch.multinomial(torch.softmax(logits, 0), n, replacement=True, generator=generator(5))
    returns = COST[action] + 3 * normal(n, seed=6)
    before = of_logits(logits, critic, x, action, returns, "control_variate")

    # Solve the last layer so that C equals each of this rollout's returns.
    hidden = torch.tanh(x @ critic.net.weights[0].view(3, 64) + critic.net.biases[0].view(64))
    with torch.no_grad():
        for a in range(4):
            of_a = action == a
            solution = torch.linalg.lstsq(hidden[of_a], returns[of_a].unsqueeze(1), driver="gelsd").solution
            critic.net.weights[-1].view(64, 4)[:, a] = solution.squeeze(1)
        critic.net.biases[-1].zero_()
    torch.testing.assert_close(taken_cost(critic, x, action), returns)

    after = of_logits(logits, critic, x, action, returns, "control_variate")
    through_c = of_logits(logits, critic, x, action, returns, "pathwise")
    torch.testing.assert_close(after, through_c)  # the correction is gone
    assert (after - true_gradient(logits)).norm() > 0.2 * true_gradient(logits).norm()
    assert (before - through_c).norm() > 0.2 * through_c.norm()


# The clip of PPO ------------------------------------------------------------------------------------------------------


def slope_of_clipped(ratio: float, advantage: float, clip: float = 0.2) -> tuple[float, float]:
    """Value of the loss, and its slope in the ratio's log."""
    log_ratio = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    loss, slope = clipped_score(log_ratio, torch.tensor([advantage], dtype=torch.float64), clip)
    return loss.item(), slope.item()


def test_where_the_policy_has_not_moved_the_clipped_gradient_is_the_scores() -> None:
    critic, actor = pair(DISCRETE)
    row = rows(actor, critic)
    log_prob = actor(row.x).log_prob(row.sample)
    clipped, _ = clipped_score(log_prob - log_prob.detach(), row.advantage, 0.2)
    torch.testing.assert_close(clipped.detach(), row.advantage)  # r = 1: the value is the advantage itself
    parameters = list(actor.parameters())
    ours = torch.autograd.grad(clipped.sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad(score(log_prob, row.advantage).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert max(g.abs().max() for g in ours) > 1e-3


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (0.7, 2.0, False),  # what cost more has become rarer, by more than the clip: enough
        (1.3, 2.0, True),  # what cost more has become likelier: back
        (1.3, -2.0, False),  # what cost less has become likelier: enough
        (0.7, -2.0, True),  # what cost less has become rarer: back
        (0.85, 2.0, True),
        (1.15, -2.0, True),
    ],
)
def test_the_clip_ends_the_gradient_in_the_good_direction_alone(ratio: float, advantage: float, moves: bool) -> None:
    value, slope = slope_of_clipped(ratio, advantage)
    assert slope == pytest.approx(ratio * advantage if moves else 0.0)
    assert value == pytest.approx(advantage * (ratio if moves else min(max(ratio, 0.8), 1.2)))


def test_the_clipped_loss_is_minus_the_papers_objective_of_minus_the_cost() -> None:
    """By cases: -min(r B, g(B)) with B = -A, and g = (1 + clip) B where B >= 0, else (1 - clip) B."""
    ratio, advantage = 0.2 + 2.5 * torch.rand(500, generator=generator()).double(), 3 * normal(500)
    loss, slope = clipped_score(x := ratio.log().requires_grad_(), advantage, 0.3)
    for r, a, got in zip(ratio.tolist(), (-advantage).tolist(), loss.tolist(), strict=True):
        bound = 1.3 * a if a >= 0 else 0.7 * a
        assert got == pytest.approx(-(r * a if r * a < bound else bound))
    # A step down this loss never makes dear actions likelier.
    assert (slope * advantage >= 0).all()
    # The slope that is told is that of the loss, and not everywhere that of the score.
    torch.testing.assert_close(slope, torch.autograd.grad(loss.sum(), x)[0])
    assert not torch.allclose(slope, ratio * advantage) and not torch.allclose(slope, torch.zeros(500).double())


def test_a_policy_that_has_not_moved_is_never_bounded() -> None:
    advantage = normal(50)
    for clip in (1e-6, 0.2, 1.0):
        _, slope = clipped_score(torch.zeros(50, dtype=torch.float64), advantage, clip)
        assert torch.equal(slope, advantage)


def test_a_ratio_beyond_float32_pushes_back_with_a_number() -> None:
    loss, slope = clipped_score(torch.full((3,), 90.0), torch.tensor([-1.0, 0.0, 1.0]), 0.2)
    assert torch.isfinite(loss).all() and slope[:2].tolist() == [0, 0] and 1e6 < slope[2] < 1e12
