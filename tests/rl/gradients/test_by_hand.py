"""Backpropagation by hand: it is autograd's gradient and the slope of finite differences, of whole actors and of C."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from costgrad.rl.gradients.by_hand import ActorPass, BatchNormPass, Pass, pass_of
from costgrad.rl.networks.actor import CategoricalActor, GaussianActor, StochasticActor
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.mlp import MLP

ROWS = 7
ACTORS = ("discrete", "even", "uneven", "box", "state_std")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def opinionated(module: Any) -> Any:
    """Float64, its parameters far from where they start."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * normal(*parameter.shape, seed=1))
    return module


def actor_of(kind: str, activation: Any = "tanh") -> StochasticActor:
    settings: dict[str, Any] = {"hidden": (8, 6), "activation": activation}
    if kind in ("box", "state_std"):
        return opinionated(GaussianActor(3, 2, state_std=kind == "state_std", **settings))
    return opinionated(CategoricalActor(3, {"discrete": 4, "even": (3, 3), "uneven": (2, 4, 3)}[kind], **settings))


class Loss:
    """A sum over rows of a log pi(sample) + e entropy, with any a and e; row 3 does not count."""

    def __init__(self, actor: StochasticActor) -> None:
        self.actor, self.x = actor, normal(ROWS, 3, seed=2)
        self.noise = actor.noise(5, ROWS, generator=generator(3)).double()
        with torch.no_grad():
            pi = actor(self.x)
            self.sample = pi.sample(actor.noise(ROWS, generator=generator(4)).double())
            self.samples = None if isinstance(actor, CategoricalActor) else pi.sample(self.noise)
        self.grad_log_prob, self.grad_entropy = normal(ROWS, seed=5), normal(ROWS, seed=6)
        self.grad_log_prob[3] = self.grad_entropy[3] = 0

    def value(self, entropy: bool = True) -> Tensor:
        pi = self.actor(self.x)
        loss = pi.log_prob(self.sample) @ self.grad_log_prob
        fresh = None if self.samples is None else pi.sample(self.noise)
        return loss + pi.entropy(fresh) @ self.grad_entropy if entropy else loss

    def gradient(self, entropy: bool = True) -> tuple[Tensor, ...]:
        by_hand = ActorPass(self.actor, self.x)
        assert not any(tensor.requires_grad for tensor in (by_hand.pi.columns(), by_hand.pi.log_prob(self.sample)))
        return by_hand.gradient(self.sample, self.grad_log_prob, self.grad_entropy if entropy else None, self.samples)


