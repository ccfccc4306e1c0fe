"""Arrivals and tasks: what the base stations receive, slot by slot.

A workload is a pytree with two methods,

    row(params, t, b) -> (positions, task_at)
    num_positions(params) -> M

`positions` is a pytree of arrays with a leading axis over the task positions of base station `b` in slot
`t`, and `task_at` makes the `Task` of one position from its entry. The kernel scans over `positions`. Those
from `M` on never hold a task: they are padding.

`PROCESSES` are the arrival processes by name. What a process needs beyond `Params`, the host computes
beforehand: `Tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array
from jaxtyping import Int, UInt32

from amco_jax.env import Task
from amco_jax.errors import InputError
from amco_jax.params import Params, Shape
from amco_jax.scenario import Scenario
from amco_jax.workload.bernoulli import Bernoulli, bernoulli
from amco_jax.workload.poisson import bursty_tables, counted, poisson_tables
from amco_jax.workload.recorded import Recorded
from amco_jax.workload.trace import requests_of, slots_of, traced


@runtime_checkable
class Workload(Protocol):
    """The protocol above."""

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[[Any], Task]]: ...

    def num_positions(self, params: Params) -> Any: ...


class Tables(NamedTuple):
    """What the host computes for scenarios of one shape."""

    common: Any = None
    """Of all of them: leaves of any shape"""
    own: Any = None
    """Of each: leaves `[scenarios, ...]`"""

    def of(self, index: int | Int[Array, ""]) -> Tables:
        """Those of one scenario."""
        return Tables(self.common, jax.tree.map(lambda leaf: leaf[index], self.own))


class Process(NamedTuple):
    """An arrival process."""

    workload: Callable[[Shape, Params, Any, Any, UInt32[Array, ""], int | Array], Workload]
    """The workload of a seed's episode from `(shape, params, common, own, seed, episode)`"""
    common: Callable[[Scenario, int], Any] = lambda scenario, max_tasks: None
    """`Tables.common` of any of the scenarios"""
    own: Callable[[Scenario, int], Any] = lambda scenario, max_tasks: None
    """A scenario's part of `Tables.own`"""


def _counted(shape: Shape, params: Params, common: Any, own: Any, seed: Any, episode: Any) -> Workload:
    return counted(shape, params, own, seed, episode)


PROCESSES: dict[str, Process] = {
    "bernoulli": Process(lambda shape, params, common, own, *of: bernoulli(params, shape.max_tasks, *of)),
    "poisson": Process(_counted, own=poisson_tables),
    "bursty": Process(_counted, own=bursty_tables),
    "trace": Process(traced, requests_of, slots_of),
}


def tables_of(scenarios: Sequence[Scenario], shape: Shape) -> Tables:
    """The tables of scenarios of one shape, as NumPy arrays.

    Raises:
      InputError: their traces differ.
    """
    process, first = PROCESSES[shape.arrivals], scenarios[0]
    if shape.arrivals == "trace" and any(s.trace != first.trace for s in scenarios):
        raise InputError("trace: different ones; legal: one in all scenarios that are simulated together")
    own = [process.own(scenario, shape.max_tasks) for scenario in scenarios]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *own)
    return Tables(process.common(first, shape.max_tasks), stacked)


def workload_of(
    shape: Shape, params: Params, tables: Tables, seed: UInt32[Array, ""], episode: int | Array = 0
) -> Workload:
    """The workload of one episode of a seed.

    Args:
      tables: those of the scenario, see `Tables.of`.
    """
    return PROCESSES[shape.arrivals].workload(shape, params, *tables, seed, episode)


__all__ = [
    "PROCESSES",
    "Bernoulli",
    "Process",
    "Recorded",
    "Tables",
    "Workload",
    "bernoulli",
    "tables_of",
    "workload_of",
]
