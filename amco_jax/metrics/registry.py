"""The registry of metrics: with the modules whose entries it lists, the only place that names them.

`metrics/metric.py` documents the fields of an entry; docs/metrics.md lists all entries and how to add one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from amco_jax.metrics.counts import ACCEPTED, NUM_TASKS
from amco_jax.metrics.energy import ENERGY
from amco_jax.metrics.metric import Column, Metric, Reduction, Shown
from amco_jax.metrics.over_slots import OVER_SLOTS

_POSITIVE = (0.0, math.inf)


def _percentiles(name: str, percents: Sequence[int], figure: int, words: str = "") -> tuple[Column, ...]:
    """The percentiles of `name_quantiles_s`, in `name_p50_s` and so on.

    Args:
      figure: the percentile that figures show.
      words: what the percentiles are of, if it is not the name.
    """
    return tuple(
        Column(
            name=f"{name}_p{percent}_s",
            label=f"{percent}{'st' if percent == 1 else 'th'} percentile of the {words or name}",
            unit="s",
            caption=f"{percent}{'st' if percent == 1 else 'th'} percentile of the {words or name}.",
            reduction=Reduction.QUANTILES,
            better="lower",
            bounds=_POSITIVE,
            shown=Shown.FIGURES if percent == figure else Shown.ROWS,
            of=f"{name}_quantiles_s",
            level=percent / 100,
        )
        for percent in percents
    )


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
    also=_percentiles("makespan", (1, 5, 10, 25, 50, 75, 90, 95, 99), figure=95),
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
    shown=Shown.ROWS,
    of_task=lambda task: task.rejected,  # it has no better direction, as rejected tasks count as missed
)

GOODPUT = Metric(
    name="goodput_per_s",
    label="goodput",
    unit="1/s",
    caption="Goodput: tasks in time per second.",
    reduction=Reduction.MEAN_OF_SLOTS,
    better="higher",
    bounds=_POSITIVE,
    shown=Shown.TABLES,
    complement_of=MISS_RATE.name,
    of_task=lambda task: ~task.missed / task.params.slot_duration,
)

WORK_IN_TIME = Metric(
    name="goodput_gcycles_per_s",
    label="goodput in work",
    caption="Work of the tasks in time per second.",
    unit="Gcycles/s",
    reduction=Reduction.MEAN_OF_SLOTS,
    better="higher",
    bounds=_POSITIVE,
    shown=Shown.ROWS,
    of_task=lambda task: jnp.where(task.missed, 0, task.work) / task.params.slot_duration,
)

RESPONSE = Metric(
    name="response_mean_s",
    label="mean response time of accepted tasks",
    unit="s",
    caption="Mean response time of the accepted tasks, which goes on beyond the deadline.",
    better="lower",
    bounds=_POSITIVE,
    shown=Shown.TABLES,
    over=ACCEPTED,
    of_task=lambda task: task.finish,
)

RESPONSES = Metric(
    name="response_quantiles_s",
    label="response time of accepted tasks",
    unit="s",
    caption="Response times of all accepted tasks of all seeds: quantiles.",
    reduction=Reduction.QUANTILES,
    better="lower",
    bounds=_POSITIVE,
    shown=Shown.ASKED,  # a second value of each task makes a sweep of rules take twice as long
    over=ACCEPTED,
    of_task=lambda task: task.finish,
    also=_percentiles("response", (50, 95, 99), figure=95, words="response time"),
)

TARDINESS = Metric(
    name="tardiness_mean_s",
    label="mean tardiness of accepted tasks",
    unit="s",
    caption="Mean time by which accepted tasks end after their deadline.",
    better="lower",
    bounds=_POSITIVE,
    shown=Shown.FIGURES,
    over=ACCEPTED,
    of_task=lambda task: jnp.maximum(task.finish - task.params.deadline, 0),
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

STATION_TASKS = Metric(
    name="station_tasks",
    label="tasks of a base station per episode",
    reduction=Reduction.SUM,
    bounds=_POSITIVE,
    shown=Shown.ASKED,
    per_server=True,
    whole=True,
    of_task=lambda task: task.local,
)

STATION_ACCEPTED = Metric(
    name="station_accepted",
    label="accepted tasks of a base station per episode",
    reduction=Reduction.SUM,
    bounds=_POSITIVE,
    shown=Shown.ASKED,
    per_server=True,
    whole=True,
    of_task=lambda task: task.local & ~task.rejected,
)


def _of_stations(of: str, name: str, label: str, how: str, unit: str = "") -> Column:
    """A column that aggregates a metric over base stations: `how` is max, min or jain."""
    fair = how == "jain"
    return Column(
        name=name,
        label=label,
        unit=unit,
        reduction=Reduction.MEAN_OF_TASKS,
        better="higher" if fair or how == "min" else "lower",
        bounds=_POSITIVE if unit else (0.0, 1.0),
        shown=Shown.ROWS,
        of=of,
        how=how,
    )


STATION_RESPONSE = Metric(
    name="station_response_s",
    label="mean response time by base station",
    unit="s",
    better="lower",
    bounds=_POSITIVE,
    shown=Shown.ASKED,
    per_server=True,
    over=STATION_ACCEPTED,
    of_task=lambda task: jnp.where(task.local, task.finish, 0),
    also=(
        _of_stations(
            "station_response_s",
            "station_response_max_s",
            "mean response time of the worst station",
            "max",
            "s",
        ),
        _of_stations(
            "station_response_s", "station_response_fairness", "fairness of response time (Jain)", "jain"
        ),
    ),
)

STATION_MISS_RATE = Metric(
    name="station_miss_rate",
    label="miss rate by base station",
    reduction=Reduction.RATE,
    better="lower",
    shown=Shown.ASKED,
    per_server=True,
    over=STATION_TASKS,
    of_task=lambda task: task.local & task.missed,
    also=(
        _of_stations("station_miss_rate", "station_miss_rate_max", "miss rate of the worst station", "max"),
        _of_stations("station_miss_rate", "station_miss_fairness", "fairness of miss rate (Jain)", "jain"),
    ),
)

STATION_SUCCESS_RATE = Metric(
    name="station_success_rate",
    label="share in time by base station",
    reduction=Reduction.RATE,
    better="higher",
    shown=Shown.ASKED,
    per_server=True,
    over=STATION_TASKS,
    of_task=lambda task: task.local & ~task.missed,
    also=(
        _of_stations(
            "station_success_rate", "station_success_fairness", "fairness of the share in time (Jain)", "jain"
        ),
    ),
)


_USERS = (("p50", "median user", 0.5), ("p95", "95th percentile of users", 0.95), ("max", "worst user", 1.0))
"""The quantiles over users that have columns: the key in the name, the words in the label, and the level"""


def _of_users(of: str, name: str, words: str, unit: str) -> tuple[Column, ...]:
    """The quantiles over users of the metric `of`.

    Args:
      name: the name of the columns, with `{}` in place of the key of the quantile.
      words: what the metric is of a user.
    """
    return tuple(
        Column(
            name=name.format(key),
            label=f"{words} of the {whose}",
            unit=unit,
            reduction=Reduction.QUANTILES_OF_USERS,
            better="lower",
            bounds=_POSITIVE if unit else (0.0, 1.0),
            shown=Shown.ROWS,
            of=of,
            level=level,
        )
        for key, whose, level in _USERS
    )


USER_RESPONSE = Metric(
    name="user_response_s",
    label="mean response time by user",
    unit="s",
    reduction=Reduction.QUANTILES_OF_USERS,
    better="lower",
    bounds=_POSITIVE,
    shown=Shown.ASKED,
    over=ACCEPTED,
    of_task=lambda task: task.finish,
    also=_of_users("user_response_s", "user_response_{}_s", "mean response time", "s"),
)

USER_MISS_RATE = Metric(
    name="user_miss_rate",
    label="miss rate by user",
    reduction=Reduction.QUANTILES_OF_USERS,
    better="lower",
    bounds=(0.0, 1.0),
    shown=Shown.ASKED,
    of_task=lambda task: task.missed,
    also=_of_users("user_miss_rate", "user_miss_rate_{}", "miss rate", ""),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        MAKESPAN,
        MAKESPANS,
        MISS_RATE,
        REJECT_RATE,
        GOODPUT,
        WORK_IN_TIME,
        RESPONSE,
        RESPONSES,
        TARDINESS,
        NUM_TASKS,
        ACCEPTED,
        SERVERS_USED,
        UTILISATION,
        STATION_TASKS,
        STATION_ACCEPTED,
        STATION_RESPONSE,
        STATION_MISS_RATE,
        STATION_SUCCESS_RATE,
        USER_RESPONSE,
        USER_MISS_RATE,
        *ENERGY,
        *OVER_SLOTS,
    )
}
"""All metrics of the package, by name"""
