"""Formulas of gradient-free search: perturbed candidates, rank-based fitness shaping, gradient estimates.

NumPy arrays in and out, no environments. A candidate is a row of P parameters, and its cost is to be minimised.
Mirrored (antithetic) candidates are two halves: row k of the second half is the reflection of row k of the first.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def mirrored(center: Array, noise: Array, sigma: float) -> Array:
    """Antithetic pairs at center + sigma * noise and center - sigma * noise (1703.03864, section 2.1).

    Args:
        center: [P].
        noise: [K, P].
        sigma: standard deviation of the perturbation.

    Returns:
        [2 K, P]: the K plus ones, then the K minus ones.
    """
    step = np.float32(sigma) * noise
    return np.concatenate((center + step, center - step))


def directions(candidates: Array, sigma: float) -> Array:
    """The noise of candidates of `mirrored` [2 K, P], with their rounding: [K, P]."""
    plus, minus = pairs(candidates)
    return (plus - minus) / np.float32(2 * sigma)


def pairs(values: Array) -> tuple[Array, Array]:
    """Splits values of the candidates of `mirrored`: [2 K, ...] -> [K, ...] of plus and [K, ...] of minus."""
    plus, minus = np.split(values, 2)
    return plus, minus


def centered_ranks(cost: Array) -> Array:
    """Fitness shaping: costs become ranks from -1/2 (lowest cost) to 1/2: [M] -> [M] (1703.03864, section 2).

    Ties share their mean rank, so that equal costs give a gradient of 0.
    """
    _, group, count = np.unique(cost, return_inverse=True, return_counts=True)
    first = np.cumsum(count) - count  # the rank of each group's first
    rank = (first + (count - 1) / 2)[group]
    return rank / max(len(cost) - 1, 1) - 0.5


def cheapest_pairs(plus: Array, minus: Array, top: int) -> Array:
    """Indices of the `top` pairs with the lowest min(plus, minus), lowest first: [K], [K] -> [top].

    This is the selection of V1-t and V2-t in 1803.07055.
    """
    return np.argsort(np.minimum(plus, minus), kind="stable")[:top]


def slope(plus: Array, minus: Array, noise: Array) -> Array:
    """The mean of (plus - minus) * noise over K mirrored pairs: [K], [K], [K, P] -> [P] float32.

    Divided by 2 sigma it estimates the gradient of the cost smoothed by noise of covariance sigma^2 I.
    """
    return ((plus - minus).astype(np.float32) @ noise) / np.float32(len(noise))


def orthonormal(rows: Array) -> Array:
    """An orthonormal basis of the span of k vectors: [k, P] -> [P, min(k, P)] float32."""
    return np.linalg.qr(rows.T)[0].astype(np.float32)


def guided(normal: Array, within: Array, basis: Array, share: float) -> Array:
    """Noise elongated along a subspace (Guided ES, 1806.10230, eq. 3).

    Its covariance is share * I + (1 - share) P / k * U U^T: P times the paper's, so that the mean variance of a
    parameter is 1, as with covariance I.

    Args:
        normal: [K, P] normal noise.
        within: [K, k] normal noise within the subspace.
        basis: U [P, k] orthonormal.
        share: alpha, from 0 (subspace only) to 1 (isotropic).

    Returns:
        [K, P].
    """
    stretch = ((1 - share) * len(basis) / basis.shape[1]) ** 0.5
    return np.float32(share**0.5) * normal + np.float32(stretch) * (within @ basis.T)
