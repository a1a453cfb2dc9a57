"""The fidelity of C: the error of its predictions against realised costs, and of its action gradient.

The error of grad_a C bounds the error of the policy gradient through C (MAGE, 2004.14309), and C may fit costs well
with a wrong gradient (2409.01477), so both are measured. rl/diagnostics/probe.py collects the ground truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from costgrad.rl.evaluate import t_quantile

Array = np.ndarray
CONSTANT = 1e-6  # variance over mean square below which costs count as constant


class Calibration(NamedTuple):
    """Predicted against realised costs-to-go; each `_error` is half the width of a 95 % interval."""

    error: float
    """RMS over ten groups of similar predictions of (mean predicted - mean realised), over the RMS realised: 0 is best.
    With few costs-to-go it is above 0 by noise alone."""
    error_error: float
    explained_variance: float  # 1 - Var(realised - predicted) / Var(realised); NaN if costs are constant
    explained_variance_error: float
    bias: float  # mean predicted - mean realised, in the environment's units of cost
    bias_error: float
    slope: float  # regression slope of realised on predicted: below 1 if C exaggerates; NaN if C is constant
    left: float  # mean discount of what was not realised: bootstrapped from C at a time limit, or beyond the horizon
    predicted: Array  # [P]
    realised: Array  # [P]

    def __str__(self) -> str:
        """One line for people."""
        explained = _figure(self.explained_variance, self.explained_variance_error)
        return f"explained variance {explained}, calibration error {_figure(self.error, self.error_error)}"


def calibration(predicted: Array, realised: Array, group: Array, left: float = 0.0) -> Calibration:
    """Compares predicted with realised costs.

    Args:
        predicted: [P] C(s, a).
        realised: [P] discounted cost-to-go of the same states, one sample each.
        group: [P] integers: samples of one group may be correlated.
        left: see `Calibration`.
    """

    def measure(kept: Array) -> Array:
        guess, truth = predicted[kept], realised[kept]
        varies = truth.var() > CONSTANT * (truth**2).mean()
        explained = 1 - (truth - guess).var() / truth.var() if varies else np.nan
        return np.array([calibration_error(guess, truth), explained, (guess - truth).mean()])

    everything = np.ones(len(group), dtype=bool)
    (error, explained, bias), half = measure(everything), jackknife(measure, group)
    variance = predicted.var()
    varies = variance > CONSTANT * (predicted**2).mean()
    slope = ((predicted - predicted.mean()) * realised).mean() / variance if varies else np.nan
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
    """RMS over `bins` groups of similar predictions of their mean error, over the RMS realised: [P], [P] -> scalar."""
    scale = np.sqrt((realised**2).mean())
    error = predicted - realised
    parts = [error[part] for part in np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(error)))]
    square = sum(len(part) * part.mean() ** 2 for part in parts) / len(error)
    return float(np.sqrt(square) / scale) if scale > 0 else float("nan")


class Agreement(NamedTuple):
    """dC/da against the true gradient over a batch of states; each `_error` is half the width of a 95 % interval.

    For discrete actions the advantages of all actions are compared. The vectors of all states are concatenated.
    """

    cosine: float  # NaN if the true gradient is lost in noise, or C is flat
    cosine_error: float
    relative_error: float  # |C's - true| / |true|; NaN likewise
    relative_error_error: float
    size: float  # norm of the true gradient, root mean square over states
    size_of_c: float  # norm of C's gradient, likewise
    signal: float  # signal-to-noise ratio: squared |true| over its standard deviation if it were 0; below 2 is noise
    states: int

    def __str__(self) -> str:
        """One line for people."""
        if self.signal < 2:
            return "gradient lost in noise (more states or a larger step may find it)"
        cosine = f"gradient cosine {_figure(self.cosine, self.cosine_error)}" if self.size_of_c else "C is flat"
        few = "" if not self.size_of_c or self.cosine_error < 1 else f" ({self.states} states are too few to tell)"
        return f"{cosine}{few}, relative error {_figure(self.relative_error, self.relative_error_error)}"


def agreement(predicted: Array, truth: Array, group: Array) -> Agreement:
    """Compares C's gradient with noisy estimates of the true one, corrected for the bias of noise on the cosine.

    For independent estimates g_r, r <= R, of a state, c . mean(g_r) is unbiased for c . g, and the mean of g_r . g_q
    over r != q is unbiased for |g|^2. The square of the mean is too large and would make every C look worse.

    Args:
        predicted: [P, D] C's gradients.
        truth: [P, R, D], R >= 2 independent estimates of the true gradients.
        group: [P] integers: states of one group may be correlated.
    """
    rounds = truth.shape[1]
    total = truth.sum(1)  # [P, D]
    products = np.stack(
        (
            (predicted * predicted).sum(-1),
            (predicted * total).sum(-1) / rounds,
            ((total**2).sum(-1) - (truth**2).sum((1, 2))) / (rounds * (rounds - 1)),
        ),
        1,
    )  # [P, 3]: c.c, c.g, g.g

    def measure(kept: Array) -> Array:
        cc, cg, gg = products[kept].mean(0)
        gg = np.maximum(gg, 0.0)
        cc = cc if cc > 1e-12 * gg else 0.0  # C is flat up to rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array([cg / np.sqrt(cc * gg), np.sqrt(max(cc - 2 * cg + gg, 0.0) / gg), gg])

    (cosine, relative, square), half = measure(np.ones(len(group), dtype=bool)), jackknife(measure, group)
    # If the true gradient is 0, the std of a state's g.g is at most sqrt(2 / (R (R - 1))) |variance of g_r|.
    variance = ((truth - truth.mean(1, keepdims=True)) ** 2).sum((1, 2)) / (rounds - 1)
    deviation = np.sqrt(2 / (rounds * (rounds - 1)) * (variance**2).sum()) / len(predicted)
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
        states=len(predicted),
    )


def jackknife(measure: Callable[[Array], Array], group: Array) -> Array:
    """Half the width of 95 % intervals of statistics, by the delete-one-group jackknife (Efron & Stein 1981).

    Args:
        measure: rows to use [P] bool -> statistics [S].
        group: [P] integers.
    Returns:
        [S]; NaN if there is only one group.
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