def close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    # Softplus, in the density behind tanh, is a straight line beyond 20 in torch: that is off by 2e-9.
    return all(torch.allclose(a, b, rtol=1e-8, atol=1e-8) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", ACTORS)
def test_an_actors_gradient_is_autograds(kind: str, activation: str) -> None:
    loss = Loss(actor_of(kind, activation))
    parameters = list(loss.actor.parameters())
    plain, whole = (torch.autograd.grad(loss.value(entropy), parameters) for entropy in (False, True))
    assert close(loss.gradient(entropy=False), plain) and close(loss.gradient(), whole)
    assert not close(loss.gradient(), plain)  # negative control: the entropy has a slope of its own
    assert all(gradient.abs().max() > 1e-4 for gradient in plain)


@pytest.mark.parametrize("kind", ACTORS)
def test_an_actors_gradient_is_the_slope_of_finite_differences(kind: str) -> None:
    loss = Loss(actor_of(kind))
    parameters, step = list(loss.actor.parameters()), 1e-6
    for seed, gradient in enumerate(loss.gradient()):
        way, ends = normal(*gradient.shape, seed=20 + seed), []
        for sign in (1, -2, 1):  # forwards, backwards, and back where it was
            with torch.no_grad():
                parameters[seed].add_(way, alpha=sign * step)
                ends.append(loss.value().item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert (gradient * way).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7) and abs(slope) > 1e-4


@pytest.mark.parametrize("kind", ["box", "state_std"])
@pytest.mark.parametrize("end", [-5.0, 2.0])
def test_a_spread_that_is_held_has_no_slope_and_one_at_the_end_has(kind: str, end: float) -> None:
    actor = actor_of(kind)
    assert isinstance(actor, GaussianActor)
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([end, end + end / 5]))
        if kind == "state_std":
            actor.net.weights[-1][:, 2:] = actor.net.biases[-1][2:] = 0
    loss = Loss(actor)
    ours = loss.gradient()
    assert close(ours, torch.autograd.grad(loss.value(), list(actor.parameters())))
    assert ours[0][0] != 0 and ours[0][1] == 0


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 6, 5, 4, 1)])
def test_a_nets_gradient_is_autograds(sizes: tuple[int, ...], activation: Any) -> None:
    net, x = opinionated(MLP(sizes, activation=activation)), normal(ROWS, 3, seed=2)
    through, slope = Pass(net, x), normal(ROWS, sizes[-1], seed=3)
    assert not through.output.requires_grad and torch.equal(through.output, net(x))
    theirs = torch.autograd.grad(net(x), list(net.parameters()), slope)
    assert close(tuple(through.gradient(slope)), theirs)
    assert not close(Pass(net, -x).gradient(slope), theirs)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("ensemble", "first"), [(None, False), (1, False), (3, False), (3, True)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_an_ensembles_slopes_are_autograds(outputs: int, ensemble: int | None, first: bool, activation: Any) -> None:
    net, x = opinionated(MLP((5, 6, 4, outputs), ensemble, activation)), normal(ROWS, 5, seed=2).requires_grad_()
    output = net(x, first=first)
    through, slope = pass_of(net, x.detach(), first=first, inputs=2), normal(*output.shape, seed=3)
    assert isinstance(through, Pass) and torch.equal(through.output, output)
    theirs = torch.autograd.grad(output, [x, *net.parameters()], slope, allow_unused=True)
    ours = (through.to_input(slope),)
    assert close(ours, (theirs[0][:, 3:],)) and not close(ours, (theirs[0][:, :2],))
    if not first:
        assert close(tuple(through.gradient(slope)), theirs[1:])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ensemble", [None, 1, 3])
@pytest.mark.parametrize("rows", [ROWS, 4])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_batch_normalised_nets_slopes_are_autograds(
    activation: Any, rows: int, ensemble: int | None, training: bool
) -> None:
    """Of the first rows alone too: in training a row moves the others, and all have a slope in the input."""
    net = opinionated(BatchNormMLP((5, 8, 7, 3), ensemble, activation)).train(training)
    twin, x = deepcopy(net), normal(ROWS, 5, seed=2).requires_grad_()
    output = twin(x)
    through, slope = pass_of(net, x.detach(), inputs=2), normal(*output.shape, seed=3)
    assert isinstance(through, BatchNormPass)
    torch.testing.assert_close(through.output, output)
    slope[..., rows:, :] = 0
    theirs = torch.autograd.grad(output, [x, *twin.parameters()], slope)
    given = slope[..., :rows, :].clone()
    net.train(not training)  # what held on the way there holds on the way back
    assert close(through.gradient(given), theirs[1:])
    assert close((through.to_input(given),), (theirs[0][:, 3:],))
    assert (theirs[0][rows:].abs().sum() > 0.01) == (training and rows < ROWS)
    for ours, buffer in zip(net.buffers(), twin.buffers(), strict=True):  # running statistics moved alike
        torch.testing.assert_close(ours, buffer)


@pytest.mark.parametrize("net", [MLP((3, 5, 2), 2, "relu"), MLP((3, 5, 2)), BatchNormMLP((3, 5, 2), 2)])
def test_a_gradient_lies_where_it_is_told_to(net: MLP) -> None:
    x = normal(ROWS, 3)
    through = pass_of(net.double(), x)
    slope = torch.ones_like(through.output)
    into = [torch.full_like(p, torch.nan) for p in net.parameters()]
    given, fresh = through.gradient(slope, into), through.gradient(slope)
    assert all(a is b for a, b in zip(given, into, strict=True)) and close(tuple(given), tuple(fresh))


@pytest.mark.parametrize(
    "net",
    [
        MLP((3, 5, 2), 2, "relu"),
        MLP((3, 5, 2), None, "tanh"),
        BatchNormMLP((3, 5, 2), 2, "relu"),
    ],
)
def test_the_first_rows_alone_have_a_slope(net: MLP) -> None:
    """As where the others only say what follows; a batch-normalised net's others move with them all the same."""
    opinionated(net)
    x, rows = normal(ROWS, 3, seed=2), 4
    slope = normal(*net(x).shape, seed=3)
    whole = slope.clone()
    whole[..., rows:, :] = 0
    theirs = torch.autograd.grad(net(x), list(net.parameters()), whole)
    assert close(tuple(pass_of(net, x).gradient(slope[..., :rows, :].clone())), theirs)
    assert not close(tuple(pass_of(net, x).gradient(slope)), theirs)
