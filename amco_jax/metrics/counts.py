"""Counts of tasks, which means are taken over."""

from __future__ import annotations

import math

from amco_jax.metrics.metric import COUNT, Metric, Reduction, Shown

NUM_TASKS = Metric(
    name=COUNT,
    label="tasks per episode",
    caption="Tasks that arrive in an episode.",
    reduction=Reduction.SUM,
    bounds=(0.0, math.inf),
    shown=Shown.ROWS,
    of_task=lambda task: True,
    whole=True,
)

ACCEPTED = Metric(
    name="num_accepted",
    label="accepted tasks per episode",
    caption="Tasks that are accepted in an episode.",
    reduction=Reduction.SUM,
    bounds=(0.0, math.inf),
    shown=Shown.ROWS,
    complement_of="reject_rate",
    of_task=lambda task: ~task.rejected,
    whole=True,
)

IN_TIME = Metric(
    name="num_in_time",
    label="tasks in time per episode",
    caption="Tasks of an episode that end before their deadline.",
    reduction=Reduction.SUM,
    better="higher",
    bounds=(0.0, math.inf),
    shown=Shown.ASKED,
    complement_of="miss_rate",
    of_task=lambda task: ~task.missed,
    whole=True,
)
