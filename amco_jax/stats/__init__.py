"""Statistics over seeds: confidence intervals, paired comparisons, and the number of seeds needed.

Every estimate is a ratio of sums over independent clusters, which are seeds or, with a request log, the
stretches that seeds share. The first axis of an array is clusters; all other axes, such as swept values, are
batch axes. A cluster without tasks, marked by a NaN or by 0 tasks, is left out; functions that need all of
their values raise an InputError. Functions that draw random numbers take a generator from the caller.
"""

from amco_jax.stats.aggregates import (
    aggregate_interval,
    improvement,
    interquartile_mean,
    mean_cost,
    mean_of_seeds,
    median_cost,
    optimality_gap,
    performance_profile,
)
from amco_jax.stats.bootstrap import STATISTICS, bootstrap_interval
from amco_jax.stats.clusters import cluster_totals, seed_matrix
from amco_jax.stats.comparisons import holm, paired_p_value, probability_of_improvement, reduction_interval
from amco_jax.stats.intervals import (
    CONFIDENCE,
    Interval,
    RatioMoments,
    mean_interval,
    mean_p_value,
    ratio_interval,
    seeds_needed,
    t_interval,
)
from amco_jax.stats.proportions import (
    rate_difference_interval,
    rate_difference_p_value,
    rate_interval,
    rate_reduction_interval,
)
from amco_jax.stats.quantiles import pooled_quantiles
from amco_jax.stats.shares import beyond_bounds, jain_index
from amco_jax.stats.stationarity import (
    batch_means_interval,
    lag_one_correlation,
    mser_truncation,
    trend_p_value,
)

__all__ = [
    "CONFIDENCE",
    "STATISTICS",
    "Interval",
    "RatioMoments",
    "aggregate_interval",
    "batch_means_interval",
    "beyond_bounds",
    "bootstrap_interval",
    "cluster_totals",
    "holm",
    "improvement",
    "interquartile_mean",
    "jain_index",
    "lag_one_correlation",
    "mean_cost",
    "mean_interval",
    "mean_of_seeds",
    "mean_p_value",
    "median_cost",
    "mser_truncation",
    "optimality_gap",
    "paired_p_value",
    "performance_profile",
    "pooled_quantiles",
    "probability_of_improvement",
    "rate_difference_interval",
    "rate_difference_p_value",
    "rate_interval",
    "rate_reduction_interval",
    "ratio_interval",
    "reduction_interval",
    "seed_matrix",
    "seeds_needed",
    "t_interval",
    "trend_p_value",
]
