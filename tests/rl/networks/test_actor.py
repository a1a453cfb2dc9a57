"""Distributions over actions: densities that integrate to one, samples that follow their probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from costgrad.rl.networks.actor import CategoricalActor, GaussianActor
from costgrad.rl.networks.distributions import Categorical, SquashedGaussian


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(mean: float, log_std: float) -> SquashedGaussian:
    return SquashedGaussian(torch.tensor([[mean]], dtype=torch.float64), torch.tensor([log_std], dtype=torch.float64))


def grid_before_tanh(mean: float, log_std: float) -> Tensor:
    """Points before tanh that cover pi's mass, dense enough to integrate over the actions they lead to."""
    return torch.linspace(mean - 12 * math.exp(log_std), mean + 12 * math.exp(log_std), 400_001, dtype=torch.float64)


@pytest.mark.parametrize("mean", [0.0, -0.7, 2.5, 5.0])
@pytest.mark.parametrize("log_std", [-5.0, -1.0, 0.0, 2.0])
def test_the_squashed_density_integrates_to_one_over_actions(mean: float, log_std: float) -> None:
    pi, sample = gaussian(mean, log_std), grid_before_tanh(mean, log_std)
    action = pi.action(sample)  # not evenly spaced: exactly how far apart two actions lie decides their area
    # tanh(b) - tanh(a) = sinh(b - a) / (cosh a cosh b), which keeps its digits where both round to 1.
    a, b = sample[:-1], sample[1:]
    log_cosh = [x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2) for x in (a, b)]
    apart = torch.sinh(b - a) * torch.exp(-log_cosh[0] - log_cosh[1])
    density = pi.log_prob(sample.view(-1, 1, 1)).flatten().exp()
    assert (action.diff() >= 0).all() and abs(apart.sum().item() - (action[-1] - action[0]).item()) < 1e-9
    area = ((density[1:] + density[:-1]) / 2 * apart).nan_to_num().sum().item()
    assert area == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("mean", [0.0, 0.4, -1.0])
def test_the_density_integrates_to_one_on_an_even_grid_of_actions(mean: float) -> None:
    pi = gaussian(mean, -1.0)
    action = torch.linspace(-1 + 1e-7, 1 - 1e-7, 200_001, dtype=torch.float64)
    density = pi.log_prob(torch.atanh(action).view(-1, 1, 1)).flatten().exp()
    assert torch.trapezoid(density, action).item() == pytest.approx(1.0, abs=1e-4)
    # Negative control: the Gaussian's density without the slope of tanh is no density over actions.
    plain = Normal(mean, math.exp(-1.0)).log_prob(torch.atanh(action)).exp()
    assert abs(torch.trapezoid(plain, action).item() - 1) > 0.05


def test_log_prob_equals_torchs_transformed_distribution_where_that_is_stable() -> None:
    mean, log_std = torch.randn(5, 3, generator=generator()).double(), torch.tensor([-0.5, 0.0, 0.3]).double()
    sample = mean + log_std.exp() * torch.randn(7, 5, 3, generator=generator(1)).double()
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    action = reference.transforms[0](sample)
    torch.testing.assert_close(
        SquashedGaussian(mean, log_std).log_prob(sample), reference.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("far", [30.0, -30.0])
def test_log_prob_and_its_gradient_stay_finite_far_out(far: float) -> None:
    mean = torch.tensor([[far]], requires_grad=True)
    pi, sample = SquashedGaussian(mean, torch.zeros(1)), torch.tensor([[far]])
    log_prob = pi.log_prob(sample)
    # log |d tanh(x) / dx| -> log 4 - 2 |x| far out.
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(far), rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(log_prob.sum(), mean)[0]).all()
    naive = torch.log(1 - sample.tanh() ** 2)  # negative control
    assert torch.isinf(naive).all()


def test_actions_stay_in_the_box_and_the_mode_is_the_squashed_mean() -> None:
    pi = SquashedGaussian(torch.tensor([[0.3, 50.0]]), torch.tensor([0.0, 2.0]))
    action = pi.action(pi.sample(torch.randn(1000, 1, 2, generator=generator())))
    assert action.abs().max() <= 1
    torch.testing.assert_close(pi.action(pi.mode()), torch.tensor([[math.tanh(0.3), 1.0]]))


def test_samples_are_reparameterised() -> None:
    noise = torch.randn(6, 4, 2, generator=generator()).double()
    mean = torch.randn(4, 2, generator=generator(1)).double().requires_grad_()
    log_std = torch.tensor([-0.3, 0.4], dtype=torch.float64, requires_grad=True)
    pi = SquashedGaussian(mean, log_std)
    sample = pi.sample(noise)
    by_mean, by_std = torch.autograd.grad(sample.sum(), (mean, log_std))
    torch.testing.assert_close(by_mean, torch.full_like(mean, 6.0))
    torch.testing.assert_close(by_std, (noise * log_std.exp()).sum((0, 1)))
    z = pi.sample(torch.randn(100_000, 4, 2, generator=generator(2)).double())
    torch.testing.assert_close(z.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), log_std.exp().expand(4, 2), atol=0.02, rtol=0)


