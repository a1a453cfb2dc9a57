"""Can C be trusted? How near its word comes to the costs that come about, and its gradient to the true one.

The error of a policy gradient that comes through C is bounded by that of grad_a C (MAGE, 2004.14309), and C may fit
costs well whose gradient it has wrong (2409.01477): so both are measured. rl/diagnostics/probe.py finds out the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from costgrad.rl.evaluate import t_quantile

Array = np.ndarray
ALIKE = 1e-6  # variance over mean square below which costs do not vary, but for where they were cut off


class Calibration(NamedTuple):
    """C's costs-to-go beside those that came about; each error is half of a 95 % interval."""

    error: float
    """RMS over ten groups of like predictions of (mean predicted - mean realised), over the RMS realised: 0 is best.
    Of few costs-to-go it is above 0 by their noise alone."""
    error_error: float
    explained_variance: float  # 1 - Var(realised - predicted) / Var(realised); NaN where costs do not vary
    explained_variance_error: float
    bias: float  # mean predicted - mean realised, in the environment's units of cost
    bias_error: float
    slope: float  # of realised on predicted: below 1 where C exaggerates; NaN where C says the same everywhere
    left: float  # mean discount of what the realised do not hold: C's own word past a clock, and the tail
    predicted: Array  # [P]
    realised: Array  # [P]

    def __str__(self) -> str:
        """One line for people."""
        explained = _figure(self.explained_variance, self.explained_variance_error)
        return f"explained variance {explained}, calibration error {_figure(self.error, self.error_error)}"


def calibration(predicted: Array, realised: Array, group: Array, left: float = 0.0) -> Calibration:
    """Compares C's word with what came about.

    Args:
        predicted: [P] C(s, a).
        realised: [P] discounted cost-to-go from there, one sample each.
        group: [P] whole numbers: costs-to-go of one group may depend on each other.
        left: see `Calibration`.
    """

    def measure(kept: Array) -> Array:
        said, seen = predicted[kept], realised[kept]
        unlike = seen.var() > ALIKE * (seen**2).mean()
        explained = 1 - (seen - said).var() / seen.var() if unlike else np.nan
        return np.array([calibration_error(said, seen), explained, (said - seen).mean()])

    everything = np.ones(len(group), dtype=bool)
    (error, explained, bias), half = measure(everything), jackknife(measure, group)
    spread = predicted.var()
    moves = spread > ALIKE * (predicted**2).mean()
    slope = ((predicted - predicted.mean()) * realised).mean() / spread if moves else np.nan
    return Calibration(
        error=float(error),
        error_error=float(half[0]),
        explained_variance=float(explained),
        explained_variance_error=float(half[1]),
        bias=float(bias),
        bias_error=float(half[2]),
        slope=float(slope),
        left=left,
        predicted=predicted,
        realised=realised,
    )


def calibration_error(predicted: Array, realised: Array, bins: int = 10) -> float:
    """RMS over `bins` groups of like predictions of their mean error, over the RMS realised: [P], [P] -> a number."""
    size = np.sqrt((realised**2).mean())
    error = predicted - realised
    parts = [error[part] for part in np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(error)))]
    square = sum(len(part) * part.mean() ** 2 for part in parts) / len(error)
    return float(np.sqrt(square) / size) if size > 0 else float("nan")


class Agreement(NamedTuple):
    """dC/da beside the true gradient over a batch of states; each error is half of a 95 % interval.

    Of discrete actions it is the vectors of advantages that are compared. All states' vectors count as one long one.
    """

    cosine: float  # NaN where the truth cannot be told from 0, or C is flat
    cosine_error: float
    relative_error: float  # |C's - true| / |true|; NaN likewise
    relative_error_error: float
    size: float  # |true|, root mean square of a state
    size_of_c: float  # |C's|
    signal: float  # squared |true| over what noise alone would give: below 2 it cannot be told from 0
    states: int

    def __str__(self) -> str:
        """One line for people."""
        if self.signal < 2:
            return "gradient lost in noise (more states or a larger step may find it)"
        cosine = f"gradient cosine {_figure(self.cosine, self.cosine_error)}" if self.size_of_c else "C is flat"
        few = "" if not self.size_of_c or self.cosine_error < 1 else f" ({self.states} states are too few to tell)"
        return f"{cosine}{few}, relative error {_figure(self.relative_error, self.relative_error_error)}"


def agreement(said: Array, seen: Array, group: Array) -> Agreement:
    """Compares C's gradient with noisy estimates of the true one, without the bias that noise has on a cosine.

    With independent estimates g_r, r <= R, of a state, c . mean(g_r) is unbiased for c . g, and the mean of g_r . g_q
    over r != q is for |g|^2, whereas the square of a mean is too large and would make every C look worse.

    Args:
        said: [P, D] C's.
        seen: [P, R, D], R >= 2 independent estimates of the truth.
        group: [P] whole numbers: states of one group may depend on each other.
    """
    rounds = seen.shape[1]
    total = seen.sum(1)  # [P, D]
    products = np.stack(
        (
            (said * said).sum(-1),
            (said * total).sum(-1) / rounds,
            ((total**2).sum(-1) - (seen**2).sum((1, 2))) / (rounds * (rounds - 1)),
        ),
        1,
    )  # [P, 3]: c.c, c.g, g.g

    def measure(kept: Array) -> Array:
        cc, cg, gg = products[kept].mean(0)
        gg = np.maximum(gg, 0.0)
        cc = cc if cc > 1e-12 * gg else 0.0  # C is flat but for rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array([cg / np.sqrt(cc * gg), np.sqrt(max(cc - 2 * cg + gg, 0.0) / gg), gg])

    (cosine, relative, square), half = measure(np.ones(len(group), dtype=bool)), jackknife(measure, group)
    # If the truth were 0, g.g of a state would deviate by sqrt(2 / (R (R - 1))) |variance of g_r| at most.
    variance = ((seen - seen.mean(1, keepdims=True)) ** 2).sum((1, 2)) / (rounds - 1)
    deviation = np.sqrt(2 / (rounds * (rounds - 1)) * (variance**2).sum()) / len(said)
    with np.errstate(divide="ignore", invalid="ignore"):
        signal = np.nan_to_num(square / deviation, posinf=np.inf)
    if signal < 2:
        cosine, relative, half = np.nan, np.nan, np.full(3, np.nan)
    return Agreement(
        cosine=float(np.clip(cosine, -1, 1)),
        cosine_error=float(half[0]),
        relative_error=float(relative),
        relative_error_error=float(half[1]),
        size=float(np.sqrt(square)),
        size_of_c=float(np.sqrt(products[:, 0].mean())),
        signal=float(signal),
        states=len(said),
    )


def jackknife(measure: Callable[[Array], Array], group: Array) -> Array:
    """Half of a 95 % interval of statistics by leaving out one group at a time (Efron & Stein 1981).

    Args:
        measure: which rows count [P] bool -> statistics [S].
        group: [P] whole numbers.
    Returns:
        [S]; NaN of a single group.
    """
    names = np.unique(group)
    if len(names) < 2:
        return np.full(measure(group == group).shape, np.nan)
    without = np.stack([measure(group != name) for name in names])
    without[~np.isfinite(without)] = np.nan
    square = ((without - without.mean(0)) ** 2).mean(0) * (len(names) - 1)
    return t_quantile(len(names) - 1) * np.sqrt(square)


def _figure(value: float, error: float) -> str:
    return f"{value:.3g} +- {error:.2g}"
