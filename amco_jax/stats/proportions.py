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
from amco_jax.stats.comparisons import paired_p_value, reduction_interval
from amco_jax.stats.intervals import CONFIDENCE, Interval, ratio_interval, same_shape

_LEAST = 1e-15
"""The smallest p-value; below it, 1 minus a level is no longer exact"""
_HALVINGS = 40
"""Steps of the search; the relative error of a p-value is below 1e-10 then"""


class _Sample(NamedTuple):
    events: np.ndarray
    tasks: np.ndarray
    excess: np.ndarray
    """Events of a cluster minus rate · tasks"""
    clusters: np.ndarray
    """The number of clusters"""
    rate: np.ndarray

    def counted(self) -> np.ndarray:
        """The events of clusters with tasks; NaN in the others."""
        return np.where(self.tasks > 0, self.events, np.nan)

    def mirrored(self) -> _Sample:
        """The sample of the tasks without the event."""
        return self._replace(events=self.tasks - self.events, excess=-self.excess, rate=1 - self.rate)


class _Sums(NamedTuple):
    """What the upper bound of a rate depends on, arrays of one shape."""

    clusters: np.ndarray
    rate: np.ndarray
    total: np.ndarray
    """The number of events"""
    tasks: np.ndarray
    """The number of tasks"""
    variance: np.ndarray
    """That of the number of events, at least that of independent tasks"""
    freedom: np.ndarray
    """Degrees of freedom of the variance"""
    having: np.ndarray
    """The number of clusters that have any event"""
    largest: np.ndarray
    """The largest excess of a cluster"""
    cluster: np.ndarray
    """The number of tasks of the cluster of a task"""

    @classmethod
    def of(cls, sample: _Sample) -> _Sums:
        events, tasks, excess, n, rate = sample
        all_tasks, each = tasks.sum(axis=0), excess * excess
        squares, fourths = each.sum(axis=0), (each * each).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = np.clip(np.nan_to_num(2 * n / (n * fourths / squares**2 - 1), nan=1.0), 1.0, n - 1)
            variance = np.maximum(n / (n - 1) * squares, rate * (1 - rate) * all_tasks)
            cluster = (tasks * tasks).sum(axis=0) / all_tasks
        having, largest = np.count_nonzero(events > 0, axis=0), np.maximum(excess.max(axis=0), 0.0)
        return cls(
            n, rate, events.sum(axis=0), all_tasks, variance, freedom, np.asarray(having), largest, cluster
        )


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
    return _interval(_sample(events, tasks))


def _interval(sample: _Sample) -> Interval:
    """The interval of `rate_interval`."""
    low, high = 1 - _upper(_Sums.of(sample.mirrored())), _upper(_Sums.of(sample))
    known = sample.clusters > 1
    return Interval(sample.rate[()], np.where(known, low, np.nan)[()], np.where(known, high, np.nan)[()])


def rate_difference_interval(method: np.ndarray, baseline: np.ndarray, tasks: np.ndarray) -> Interval:
    """Interval of a method's rate minus a baseline's on the same tasks, `[clusters, ...]` → `[...]`.

    On each side it takes the wider of two bounds: that of `ratio_interval` for the paired differences, which
    fails if few clusters have any event, and the combination of the two rates' intervals (MOVER), which fails
    for skewed rates that are strongly correlated.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data" (1998); Zou and Donner, "Construction of confidence limits about effect measures: a general
    approach" (2008).
    """
    ours, theirs = _samples(method, baseline, tasks)
    (p, l1, u1), (q, l2, u2), r = _interval(ours), _interval(theirs), _correlation(ours, theirs)
    below = _combined(p - l1, u2 - q, r)
    above = _combined(u1 - p, q - l2, r)
    paired = ratio_interval(ours.counted() - theirs.counted(), ours.tasks)
    estimate = p - q
    return Interval(
        estimate,
        np.maximum(np.minimum(estimate - below, paired.low), -1.0),
        np.minimum(np.maximum(estimate + above, paired.high), 1.0),
    )


