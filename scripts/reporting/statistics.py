"""What several runs say together: interquartile means, how often one agent beats another, and bootstrap intervals.

The intervals are rliable's (Agarwal et al. 2021, 2108.13264): runs are drawn anew, with replacement and separately for
each task, and the middle 95 % of what the figure then comes to are the interval. It says how far the figure would move
with other seeds. Few seeds make it too narrow: for normally distributed returns it holds the true mean in about 90 of
100 cases with 5 seeds, and in 75 with 3, where it reaches from the worst seed to the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from costgrad.rl.errors import UserError

REQUIRED = ("rliable>=1.2", "pandas<3")  # the extra `stats`
RESAMPLES = 5_000
CURVE_RESAMPLES = 2_000  # of each point of a curve: no eye sees the difference
MIN_SEEDS = 3  # below it an interval says less than the seeds themselves


class Estimate(NamedTuple):
    """A figure with its 95 % interval, arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iqm(returns: np.ndarray) -> np.ndarray:
    """The interquartile mean over runs: the quarter at each end is left out, the rest averaged.

    As rliable.metrics.aggregate_iqm computes it, in a thirtieth of the time: whole runs are left out, floor(n / 4) at
    each end, so that of five the middle three count, alike, and of three all.

    Args:
        returns: [n, ...].
    Returns:
        [...].
    """
    cut = len(returns) // 4
    return np.sort(returns, axis=0)[cut : len(returns) - cut].mean(0)


def iqm_interval(returns: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """The interquartile mean over runs, and its interval; the same returns give the same interval.

    Args:
        returns: [n, P] of n runs, at P points that are bootstrapped each by itself.
        resamples: how often runs are drawn anew.
    Returns:
        arrays [P].
    Raises:
        UserError: rliable cannot be imported.
    """
    return _bootstrap(returns[:, None], lambda scores: iqm(scores[:, 0]), resamples)


def improvement_interval(tasks: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int = RESAMPLES) -> Estimate:
    """Probability that a run of x ends above a run of y on the same task, ties counted half, averaged over tasks.

    As rliable.metrics.probability_of_improvement computes it (Mann-Whitney's U / nm), without the p-value that takes
    SciPy a millisecond and that nobody reads; and tasks may differ in their number of runs.

    Args:
        tasks: returns of x [n] and of y [m], for each of them.
        resamples: how often runs are drawn anew.
    Returns:
        arrays [1].
    Raises:
        UserError: rliable cannot be imported.
    """
    alike: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for x, y in tasks:
        alike.setdefault((len(x), len(y)), []).append((x, y))
    scores = [np.stack(side, axis=1) for pairs in alike.values() for side in zip(*pairs, strict=True)]

    def probability(*scores: np.ndarray) -> np.ndarray:  # x [n, tasks], y [m, tasks] of one group after the other
        pairs = zip(scores[::2], scores[1::2], strict=True)
        return np.concatenate([_wins(x[:, None], y[None]).mean((0, 1)) for x, y in pairs]).mean(keepdims=True)

    return _bootstrap(scores, probability, resamples)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 where x is more than y, 1/2 where they are equal."""
    return (x > y) + 0.5 * (x == y)


def _bootstrap(scores: Any, figure: Callable[..., np.ndarray], resamples: int) -> Estimate:
    with _seeded():
        values, intervals = rliable().get_interval_estimates({"": scores}, figure, reps=resamples)
    return Estimate(values[""], *intervals[""])


@contextmanager
def _seeded() -> Iterator[None]:
    """For rliable, whose bootstraps draw from NumPy's global generator whatever `random_state` they are given."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def rliable() -> Any:
    """The statistics of rliable, which take seconds to import. Raises UserError where they cannot be."""
    try:
        from rliable import library
    except Exception as error:  # beside pandas 3 it is a TypeError
        packages = " ".join(f'"{package}"' for package in REQUIRED)
        raise UserError(f"report needs rliable, which does not import ({error}): pip install {packages}") from error
    return library
