"""Quantities with bounds, such as shares: Jain's fairness index, and intervals at a bound."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from amco_jax.stats.intervals import CONFIDENCE, Interval


def jain_index(shares: np.ndarray) -> np.ndarray:
    """Jain's fairness index of the shares on the last axis, `[..., servers]` → `[...]`, from 1/servers to 1.

    (Σx)² / (n·Σx²) over the n shares that are not NaN; NaN if all are 0.

    Source: Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination" (1984).
    """
    shares = np.asarray(shares, np.float64)
    count = np.count_nonzero(~np.isnan(shares), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(shares, axis=-1) ** 2 / (count * np.nansum(shares**2, axis=-1))


def beyond_bounds(
    interval: Interval,
    num_clusters: ArrayLike,
    *,
    least: ArrayLike,
    most: ArrayLike,
) -> Interval:
    """The interval of a mean over clusters, extended if all have the least or all the largest possible value.

    The variance between such clusters is 0, but others may differ. If a cluster differs with probability q, n
    clusters are alike with probability (1 - q)ⁿ, and the mean is at most q of the range away from the bound.
    An interval that has a width stays as it is, as does that of a quantity without a largest value.

    Args:
      interval: arrays of one shape.
      num_clusters: n, broadcast against them.
      least: the least possible value, likewise.
      most: the largest possible value, likewise; may be infinite.

    Source: Clopper and Pearson (1934), see `rate_interval`, for the probability that none of n differs.
    """
    estimate, low, high = interval
    least, most = np.asarray(least, np.float64), np.asarray(most, np.float64)
    span = np.where(np.isfinite(most - least), most - least, 0.0)
    tail = (1 - CONFIDENCE) / 2
    away = span * (1 - tail ** (1 / np.maximum(num_clusters, 1)))
    alike = low == high
    high = np.where(alike & (estimate == least), np.maximum(high, estimate + away), high)
    low = np.where(alike & (estimate == most), np.minimum(low, estimate - away), low)
    return Interval(estimate, low, high)