def rate_difference_p_value(method: np.ndarray, baseline: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Two-sided p-value of the hypothesis that two rates on the same tasks are equal, `[...]`.

    It is 1 minus the highest confidence level at which `rate_difference_interval` excludes 0: the larger of
    `paired_p_value` and the p-value of the combination, which a bisection finds. It is 1 if the two agree in
    every cluster, and NaN for a single cluster.

    Args:
      method, baseline: numbers of events, `[clusters, ...]`.
      tasks: `[clusters, ...]`.
    """
    ours, theirs = _samples(method, baseline, tasks)
    swapped = ours.rate < theirs.rate
    more, fewer = (
        _Sample(*(np.where(swapped, *pair) for pair in zip(*pairs, strict=True)))
        for pairs in ((theirs, ours), (ours, theirs))
    )
    below, above, r = _Sums.of(more.mirrored()), _Sums.of(fewer), _correlation(more, fewer)

    def excluded(level: Any) -> np.ndarray:
        apart = _combined(_upper(below, level) - below.rate, _upper(above, level) - above.rate, r)
        return more.rate - fewer.rate > apart

    # The bounds are not quite monotone in the level, so the search begins at that of the intervals.
    inside, middle, outside = (np.full(np.shape(swapped), level) for level in (_LEAST, 1 - CONFIDENCE, 1.0))
    for _ in range(_HALVINGS):
        out = excluded(middle)
        inside, outside = np.where(out, inside, middle), np.where(out, middle, outside)
        middle = np.sqrt(inside * outside)
    paired = paired_p_value(ours.counted(), theirs.counted())
    return np.where(ours.clusters > 1, np.maximum(inside, paired), np.nan)[()]


def rate_reduction_interval(method: np.ndarray, baseline: np.ndarray, tasks: np.ndarray) -> Interval:
    """Relative reduction of a method's rate against a baseline's, on the same tasks.

    1 - p/q for the rates p of the method and q of the baseline, `[clusters, ...]` → `[...]`.

    As for the difference, each bound is the wider of that of the paired `reduction_interval` and of the
    combination of the two rates' intervals (MOVER for ratios). They are NaN if an interval of the baseline's
    rate contains 0, since any ratio is then possible; the estimate is NaN too if the baseline has no event.

    Source: Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard
    deviation" (2012), here for rates.
    """
    ours, theirs = _samples(method, baseline, tasks)
    (p, l1, u1), (q, l2, u2), r = _interval(ours), _interval(theirs), _correlation(ours, theirs)
    paired = reduction_interval(ours.counted(), theirs.counted())
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(q > 0, p / q, np.nan)
        a = p * q - r * (p - l1) * (u2 - q)
        b = p * q - r * (u1 - p) * (q - l2)
        root = np.sqrt(np.maximum(a**2 - l1 * u2 * (2 * p - l1) * (2 * q - u2), 0.0))
        low = np.where(l1 > 0, l1 * (2 * p - l1) / (a + root), 0.0)
        root = np.sqrt(np.maximum(b**2 - u1 * l2 * (2 * p - u1) * (2 * q - l2), 0.0))
        high = (b + root) / (l2 * (2 * q - l2))
    low, high = np.minimum(1 - high, paired.low), np.minimum(np.maximum(1 - low, paired.high), 1.0)
    known = l2 > 0
    return Interval((1 - ratio)[()], np.where(known, low, np.nan)[()], np.where(known, high, np.nan)[()])


def _samples(method: ArrayLike, baseline: ArrayLike, tasks: ArrayLike) -> tuple[_Sample, _Sample]:
    """The samples of two methods, of the clusters that both have."""
    method, baseline = same_shape(method, baseline)
    tasks = np.where(np.isnan(method) | np.isnan(baseline), np.nan, tasks)
    return _sample(method, tasks), _sample(baseline, tasks)


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


def _upper(sums: _Sums, level: Any = 1 - CONFIDENCE) -> np.ndarray:
    """The upper bound of the rate at a level of significance, not below the rate."""
    total, all_tasks, rate, tail = sums.total, sums.tasks, sums.rate, level / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = (
            sums.variance * (scipy.special.stdtrit(sums.freedom, tail) / scipy.special.ndtri(tail)) ** 2
        )
        # One more event: as many tasks as act like a single one, or the size that the data do not exclude.
        extra = np.maximum(variance / (all_tasks * rate * (1 - rate)), _unseen(sums, level))
        mean = np.minimum((total + np.minimum(extra, all_tasks - total)) / all_tasks, 1 - 1e-12)
        effective = mean * (1 - mean) * all_tasks**2 / (variance + extra**2)
        upper = scipy.special.betaincinv(effective * mean, effective * (1 - mean), 1 - tail)
        none = 1 - tail ** (sums.cluster / all_tasks)
    return np.maximum(np.where(total == 0, none, np.where(rate >= 1, 1.0, upper)), rate)


def _unseen(sums: _Sums, level: Any) -> np.ndarray:
    """The number of events in a possible cluster that has more than any observed cluster."""
    exponent = level ** (-1 / np.maximum(sums.having, 1))
    unseen = np.expm1(np.minimum(np.log1p(sums.largest) * exponent, 50.0))
    return (1 - sums.having / sums.clusters) * np.minimum(unseen, sums.cluster)


def _correlation(ours: _Sample, theirs: _Sample) -> np.ndarray:
    """The correlation of the excesses of two methods; 0 if one of them has no excess."""
    products = [(a * b).sum(axis=0) for a, b in ((ours.excess,) * 2, (theirs.excess,) * 2)]
    norm = np.sqrt(products[0] * products[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (ours.excess * theirs.excess).sum(axis=0) / norm
    return np.where(norm > 0, np.clip(r, -1.0, 1.0), 0.0)


def _combined(own: Any, other: Any, r: Any) -> Any:
    return np.sqrt(np.maximum(own**2 - 2 * r * own * other + other**2, 0.0))
