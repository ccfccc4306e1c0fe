"""Metrics of episodes, over the tasks that arrived; a quantity over no task is NaN, never 0.

This is the end of the device's work: NumPy on the host, in float64. Percentiles need every makespan
sorted, and NumPy's vectorised sort does that twenty times faster than XLA's on CPUs.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from amco_jax.env import Decision
from amco_jax.kernel import Totals

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)

EPISODE_METRICS = ("makespan_mean_s", "miss_rate", "mean_servers_used")
"""Told of each episode, of training too"""

QUANTILES = "makespan_quantiles_s"
"""The one column that is no number but a list: quantiles of the episode's makespans at `LEVELS`"""


def keep_makespan(decision: Decision) -> Float[Array, ""]:
    """What `rollout` must record for `summarise`: the makespan, s; inf at an empty position."""
    return jnp.where(decision.present, decision.makespan, jnp.inf)


def summarise(totals: Totals, utilisation: np.ndarray, makespans: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics by name, each `[episodes]`; the names are the columns of the result tables.

    Args:
      totals: fields `[episodes]`.
      utilisation: `[episodes, num_servers]`, mean share of the slots that a server was busy.
      makespans: `[episodes, positions]`, s, inf at empty positions.
    """
    count = np.asarray(totals.num_tasks, np.float64)

    def per_task(total) -> np.ndarray:
        return np.divide(
            np.asarray(total, np.float64), count, out=np.full(count.shape, np.nan), where=count > 0
        )

    columns = {"makespan_mean_s": per_task(totals.makespan)}
    columns |= {
        f"makespan_p{p}_s": v for p, v in zip(PERCENTILES, percentiles(makespans, count), strict=True)
    }
    columns |= {
        "miss_rate": per_task(totals.missed),
        "reject_rate": per_task(totals.rejected),
        "num_tasks": count.astype(np.int64),
        "mean_servers_used": per_task(totals.servers_used),
    }
    columns |= {f"utilisation_{i}": np.asarray(u, np.float64) for i, u in enumerate(utilisation.T)}
    return columns


def percentiles(makespans: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`[percentiles, episodes]`: `PERCENTILES` of each row's finite values, as in `numpy.percentile`."""
    ordered = np.sort(makespans, axis=-1)
    rank = np.asarray(PERCENTILES)[:, None] / 100 * np.maximum(count - 1, 0)
    below = np.floor(rank).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0).astype(np.int64))
    low, high = (np.take_along_axis(ordered, i.T, axis=-1).T.astype(np.float64) for i in (below, above))
    with np.errstate(invalid="ignore"):  # inf - inf where nothing arrived
        return np.where(count > 0, low + (rank - below) * (high - low), np.nan)
