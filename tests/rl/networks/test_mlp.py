"""Add, max, duplicate and the batched MLP: forward values, Jacobians, and equality with plain torch modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from costgrad.rl.networks.mlp import MLP, Add, Duplicate, Max, affine
from tests import streams


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("lead", [(), (1,), (2,)])
def test_a_layer_is_a_product_and_a_bias_and_so_are_its_slopes(lead: tuple[int, ...], outputs: int) -> None:
    generator = torch.Generator().manual_seed(outputs)
    shapes = (*lead, *((1,) if lead else ()), outputs), (*lead, 4, 5), (*lead, 5, outputs)
    bias, x, weight = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    products = x.unsqueeze(-1) * weight.unsqueeze(-3)  # [..., B, in, out]
    torch.testing.assert_close(affine(bias, x, weight), products.sum(-2) + bias)
    assert torch.autograd.gradcheck(affine, (bias, x, weight))


def test_add_hands_its_gradient_to_every_input() -> None:
    a, b, c = normal(3), normal(3, seed=1), normal(3, seed=2)
    torch.testing.assert_close(Add()(a, b, c), torch.stack((a, b, c)).sum(0))
    for block in jacobian(Add(), (a, b, c)):
        assert torch.equal(block, torch.eye(3))


def test_max_hands_its_gradient_to_the_largest_and_to_the_first_of_equals() -> None:
    a = torch.tensor([1.0, 5.0, 2.0, 0.0])
    b = torch.tensor([3.0, 4.0, 2.0, 0.0])
    c = torch.tensor([2.0, 4.5, 2.0, 1.0])
    assert Max()(a, b, c).tolist() == [3.0, 5.0, 2.0, 1.0]
    da, db, dc = jacobian(Max(), (a, b, c))
    assert torch.equal(da, torch.diag(torch.tensor([0.0, 1.0, 1.0, 0.0])))
    assert torch.equal(db, torch.diag(torch.tensor([1.0, 0.0, 0.0, 0.0])))
    assert torch.equal(dc, torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0])))
    assert torch.equal(da + db + dc, torch.eye(4))  # one reader each, ties included


def test_duplicate_adds_up_what_its_readers_hand_back() -> None:
    x = torch.tensor([1.0, -2.0])
    assert len(Duplicate(3)(x)) == 3 and all(torch.equal(copy, x) for copy in Duplicate(3)(x))
    for block in jacobian(Duplicate(3), x):
        assert torch.equal(block, torch.eye(2))
    weighted = jacobian(lambda x: 2 * Duplicate()(x)[0] + 5 * Duplicate()(x)[1], x)
    assert torch.equal(weighted, 7 * torch.eye(2))


def test_duplicate_then_add_doubles_and_then_max_keeps() -> None:
    x = normal(4)
    assert torch.equal(jacobian(lambda x: Add()(*Duplicate()(x)), x), 2 * torch.eye(4))
    assert torch.equal(jacobian(lambda x: Max()(*Duplicate()(x)), x), torch.eye(4))


def randomise(net: MLP, seed: int) -> MLP:
    draw = generator(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return net


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("name", "module"), [("tanh", nn.Tanh), ("relu", nn.ReLU), ("silu", nn.SiLU)])
def test_each_member_of_an_ensemble_is_the_plain_network_of_its_weights(
    name: Any, module: Any, layer_norm: bool
) -> None:
    sizes, k = (5, 8, 7, 3), 4
    net = randomise(MLP(sizes, k, name, layer_norm, generator=generator()), seed=1)
    x = normal(11, 5)
    out = net(x)
    assert out.shape == (k, 11, 3)
    for member in range(k):
        layers: list[nn.Module] = []
        for i in range(3):
            linear = nn.Linear(sizes[i], sizes[i + 1])
            linear.weight.data, linear.bias.data = net.weights[i].data[member].T, net.biases[i].data[member, 0]
            layers.append(linear)
            if i < 2 and layer_norm:
                normalise = nn.LayerNorm(sizes[i + 1])
                normalise.weight.data, normalise.bias.data = net.gains[i].data[member, 0], net.shifts[i].data[member, 0]
                layers.append(normalise)
            if i < 2:
                layers.append(module())
        torch.testing.assert_close(out[member], nn.Sequential(*layers)(x), rtol=1e-4, atol=1e-5)

        single = MLP(sizes, None, name, layer_norm, generator=generator())
        with torch.no_grad():
            for mine, theirs in zip(single.parameters(), net.parameters(), strict=True):
                mine.copy_(theirs[member].view_as(mine))
        torch.testing.assert_close(out[member], single(x), rtol=1e-4, atol=1e-5)


def test_members_can_have_inputs_of_their_own() -> None:
    net = randomise(MLP((3, 6, 2), 2, generator=generator()), seed=1)
    x = normal(2, 5, 3)
    own = net(x)
    for member in range(2):
        torch.testing.assert_close(own[member], net(x[member])[member])


def test_members_start_apart() -> None:
    net = MLP((4, 16, 2), 3, generator=generator())
    out = net(normal(6, 4))
    assert (out[0] - out[1]).abs().max() > 1e-2 and (out[1] - out[2]).abs().max() > 1e-2


@pytest.mark.parametrize(("fan_in", "fan_out"), [(4, 16), (16, 4), (8, 8)])
def test_weights_start_orthogonal_with_their_gain_and_biases_at_zero(fan_in: int, fan_out: int) -> None:
    net = MLP((fan_in, fan_out, 3), 2, out_gain=0.5, generator=generator())
    for weight, gain_square in ((net.weights[0], 2.0), (net.weights[1], 0.25)):
        for w in weight.detach():
            small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(small, gain_square * torch.eye(len(small)), atol=1e-5, rtol=0)
    assert all((bias == 0).all() for bias in net.biases)


def test_uniform_weights_and_biases_fill_their_range_as_those_of_torchs_own_layer() -> None:
    net = MLP((4, 900, 100, 3), 2, out_gain=0.0, generator=generator(), init="uniform")
    for weight, bias in net.layers():
        most = weight.shape[1] ** -0.5
        with torch.random.fork_rng():
            torch.manual_seed(0)
            own = nn.Linear(weight.shape[1], 9_000).weight
        assert own.abs().max().item() == pytest.approx(most, rel=0.001)
        for entries in (weight.detach(), bias.detach()):
            count = entries.numel()
            assert entries.abs().max() <= most and (entries[0] != entries[1]).all()
            assert entries.mean().abs() < 4 * most / count**0.5
            assert entries.std().item() == pytest.approx(most / 3**0.5, rel=4 / count**0.5)


def test_a_net_of_no_inputs_starts_too() -> None:
    assert MLP((0, 8, 2), None, generator=generator(), init="uniform")(torch.zeros(3, 0)).shape == (3, 2)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_an_agent_starts_actor_and_c_as_its_setting_says(name: str) -> None:
    agent = streams.make(name, "box")
    for net in (agent.actor.net, agent.critic.net):
        assert bool(net.biases[0].any()) == (agent.config.init == "uniform")
    agent = streams.make(name, "box", init="orthogonal")
    assert not agent.actor.net.biases[0].any() and not agent.critic.net.weights[-1].any()


def test_out_gain_zero_starts_at_exactly_zero() -> None:
    assert (MLP((4, 8, 2), 2, out_gain=0.0, generator=generator())(normal(5, 4)) == 0).all()


def test_dropout_masks_keep_the_mean_and_drop_their_share() -> None:
    net = MLP((2, 200, 100, 1), 2, dropout=0.25, generator=generator())
    masks = net.dropout_masks(100, generator(1))
    assert masks is not None and [tuple(mask.shape) for mask in masks] == [(2, 100, 200), (2, 100, 100)]
    for mask in masks:
        assert sorted(mask.unique().tolist()) == pytest.approx([0.0, 4 / 3])
        standard_error = (0.25 * 0.75 / mask.numel()) ** 0.5
        assert abs((mask == 0).float().mean().item() - 0.25) < 4 * standard_error
        assert mask.mean().item() == pytest.approx(1.0, abs=4 * standard_error / 0.75)
    assert MLP((2, 4, 1), dropout=0.0, generator=generator()).dropout_masks(10, generator(1)) is None


def test_masks_turn_hidden_units_off() -> None:
    net = randomise(MLP((3, 4, 2), generator=generator()), seed=1)
    x = normal(5, 3)
    nothing = net(x, [torch.zeros(5, 4)])
    torch.testing.assert_close(nothing, net.biases[-1].expand(5, 2))
    torch.testing.assert_close(net(x, [torch.ones(5, 4)]), net(x))
    mask = torch.tensor([0.0, 2.0, 2.0, 0.0]).expand(5, 4)
    with torch.no_grad():
        hidden = torch.tanh(x @ net.weights[0] + net.biases[0])
        by_hand = (hidden * mask) @ net.weights[1] + net.biases[1]
    torch.testing.assert_close(net(x, [mask]), by_hand)


def test_the_generator_alone_decides_and_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [MLP((4, 8, 2), 2, dropout=0.5, generator=generator(3)) for _ in range(2)]
    masks = [net.dropout_masks(7, generator(4)) for net in nets]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert masks[0] is not None and masks[1] is not None and torch.equal(masks[0][0], masks[1][0])
    other = MLP((4, 8, 2), 2, generator=generator(9))
    assert not torch.equal(nets[0].weights[0], other.weights[0])


def test_a_copy_has_weights_of_its_own() -> None:
    from copy import deepcopy

    net = randomise(MLP((3, 4, 2), generator=generator()), seed=1)
    copy, x = deepcopy(net), normal(5, 3)
    before = net(x).clone()
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(2)
    assert torch.equal(net(x), before)
    assert not torch.allclose(copy(x), before)
