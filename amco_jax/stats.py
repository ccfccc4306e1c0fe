"""Statistics over seeds: intervals, paired comparisons, and how many seeds it takes.

Arrays have the seeds on their first axis; whatever other axes they have, such as swept values, are worked on
side by side. All entries must be finite. Where randomness enters, the caller hands in the generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from amco_jax.errors import InputError, check_number

RESAMPLES = 9999
CONFIDENCE = 0.95

_CHUNK = 2**24
"""Most entries of a matrix of resamples, 128 MiB"""


class Interval(NamedTuple):
    """An estimate and its confidence interval, arrays of one shape."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass
class Moments:
    """Count, mean and sum of squared deviations, accumulated batch by batch; NaNs are left out.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in a batch of observations."""
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        if values.size == 0:
            return
        mean, count = values.mean(), self.count + values.size
        shift = mean - self.mean
        self.squares += np.square(values - mean).sum() + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
        """Mean and Student-t confidence interval of the mean: (mean, low, high).

        NaN where there is nothing to tell: all three without observations, the bounds with only one.
        """
        if self.count == 0:
            return np.nan, np.nan, np.nan
        if self.count == 1:
            return self.mean, np.nan, np.nan
        half = _half_width(self.squares / (self.count - 1), self.count, confidence)
        return self.mean, self.mean - half, self.mean + half