def test_entropy_samples_average_to_the_entropy() -> None:
    # h(tanh X) = h(X) + E log(1 - tanh^2 X), the latter integrated numerically.
    mean, log_std = 0.5, -0.4
    pi = gaussian(mean, log_std)
    x = grid_before_tanh(mean, log_std)
    weight = Normal(mean, math.exp(log_std)).log_prob(x).exp()
    slope = torch.trapezoid(weight * torch.log(1 - torch.tanh(x) ** 2), x).item()
    truth = 0.5 * math.log(2 * math.pi * math.e) + log_std + slope
    entropy = pi.entropy(pi.sample(torch.randn(200_000, 1, 1, generator=generator()).double()))
    assert entropy.shape == (1,)
    assert entropy.item() == pytest.approx(truth, abs=0.005)  # 3 standard errors


def test_entropy_gradient_widens_a_narrow_gaussian() -> None:
    log_std = torch.tensor([-2.0], requires_grad=True)
    pi = SquashedGaussian(torch.zeros(1, 1), log_std)
    entropy = pi.entropy(pi.sample(torch.randn(1000, 1, 1, generator=generator()))).sum()
    assert torch.autograd.grad(entropy, log_std)[0].item() == pytest.approx(1.0, abs=0.1)  # d h / d log std, unsquashed


def test_gumbel_max_samples_follow_their_probabilities() -> None:
    actor, draws = CategoricalActor(3, 5, generator=generator()), 50_000
    logits = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0])
    noise = actor.noise(draws, generator=generator(1))
    sample = Categorical(logits.expand(draws, 5)).sample(noise)
    counts, expected = torch.bincount(sample, minlength=5), draws * torch.softmax(logits, 0)
    assert ((counts - expected).square() / expected).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001
    uniform = torch.full((5,), draws / 5)
    assert ((counts - uniform).square() / uniform).sum() > 1000  # negative control


def test_categorical_log_prob_mode_and_entropy() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.0625, 0.0625, 0.875]])
    pi = Categorical(probs.log() + 3)  # a constant a row changes nothing
    torch.testing.assert_close(pi.log_prob(torch.tensor([1, 2])), torch.tensor([0.25, 0.875]).log())
    assert pi.mode().tolist() == [0, 2]
    assert pi.action(torch.tensor([1, 2])).tolist() == [1, 2]
    assert pi.entropy()[0].item() == pytest.approx(1.5 * math.log(2))  # 1.5 bits
    assert Categorical(torch.zeros(1, 8)).entropy().item() == pytest.approx(math.log(8))
    torch.testing.assert_close(pi.entropy(), torch.distributions.Categorical(probs=probs).entropy())


def test_a_log_prob_and_its_gradient_are_those_of_the_index_taken() -> None:
    logits = torch.randn(6, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    sample = torch.tensor([0, 1, 2, 3, 3, 0])
    log_prob = Categorical(logits).log_prob(sample)
    reference = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(log_prob, reference.log_prob(sample))
    weight = torch.randn(6, generator=generator(1), dtype=torch.float64)
    slope = torch.autograd.grad(log_prob @ weight, logits)[0]
    one_hot = torch.nn.functional.one_hot(sample, 4)
    torch.testing.assert_close(slope, weight.unsqueeze(1) * (one_hot - reference.probs))


def test_actors_start_near_uniform_and_near_the_middle() -> None:
    x = torch.randn(10, 4, generator=generator())
    discrete = CategoricalActor(4, 3, generator=generator())(x)
    torch.testing.assert_close(discrete.log_probs.exp(), torch.full((10, 3), 1 / 3), atol=0.05, rtol=0)
    continuous = GaussianActor(4, 2, log_std=-0.5, generator=generator())(x)
    assert continuous.mean.abs().max() < 0.1
    assert continuous.log_std.tolist() == [-0.5, -0.5]


def test_the_spread_stays_within_reason() -> None:
    actor = GaussianActor(4, 2, generator=generator())
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-100.0, 100.0]))
    assert actor(torch.zeros(1, 4)).log_std.tolist() == [-5.0, 2.0]


