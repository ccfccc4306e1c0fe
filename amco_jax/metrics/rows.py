"""The columns of rows, computed from the sums of episodes; a mean over no tasks is NaN, never 0.

The computation takes place on the host, by NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from amco_jax.metrics.metric import Metric, Metrics, Reduction
from amco_jax.metrics.quantiles import EXACT_POSITIONS, LEVELS, RELATIVE_ERROR, is_exact


def columns(
    metrics: Metrics,
    totals: Mapping[str, Any],
    num_slots: int | np.ndarray,
    lists: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The columns of rows by name, each `[episodes]`, and the lists.

    Args:
      totals: sums by the name of the metric, `[episodes]`, or `[episodes, num_servers]` if it is per server.
      num_slots: the number of slots that count, one for all episodes or along the first axes of `totals`.
      lists: by the name of the metric, `[episodes, levels]`, quantiles at `quantiles.LEVELS`, or
        `[episodes, slots]`, one sum per slot, also of those that do not count.

    Returns:
      Columns of float64 or int64, and lists of float32.
    """
    found: dict[str, np.ndarray] = {}
    for metric in metrics:
        if metric.is_over_slots:
            found[metric.name] = _of_slots(metric, lists, num_slots)
            continue
        if not metric.is_sum:
            values = lists[metric.name]
            found |= {
                each.name: values[:, _place(each.level)] for each in metric.also if each.level is not None
            }
            found[metric.name] = values.astype(np.float32)
            continue
        values = _of_episodes(metric, totals, num_slots)
        if metric.per_server:
            found |= {f"{metric.name}_{i}": values[..., i] for i in range(values.shape[-1])}
        else:
            found[metric.name] = values
    return found


def as_columns(metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    """The metrics of episodes as columns of a data frame, in which a list is one entry."""
    return {name: list(values) if values.ndim > 1 else values for name, values in metrics.items()}


def accuracy(positions: Iterable[int]) -> dict[str, Any] | None:
    """The accuracy of the percentiles of results, for a manifest; None if there are none.

    Args:
      positions: the number of task positions of an episode, for each scenario with percentiles.
    """
    exact = [is_exact(number) for number in positions]
    if not exact:
        return None
    return {
        "exact": all(exact),
        "exact_up_to_positions": EXACT_POSITIONS,
        "relative_error_beyond": RELATIVE_ERROR,
    }


def _of_episodes(metric: Metric, totals: Mapping[str, Any], num_slots: int | np.ndarray) -> np.ndarray:
    total = np.asarray(totals[metric.name])
    if metric.reduction is Reduction.SUM:
        return total.astype(np.int64 if metric.whole else np.float64)
    total = total.astype(np.float64)
    if metric.reduction is Reduction.MEAN_OF_SLOTS:
        slots = np.asarray(num_slots)
        return total / slots.reshape(slots.shape + (1,) * (total.ndim - slots.ndim))
    weight = np.asarray(totals[metric.weight], np.float64)
    weight = np.broadcast_to(weight if weight.ndim == total.ndim else weight[..., None], total.shape)
    return _quotient(total, weight)


def _of_slots(metric: Metric, sums: Mapping[str, np.ndarray], num_slots: int | np.ndarray) -> np.ndarray:
    """What rows hold of a metric over slots, with NaN for slots without tasks and for the warm-up."""
    values = sums[metric.name].astype(np.float64)
    if metric.over is not None:
        values = _quotient(values, sums[metric.weight].astype(np.float64))
    of_end = values.shape[-1] - np.arange(values.shape[-1])
    return np.where(of_end <= np.asarray(num_slots)[..., None], values, np.nan).astype(np.float32)


def _quotient(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight != 0)


def _place(level: float | None) -> int:
    return int(np.flatnonzero(level == LEVELS)[0])
