"""The measures of fidelity for given predictions and true values, with and without noise."""

from __future__ import annotations

import numpy as np
import pytest

from costgrad.rl.diagnostics.fidelity import agreement, calibration, calibration_error, jackknife
from costgrad.rl.evaluate import t_quantile

RNG = np.random.default_rng(0)
GROUP = np.arange(200)
TRUE = RNG.normal(size=(200, 3))


def noisy(noise: float, rounds: int = 2) -> np.ndarray:
    return TRUE[:, None] + noise * np.random.default_rng(1).normal(size=(200, rounds, 3))


def test_the_same_gradient_agrees() -> None:
    found = agreement(TRUE, noisy(0.0), GROUP)
    assert found.cosine == pytest.approx(1) and found.relative_error == pytest.approx(0, abs=1e-6)
    assert found.size == pytest.approx(np.sqrt((TRUE**2).sum(1).mean())) == found.size_of_c
    assert found.signal == np.inf and found.states == 200


def test_noise_of_the_true_gradient_does_not_bias_the_cosine() -> None:
    naive = (TRUE * noisy(2.0).mean(1)).sum() / np.sqrt((TRUE**2).sum() * (noisy(2.0).mean(1) ** 2).sum())
    assert naive < 0.7
    found = agreement(TRUE, noisy(2.0), GROUP)
    assert abs(found.cosine - 1) < 1.5 * found.cosine_error < 0.5
    assert found.relative_error < 0.5


def test_length_and_direction_are_told_apart() -> None:
    longer = agreement(3 * TRUE, noisy(0.1), GROUP)
    assert longer.cosine == pytest.approx(1, abs=0.01) and longer.relative_error == pytest.approx(2, abs=0.05)
    against = agreement(-TRUE, noisy(0.1), GROUP)
    assert against.cosine == pytest.approx(-1, abs=0.01)
    across = agreement(np.random.default_rng(2).normal(size=TRUE.shape), noisy(0.1), GROUP)
    assert abs(across.cosine) < 3 * across.cosine_error < 0.4


def test_a_gradient_lost_in_noise_and_a_flat_c_have_no_cosine() -> None:
    lost = agreement(TRUE, noisy(1.0) - TRUE[:, None], GROUP)
    assert lost.signal < 2 and np.isnan(lost.cosine) and np.isnan(lost.relative_error) and "lost in noise" in str(lost)
    flat = agreement(0 * TRUE, noisy(0.1), GROUP)
    assert np.isnan(flat.cosine) and flat.relative_error == pytest.approx(1) and "flat" in str(flat)


def test_an_interval_that_covers_every_cosine_is_reported() -> None:
    for groups in (2, 1):  # of one group alone there is no interval
        few = agreement(across_and_along(), TRUE[:4, None] + np.zeros((4, 2, 3)), np.arange(4) % groups)
        assert not few.cosine_error < 1 and "(4 states are too few to tell)" in str(few)
    assert "too few" not in str(agreement(TRUE, noisy(0.1), GROUP))


def across_and_along() -> np.ndarray:
    """[4, 3]: along the truth in one group of states, against it in the other."""
    return TRUE[:4] * np.array([1.0, -1.0, 1.0, -1.0])[:, None]


def test_the_interval_has_its_nominal_coverage() -> None:
    rng, held = np.random.default_rng(3), 0
    c = TRUE + rng.normal(size=TRUE.shape)
    cosine = (c * TRUE).sum() / np.sqrt((c**2).sum() * (TRUE**2).sum())
    for _ in range(100):  # other states, and other noise
        drawn = rng.integers(0, 200, 100)
        seen = TRUE[drawn, None] + 0.5 * rng.normal(size=(100, 2, 3))
        found = agreement(c[drawn], seen, np.arange(100))
        held += abs(found.cosine - cosine) < found.cosine_error
    assert 88 <= held <= 100


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = RNG.normal(size=20)
    half = jackknife(lambda kept: np.array([values[kept].mean()]), np.arange(20))
    assert half[0] == pytest.approx(t_quantile(19) * values.std(ddof=1) / np.sqrt(20))
    assert np.isnan(jackknife(lambda kept: np.array([values[kept].mean()]), np.zeros(20)))[0]


def test_rows_of_one_group_are_not_independent() -> None:
    values = np.repeat(RNG.normal(size=20), 10)
    alone = jackknife(lambda kept: np.array([values[kept].mean()]), np.arange(200))
    together = jackknife(lambda kept: np.array([values[kept].mean()]), np.repeat(np.arange(20), 10))
    assert together[0] > 2.5 * alone[0]


def test_calibration_in_numbers() -> None:
    realised = np.linspace(-1, 3, 200)
    right = calibration(realised, realised, GROUP)
    assert (right.error, right.explained_variance, right.bias) == pytest.approx((0, 1, 0))
    assert right.slope == pytest.approx(1)
    above = calibration(realised + 1, realised, GROUP)
    assert above.bias == pytest.approx(1) and above.explained_variance == pytest.approx(1)
    assert above.error == pytest.approx(1 / np.sqrt((realised**2).mean()))
    assert calibration(2 * realised, realised, GROUP).slope == pytest.approx(0.5)
    assert calibration(-realised, realised, GROUP).explained_variance == pytest.approx(-3)


def test_noise_of_single_costs_is_averaged_out_of_the_calibration() -> None:
    predicted = RNG.normal(size=20_000)
    realised = predicted + RNG.normal(size=20_000)
    assert calibration_error(predicted, realised) < 0.03
    assert calibration_error(0 * predicted, realised + 5) > 0.9


def test_costs_that_do_not_vary_have_no_explained_variance() -> None:
    found = calibration(np.full(200, 2.2), np.full(200, 2.0), GROUP)
    assert np.isnan(found.explained_variance) and np.isnan(found.slope)
    assert found.error == pytest.approx(0.1) and found.bias == pytest.approx(0.2)
