"""Formulas of gradient-free search, against values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from costgrad.rl.evolution.search import (
    centered_ranks,
    cheapest_pairs,
    directions,
    guided,
    mirrored,
    orthonormal,
    pairs,
    slope,
)


def test_pairs_are_mirrored_exactly() -> None:
    center = np.float32([1.0, -2.0, 0.5])
    noise = np.float32([[1, 0, -1], [2, -4, 8]])
    candidates = mirrored(center, noise, 0.25)
    assert candidates.dtype == np.float32
    np.testing.assert_array_equal(candidates[0], [1.25, -2.0, 0.25])
    np.testing.assert_array_equal(candidates[2], [0.75, -2.0, 0.75])
    np.testing.assert_array_equal(directions(candidates, 0.25), noise)
    plus, minus = pairs(candidates)
    np.testing.assert_array_equal((plus + minus) / 2, np.tile(center, (2, 1)))


def test_ranks_are_from_minus_to_plus_a_half() -> None:
    np.testing.assert_allclose(centered_ranks(np.array([10.0, -5.0, 1e9, 0.0, 3.0])), [0.25, -0.5, 0.5, -0.25, 0.0])
    np.testing.assert_allclose(centered_ranks(np.array([7.0, 1.0, 1.0])), [0.5, -0.25, -0.25])
    assert (centered_ranks(np.full(4, 3.0)) == 0).all()


def test_the_pairs_with_the_lowest_cost_come_first() -> None:
    plus, minus = np.array([3.0, 9.0, 2.0, 5.0]), np.array([8.0, 1.0, 7.0, 6.0])
    assert cheapest_pairs(plus, minus, 3).tolist() == [1, 2, 0]


def test_the_slope_is_a_mean_over_pairs() -> None:
    noise = np.float32([[1, 2], [-1, 1]])
    np.testing.assert_allclose(slope(np.array([3.0, 1.0]), np.array([1.0, 4.0]), noise), [(2 + 3) / 2, (4 - 3) / 2])


def test_the_slope_estimates_the_gradient_of_a_linear_cost() -> None:
    gradient, sigma = np.array([1.0, -3.0, 0.5]), 0.1
    noise = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    plus, minus = pairs(mirrored(np.zeros(3, np.float32), noise, sigma) @ gradient)
    np.testing.assert_allclose(slope(plus, minus, noise) / (2 * sigma), gradient, atol=0.1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_guided_noise_has_the_papers_covariance(share: float) -> None:
    draw = np.random.default_rng(0)
    basis = orthonormal(draw.normal(size=(2, 5)))
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-6)
    normal, within = draw.normal(size=(100_000, 5)), draw.normal(size=(100_000, 2))
    noise = guided(normal.astype(np.float32), within.astype(np.float32), basis, share)
    wanted = share * np.eye(5) + (1 - share) * 5 / 2 * basis @ basis.T
    np.testing.assert_allclose(np.cov(noise.T), wanted, atol=0.03)
    assert np.square(noise).mean() == pytest.approx(1.0, abs=0.02)


def test_the_basis_spans_its_vectors() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 7))
    basis = orthonormal(rows)
    np.testing.assert_allclose(rows @ basis @ basis.T, rows, atol=1e-5)
