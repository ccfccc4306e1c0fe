"""Bootstrap intervals of the mean, the median and the interquartile mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

from amco_jax.errors import InputError
from amco_jax.stats.intervals import CONFIDENCE, Interval, seeds_first, without_nans

RESAMPLES = 9999

_CHUNK = 2**24
"""The most entries in a matrix of resamples, 128 MiB"""

STATISTICS: dict[str, Callable[[int], int]] = {
    "mean": lambda n: 0,
    "median": lambda n: (n - 1) // 2,
    "iqm": lambda n: n // 4,  # as `scipy.stats.trim_mean` with a quarter
}
"""How many of n sorted values each statistic drops at either end; it is the mean of the rest."""


def bootstrap_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    statistic: str = "mean",
    *,
    resamples: int = RESAMPLES,
    expand: bool = True,
) -> Interval:
    """BCa bootstrap interval of a statistic, `[seeds, ...]` → `[...]`; NaN bounds for a single seed.

    A seed with a NaN is left out. Columns with equally many seeds share their resamples.

    Args:
      statistic: a name in `STATISTICS`.
      expand: whether to widen the percentiles, so that the interval of the mean is as wide as Student's for
        normal data. Without this, as in `scipy.stats.bootstrap`, intervals from few seeds are too narrow.

    Raises:
      InputError: the statistic is unknown.

    Source: Efron, "Better bootstrap confidence intervals" (1987); expanded percentiles from Hesterberg, "What
    teachers should know about the bootstrap" (2015).
    """
    if statistic not in STATISTICS:
        raise InputError(f"statistic: {statistic!r}; legal: {', '.join(STATISTICS)}")
    values = np.sort(seeds_first(values), axis=0)  # NaNs last
    columns = values.reshape(len(values), -1)
    counts = without_nans(columns)[0]
    found = np.full((3, columns.shape[1]), np.nan)
    for n in np.unique(counts[counts > 0]):
        alike = counts == n
        found[:, alike] = _bca(columns[:n, alike], rng, STATISTICS[statistic], resamples, expand)
    return Interval(*(x.reshape(values.shape[1:])[()] for x in found))


def _bca(
    columns: np.ndarray,
    rng: np.random.Generator,
    left_out: Callable[[int], int],
    resamples: int,
    expand: bool,
) -> Interval:
    """The interval of each column of sorted values."""
    n = len(columns)
    estimate = columns[left_out(n) : n - left_out(n)].mean(axis=0)
    low = high = np.full_like(estimate, np.nan)
    if n > 1:
        drawn = np.sort(_resampled(columns, rng, left_out(n), resamples), axis=0)
        rounding = 1e-12 * np.abs(estimate)
        below = (drawn < estimate - rounding).sum(axis=0) + (drawn <= estimate + rounding).sum(axis=0)
        # The jackknife: leaving out a value changes the statistic as the value changes the winsorised mean.
        end = left_out(n - 1)
        influence = np.clip(columns, columns[end], columns[n - 1 - end])
        influence -= influence.mean(axis=0)
        tail = (1 - CONFIDENCE) / 2
        z = np.sqrt(n / (n - 1)) * scipy.special.stdtrit(n - 1, tail) if expand else scipy.special.ndtri(tail)
        with np.errstate(divide="ignore", invalid="ignore"):
            bias = scipy.special.ndtri(below / (2 * resamples))
            skew = np.nan_to_num((influence**3).sum(axis=0) / (6 * (influence**2).sum(axis=0) ** 1.5))
            levels = [
                scipy.special.ndtr(bias + (bias + side) / (1 - skew * (bias + side))) for side in (z, -z)
            ]
        constant = drawn[-1] - drawn[0] <= rounding
        low, high = (np.where(constant, estimate, _quantile(drawn, level)) for level in levels)
    return Interval(estimate, low, high)


def _resampled(columns: np.ndarray, rng: np.random.Generator, cut: int, resamples: int) -> np.ndarray:
    """`[resamples, columns]`: means of resamples of the rows, without the `cut` extreme values at either end.

    Each column is sorted, so the counts of rows in a resample determine its order, and one matrix of weights
    serves all columns.
    """
    n = len(columns)
    rows = max(_CHUNK // n, 1)
    drawn = []
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        picks = rng.integers(0, n, (number, n)) + n * np.arange(number)[:, None]
        counts = np.bincount(picks.ravel(), minlength=number * n).reshape(number, n)
        if cut:
            end = np.clip(np.cumsum(counts, axis=1), cut, n - cut)
            counts = np.diff(end, axis=1, prepend=cut)
        drawn.append(counts @ columns / (n - 2 * cut))
    return np.concatenate(drawn)


def _quantile(ordered: np.ndarray, level: np.ndarray) -> np.ndarray:
    """`numpy.quantile` of each column of sorted rows, at one level per column."""
    place = np.nan_to_num(level) * (len(ordered) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[below, columns], ordered[above, columns]
    return np.where(np.isnan(level), np.nan, low + (place - below) * (high - low))
