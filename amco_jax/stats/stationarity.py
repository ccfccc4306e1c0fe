"""Is an episode in its steady state: truncation of the warm-up, batch means, and a test for trend.

A series has a numerator and a denominator for each time slot, such as the summed makespans and the number of
the tasks that arrived in it: means over tasks are ratios of their sums.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from amco_jax.errors import InputError, check_whole
from amco_jax.stats.intervals import Interval, moments, ratio_interval

MSER_BATCH = 5
"""Slots whose mean counts as one observation"""


def mser_truncation(series: ArrayLike, batch: int = MSER_BATCH) -> int:
    """The number of slots to leave out as warm-up, by the rule MSER-5.

    Each `batch` of slots is averaged to one of m observations y_i. The rule leaves out the first d of them,
    for the d that makes the standard error of the mean of the rest least:
    argmin Σ_{i>d} (y_i - ȳ_d)² / (m - d)². d is at most m/2, as the rule is unreliable where little is left.

    Args:
      series: `[slots]`, such as the mean over seeds; NaN in a slot without observations.

    Returns:
      A multiple of `batch`. Half of the slots or nearly so means that the series has no steady state that it
      reaches in time.

    Raises:
      InputError: fewer than two batches of slots with observations.

    Source: White, "An effective truncation heuristic for bias reduction in simulation output" (1997); the
    batches of five from White, Cobb and Spratt, "A comparison of five steady-state truncation heuristics for
    simulation" (2000).
    """
    check_whole("batch", batch)
    series = np.asarray(series, np.float64)
    m = len(series) // batch
    if m < 2:
        raise InputError(
            f"num_slots: {len(series)}; legal for a warm-up by MSER-{batch}: at least {2 * batch}"
        )
    blocks = series[: m * batch].reshape(m, batch)
    some = ~np.isnan(blocks)
    count = some.sum(axis=1)
    means = np.divide(np.where(some, blocks, 0.0).sum(axis=1), count, out=np.full(m, np.nan), where=count > 0)
    known = ~np.isnan(means)
    y, n = np.where(known, means, 0.0), known.astype(np.float64)
    # Sums over the rest after each truncation, from the end; centred first, as squares cancel.
    y = np.where(known, y - y.sum() / max(n.sum(), 1.0), 0.0)
    rest, ones, squares = (np.cumsum(x[::-1])[::-1] for x in (y, n, y * y))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (squares - rest**2 / ones) / ones**2
    error = np.where(ones[: m // 2 + 1] >= 2, error[: m // 2 + 1], np.inf)
    if not np.any(np.isfinite(error)):
        raise InputError(
            "num_slots: too few slots with observations; legal for a warm-up: two batches of them"
        )
    return int(np.argmin(error)) * batch


def batch_means_interval(numerator: ArrayLike, denominator: ArrayLike, batches: int = 30) -> Interval:
    """Interval of a long-run mean from one long episode: its batches of slots are the clusters.

    Args:
      numerator, denominator: `[slots, ...]`, without the warm-up; the first slots that do not fill a batch
        are left out.
      batches: how many. Fewer are longer, and so less correlated.

    Raises:
      InputError: fewer slots than batches, or different shapes.

    Source: Law, "Simulation Modeling and Analysis", 5th ed. (2015), section 9.5.3.
    """
    check_whole("batches", batches, 2)
    numerator, denominator = (np.asarray(x, np.float64) for x in (numerator, denominator))
    length = len(numerator) // batches
    if not length:
        raise InputError(f"num_slots: {len(numerator)}; legal for {batches} batches: at least {batches}")
    top, bottom = (
        x[len(x) - batches * length :].reshape(batches, length, *x.shape[1:]).sum(axis=1)
        for x in (numerator, denominator)
    )
    return ratio_interval(top, bottom)


def lag_one_correlation(series: ArrayLike) -> float:
    """The correlation of a series with itself one step later, `[n]`; NaN where it does not vary.

    Of the means of batches it tells whether they are long enough: well above 2/√n, they are not independent.

    Raises:
      InputError: there is a NaN.
    """
    series = np.asarray(series, np.float64)
    if np.any(np.isnan(series)):
        raise InputError("series: holds a NaN; legal: numbers, as only these have neighbours")
    centred = series - series.mean()
    total = float(np.sum(centred**2))
    return float(np.sum(centred[1:] * centred[:-1])) / total if total else math.nan


def trend_p_value(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """Two-sided p-value of the hypothesis that the two halves of an episode have the same mean.

    It is that of the paired t-test over the seeds.

    Args:
      numerator, denominator: `[seeds, slots, ...]`; the seeds are the replicates.

    Returns:
      `[...]`; 1 where the halves agree in all seeds, NaN with fewer than two seeds that have both.
    """
    numerator, denominator = (np.asarray(x, np.float64) for x in (numerator, denominator))
    half = numerator.shape[1] // 2
    ends = slice(None, half), slice(numerator.shape[1] - half, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = (numerator[:, end].sum(axis=1) / denominator[:, end].sum(axis=1) for end in ends)
    difference = last - first
    n, mean, variance = moments(np.where(np.isfinite(difference), difference, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * scipy.special.stdtr(n - 1, -np.abs(mean / np.sqrt(variance / n)))
    return np.where((variance == 0) & (mean == 0), 1.0, p)
