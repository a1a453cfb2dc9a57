"""One flat parameter: the steps of torch's own optimisers, penalties on weights alone, no hand on what isn't owned."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from costgrad.rl.errors import UserError
from costgrad.rl.networks.mlp import MLP
from costgrad.rl.optim import Optimizer, check_owners, descend


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Holder(nn.Module):
    """An MLP and a parameter that is none of its weights, as an actor has."""

    def __init__(self, layer_norm: bool = False) -> None:
        super().__init__()
        self.net = MLP((3, 6, 2), layer_norm=layer_norm, generator=generator())
        self.log_std = nn.Parameter(torch.full((2,), 0.7))
        with torch.no_grad():
            for bias in self.net.biases:
                bias.add_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.log_std.exp()


def data(rows: int = 32) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, generator=generator(1)), torch.randn(rows, 2, generator=generator(2))


def error(module: nn.Module) -> Tensor:
    x, y = data()
    return (module(x) - y).square().mean()


def weights(module: Holder) -> list[Tensor]:
    return [p for name, p in module.named_parameters() if "weights." in name]


def shares_memory(optimizer: Optimizer, module: nn.Module) -> bool:
    start, end = optimizer.flat.data_ptr(), optimizer.flat.data_ptr() + 4 * optimizer.flat.numel()
    return all(start <= p.data_ptr() < end for p in module.parameters())


def test_parameters_keep_their_values_and_stay_views_through_steps_and_loading() -> None:
    module = Holder()
    before = deepcopy(module.state_dict())
    optimizer = Optimizer(module, lr=0.01)
    assert shares_memory(optimizer, module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    descend(optimizer, error(module))
    assert shares_memory(optimizer, module)
    assert not torch.equal(before["net.weights.0"], module.net.weights[0])
    module.load_state_dict(before)
    assert shares_memory(optimizer, module)
    assert torch.equal(optimizer.flat, torch.cat([value.flatten() for value in before.values()]))
    descend(optimizer, error(module))  # the loaded weights are those that move
    assert not torch.equal(before["net.weights.0"], module.net.weights[0])


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_steps_equal_torchs_optimiser_on_separate_parameters(kind: Any, clip: float) -> None:
    module, twin = Holder(), Holder()
    ours = Optimizer(module, kind, lr=0.01, max_grad_norm=clip)
    theirs: torch.optim.Optimizer = (
        torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-5)
        if kind == "adam"
        else torch.optim.RMSprop(twin.parameters(), lr=0.01, alpha=0.99, eps=1e-5)
    )
    for _ in range(20):
        norm = descend(ours, error(module))
        theirs.zero_grad()
        error(twin).backward()
        if clip:
            expected = nn.utils.clip_grad_norm_(twin.parameters(), clip)
        else:
            expected = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm()
        theirs.step()
        torch.testing.assert_close(norm, expected)
    for mine, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_clipping_cuts_long_gradients_and_leaves_short_ones() -> None:
    for clip, cut in ((0.01, True), (1e6, False)):
        module = Holder()
        optimizer = Optimizer(module, max_grad_norm=clip)
        norm = descend(optimizer, error(module))
        length = optimizer.gradient.norm()
        assert norm > 0.1  # what is reported is the length before
        torch.testing.assert_close(length, torch.tensor(clip) if cut else norm, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("l2", "l1"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_penalties_are_the_gradient_of_the_explicit_penalty_on_weights_alone(
    l2: float, l1: float, layer_norm: bool
) -> None:
    module, twin = Holder(layer_norm), Holder(layer_norm)
    optimizer = Optimizer(module, l2=l2, l1=l1)
    descend(optimizer, error(module))
    explicit = error(twin)
    for weight in weights(twin):
        explicit = explicit + l2 / 2 * weight.square().sum() + l1 * weight.abs().sum()
    slopes = torch.autograd.grad(explicit, list(twin.parameters()))
    torch.testing.assert_close(optimizer.gradient, torch.cat([slope.flatten() for slope in slopes]))


def test_biases_gains_and_spread_are_not_penalised() -> None:
    module = Holder(layer_norm=True)
    before = deepcopy(module.state_dict())
    optimizer = Optimizer(module, lr=0.01, l2=1.0, l1=1.0)
    for _ in range(5):
        descend(optimizer, sum((0.0 * p.sum() for p in module.parameters()), torch.zeros(())))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) != ("weights." in name), name


class Image(nn.Module):
    """A convolution, and layers whose parameters have the shapes of weights and are none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.norm = nn.LayerNorm((2, 3))  # its gain and its shift are matrices
        self.batch = nn.BatchNorm2d(2)
        self.members = MLP((6, 5, 2), 3, layer_norm=True, generator=generator())  # of an ensemble: biases [K, 1, n]
        self.own = nn.Linear(2, 2, bias=False)
        self.own.register_parameter("bias_of_each_member", nn.Parameter(torch.ones(3, 2)))


