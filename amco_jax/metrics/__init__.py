"""The registry of metrics: everything that is measured, an entry each. Nothing else in the package names one.

What an entry means stands in `metrics/metric.py`; docs/metrics.md lists the entries and says how to add one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp

from amco_jax.errors import InputError, check_choice
from amco_jax.metrics.metric import (
    COUNT,
    EPISODE,
    TASK,
    Column,
    Metric,
    Metrics,
    Reduction,
    Shown,
    columns_in,
    columns_of,
    described,
    estimated,
    row_names,
    shown_in,
)
from amco_jax.metrics.outcomes import SlotOutcome, TaskOutcome
from amco_jax.metrics.over_slots import OVER_SLOTS
from amco_jax.metrics.quantiles import LEVELS
from amco_jax.metrics.rows import accuracy, as_columns, columns
from amco_jax.metrics.sums import (
    Sums,
    add_slot,
    add_task,
    none_of_slots,
    none_of_tasks,
    of_each_task,
    of_slot,
    over_slots,
)

__all__ = [
    "CURVE_METRICS",
    "EPISODE",
    "EPISODE_METRICS",
    "LEVELS",
    "MAKESPAN",
    "METRICS",
    "MISS_RATE",
    "NUM_TASKS",
    "RESERVED",
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
    "columns",
    "columns_in",
    "columns_of",
    "described",
    "estimated",
    "none_of_slots",
    "none_of_tasks",
    "of_curves",
    "of_each_task",
    "of_slot",
    "over_slots",
    "row_names",
    "shown_in",
]

_POSITIVE = (0.0, math.inf)

MAKESPAN = Metric(
    name="makespan_mean_s",
    label="mean makespan per task",
    unit="s",
    caption="Mean makespan per task.",
    better="lower",
    bounds=_POSITIVE,
    of_task=lambda task: task.makespan,
    figure="makespan",
)

MAKESPANS = Metric(
    name="makespan_quantiles_s",
    label="makespan",
    unit="s",
    caption="Makespans of all tasks of all seeds: quantiles.",
    reduction=Reduction.QUANTILES,
    better="lower",
    bounds=_POSITIVE,
    shown=Shown.ROWS,
    of_task=lambda task: task.makespan,
    also=tuple(
        Column(
            name=f"makespan_p{percent}_s",
            label=f"{percent}{'st' if percent == 1 else 'th'} percentile of the makespan",
            unit="s",
            caption=f"{percent}{'st' if percent == 1 else 'th'} percentile of the makespan.",
            reduction=Reduction.QUANTILES,
            better="lower",
            bounds=_POSITIVE,
            shown=Shown.FIGURES if percent == 95 else Shown.ROWS,
            of="makespan_quantiles_s",
            level=percent / 100,
        )
        for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)
    ),
)

MISS_RATE = Metric(
    name="miss_rate",
    label="miss rate per task",
    caption="Share of all tasks that miss their deadline.",
    reduction=Reduction.RATE,
    better="lower",
    shown=Shown.TABLES,
    of_task=lambda task: task.missed,
)

REJECT_RATE = Metric(
    name="reject_rate",
    label="reject rate per task",
    caption="Share of all tasks that are rejected.",
    reduction=Reduction.RATE,
    better="lower",
    shown=Shown.ROWS,
    of_task=lambda task: task.rejected,
)

NUM_TASKS = Metric(
    name=COUNT,
    label="tasks per episode",
    caption="Tasks that arrive in an episode.",
    reduction=Reduction.SUM,
    bounds=_POSITIVE,
    shown=Shown.ROWS,
    of_task=lambda task: True,
    whole=True,
)

SERVERS_USED = Metric(
    name="mean_servers_used",
    label="servers per task",
    caption="Servers per task.",
    bounds=_POSITIVE,
    shown=Shown.CURVES,
    of_task=lambda task: jnp.sum(task.selected, dtype=jnp.int32),
    whole=True,
)

SATURATION = Column(
    name="utilisation_max",
    label="utilisation of the busiest server",
    caption="Share of the time that the busiest server is busy.",
    reduction=Reduction.MEAN_OF_SLOTS,
    bounds=(0.0, 1.0),
    shown=Shown.ROWS,
    of="utilisation",
    how="max",
)

UTILISATION = Metric(
    name="utilisation",
    label="mean utilisation of the servers",
    caption="Share of the time that the servers are busy.",
    reduction=Reduction.MEAN_OF_SLOTS,
    bounds=(0.0, 1.0),
    shown=Shown.FIGURES,
    per_server=True,
    of_slot=lambda slot: slot.busy,
    also=(
        SATURATION,
        Column(
            name="fairness",
            label="fairness of utilisation (Jain)",
            caption="Jain's fairness index of the servers' utilisation; 1 is equal.",
            reduction=Reduction.MEAN_OF_SLOTS,
            better="higher",
            bounds=(0.0, 1.0),
            shown=Shown.FIGURES,
            of="utilisation",
            how="jain",
        ),
    ),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        MAKESPAN,
        MAKESPANS,
        MISS_RATE,
        REJECT_RATE,
        NUM_TASKS,
        SERVERS_USED,
        UTILISATION,
        *OVER_SLOTS,
    )
}
"""All metrics of the package by name"""

RESERVED = (
    "method", "param", "value", "condition", "physics", "seed", "episode", "stretch", "gap", "loss",
    "epsilon",
)  # fmt: skip
"""Columns of results that are no metrics"""


def choose(asked: Sequence[str | Metric] = (), least: Shown = Shown.ROWS) -> Metrics:
    """The metrics of a study: those that it shows without being asked, and those that a user asks for.

    Args:
      asked: names of `METRICS`, or metrics of the user's own; they are shown everywhere.
      least: the level from which on the study shows metrics.

    Raises:
      InputError: an unknown name, no metric, or names of columns that are taken.
    """
    if isinstance(asked, str) or not hasattr(asked, "__len__"):
        raise InputError(f"metrics: {asked!r:.80}; legal: a list of names and metrics")
    chosen = {metric.name: metric for metric in METRICS.values() if metric.shown >= least}
    for each in asked:
        metric = _metric(each)
        if metric.name in METRICS and metric != METRICS[metric.name]:
            raise InputError(f"metrics: {metric.name} is a name of the package's own; legal: another name")
        also = tuple(dataclasses.replace(c, shown=max(c.shown, Shown.FIGURES)) for c in metric.also)
        chosen[metric.name] = dataclasses.replace(metric, shown=Shown.EVERYWHERE, also=also)
    # What means are taken over comes along.
    for metric in [NUM_TASKS, *(m.over for m in chosen.values() if m.over is not None)]:
        chosen.setdefault(metric.name, dataclasses.replace(metric, shown=min(metric.shown, Shown.ROWS)))
    names = [*RESERVED, *row_names(columns_of(chosen.values()), 1)]
    names += [c.name for c in columns_of(chosen.values()) if not c.in_rows]
    if taken := {name for name in names if names.count(name) > 1}:
        raise InputError(f"metrics: {', '.join(sorted(taken))}; legal: names that no other column has")
    return tuple(chosen.values())


def of_curves(asked: Sequence[str | Metric] = ()) -> Metrics:
    """The metrics of the episodes of a training, which have no quantiles.

    Raises:
      InputError: as `choose`.
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
"""What sweeps and evaluations measure without being asked for more"""

CURVE_METRICS = of_curves()
"""The same of trainings"""
