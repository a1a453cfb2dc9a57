"""Running statistics: merging in parts equals the whole, and the forward pass never changes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from costgrad.rl.networks.mlp import MLP
from costgrad.rl.networks.numpy_forward import NumpyForward
from costgrad.rl.norm import CostUnit, RunningNorm


def data(*shape: int, seed: int = 0, mean: float = 3.0, std: float = 7.0) -> Tensor:
    return mean + std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 59), max_size=8, unique=True), seed=st.integers(0, 1000))
def test_any_split_gives_the_statistics_of_the_whole(cuts: list[int], seed: int) -> None:
    rows = data(60, 3, seed=seed)
    norm = RunningNorm((3,))
    for part in rows.tensor_split(sorted(cuts)):
        norm.update(part)
    torch.testing.assert_close(norm.mean, rows.double().mean(0))
    torch.testing.assert_close(norm.var, rows.double().var(0, correction=0))
    assert norm.count == 60


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.integers(0, 1), min_size=20, max_size=20), cut=st.integers(1, 19))
def test_rows_of_weight_zero_do_not_count(weights: list[int], cut: int) -> None:
    rows, weight = data(20, 2), torch.tensor(weights, dtype=torch.float32)
    spoilt = torch.where(weight.bool().unsqueeze(1), rows, 1e6)
    norm, plain = RunningNorm((2,)), RunningNorm((2,))
    for part, w in zip(spoilt.tensor_split([cut]), weight.tensor_split([cut]), strict=True):
        norm.update(part, w)
    kept = rows[weight.bool()]
    if len(kept):
        plain.update(kept)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value, msg=f"{name} differs")


@pytest.mark.parametrize("value", [0.0, 0.1, 101325.0, -5123.4, 1e8])
def test_a_constant_entry_is_0_for_tensors_and_arrays(value: float) -> None:
    """Divided by a deviation of next to nothing, any rounding would be a signal."""
    rows = np.full((64, 2), value, dtype=np.float32)
    rows[:, 1] = data(64).numpy()
    norm = RunningNorm((2,))
    for part in np.split(rows, (7, 30)):
        norm.update(part)
    net = MLP((2, 2))
    with torch.no_grad():
        net.weights[0].copy_(torch.eye(2))
        net.biases[0].zero_()
    tensors, array = norm(torch.from_numpy(rows)).numpy(), NumpyForward(norm, net)(rows)
    assert (tensors[:, 0] == 0).all() and (array[:, 0] == 0).all()
    np.testing.assert_allclose(tensors, array, rtol=1e-6)
    rows[0, 0] = np.nextafter(rows[0, 0], np.float32(np.inf))  # negative control: the least that is another number
    assert norm(torch.from_numpy(rows))[0, 0] > 0


@pytest.mark.parametrize("shape", [(3,), (6, 5, 3), ()])
def test_arrays_and_tensors_leave_the_same_statistics(shape: tuple[int, ...]) -> None:
    rows, weight = data(40, *shape), torch.ones(40)
    weight[::3] = 0
    norms = [RunningNorm(shape) for _ in range(3)]
    for part, w in zip(rows.split(16), weight.split(16), strict=True):
        norms[0].update(part, w)
        norms[1].update(part.numpy(), w.numpy())
        norms[2].update(part.numpy())
    ours, theirs, unweighted = (norm.state_dict() for norm in norms)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert norms[0].count == int(weight.sum()) * (30 if len(shape) == 3 else 1)
    assert not torch.equal(ours["mean"], unweighted["mean"])  # negative control


def test_an_update_keeps_the_memory_of_the_statistics_and_leaves_the_rows() -> None:
    norm, rows = RunningNorm((3,)), data(20, 3).numpy()
    before = rows.copy()
    places = {name: value.data_ptr() for name, value in norm.named_buffers()}
    views = {name: value.numpy() for name, value in norm.named_buffers()}
    for _ in range(2):
        norm.update(rows)
    assert np.array_equal(rows, before)
    assert places == {name: value.data_ptr() for name, value in norm.named_buffers()}
    assert all(np.array_equal(views[name], value.numpy()) for name, value in norm.named_buffers())
    np.testing.assert_allclose(views["mean"], before.astype(np.float64).mean(0))


def test_normalised_data_has_mean_zero_and_variance_one() -> None:
    rows = data(500, 4)
    norm = RunningNorm((4,))
    norm.update(rows)
    out = norm(rows)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("axis", [-1, 2, 0, -3])
def test_images_share_statistics_over_rows_and_columns_per_channel(axis: int) -> None:
    channels = torch.tensor([[10.0, 1.0], [-4.0, 5.0], [0.5, 0.1]])  # mean and spread of red, green, blue
    pixels = data(16, 6, 5, 3, mean=0.0, std=1.0) * channels[:, 1] + channels[:, 0]
    first = axis % 3 == 0
    images = pixels.movedim(-1, 1) if first else pixels
    norm = RunningNorm(tuple(images.shape[1:]), channel_axis=axis)
    for part in images.split(5):
        norm.update(part)
    assert norm.mean.numel() == 3
    torch.testing.assert_close(norm.mean.flatten(), pixels.double().mean((0, 1, 2)))
    torch.testing.assert_close(norm.var.flatten(), pixels.double().var((0, 1, 2), correction=0))
    out = norm(images)
    assert out.shape == images.shape
    of_channel = out.movedim(1, -1) if first else out
    torch.testing.assert_close(of_channel.mean((0, 1, 2)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(of_channel.std((0, 1, 2), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_forward_changes_nothing_and_before_any_data_it_is_the_identity() -> None:
    norm = RunningNorm((2,))
    rows = torch.tensor([[1.5, -2.0]])
    assert torch.equal(norm(rows), rows)
    norm.update(data(10, 2))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm.train()
    norm(data(100, 2, seed=1, mean=50.0))
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_an_update_without_a_valid_row_changes_nothing() -> None:
    norm = RunningNorm((2,))
    norm.update(torch.full((3, 2), 7.0), torch.zeros(3))
    rows = torch.tensor([[0.3, -0.2]])
    assert torch.equal(norm(rows), rows)


def test_outliers_are_clipped() -> None:
    norm = RunningNorm((1,), clip=2.0)
    norm.update(data(100, 1, mean=0.0, std=1.0))
    assert norm(torch.tensor([[1e6], [-1e6]])).flatten().tolist() == [2.0, -2.0]
    assert RunningNorm((1,))(torch.tensor([[1e6]])).item() == 10.0


def test_a_constant_entry_stays_finite() -> None:
    norm = RunningNorm((1,))
    norm.update(torch.full((50, 1), 123.0))
    assert norm(torch.full((3, 1), 123.0)).abs().max() < 0.1


def test_statistics_do_not_drift_over_many_updates() -> None:
    # 5000 updates of mean 1e4 and spread 1e-1: sums kept in float32 would lose the spread altogether.
    rows = 1e4 + 0.1 * torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = RunningNorm((1,))
    for _ in range(5_000):
        norm.update(rows)
    assert norm.mean.item() == pytest.approx(rows.mean().item(), rel=1e-12)
    assert norm.var.item() == pytest.approx(rows.var(correction=0).item(), rel=1e-6)
    in_float32 = ((rows.float() ** 2).mean() - rows.float().mean() ** 2).item()  # negative control
    assert abs(in_float32 - rows.var(correction=0).item()) > 0.5 * rows.var(correction=0).item()


def test_the_gradient_reaches_the_observation() -> None:
    norm = RunningNorm((2,))
    norm.update(data(100, 2))
    x = torch.zeros(1, 2, requires_grad=True)
    norm(x).sum().backward()
    torch.testing.assert_close(x.grad, norm.var.rsqrt().float().unsqueeze(0))


def test_state_survives_a_round_trip() -> None:
    norm, other = RunningNorm((3,)), RunningNorm((3,))
    norm.update(data(30, 3))
    other.load_state_dict(norm.state_dict())
    for n in (norm, other):
        n.update(data(30, 3, seed=1))
    assert torch.equal(norm(data(5, 3)), other(data(5, 3)))


# The unit of cost -----------------------------------------------------------------------------------------------------


def test_the_cost_unit_by_brute_force() -> None:
    """max(std(G), max|G| / 5) of G, looking back over each episode, across rollouts, not across reset rows."""
    rng = np.random.default_rng(0)
    steps, envs, gamma = 60, 3, 0.9
    cost = rng.normal(2.0, 3.0, (steps, envs))
    valid = (rng.random((steps, envs)) > 0.1).astype(np.float32)
    done = rng.random((steps, envs)) < 0.15
    discount = np.where(done & (rng.random((steps, envs)) < 0.5), 0.0, gamma)
    unit, past = CostUnit(), []
    for part in range(0, steps, 20):
        rows = slice(part, part + 20)
        unit.update(cost[rows], discount[rows], done[rows], valid[rows])
    for i in range(envs):
        total = 0.0
        for t in range(steps):
            total += cost[t, i] * valid[t, i]
            if valid[t, i]:
                past.append(total)
            total = 0.0 if done[t, i] or not valid[t, i] else gamma * total
    assert unit.value == pytest.approx(max(np.std(past), np.abs(past).max() / 5), rel=1e-5)
    assert np.std(past) > np.abs(past).max() / 5


@pytest.mark.parametrize("cost", [1e-3, -1e-3, 1e3, -1e3])
def test_the_cost_unit_of_a_constant_cost_is_a_fifth_of_its_sum(cost: float) -> None:
    unit = CostUnit()
    assert unit.value == 1.0
    rows = np.full((2_000, 1), 1.0)
    unit.update(cost * rows, 0.99 * rows, rows < 0, rows)
    assert unit.value == pytest.approx(20 * abs(cost), rel=1e-3)


def test_the_cost_unit_starts_at_1_and_a_reset_drops_unfinished_episodes() -> None:
    unit, rows = CostUnit(), np.ones((4, 2))
    unit.update(0 * rows, rows, rows < 0, rows)
    assert unit.value == 1.0
    unit.update(rows, rows, rows < 0, 0 * rows)  # reset rows alone
    assert unit.value == 1.0
    unit.update(rows, rows, rows < 0, rows)
    largest = float(unit.largest)
    unit.on_reset()
    unit.update(rows, rows, rows < 0, rows)
    assert float(unit.largest) == largest == 4.0
    unit.update(rows, rows, rows < 0, rows)  # these go on
    assert float(unit.largest) == 8.0


def test_the_cost_unit_survives_a_round_trip() -> None:
    unit, other = CostUnit(), CostUnit()
    rows = np.random.default_rng(0).normal(size=(50, 2))
    unit.update(rows, 0 * rows, rows < 9, rows < 9)
    other.load_state_dict(unit.state_dict())
    assert other.value == unit.value != 1.0
