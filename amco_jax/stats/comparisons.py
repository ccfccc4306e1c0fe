"""Paired comparisons of two methods on the same clusters, and Holm's correction over many of them.

A cluster with a NaN is left out.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from amco_jax.stats.intervals import CONFIDENCE, Interval, ratio_interval, same_shape


def reduction_interval(method: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """By which share a method's sum is below a baseline's on the same clusters, with its paired interval.

    1 - ρ with ρ = sum(method) / sum(baseline), `[clusters, ...]` each → `[...]`, and the interval of ρ is
    that of `ratio_interval`. Where no value is negative, no ρ is, and the interval ends at 1.

    Raises:
      InputError: different shapes, no clusters, or a confidence outside (0, 1).
    """
    method, baseline = same_shape(method, baseline, confidence)
    ratio, low, high = ratio_interval(method, baseline, confidence)
    positive = ~np.any((method < 0) | (baseline < 0), axis=0)
    return Interval(1 - ratio, 1 - high, 1 - np.where(positive, np.maximum(low, 0.0), low))


def probability_of_improvement(
    method: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """How probably a method is below a baseline on the same cluster, `[clusters, ...]` each → `[...]`.

    A tie counts half. The interval is Wilson's, which stays inside [0, 1] and is not empty at its ends; with
    ties it is wider than need be.

    Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021),
    here for pairs; Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    method, baseline = same_shape(method, baseline, confidence)
    n = _count(method, baseline)
    wins = np.count_nonzero(method < baseline, axis=0) + 0.5 * np.count_nonzero(method == baseline, axis=0)
    z = special.ndtri((1 + confidence) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = wins / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def paired_p_value(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Two-sided p of the paired t-test, `[clusters, ...]` each → `[...]`.

    1 where the two agree in every cluster; NaN for a single cluster.
    """
    method, baseline = same_shape(method, baseline)
    n = _count(method, baseline)
    absent = np.isnan(method - baseline)
    difference = np.where(absent, 0.0, method - baseline)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = difference.sum(axis=0) / n
        variance = np.where(absent, 0.0, (difference - mean) ** 2).sum(axis=0) / (n - 1)
        p = 2 * special.stdtr(n - 1, -np.abs(mean / np.sqrt(variance / n)))
    return np.where(n < 2, np.nan, np.where(np.all(difference == 0, axis=0), 1.0, p))


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


def _count(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    return np.count_nonzero(~np.isnan(method - baseline), axis=0)
