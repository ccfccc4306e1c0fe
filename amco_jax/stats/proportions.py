"""Rates of events among clustered tasks, such as deadline misses: intervals, differences and reductions.

Tasks of one seed are not independent of each other, and if an event is rare, few seeds have any. The arrays
are totals per cluster, `[clusters, ...]`: events and tasks. A cluster without tasks is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from amco_jax.errors import InputError
from amco_jax.stats.intervals import CONFIDENCE, Interval, ratio_interval, same_shape


class _Sample(NamedTuple):
    events: np.ndarray
    tasks: np.ndarray
    excess: np.ndarray
    """Events of a cluster minus rate · tasks"""
    clusters: np.ndarray
    """The number of clusters"""
    rate: np.ndarray


def rate_interval(events: ArrayLike, tasks: ArrayLike) -> Interval:
    """Interval of sum(events) / sum(tasks), `[clusters, ...]` each → `[...]`, in [0, 1].

    It is Clopper and Pearson's exact interval for the effective number of independent tasks, which would have
    the variance that is observed between clusters. Three adjustments account for what few events cannot show:

    - Student's t replaces the normal quantile. Its degrees of freedom are 2n / (κ - 1), at most n - 1, with
      the kurtosis κ of the clusters' excesses, because that is how well n clusters estimate a variance.
    - Towards an event that k of n clusters have, one more event is added, of a size that those k do not
      exclude: of k sizes that are spread evenly over their logarithms up to m, the largest is at least
      m^(β^(1/k)) with probability 1 - β. It is weighted by 1 - k/n, and never exceeds a whole cluster.
    - With no event in n clusters, the upper bound is 1 - α^(1/n). This is valid however events cluster, since
      the probability that a cluster has no event is at most 1 minus its mean rate.

    The bounds are NaN for a single cluster; the estimate is NaN too without tasks.

    Raises:
      InputError: shapes differ, there are no clusters, or 0 ≤ events ≤ tasks does not hold.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial" (1934); Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data" (1998), who take n - 1 degrees of freedom; Satterthwaite, "An
    approximate distribution of estimates of variance components" (1946). The unseen event is ours;
    docs/statistics.md reports how well it works.
    """
    sample = _sample(events, tasks)
    others = sample._replace(
        events=sample.tasks - sample.events, excess=-sample.excess, rate=1 - sample.rate
    )  # fmt: skip
    low, high = 1 - _upper(others), _upper(sample)
    known = sample.clusters > 1
    return Interval(
        sample.rate[()],
        np.where(known, np.minimum(low, sample.rate), np.nan)[()],
        np.where(known, np.maximum(high, sample.rate), np.nan)[()],
    )


def rate_difference_interval(method: np.ndarray, baseline: np.ndarray, tasks: np.ndarray) -> Interval:
    """Interval of a method's rate minus a baseline's on the same tasks, `[clusters, ...]` → `[...]`.

    On each side it takes the wider of two bounds: that of `ratio_interval` for the paired differences, which
    fails if few clusters have any event, and the combination of the two rates' intervals (MOVER), which fails
    for skewed rates that are strongly correlated.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data" (1998); Zou and Donner, "Construction of confidence limits about effect measures: a general
    approach" (2008).
    """
    ours, theirs = _sample(method, tasks), _sample(baseline, tasks)
    p, l1, u1 = rate_interval(method, tasks)
    q, l2, u2 = rate_interval(baseline, tasks)
    r = _correlation(ours, theirs)
    below = _combined(p - l1, u2 - q, r)
    above = _combined(u1 - p, q - l2, r)
    paired = ratio_interval(np.asarray(method) - baseline, tasks)
    estimate = p - q
    return Interval(
        estimate,
        np.maximum(np.minimum(estimate - below, paired.low), -1.0),
        np.minimum(np.maximum(estimate + above, paired.high), 1.0),
    )


def rate_reduction_interval(method: np.ndarray, baseline: np.ndarray, tasks: np.ndarray) -> Interval:
    """Relative reduction of a method's rate against a baseline's, on the same tasks.

    1 - p/q for the rates p of the method and q of the baseline, `[clusters, ...]` → `[...]`.

    The bounds combine the intervals of the two rates (MOVER for ratios). They are NaN if the baseline's
    interval contains 0, since any ratio is then possible; the estimate is NaN too if the baseline has no
    event.

    Source: Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard
    deviation" (2012), here for rates.
    """
    r = _correlation(_sample(method, tasks), _sample(baseline, tasks))
    p, l1, u1 = rate_interval(method, tasks)
    q, l2, u2 = rate_interval(baseline, tasks)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(q > 0, p / q, np.nan)
        a = p * q - r * (p - l1) * (u2 - q)
        b = p * q - r * (u1 - p) * (q - l2)
        root = np.sqrt(np.maximum(a**2 - l1 * u2 * (2 * p - l1) * (2 * q - u2), 0.0))
        low = np.where(l1 > 0, l1 * (2 * p - l1) / (a + root), 0.0)
        root = np.sqrt(np.maximum(b**2 - u1 * l2 * (2 * p - u1) * (2 * q - l2), 0.0))
        high = (b + root) / (l2 * (2 * q - l2))
    known = l2 > 0
    return Interval(
        (1 - ratio)[()],
        np.where(known, 1 - np.maximum(high, ratio), np.nan)[()],
        np.where(known, 1 - np.clip(low, 0.0, ratio), np.nan)[()],
    )


def _sample(events: ArrayLike, tasks: ArrayLike) -> _Sample:
    events, tasks = same_shape(events, tasks)
    absent = np.isnan(events) | ~(tasks > 0)
    events, tasks = np.where(absent, 0.0, events), np.where(absent, 0.0, tasks)
    if np.any((events < 0) | (events > tasks * (1 + 1e-12))):
        raise InputError("events: below 0 or above tasks; legal: from 0 to the tasks of each cluster")
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.minimum(events.sum(axis=0) / tasks.sum(axis=0), 1.0)
        excess = np.where(absent, 0.0, events - rate * tasks)
    return _Sample(events, tasks, excess, np.count_nonzero(~absent, axis=0), rate)


def _upper(sample: _Sample) -> np.ndarray:
    """The upper bound of the rate."""
    events, tasks, excess, n, rate = sample
    total, all_tasks, tail = events.sum(axis=0), tasks.sum(axis=0), (1 - CONFIDENCE) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        each = excess * excess
        squares, fourths = each.sum(axis=0), (each * each).sum(axis=0)
        freedom = np.clip(np.nan_to_num(2 * n / (n * fourths / squares**2 - 1), nan=1.0), 1.0, n - 1)
        # The variance is at least that of independent tasks.
        variance = np.maximum(n / (n - 1) * squares, rate * (1 - rate) * all_tasks)
        variance = variance * (scipy.special.stdtrit(freedom, tail) / scipy.special.ndtri(tail)) ** 2
        # One more event: as many tasks as act like a single one, or the size that the data do not exclude.
        cluster = (tasks * tasks).sum(axis=0) / all_tasks
        extra = np.maximum(variance / (all_tasks * rate * (1 - rate)), _unseen(events, excess, n, cluster))
        mean = np.minimum((total + np.minimum(extra, all_tasks - total)) / all_tasks, 1 - 1e-12)
        effective = mean * (1 - mean) * all_tasks**2 / (variance + extra**2)
        upper = scipy.special.betaincinv(effective * mean, effective * (1 - mean), 1 - tail)
        none = 1 - tail ** (cluster / all_tasks)
    return np.where(total == 0, none, np.where(rate >= 1, 1.0, upper))


def _unseen(events: Any, excess: Any, n: Any, cluster: Any) -> np.ndarray:
    """The number of events in a possible cluster that has more than any observed cluster."""
    k = np.count_nonzero(events > 0, axis=0)
    largest = np.log1p(np.maximum(excess.max(axis=0), 0.0))
    exponent = (1 - CONFIDENCE) ** (-1 / np.maximum(k, 1))
    return (1 - k / n) * np.minimum(np.expm1(np.minimum(largest * exponent, 50.0)), cluster)


def _correlation(ours: _Sample, theirs: _Sample) -> np.ndarray:
    """The correlation of the excesses of two methods; 0 if one of them has no excess."""
    products = [(a * b).sum(axis=0) for a, b in ((ours.excess,) * 2, (theirs.excess,) * 2)]
    norm = np.sqrt(products[0] * products[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (ours.excess * theirs.excess).sum(axis=0) / norm
    return np.where(norm > 0, np.clip(r, -1.0, 1.0), 0.0)


def _combined(own: Any, other: Any, r: Any) -> Any:
    return np.sqrt(np.maximum(own**2 - 2 * r * own * other + other**2, 0.0))
