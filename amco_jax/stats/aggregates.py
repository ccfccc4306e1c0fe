"""Comparisons of methods over many scenarios at once: aggregates of costs relative to a reference.

A cost is the ratio of a method's metric to a reference's on the same seed in the same scenario, `[seeds,
scenarios]`; less is better, and 1 is the reference. Ratios of different scenarios can be pooled where the
metrics themselves, in seconds, cannot.

Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021), whose
scores are better the larger they are; performance profiles of costs are those of Dolan and Moré,
"Benchmarking optimization software with performance profiles" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import scipy
from numpy.typing import ArrayLike

from amco_jax.errors import InputError, check_whole
from amco_jax.stats.intervals import CONFIDENCE, Interval

Aggregate = Callable[..., np.ndarray]
"""A function of costs `[..., seeds, scenarios]` of one or two methods, which returns numbers `[...]`"""

RESAMPLES = 2000
"""The number that the source of the aggregates uses"""


def mean_cost(cost: np.ndarray) -> np.ndarray:
    """The mean over seeds and scenarios, `[..., seeds, scenarios]` → `[...]`."""
    return np.mean(cost, axis=(-2, -1))


def mean_of_seeds(values: np.ndarray) -> np.ndarray:
    """The mean over seeds of anything that each seed has, `[..., seeds, values]` → `[..., values]`."""
    return np.mean(values, axis=-2)


def median_cost(cost: np.ndarray) -> np.ndarray:
    """The median over scenarios of the means over seeds, `[..., seeds, scenarios]` → `[...]`."""
    return np.median(np.mean(cost, axis=-2), axis=-1)


def interquartile_mean(cost: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all seeds in all scenarios, `[..., seeds, scenarios]` → `[...]`."""
    return scipy.stats.trim_mean(cost.reshape(*cost.shape[:-2], -1), 0.25, axis=-1)


def optimality_gap(cost: np.ndarray) -> np.ndarray:
    """The mean excess over the reference, where better than the reference counts as equal to it.

    mean(max(cost, 1)) - 1, `[..., seeds, scenarios]` → `[...]`.
    """
    return np.mean(np.maximum(cost, 1.0), axis=(-2, -1)) - 1.0


def improvement(cost: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """The probability that a run of a method costs less than a run of a baseline in the same scenario.

    The mean over scenarios of the Mann-Whitney statistic over all pairs of seeds; a tie counts half.
    `[..., seeds, scenarios]` each → `[...]`. On common seeds, `probability_of_improvement` compares pairs.
    """
    less = cost[..., :, None, :] < baseline[..., None, :, :]
    equal = cost[..., :, None, :] == baseline[..., None, :, :]
    return np.mean(less + 0.5 * equal, axis=(-3, -2, -1))


def performance_profile(levels: ArrayLike) -> Aggregate:
    """The aggregate that gives the share of seeds and scenarios whose cost is at most each level.

    Args:
      levels: `[levels]`.

    Returns:
      A function from `[..., seeds, scenarios]` to `[..., levels]`.
    """
    levels = np.asarray(levels, np.float64)

    def profile(cost: np.ndarray) -> np.ndarray:
        return np.mean(cost[..., None] <= levels, axis=(-3, -2))

    return profile


def _trimmed_means(cost: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The interquartile means of resamples, whose order is that of all costs."""
    order = np.argsort(cost, axis=None)
    seed, ordered = order // cost.shape[1], cost.ravel()[order]
    cut = ordered.size // 4  # as `scipy.stats.trim_mean` with a quarter
    kept = ordered.size - 2 * cut
    places = (np.clip(np.cumsum(of_seeds[seed]) - cut, 0, kept) for of_seeds in counts)
    return np.array([np.diff(place, prepend=0) @ ordered for place in places]) / kept


_OF_COUNTS: Mapping[Aggregate, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    mean_cost: lambda cost, counts: counts @ np.mean(cost, axis=1) / len(cost),
    mean_of_seeds: lambda values, counts: counts @ values / len(values),
    interquartile_mean: _trimmed_means,
}
"""Aggregates of all resamples at once, from how often each seed is in each of them, `[resamples, seeds]`"""


def aggregate_interval(
    aggregate: Aggregate,
    *costs: ArrayLike,
    rng: np.random.Generator,
    common_seeds: bool = True,
    resamples: int = RESAMPLES,
) -> Interval:
    """An aggregate with its percentile bootstrap interval.

    Args:
      aggregate: one of this module.
      costs: one method's, or two methods', `[seeds, scenarios]` each.
      common_seeds: whether a seed draws the same random numbers in all scenarios and for all methods, as in a
        sweep. Then seeds are resampled as wholes: the stratified bootstrap, which resamples the seeds of each
        scenario by themselves, takes correlated runs for independent ones, and its intervals are too narrow.

    Raises:
      InputError: no seeds or scenarios, a cost that is no number, or costs of different shapes.
    """
    check_whole("resamples", resamples)
    arrays = [np.asarray(cost, np.float64) for cost in costs]
    shapes = [cost.shape for cost in arrays]
    seeds, scenarios = shapes[0] if arrays[0].ndim == 2 else (0, 0)
    if not seeds * scenarios or not all(np.all(np.isfinite(cost)) for cost in arrays):
        raise InputError("costs: legal: finite numbers of at least one seed in at least one scenario")
    if common_seeds and any(shape != shapes[0] for shape in shapes):
        raise InputError(f"costs: shapes {shapes}; legal: the same seeds for all")
    if any(cost.shape[1:] != (scenarios,) for cost in arrays):
        raise InputError(f"costs: shapes {shapes}; legal: the same scenarios for all")
    estimate = aggregate(*arrays)
    if seeds == 1:
        # [()] makes a scalar, as the estimate is, of an array without axes.
        unknown = np.full_like(estimate, np.nan)[()]
        return Interval(estimate, unknown, unknown)

    def counts_of_seeds() -> np.ndarray:
        return np.bincount(rng.integers(0, seeds, seeds), minlength=seeds).astype(np.float64)

    def resampled() -> np.ndarray:
        if common_seeds:
            rows = rng.integers(0, seeds, seeds)
            return aggregate(*(cost[rows] for cost in arrays))
        return aggregate(
            *(np.take_along_axis(cost, rng.integers(0, len(cost), cost.shape), axis=0) for cost in arrays)
        )

    if common_seeds and aggregate in _OF_COUNTS:
        (cost,) = arrays
        drawn = _OF_COUNTS[aggregate](cost, np.stack([counts_of_seeds() for _ in range(resamples)]))
    else:
        drawn = np.stack([resampled() for _ in range(resamples)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return Interval(estimate, low, high)
