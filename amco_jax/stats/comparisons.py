"""Paired comparisons of two methods on the same clusters, and Holm's correction over many of them.

A cluster with a NaN is left out.
"""

from __future__ import annotations

import numpy as np
import scipy

from amco_jax.stats.intervals import (
    CONFIDENCE,
    Interval,
    mean_p_value,
    ratio_interval,
    same_shape,
    without_nans,
)


def reduction_interval(method: np.ndarray, baseline: np.ndarray) -> Interval:
    """Relative reduction of a method's sum against a baseline's on the same clusters, with a paired interval.

    1 - ρ with ρ = sum(method) / sum(baseline), `[clusters, ...]` each → `[...]`. The interval of ρ is that of
    `ratio_interval`. If no value is negative, ρ is not either, and the interval is cut at 1. All is NaN where
    the method's sum is negative or the baseline's is not positive, as ρ is then no share of the baseline.

    Raises:
      InputError: shapes differ, or there are no clusters.
    """
    method, baseline = same_shape(method, baseline)
    ratio, low, high = ratio_interval(method, baseline)
    positive = ~np.any((method < 0) | (baseline < 0), axis=0)
    low = np.where(positive, np.maximum(low, 0.0), low)
    _, _, ours, theirs = without_nans(method, baseline)
    known = (ours.sum(axis=0) >= 0) & (theirs.sum(axis=0) > 0)
    return Interval(*(np.where(known, 1 - bound, np.nan)[()] for bound in (ratio, high, low)))


def probability_of_improvement(method: np.ndarray, baseline: np.ndarray) -> Interval:
    """Probability that a method is below a baseline on the same cluster, `[clusters, ...]` each → `[...]`.

    A tie counts as one half. The interval is Wilson's, which stays inside [0, 1] and has a positive width
    even at the ends; with ties it is conservative.

    Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021),
    here for pairs; Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    method, baseline = same_shape(method, baseline)
    n, *_ = without_nans(method, baseline)
    wins = np.count_nonzero(method < baseline, axis=0) + 0.5 * np.count_nonzero(method == baseline, axis=0)
    z = scipy.special.ndtri((1 + CONFIDENCE) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = wins / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def paired_p_value(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Two-sided p-value of the paired t-test, adjusted for skewness, `[clusters, ...]` each → `[...]`.

    It is that of `mean_p_value` for the differences: below 0.05 where the 95 % interval of their mean
    excludes 0. It is 1 if the two agree in every cluster, and NaN for a single cluster.
    """
    method, baseline = same_shape(method, baseline)
    return mean_p_value(method - baseline)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm-corrected p-values over all comparisons of a report, of any shape; NaNs stay and are not counted.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    p_values = np.asarray(p_values, np.float64)
    flat, corrected = p_values.ravel(), np.full(p_values.size, np.nan)
    order = np.argsort(flat)[: np.count_nonzero(~np.isnan(flat))]  # NaNs are sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * flat[order]), 1.0)
    return corrected.reshape(p_values.shape)
