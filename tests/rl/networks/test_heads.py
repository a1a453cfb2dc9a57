"""C's last layer: the smoothed target is a distribution round the cost, the loss is lowest there, the scale fits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from costgrad.rl.errors import Diverged
from costgrad.rl.networks.heads import LIMIT, CostScale, HLGauss, Regression

BINS = 101
INTERIOR = torch.linspace(-LIMIT * 0.9, LIMIT * 0.9, 777)


def moments(head: HLGauss, mass: Tensor) -> tuple[Tensor, Tensor]:
    mean = mass @ head.centers
    return mean, (mass * (head.centers - mean.unsqueeze(-1)).square()).sum(-1).sqrt()


def test_target_is_a_distribution_whose_mean_is_the_cost() -> None:
    head = HLGauss(BINS)
    mass = head.target(INTERIOR)
    assert mass.shape == (777, BINS) and (mass >= 0).all()
    torch.testing.assert_close(mass.sum(-1), torch.ones(777))
    assert ((mass @ head.centers) - INTERIOR).abs().max() < 0.01 * head.width
    # Negative control: putting all mass into the nearest bin is off by up to half a bin.
    nearest = head.centers[(INTERIOR.unsqueeze(-1) - head.centers).abs().argmin(-1)]
    assert (nearest - INTERIOR).abs().max() > 0.4 * head.width


@pytest.mark.parametrize("bins", [51, 101, 255])
def test_target_spreads_as_a_gaussian_of_three_quarters_of_a_bin_does(bins: int) -> None:
    head = HLGauss(bins)
    _, spread = moments(head, head.target(INTERIOR))
    # Sheppard's correction: sorting into bins of width w adds w^2 / 12 to the variance.
    expected = math.sqrt(0.75**2 + 1 / 12) * head.width
    torch.testing.assert_close(spread, torch.full_like(spread, expected), rtol=0.02, atol=0)


def test_target_is_symmetric_and_bins_cover_the_support() -> None:
    head = HLGauss(BINS)
    torch.testing.assert_close(head.target(INTERIOR), head.target(-INTERIOR).flip(-1), atol=1e-6, rtol=1e-3)
    assert head.edges[0] == -LIMIT and head.edges[-1] == LIMIT and len(head.centers) == BINS
    torch.testing.assert_close(head.centers.diff(), torch.full((BINS - 1,), head.width), atol=1e-5, rtol=0)


def test_cross_entropy_is_lowest_at_the_target() -> None:
    head = HLGauss(BINS)
    cost = torch.tensor([-3.0, 0.013, 2.2], dtype=torch.float64)
    head.double()
    best = head.target(cost)
    logits = best.clamp(min=1e-30).log().requires_grad_()
    loss = head.loss(logits, cost)
    torch.testing.assert_close(loss, -torch.special.xlogy(best, best).sum(-1))  # its entropy
    gradient = torch.autograd.grad(loss.sum(), logits)[0]
    assert gradient.abs().max() < 1e-12
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = logits.detach() + 0.1 * torch.randn(logits.shape, generator=draw, dtype=torch.float64)
        assert (head.loss(other, cost) > loss).all()


def test_descending_cross_entropy_leads_the_mean_to_the_cost() -> None:
    head = HLGauss(BINS)
    cost = torch.tensor([-4.0, -0.5, 0.07, 3.3])
    logits = torch.zeros(4, BINS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(logits, cost).sum().backward()
        optimizer.step()
    torch.testing.assert_close(head.mean(logits.detach()), cost, atol=0.2 * head.width, rtol=0)


def test_a_cost_beyond_the_support_gives_a_finite_loss_at_its_end() -> None:
    head = HLGauss(BINS)
    logits = torch.zeros(2, BINS, requires_grad=True)
    loss = head.loss(logits, torch.tensor([1e9, -1e9]))
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.isfinite(loss).all() and torch.isfinite(slope).all()
    assert slope[0].argmin() == BINS - 1 and slope[1].argmin() == 0


def test_regression_loss_is_the_squared_error_of_every_member() -> None:
    head = Regression()
    output, target = torch.tensor([[1.0], [-2.0]], requires_grad=True), torch.tensor([0.5, 1.0])
    loss = head.loss(output, target)
    assert loss.tolist() == [0.25, 9.0]
    gradient = torch.autograd.grad(loss.sum(), output)[0]
    assert gradient.flatten().tolist() == [1.0, -6.0]
    assert head.mean(output).tolist() == [1.0, -2.0]
    members = torch.stack((output, output + 1))  # an ensemble [K, B, 1] has the target of each row in common
    assert head.loss(members, target).tolist() == [[0.25, 9.0], [2.25, 4.0]]


@pytest.mark.parametrize("head", [HLGauss(BINS), HLGauss(50), Regression()])
def test_the_initial_bias_means_cost_zero(head: HLGauss | Regression) -> None:
    assert head.initial_bias().shape == (head.outputs,)
    assert abs(head.mean(head.initial_bias()).item()) < 1e-6


def test_regression_rescales_exactly() -> None:
    head, draw = Regression(), torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=draw) for shape in ((8, 1), (1, 1), (20, 8)))
    ratio, offset = 3.7, -0.6
    new_weight, new_bias = head.rescale(weight, bias, ratio, offset)
    torch.testing.assert_close(head.mean(x @ new_weight + new_bias) * ratio + offset, head.mean(x @ weight + bias))


@pytest.mark.parametrize("offset", [0.0, 0.37, -1.1])
@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.9, 1.25, 1.5, 2.0])
def test_hl_gauss_rescales_a_smoothed_target_by_less_than_a_tenth_of_a_bin_on_average(
    ratio: float, offset: float
) -> None:
    head = HLGauss(BINS)
    low, high = max(-1.0, offset / LIMIT - ratio), min(1.0, offset / LIMIT + ratio)  # inside both supports
    cost = 0.8 * LIMIT * ((high - low) / 2 * torch.linspace(-1, 1, 301)) + LIMIT * (low + high) / 2
    bias = head.target(cost).clamp(min=math.exp(-12)).log()
    _, moved = head.rescale(torch.zeros_like(bias), bias, ratio, offset)
    jump = (head.mean(moved) * ratio + offset - cost).abs() / (head.width * ratio)  # in new bins
    assert jump.mean() < 0.1 and jump.max() < 0.25
    stale = (head.mean(bias) * ratio + offset - cost).abs() / (head.width * ratio)  # negative control
    assert stale.mean() > 1.0


@pytest.mark.parametrize("bins", [51, BINS, 151])
@pytest.mark.parametrize("ratio", [3.0, 5.0, 7.0, 10.0, 15.0, 26.0, 50.0])
def test_hl_gauss_keeps_a_smoothed_target_when_bins_grow_manifold(ratio: float, bins: int) -> None:
    """A single cost far beyond all before it. Where new bins step over seven old ones, a peak could lie between."""
    head, jumps = HLGauss(bins), {}
    cost = torch.linspace(-0.85 * LIMIT, 0.85 * LIMIT, 401)
    bias = head.target(cost).clamp(min=math.exp(-12)).log()
    for offset in (0.0, 1.3):
        _, moved = head.rescale(torch.zeros_like(bias), bias, ratio, offset)
        jumps[offset] = (head.mean(moved) * ratio + offset - cost).abs().max().item() / (head.width * ratio)
    assert max(jumps.values()) < 0.75, jumps


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0, 12.0])
def test_hl_gauss_rescales_alike_what_differs_by_a_number_in_all_logits(ratio: float) -> None:
    """Which is the same distribution; so it must be at the ends of the support, and beyond it, too."""
    head, draw = HLGauss(BINS), torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=draw) for shape in ((8, BINS), (BINS,), (20, 8)))
    means = []
    for more in (0.0, 3.0):  # in each weight: in all logits of a row
        new_weight, new_bias = head.rescale(weight + more, bias, ratio, 2.0)
        means.append(head.mean(x @ new_weight + new_bias))
    torch.testing.assert_close(*means, rtol=1e-3, atol=1e-3)


def targets(values: list[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(values), torch.ones(len(values))


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_scale_covers_the_largest_target_without_waste(size: float) -> None:
    draw = torch.Generator().manual_seed(0)
    target = size * (1 + torch.randn(200, generator=draw))
    scale = CostScale()
    assert scale.update(target, torch.ones(200)) == (pytest.approx(scale.scale.item()), 0)  # from 1
    needed = target.abs().max().item() / LIMIT
    assert needed <= scale.scale.item() < 1.5 * needed


def test_scale_stands_still_while_it_fits_and_moves_when_it_must() -> None:
    scale = CostScale()
    scale.update(*targets([1.0, -1.0]))
    first = scale.scale.clone()
    for value in (0.8, 1.1, 0.9):
        assert scale.update(*targets([value, -value])) == (1, 0)
    assert scale.scale == first
    ratio, _ = scale.update(*targets([50.0, -50.0]))
    assert ratio > 1 and scale.scale * LIMIT > 50
    assert (scale.scale / first).item() == pytest.approx(ratio)


def test_scale_shrinks_when_targets_do() -> None:
    scale = CostScale()
    scale.update(*targets([1000.0, -1000.0]))
    for _ in range(3000):
        scale.update(*targets([1.0, -1.0]))
    assert scale.scale < 4


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_bounded_scale_lays_the_targets_into_the_middle(size: float) -> None:
    """All costs between 90 and 100: half a symmetric support would lie idle, and the other be used by a tenth."""
    scale = CostScale(bounded=True)
    target = size * torch.linspace(90, 100, 50)
    ratio, offset = scale.update(target, torch.ones(50))
    assert (ratio, offset) == (pytest.approx(scale.scale.item()), pytest.approx(scale.shift.item()))  # from 1 and 0
    scaled = scale.scaled(target)
    torch.testing.assert_close(scale.cost(scaled), target)
    assert scaled[-1].item() == pytest.approx(-scaled[0].item(), rel=1e-4) and 0.6 * LIMIT < scaled[-1] < LIMIT
    one_sided = CostScale()
    one_sided.update(target, torch.ones(50))
    assert one_sided.shift == 0 and one_sided.scaled(target).diff().sum() < 0.1 * (scaled[-1] - scaled[0])


def test_a_bounded_scale_tells_how_to_go_from_old_units_to_new_ones() -> None:
    scale = CostScale(bounded=True)
    scale.update(*targets([3.0, 5.0]))
    before = scale.scaled(torch.tensor([3.0, 4.2, 40.0]))
    assert scale.update(*targets([3.2, 4.9])) == (1, 0)
    ratio, offset = scale.update(*targets([4.0, 50.0]))
    assert ratio > 1 and offset > 0
    after = scale.scaled(torch.tensor([3.0, 4.2, 40.0]))
    torch.testing.assert_close(offset + ratio * after, before)
    assert after.abs().max() < LIMIT < before.abs().max()


@pytest.mark.parametrize("cost", [0.0, 1e-3, -7.0, 1e6])
def test_costs_that_do_not_differ_still_get_a_scale(cost: float) -> None:
    scale = CostScale(bounded=True)
    for _ in range(3):
        scale.update(*targets([cost, cost]))
    assert scale.scaled(torch.tensor(cost)) == 0 and scale.cost(torch.zeros(())) == pytest.approx(cost)
    assert 0 < scale.scale < max(1e-2 * abs(cost), 1e-11)


def test_a_scale_that_was_handed_out_stays_when_the_scale_moves() -> None:
    """A metric is read later than it was written."""
    scale = CostScale()
    scale.update(*targets([1.0, -1.0]))
    reported = scale.scale
    before = reported.item()
    assert scale.update(*targets([50.0, -50.0]))[0] > 1
    assert reported.item() == before != scale.scale.item()
    assert scale.state_dict()["scale"] == scale.scale  # and the new one is what a checkpoint holds


def test_scale_ignores_rows_of_weight_zero() -> None:
    scale = CostScale()
    scale.update(torch.tensor([1.0, -1.0, 1e9, float("nan")]), torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert scale.scale < 2


@pytest.mark.parametrize("target", [float("inf"), float("nan")])
def test_a_target_that_is_no_number_is_said_where_it_counts(target: float) -> None:
    targets = torch.tensor([1.0, target, 2.0])
    with pytest.raises(Diverged, match="diverged"):
        CostScale().update(targets, torch.full((3,), 1 / 3))
    scale = CostScale()
    scale.update(targets, torch.tensor([0.5, 0.0, 0.5]))
    assert scale.high == 2


# The clip of PPO's code -----------------------------------------------------------------------------------------------


def clipped_loss(prediction: float, before: float, target: float, clip: float) -> tuple[float, float]:
    """Loss of a C that says `prediction`, and its slope in that; all of it in scaled units."""
    output, near, wanted = (torch.tensor([number]) for number in (prediction, before, target))
    loss, slope = Regression().loss_and_gradient(output.unsqueeze(-1), wanted, near, clip)
    assert loss.shape == (1,) and slope.shape == (1, 1)
    return loss.item(), slope.item()


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("head", [Regression(), HLGauss(21).double()], ids=["regression", "hl_gauss"])
def test_the_slope_that_is_told_is_that_of_the_loss(head: Regression | HLGauss, clip: float) -> None:
    draw = torch.Generator().manual_seed(0)
    output = torch.randn(50, head.outputs, generator=draw, dtype=torch.float64).requires_grad_()
    target, before = 2 * torch.randn(2, 50, generator=draw, dtype=torch.float64)
    loss, slope = head.loss_and_gradient(output, target, before, clip)
    torch.testing.assert_close(slope, torch.autograd.grad(loss.sum(), output)[0])
    plain = head.loss(output, target)
    assert (loss >= plain).all()
    if clip and isinstance(head, Regression):  # only a number is clipped
        bounded = (slope == 0).squeeze(-1)
        assert 5 < bounded.sum() < 45 and (loss > plain)[bounded].all()
        assert not torch.allclose(slope, torch.autograd.grad(plain.sum(), output)[0])
    else:
        torch.testing.assert_close(loss, plain)


@pytest.mark.parametrize(
    ("prediction", "before", "target", "loss", "slope"),
    [
        (1.05, 1.0, 2.0, 0.95**2, -2 * 0.95),  # within the clip: the plain loss
        (1.5, 1.0, 2.0, 0.9**2, 0.0),  # moved towards the target, too far: the loss of 1.1, and no slope
        (0.5, 1.0, 2.0, 1.5**2, -2 * 1.5),  # moved away from it: the plain loss calls it back
        (0.5, 1.0, -1.0, 1.9**2, 0.0),
        (2.5, 1.0, 2.0, 0.9**2, 0.0),  # beyond the target
    ],
)
def test_the_clip_of_c_by_hand(prediction: float, before: float, target: float, loss: float, slope: float) -> None:
    assert clipped_loss(prediction, before, target, 0.1) == pytest.approx((loss, slope), rel=1e-5)
    plain = (prediction - target) ** 2, 2 * (prediction - target)
    assert clipped_loss(prediction, before, target, 0.0) == pytest.approx(plain, rel=1e-5)
    assert clipped_loss(prediction, before, target, 100.0) == pytest.approx(plain, rel=1e-5)