def test_the_weights_of_any_module_are_penalised_by_their_kind() -> None:
    module = Image()
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(0.5)
    before = deepcopy(module.state_dict())
    optimizer = Optimizer(module, lr=0.01, l2=1.0)
    optimizer.apply([torch.zeros_like(p) for p in module.parameters()])
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"conv.weight", "own.weight", "members.weights.0", "members.weights.1"}


def linear_fit(**penalty: float) -> Tensor:
    """Weights of 8 inputs of which only the first counts, y = 2 x_0 + noise."""
    x = torch.randn(200, 8, generator=generator(1))
    y = 2 * x[:, :1] + 0.5 * torch.randn(200, 1, generator=generator(2))
    net = MLP((8, 1), generator=generator())
    optimizer = Optimizer(net, lr=0.02, decay_steps=1000, **penalty)
    for step in range(1000):
        optimizer.anneal(step)
        descend(optimizer, (net(x) - y).square().mean() / 2)
    return net.weights[0].detach().flatten()


def test_l1_drives_irrelevant_weights_to_zero_and_l2_shrinks_all() -> None:
    plain, lasso, ridge = linear_fit(), linear_fit(l1=0.2), linear_fit(l2=1.0)
    assert plain[0] > 1.8 and plain[1:].abs().max() > 0.02
    assert lasso[1:].abs().max() < 2e-3 and 1.5 < lasso[0] < 1.95
    assert 0.8 < ridge[0] < 1.3  # (1 + l2) w = 2 for inputs of variance 1
    assert ridge[1:].abs().max() > 2e-3  # negative control: shrinking is not selecting


def test_learning_rate_falls_linearly_to_zero() -> None:
    module = Holder()
    optimizer = Optimizer(module, lr=0.5, decay_steps=200)
    lengths = []
    for step in (0, 100, 150, 200, 10_000):
        fresh = Holder()
        optimizer = Optimizer(fresh, lr=0.5, decay_steps=200)
        start = optimizer.flat.clone()
        optimizer.anneal(step)
        descend(optimizer, error(fresh))
        lengths.append((optimizer.flat - start).norm().item())
    assert lengths[0] > 0
    assert [length / lengths[0] for length in lengths] == pytest.approx([1.0, 0.5, 0.25, 0.0, 0.0], abs=1e-4)
    still = Optimizer(Holder(), lr=0.5)
    still.anneal(10**9)
    start = still.flat.clone()
    assert still.current_lr == 0.5 and torch.equal(still.flat, start)


def test_descend_touches_only_what_its_optimiser_owns() -> None:
    ours, other = Holder(), Holder()
    optimizer = Optimizer(ours, lr=0.1)
    before = deepcopy(other.state_dict())
    x, _ = data()
    other_input = ours(x).repeat(1, 2)[:, :3]
    descend(optimizer, other(other_input).square().mean())
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    assert all(p.grad is None for p in other.parameters())


