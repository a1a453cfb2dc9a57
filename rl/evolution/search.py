"""Formulas of search without gradients: candidates round a centre, what their costs are worth, the slope they show.

Arrays in, arrays out, no environments. A candidate is a vector of P parameters, a row; its cost is a number to be made
small. Candidates that mirror one another stand in two halves: row k of the second is row k of the first, reflected.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def mirrored(center: Array, noise: Array, sigma: float) -> Array:
    """Pairs at center + sigma * noise and center - sigma * noise (1703.03864, section 2.1).

    Args:
        center: [P].
        noise: [K, P].
        sigma: how far.

    Returns:
        [2 K, P]: the K with plus, then the K with minus.
    """
    step = np.float32(sigma) * noise
    return np.concatenate((center + step, center - step))


def directions(candidates: Array, sigma: float) -> Array:
    """The noise that `mirrored` put into candidates [2 K, P], as it was rounded: [K, P]."""
    plus, minus = pairs(candidates)
    return (plus - minus) / np.float32(2 * sigma)


def pairs(values: Array) -> tuple[Array, Array]:
    """What belongs to the candidates of `mirrored`: [2 K, ...] -> [K, ...] of plus and [K, ...] of minus."""
    plus, minus = np.split(values, 2)
    return plus, minus


def centered_ranks(cost: Array) -> Array:
    """Costs replaced by their places, from -1/2 (the cheapest) to 1/2: [M] -> [M] (1703.03864, section 2).

    Equal costs share the mean of their places, so that costs that are all alike show no slope.
    """
    _, group, count = np.unique(cost, return_inverse=True, return_counts=True)
    first = np.cumsum(count) - count  # the place of each group's first
    place = (first + (count - 1) / 2)[group]
    return place / max(len(cost) - 1, 1) - 0.5


def cheapest_pairs(plus: Array, minus: Array, top: int) -> Array:
    """Which `top` pairs had the cheapest candidate, the cheapest first: [K], [K] -> [top] (1803.07055, V1-t, V2-t)."""
    return np.argsort(np.minimum(plus, minus), kind="stable")[:top]


def slope(plus: Array, minus: Array, noise: Array) -> Array:
    """The mean of (plus - minus) noise over K mirrored pairs: [K], [K], [K, P] -> [P] float32.

    Divided by 2 sigma it estimates the gradient of the cost, smoothed by noise of covariance I.
    """
    return ((plus - minus).astype(np.float32) @ noise) / np.float32(len(noise))


def orthonormal(rows: Array) -> Array:
    """A basis of what some vectors span: [k, P] -> [P, min(k, P)] float32, columns of length 1 at right angles."""
    return np.linalg.qr(rows.T)[0].astype(np.float32)


def guided(normal: Array, within: Array, basis: Array, share: float) -> Array:
    """Noise that is stretched along a subspace (Guided ES, 1806.10230, eq. 3).

    Its covariance is share * I + (1 - share) P / k * U U^T: the paper's times P, so that a parameter moves by 1 on
    average, as it does by noise of covariance I.

    Args:
        normal: [K, P] normal noise.
        within: [K, k] normal noise of the subspace.
        basis: U [P, k] orthonormal.
        share: alpha, from 0 (in the subspace alone) to 1 (as if there were none).

    Returns:
        [K, P].
    """
    stretch = ((1 - share) * len(basis) / basis.shape[1]) ** 0.5
    return np.float32(share**0.5) * normal + np.float32(stretch) * (within @ basis.T)
