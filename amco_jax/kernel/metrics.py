"""Metrics of episodes, over the tasks that arrived; a quantity over no task is NaN, never 0.

This is the end of the device's work: NumPy on the host, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from amco_jax.env import Decision
from amco_jax.kernel import Totals
from amco_jax.kernel.quantiles import EXACT_POSITIONS, LEVELS, RELATIVE_ERROR, is_exact
from amco_jax.scenario import Scenario

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)

EPISODE_METRICS = ("makespan_mean_s", "miss_rate", "mean_servers_used")
"""Told of each episode, of training too"""

QUANTILES = "makespan_quantiles_s"
"""The one column that is no number but a list: quantiles of the episode's makespans at `LEVELS`"""


def metric_names(num_servers: int) -> tuple[str, ...]:
    """The columns that `summarise` makes for a fleet of that size."""
    return (
        "makespan_mean_s",
        *(f"makespan_p{p}_s" for p in PERCENTILES),
        "miss_rate",
        "reject_rate",
        "num_tasks",
        "mean_servers_used",
        *(f"utilisation_{i}" for i in range(num_servers)),
        QUANTILES,
    )


def keep_makespan(decision: Decision) -> Float[Array, ""]:
    """What `rollout` must record for `summarise`: the makespan, s; inf at an empty position."""
    return jnp.where(decision.present, decision.makespan, jnp.inf)


def summarise(totals: Totals, utilisation: np.ndarray, quantiles: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics by name, each `[episodes]`, and `QUANTILES`; the names are the columns of the result tables.

    Args:
      totals: fields `[episodes]`.
      utilisation: `[episodes, num_servers]`, mean share of the slots that a server was busy.
      quantiles: `[episodes, levels]` of the makespans, s, from `quantiles.Makespans`.

    Returns:
      float64 and int64; `QUANTILES` is float32 `[episodes, levels]`.
    """
    count = np.asarray(totals.num_tasks, np.float64)

    def per_task(total) -> np.ndarray:
        return np.divide(
            np.asarray(total, np.float64), count, out=np.full(count.shape, np.nan), where=count > 0
        )

    columns = {"makespan_mean_s": per_task(totals.makespan)}
    columns |= {f"makespan_p{p}_s": quantiles[:, _LEVEL_OF[p]] for p in PERCENTILES}
    columns |= {
        "miss_rate": per_task(totals.missed),
        "reject_rate": per_task(totals.rejected),
        "num_tasks": count.astype(np.int64),
        "mean_servers_used": per_task(totals.servers_used),
    }
    columns |= {f"utilisation_{i}": np.asarray(u, np.float64) for i, u in enumerate(utilisation.T)}
    return columns | {QUANTILES: quantiles.astype(np.float32)}


def as_columns(metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    """The metrics of episodes as columns of a frame, in which a list is one entry."""
    return {name: list(values) if values.ndim > 1 else values for name, values in metrics.items()}


def accuracy(scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """How exact the percentiles of results are, for a manifest."""
    return {
        "exact": all(is_exact(each.episode_positions) for each in scenarios),
        "exact_up_to_positions": EXACT_POSITIONS,
        "relative_error_beyond": RELATIVE_ERROR,
    }


_LEVEL_OF = {p: int(np.flatnonzero(p / 100 == LEVELS)[0]) for p in PERCENTILES}
