"""A workload with background load: work and delays that come to the queues after each decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from amco_jax.env import Task
from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Background:
    """The tasks of a workload, and background load after the decision at each of its positions.

    The load comes with or without a task. It either differs between slots, or is the same in all of them and
    then has no axis over slots.
    """

    workload: Any
    work: Float[Array, "*num_slots num_servers max_tasks num_servers"]
    """Gcycles that come to each server, `[(t,) b, n, i]`"""
    delay: Float[Array, "*num_slots num_servers max_tasks"]
    """s that come to the link delay of the base station, `[(t,) b, n]`"""

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[[Any], Task]]:
        """The positions of base station `b` in slot `t`."""
        entries, task_at = self.workload.row(params, t, b)
        place = (t, b) if self.work.ndim == 4 else b

        def with_background(position: tuple[Any, Array, Array]) -> Task:
            entry, work, delay = position
            return dataclasses.replace(task_at(entry), background_work=work, background_delay=delay)

        return (entries, self.work[place], self.delay[place]), with_background

    def num_positions(self, params: Params) -> Any:
        """The number of positions that may hold a task."""
        return self.workload.num_positions(params)

    def times(self, params: Params, t: Array, b: Array) -> Float[Array, " max_tasks"]:
        """The times of a workload that has them, see `TimedWorkload`."""
        return self.workload.times(params, t, b)
