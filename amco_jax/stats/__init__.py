"""Statistics over seeds: intervals, paired comparisons, and how many seeds it takes.

Arrays have the seeds on their first axis; whatever other axes they have, such as swept values, are worked on
side by side. All entries must be finite. Where randomness enters, the caller hands in the generator.
"""

from amco_jax.stats.bootstrap import RESAMPLES, STATISTICS, bootstrap_interval
from amco_jax.stats.comparisons import holm, paired_p_value, probability_of_improvement, reduction_interval
from amco_jax.stats.intervals import CONFIDENCE, Interval, Moments, mean_interval, seeds_needed, t_interval
from amco_jax.stats.shares import jain_index, seed_matrix

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "STATISTICS",
    "Interval",
    "Moments",
    "bootstrap_interval",
    "holm",
    "jain_index",
    "mean_interval",
    "paired_p_value",
    "probability_of_improvement",
    "reduction_interval",
    "seed_matrix",
    "seeds_needed",
    "t_interval",
]