def test_a_spread_of_the_state_is_an_output_of_its_own() -> None:
    plain, own = (GaussianActor(4, 2, log_std=-0.5, state_std=on, generator=generator()) for on in (False, True))
    x = torch.randn(6, 4, generator=generator(1))
    assert plain(x).log_std.shape == (2,) and own(x).mean.shape == own(x).log_std.shape == (6, 2)
    torch.testing.assert_close(own(x).log_std, torch.full((6, 2), -0.5), atol=0.1, rtol=0)  # it starts near the same
    with torch.no_grad():
        own.net.weights[-1].mul_(100)
    pi, output = own(x), own.net(x)
    assert torch.equal(pi.mean, output[:, :2])
    torch.testing.assert_close(pi.log_std, (output[:, 2:] - 0.5).clamp(-5, 2))
    assert (pi.log_std - pi.log_std[0]).abs().max() > 0.1
    sample = pi.sample(torch.randn(50, 6, 2, generator=generator(2)))
    reference = TransformedDistribution(Normal(pi.mean, pi.log_std.exp()), TanhTransform(cache_size=1))
    sample = sample.clamp(-3, 3)
    expected = reference.log_prob(reference.transforms[0](sample)).sum(-1)
    torch.testing.assert_close(pi.log_prob(sample), expected, rtol=1e-3, atol=1e-3)
    slope = torch.autograd.grad(pi.entropy(sample).sum(), own.net.biases[-1])[0]
    assert (slope[2:] != 0).all()


def test_noise_comes_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for actor in (CategoricalActor(4, 3, generator=generator()), GaussianActor(4, 3, generator=generator())):
        first, again = (actor.noise(5, 2, generator=generator(7)) for _ in range(2))
        assert first.shape == (5, 2, 3) and torch.equal(first, again)
        assert not torch.equal(first, actor.noise(5, 2, generator=generator(8)))
    assert torch.equal(torch.get_rng_state(), before)


# Divergence, and a distribution as columns ----------------------------------------------------------------------------


def policies(kind: str, seed: int) -> Categorical | SquashedGaussian:
    draw = generator(seed)
    if kind == "categorical":
        return Categorical(2 * torch.randn(6, 4, generator=draw).double())
    mean, log_std = torch.randn(6, 3, generator=draw).double(), 0.5 * torch.randn(6, 3, generator=draw).double()
    return SquashedGaussian(mean, log_std[0] if kind == "one spread" else log_std)


KINDS = ["categorical", "gaussian", "one spread"]


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_torchs_and_zero_to_itself(kind: str) -> None:
    old, new = policies(kind, 1), policies(kind, 2)
    torch.testing.assert_close(old.kl(new), torchs_kl(old, new))
    torch.testing.assert_close(old.kl(old), torch.zeros(6).double(), atol=1e-12, rtol=0)
    assert (old.kl(new) > 1e-3).all()
    assert not torch.allclose(old.kl(new), new.kl(old), rtol=0.05)  # which is which does matter


def torchs_kl(old: Categorical | SquashedGaussian, new: Categorical | SquashedGaussian) -> Tensor:
    if isinstance(old, Categorical):
        categoricals = (torch.distributions.Categorical(logits=pi.logits) for pi in (old, new))
        return torch.distributions.kl_divergence(*categoricals)
    normals = (Normal(pi.mean, pi.log_std.exp()) for pi in (old, new))
    return torch.distributions.kl_divergence(*normals).sum(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_the_mean_log_ratio_of_what_the_old_one_does(kind: str) -> None:
    """Of actions behind tanh, whose densities differ from those before it by what cancels in the ratio."""
    old, new = policies(kind, 1), policies(kind, 2)
    draws, draw = 40_000, generator(3)
    if isinstance(old, Categorical):
        sample = torch.multinomial(old.probs, draws, replacement=True, generator=draw).T
        ratio = torch.stack([old.log_prob(s) - new.log_prob(s) for s in sample])
    else:
        sample = old.sample(torch.randn(draws, 6, 3, generator=draw).double())
        ratio = old.log_prob(sample) - new.log_prob(sample)
    error = ratio.std(0) / draws**0.5
    assert ((ratio.mean(0) - old.kl(new)).abs() < 4 * error).all()
    assert not ((ratio.mean(0) - new.kl(old)).abs() < 4 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_of_kl_reaches_the_new_policy_and_is_zero_at_the_old(kind: str) -> None:
    old, new = policies(kind, 1), policies(kind, 2)
    for at, zero in ((old, True), (new, False)):
        columns = at.columns().clone().requires_grad_()
        slope = torch.autograd.grad(old.kl(type(old).of(columns)).sum(), columns)[0]  # type: ignore[arg-type]
        assert (slope.abs().max() < 1e-9) == zero


@pytest.mark.parametrize("kind", KINDS)
def test_columns_hold_all_of_a_distribution_row_by_row(kind: str) -> None:
    pi = policies(kind, 1)
    columns = pi.columns()
    again = type(pi).of(columns)
    assert len(columns) == 6
    assert torch.equal(again.columns(), columns)
    assert torch.equal(again.mode(), pi.mode())
    torch.testing.assert_close(again.kl(pi), torch.zeros(6).double(), atol=1e-12, rtol=0)
    part = type(pi).of(columns[[4, 1]])  # shuffled and split, as minibatches are
    sample = pi.mode()
    torch.testing.assert_close(part.log_prob(sample[[4, 1]]), pi.log_prob(sample)[[4, 1]])
