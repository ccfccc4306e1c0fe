"""Metrics over the slots of an episode, which show its course: rows hold a list with one number per slot.

They are measured only if a user asks for them. The number of a slot is the value of `of_slot`, or the sum
of `of_task` over the tasks that arrive in it. If a metric is taken over another, such as misses over tasks,
rows hold the quotient of the two sums, and estimates weigh it by the other one, so that all tasks have equal
weight. The slots of the warm-up, and quotients of slots without tasks, are NaN.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from amco_jax.metrics.metric import Metric, Reduction, Shown

TASKS = Metric(
    name="tasks_over_slots",
    label="tasks in the slot",
    caption="Tasks that arrive in each slot of an episode.",
    reduction=Reduction.OVER_SLOTS,
    bounds=(0.0, math.inf),
    shown=Shown.ASKED,
    of_task=lambda task: True,
    whole=True,
)

OVER_SLOTS = (
    TASKS,
    Metric(
        name="makespan_over_slots_s",
        label="mean makespan per task",
        unit="s",
        caption="Mean makespan of the tasks that arrive in each slot of an episode.",
        reduction=Reduction.OVER_SLOTS,
        better="lower",
        bounds=(0.0, math.inf),
        shown=Shown.ASKED,
        of_task=lambda task: task.makespan,
        over=TASKS,
    ),
    Metric(
        name="miss_rate_over_slots",
        label="miss rate per task",
        caption="Share of the tasks that arrive in each slot of an episode and miss their deadline.",
        reduction=Reduction.OVER_SLOTS,
        better="lower",
        bounds=(0.0, 1.0),
        shown=Shown.ASKED,
        of_task=lambda task: task.missed,
        over=TASKS,
    ),
    Metric(
        name="backlog_over_slots_gcycles",
        label="mean backlog of the servers",
        unit="Gcycles",
        caption="Work that waits at the end of each slot of an episode, averaged over servers.",
        reduction=Reduction.OVER_SLOTS,
        better="lower",
        bounds=(0.0, math.inf),
        shown=Shown.ASKED,
        of_slot=lambda slot: jnp.mean(slot.next_backlog),
    ),
    Metric(
        name="utilisation_over_slots",
        label="mean utilisation of the servers",
        caption="Share of each slot of an episode that the servers are busy, averaged over servers.",
        reduction=Reduction.OVER_SLOTS,
        bounds=(0.0, 1.0),
        shown=Shown.ASKED,
        of_slot=lambda slot: jnp.mean(slot.busy),
    ),
)
"""The registry's entries over slots"""


class Series:
    """The values of the slots of a batch of episodes, collected segment by segment."""

    def __init__(self):
        self._segments: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Append `[episodes, ...]`, the slots of the next segment."""
        self._segments.append(values.reshape(len(values), -1))

    def values(self) -> np.ndarray:
        """`[episodes, slots]`, the whole episodes."""
        return np.concatenate(self._segments, axis=1)
