"""Metrics: their registry, the selection of a study, and their computation from decisions to columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from amco_jax.errors import InputError, check_choice
from amco_jax.metrics.counts import ACCEPTED, NUM_TASKS
from amco_jax.metrics.metric import (
    EPISODE,
    TASK,
    Column,
    Metric,
    Metrics,
    Reduction,
    Shown,
    column_entries,
    columns_in,
    columns_of,
    counts_among,
    estimated_columns,
    row_names,
    shown_in,
)
from amco_jax.metrics.outcomes import SlotOutcome, TaskOutcome
from amco_jax.metrics.quantiles import LEVELS
from amco_jax.metrics.registry import MAKESPAN, METRICS, MISS_RATE, REJECT_RATE, RESPONSE, SATURATION
from amco_jax.metrics.rows import accuracy, as_columns, columns
from amco_jax.metrics.sums import (
    MAX_USERS,
    Sums,
    add_slot,
    add_task,
    sums_per_slot,
    values_of_slot,
    values_per_task,
    zero_slot_sums,
    zero_task_sums,
)

__all__ = [
    "ACCEPTED",
    "CURVE_METRICS",
    "EPISODE",
    "EPISODE_METRICS",
    "KEYS",
    "LEVELS",
    "MAKESPAN",
    "MAX_USERS",
    "METRICS",
    "MISS_RATE",
    "NUM_TASKS",
    "REJECT_RATE",
    "RESPONSE",
    "SATURATION",
    "TASK",
    "Column",
    "Metric",
    "Metrics",
    "Reduction",
    "Shown",
    "SlotOutcome",
    "Sums",
    "TaskOutcome",
    "accuracy",
    "add_slot",
    "add_task",
    "as_columns",
    "choose",
    "column_entries",
    "columns",
    "columns_for_tables",
    "columns_in",
    "columns_of",
    "counts_among",
    "curve_metrics",
    "estimated_columns",
    "is_usual",
    "row_names",
    "shown_in",
    "sums_per_slot",
    "values_of_slot",
    "values_per_task",
    "zero_slot_sums",
    "zero_task_sums",
]

KEYS = (
    "method", "param", "value", "condition", "physics", "seed", "episode", "stretch", "batch",
    "warmup", "trend_p",
)  # fmt: skip
"""Columns of results that say what a row is about: `stretch` exists only if seeds may share their arrivals,
`batch` if a single episode is cut into batches, and the last two if a warm-up is given"""
_RESERVED = (*KEYS, "gap", "loss", "epsilon")
"""Names of columns that no metric may have"""


def choose(
    asked: Sequence[str | Metric] = (), least: Shown = Shown.ROWS, percentiles: bool = True
) -> Metrics:
    """The metrics of a study: those that it shows by default, and those that a user asks for.

    Args:
      asked: names in `METRICS`, or user-defined metrics; they are shown everywhere.
      least: the lowest level at which the study shows metrics by default.
      percentiles: whether those that it shows by default include quantiles of tasks.

    Raises:
      InputError: an unknown name, an object that is not a metric, or column names that are already taken.
    """
    if isinstance(asked, str) or not hasattr(asked, "__len__"):
        raise InputError(f"metrics: {asked!r:.80}; legal: a list of names and metrics")
    usual = (metric for metric in METRICS.values() if metric.shown >= least)
    chosen = {metric.name: metric for metric in usual if percentiles or metric.is_sum}
    for each in asked:
        metric = _metric(each)
        if metric.name in METRICS and metric != METRICS[metric.name]:
            raise InputError(f"metrics: {metric.name} is a name of the package's own; legal: another name")
        also = tuple(dataclasses.replace(c, shown=max(c.shown, Shown.FIGURES)) for c in metric.also)
        chosen[metric.name] = dataclasses.replace(metric, shown=Shown.EVERYWHERE, also=also)
    # Means and quantiles also need the metrics that they are taken over.
    for metric in [NUM_TASKS, *(m.over for m in chosen.values() if m.over is not None)]:
        at_least = dataclasses.replace(metric, shown=min(metric.shown, Shown.ROWS))
        found = chosen.setdefault(metric.name, at_least)
        if found.function != metric.function:
            raise InputError(f"metrics: {metric.name} is the name of two metrics; legal: another name")
    names = [*_RESERVED, *row_names(columns_of(chosen.values()), 1)]
    names += [c.name for c in columns_of(chosen.values()) if not c.in_rows]
    if taken := {name for name in names if names.count(name) > 1}:
        raise InputError(f"metrics: {', '.join(sorted(taken))}; legal: names that no other column has")
    return tuple(chosen.values())


def is_usual(column: Column) -> bool:
    """Whether tables show a column even if nobody asks for it, at least where tasks are rejected."""
    usual = column.name in METRICS and METRICS[column.name].shown >= Shown.TABLES
    return usual or column.name == REJECT_RATE.name


def columns_for_tables(columns: Iterable[Column], some_rejected: bool) -> tuple[Column, ...]:
    """The columns of a finished study as its tables show them.

    If any task was rejected, the share of such tasks is in all tables, since the response time is that of the
    accepted ones.
    """
    return tuple(
        dataclasses.replace(c, shown=max(c.shown, Shown.TABLES))
        if some_rejected and c.name == REJECT_RATE.name
        else c
        for c in columns
    )


def curve_metrics(asked: Sequence[str | Metric] = ()) -> Metrics:
    """The metrics of training episodes, for which quantiles are not available.

    Raises:
      InputError: see `choose`.
    """
    return tuple(metric for metric in choose(asked, Shown.CURVES) if metric.is_sum)


def _metric(asked: str | Metric) -> Metric:
    if isinstance(asked, Metric):
        return asked
    if not isinstance(asked, str):
        raise InputError(f"metrics: a {type(asked).__name__}; legal: names of metrics, or an amco_jax.Metric")
    check_choice("metrics", asked, METRICS)
    return METRICS[asked]


EPISODE_METRICS = choose()
"""The default metrics of sweeps and evaluations"""

CURVE_METRICS = curve_metrics()
"""The default metrics of trainings"""