def test_gradients_of_another_number_or_shape_are_refused_and_change_nothing() -> None:
    module = Holder()
    optimizer = Optimizer(module, l2=1.0)
    before, good = optimizer.flat.clone(), [torch.ones_like(p) for p in module.parameters()]
    for gradient in (good[:-1], [*good, good[0]], []):
        with pytest.raises(ValueError, match=f"^{len(gradient)} gradients for the 5 parameters of an optimizer$"):
            optimizer.apply(gradient)
    wrong = [*good[:1], torch.ones(1, 1), *good[2:]]  # would spread over the whole of its place
    said = r"^the gradient of net.weights.0 has shape \(1, 1\): its parameter has \(3, 6\)$"
    with pytest.raises(ValueError, match=said):
        optimizer.apply(wrong)
    assert torch.equal(optimizer.flat, before)
    optimizer.apply(good)
    assert not torch.equal(optimizer.flat, before)


def test_a_module_that_was_moved_is_refused() -> None:
    module = Holder()
    optimizer = Optimizer(module)
    check_owners({"net": module}, [optimizer])
    module.double()
    with pytest.raises(RuntimeError, match="moved or copied after its optimizer was made"):
        optimizer.apply(optimizer.slots)
    with pytest.raises(UserError, match="moved or copied after their optimizer was made"):
        check_owners({"net": module}, [optimizer])


def test_every_parameter_that_learns_has_one_owner() -> None:
    module, other = Holder(), Holder()
    optimizer = Optimizer(module)
    check_owners({"actor": module}, [optimizer])
    with pytest.raises(UserError, match=r"^the parameter log_std of critic belongs to no optimizer: networks"):
        check_owners({"actor": module, "critic": other}, [optimizer])
    with pytest.raises(UserError, match=r"^the parameter log_std of actor belongs to 2 optimizers: "):
        check_owners({"actor": module}, [optimizer, optimizer])
    other.requires_grad_(False)  # frozen: it needs none
    check_owners({"actor": module, "critic": other}, [optimizer])


def test_a_loss_without_one_of_the_parameters_is_refused_by_its_name() -> None:
    module = Holder()
    optimizer = Optimizer(module, l2=1.0)
    before = optimizer.flat.clone()
    with pytest.raises(UserError, match=r"^the loss does not depend on the parameter log_std: freeze it"):
        descend(optimizer, module.net(data()[0]).square().mean())
    assert torch.equal(optimizer.flat, before)


def test_further_optimizers_step_down_the_same_loss() -> None:
    """Two networks in a row with an optimizer each: each goes where torch's own would take it."""
    first, second = Holder(), MLP((2, 4, 1), generator=generator(5))
    twins = deepcopy(first), deepcopy(second)
    ours = Optimizer(second, lr=0.01), Optimizer(first, lr=0.02)
    groups = [{"params": twin.parameters(), "lr": lr} for twin, lr in zip(twins, (0.02, 0.01), strict=True)]
    theirs = torch.optim.Adam(groups, eps=1e-5)
    for _ in range(10):
        norm = descend(ours[0], second(first(data()[0])).square().mean(), ours[1])
        theirs.zero_grad()
        twins[1](twins[0](data()[0])).square().mean().backward()
        torch.testing.assert_close(norm, torch.cat([p.grad.flatten() for p in twins[1].parameters()]).norm())
        theirs.step()
    for mine, twin in zip((first, second), twins, strict=True):
        for a, b in zip(mine.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_state_loaded_into_a_fresh_optimiser_goes_on_bit_for_bit(kind: Any) -> None:
    module = Holder()
    optimizer = Optimizer(module, kind, lr=0.01)
    for _ in range(5):
        descend(optimizer, error(module))
    twin = Holder()
    fresh = Optimizer(twin, kind, lr=0.01)
    twin.load_state_dict(module.state_dict())
    fresh.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    for _ in range(5):
        descend(optimizer, error(module))
        descend(fresh, error(twin))
    assert torch.equal(optimizer.flat, fresh.flat)
    forgetful = Optimizer(Holder(), kind, lr=0.01)  # negative control
    forgetful.flat.copy_(fresh.flat)
    assert not torch.equal(forgetful.state_dict()["square"], fresh.state_dict()["square"])
