"""Arrivals and tasks: what the base stations receive, slot by slot.

A workload is a pytree with one method,

    row(params, t, b) -> (positions, task_at)

`positions` is a pytree of arrays with a leading axis over the task positions of base station `b` in slot
`t`, and `task_at` makes the `Task` of one position from its entry. The kernel scans over `positions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from jax import Array

from amco_jax.env import Task
from amco_jax.scenario import Params
from amco_jax.workload.bernoulli import Bernoulli, bernoulli
from amco_jax.workload.recorded import Recorded


class Workload(Protocol):
    """The protocol above."""

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[[Any], Task]]: ...


__all__ = ["Bernoulli", "Recorded", "Workload", "bernoulli"]
