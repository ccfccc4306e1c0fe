"""Statistics over seeds: confidence intervals, paired comparisons, and the number of seeds needed.

Every estimate is a ratio of sums over independent clusters, which are seeds or, with a request log, the
stretches that seeds share. The first axis of an array is clusters; all other axes, such as swept values, are
batch axes. A cluster without tasks, marked by a NaN or by 0 tasks, is left out. Functions that draw random
numbers take a generator from the caller.
"""

from amco_jax.stats.bootstrap import RESAMPLES, STATISTICS, bootstrap_interval
from amco_jax.stats.clusters import cluster_totals, seed_matrix
from amco_jax.stats.comparisons import holm, paired_p_value, probability_of_improvement, reduction_interval
from amco_jax.stats.intervals import (
    CONFIDENCE,
    Interval,
    RatioMoments,
    mean_interval,
    ratio_interval,
    seeds_needed,
    t_interval,
)
from amco_jax.stats.proportions import rate_difference_interval, rate_interval, rate_reduction_interval
from amco_jax.stats.quantiles import pooled_quantiles
from amco_jax.stats.shares import jain_index

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "STATISTICS",
    "Interval",
    "RatioMoments",
    "bootstrap_interval",
    "cluster_totals",
    "holm",
    "jain_index",
    "mean_interval",
    "paired_p_value",
    "pooled_quantiles",
    "probability_of_improvement",
    "rate_difference_interval",
    "rate_interval",
    "rate_reduction_interval",
    "ratio_interval",
    "reduction_interval",
    "seed_matrix",
    "seeds_needed",
    "t_interval",
]