def t_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean, `[seeds, ...]` → `[...]`; NaN bounds for a single seed.

    Of differences `a - b` of two methods on the same seeds it is the paired interval.
    """
    values = _seeds_first(values, confidence)
    mean = values.mean(axis=0)
    if len(values) == 1:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = _half_width(values.var(axis=0, ddof=1), len(values), confidence)
    return Interval(mean, mean - half, mean + half)


def mean_weights(counts: np.ndarray) -> np.ndarray:
    """Weights that make the mean of a resample, `[resamples, seeds]`, from how often it has each seed."""
    return counts / counts.sum(axis=1, keepdims=True)


def iqm_weights(counts: np.ndarray) -> np.ndarray:
    """The same for the interquartile mean, of the seeds in rising order of their values.

    Like `scipy.stats.trim_mean` with a quarter, it leaves out ⌊n/4⌋ values at either end.
    """
    total = counts.sum(axis=1, keepdims=True)
    return _between(counts, total // 4, total - total // 4)


def median_weights(counts: np.ndarray) -> np.ndarray:
    """The same for the median, of the seeds in rising order of their values."""
    total = counts.sum(axis=1, keepdims=True)
    return _between(counts, (total - 1) // 2, total // 2 + 1)


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": mean_weights,
    "median": median_weights,
    "iqm": iqm_weights,
}
"""Each is a weighted sum of the values in rising order, and the weights depend on the resample alone. So one
matrix of weights serves all columns of values, and the bootstrap is one matrix product."""


def bootstrap_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    statistic: str = "mean",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    expand: bool = True,
) -> Interval:
    """BCa bootstrap interval of a statistic, `[seeds, ...]` → `[...]`; NaN bounds for a single seed.

    Args:
      statistic: a name in `STATISTICS`.
      expand: widen the percentiles, so that the interval of the mean is as wide as Student's where the data
        are normal. Without it, as in `scipy.stats.bootstrap`, intervals of few seeds are too narrow.

    Raises:
      InputError: an unknown statistic, or a confidence out of range.

    Source: Efron, "Better bootstrap confidence intervals" (1987); expanded percentiles from Hesterberg, "What
    teachers should know about the bootstrap" (2015).
    """
    if statistic not in STATISTICS:
        raise InputError(f"statistic: {statistic!r}; legal: {', '.join(STATISTICS)}")
    values = np.sort(_seeds_first(values, confidence), axis=0)
    columns = values.reshape(len(values), -1)
    weights = STATISTICS[statistic]
    interval = _bca(lambda counts: weights(counts) @ columns, len(values), rng, confidence, resamples, expand)
    return Interval(*(bound.reshape(values.shape[1:]) for bound in interval))


def reduction_interval(
    method: np.ndarray,
    baseline: np.ndarray,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """By which share a method's mean is below a baseline's on the same seeds, with its BCa interval.

    1 - mean(method) / mean(baseline), `[seeds, ...]` each → `[...]`. Seeds are resampled in pairs, so what
    the two have in common cancels. NaN where the baseline's mean is 0.
    """
    method, baseline = _seeds_first(method, confidence), _seeds_first(baseline, confidence)
    if method.shape != baseline.shape:
        raise InputError(f"baseline: shape {baseline.shape}; legal: that of method, {method.shape}")
    columns = [x.reshape(len(x), -1) for x in (method, baseline)]

    def share(counts: np.ndarray) -> np.ndarray:
        weights = mean_weights(counts)
        numerator, denominator = (weights @ x for x in columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(denominator == 0, np.nan, 1 - numerator / denominator)

    interval = _bca(share, len(method), rng, confidence, resamples, expand=True)
    return Interval(*(bound.reshape(method.shape[1:])[()] for bound in interval))  # a number of one column


def probability_of_improvement(
    method: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """How probably a method is below a baseline on the same seed, `[seeds, ...]` each → `[...]`.

    A tie counts half. The interval is Wilson's, which stays inside [0, 1] and is not empty at its ends; with
    ties it is wider than need be.

    Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021),
    here for pairs; Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    method, baseline = _seeds_first(method, confidence), _seeds_first(baseline, confidence)
    share = ((method < baseline) + 0.5 * (method == baseline)).mean(axis=0)
    n, z = len(method), special.ndtri((1 + confidence) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def paired_p_value(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Two-sided p of the paired t-test, `[seeds, ...]` each → `[...]`.

    1 where the two agree in every seed; NaN for a single seed.
    """
    method, baseline = _seeds_first(method), _seeds_first(baseline)
    difference = method - baseline
    if len(difference) == 1:
        return np.full(difference.shape[1:], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference.mean(axis=0) / np.sqrt(difference.var(axis=0, ddof=1) / len(difference))
    p = 2 * special.stdtr(len(difference) - 1, -np.abs(t))
    return np.where(np.all(difference == 0, axis=0), 1.0, p)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction of p-values for all comparisons of a report, any shape; NaNs stay and do not count.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    p_values = np.asarray(p_values, np.float64)
    flat, corrected = p_values.ravel(), np.full(p_values.size, np.nan)
    order = np.argsort(flat)[: np.count_nonzero(~np.isnan(flat))]  # NaNs are sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * flat[order]), 1.0)
    return corrected.reshape(p_values.shape)


def seeds_needed(values: np.ndarray, half_width: Any, confidence: float = CONFIDENCE) -> np.ndarray:
    """Seeds for a t interval of the mean of ± `half_width`, if they spread as these do.

    `[seeds, ...]` → `[...]`, at least 2. `half_width` is a number or an array that fits `[...]`.

    Raises:
      InputError: a single seed, or a half width that is not above 0.
    """
    values = _seeds_first(values, confidence)
    if len(values) < 2:
        raise InputError(f"values: {len(values)} seed; legal: at least 2")
    if not np.all(np.asarray(half_width) > 0):
        raise InputError("half_width: not above 0; legal: a number > 0")
    variance, half_width = np.broadcast_arrays(values.var(axis=0, ddof=1), half_width)
    # What a normal quantile asks for, with room for Student's wider ones, which few seeds need.
    normal = variance * (special.ndtri((1 + confidence) / 2) / half_width) ** 2
    low, high = np.ones(variance.shape, np.int64), (np.minimum(2 * normal, 1e15) + 1000).astype(np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        enough = _half_width(variance, middle, confidence) <= half_width
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def jain_index(shares: np.ndarray) -> np.ndarray:
    """Jain's fairness of the shares on the last axis, `[..., servers]` → `[...]`, from 1/servers to 1.

    (Σx)² / (n·Σx²), over the n that are not NaN; NaN where all are 0.

    Source: Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination" (1984).
    """
    shares = np.asarray(shares, np.float64)
    count = np.count_nonzero(~np.isnan(shares), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(shares, axis=-1) ** 2 / (count * np.nansum(shares**2, axis=-1))


def seed_matrix(table: pd.DataFrame, metric: str) -> np.ndarray:
    """`[seeds, episodes]`: a column of tidy rows with columns seed and episode, both in rising order."""
    return np.asarray(table.pivot(index="seed", columns="episode", values=metric), np.float64)


def _seeds_first(values: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    check_number("confidence", confidence, 1e-9, 1 - 1e-9)
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise InputError(f"values: shape {values.shape}; legal: at least one seed")
    return values


def _half_width(variance: Any, count: Any, confidence: float) -> Any:
    return special.stdtrit(count - 1, (1 + confidence) / 2) * np.sqrt(variance / count)


def _between(counts: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Weights of the mean over the ranks first, ..., end - 1 of each resample."""
    upto = np.cumsum(counts, axis=1)
    inside = np.minimum(upto, end) - np.maximum(upto - counts, first)
    return np.maximum(inside, 0) / (end - first)


def _bca(
    statistic: Callable[[np.ndarray], np.ndarray],
    n: int,
    rng: np.random.Generator,
    confidence: float,
    resamples: int,
    expand: bool,
) -> Interval:
    """The BCa interval of a statistic that takes `[resamples, seeds]` counts to `[resamples, columns]`."""
    estimate = statistic(np.ones((1, n)))[0]
    if n == 1:
        return Interval(estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan))
    rows = max(_CHUNK // n, 1)
    drawn = []
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        picks = rng.integers(0, n, (number, n)) + n * np.arange(number)[:, None]
        drawn.append(statistic(np.bincount(picks.ravel(), minlength=number * n).reshape(number, n)))
    drawn = np.sort(np.concatenate(drawn), axis=0)
    below = ((drawn < estimate).sum(axis=0) + (drawn <= estimate).sum(axis=0)) / (2 * resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = special.ndtri(below)
        skew = _acceleration(statistic, n)
        tail = (1 - confidence) / 2
        z = special.ndtri(tail)
        if expand:
            z = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, tail)
        levels = [special.ndtr(bias + (bias + side) / (1 - skew * (bias + side))) for side in (z, -z)]
    low, high = (_quantile(drawn, level) for level in levels)
    constant = drawn[-1] - drawn[0] <= 1e-12 * np.abs(estimate)  # all but the rounding of the weights
    return Interval(estimate, np.where(constant, estimate, low), np.where(constant, estimate, high))


def _acceleration(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> np.ndarray:
    """Of the jackknife, for each column."""
    rows = max(_CHUNK // n, 1)
    left_out = []
    for start in range(0, n, rows):
        number = min(rows, n - start)
        counts = np.ones((number, n))
        counts[np.arange(number), start + np.arange(number)] = 0
        left_out.append(statistic(counts))
    left_out = np.concatenate(left_out)
    influence = left_out.mean(axis=0) - left_out
    cubes, squares = (influence**3).sum(axis=0), (influence**2).sum(axis=0)
    return np.where(squares == 0, 0.0, cubes / (6 * squares**1.5))


def _quantile(ordered: np.ndarray, level: np.ndarray) -> np.ndarray:
    """`numpy.quantile` of each column of sorted rows at a level of its own."""
    place = np.nan_to_num(level) * (len(ordered) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[below, columns], ordered[above, columns]
    return np.where(np.isnan(level), np.nan, low + (place - below) * (high - low))
