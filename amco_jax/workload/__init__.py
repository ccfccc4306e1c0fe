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
from amco_jax.workload.poisson import bursty_tables, counted, last_burst, no_burst, poisson_tables
from amco_jax.workload.recorded import Recorded
from amco_jax.workload.trace import requests_of, slots_of, stretches_of, traced


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


class Segment(NamedTuple):
    """A part of an episode: as many slots as the shape says, from `first` on."""

    first: Int[Array, ""]
    """Must be the same for all seeds of a batch"""
    carried: Any
    """What the process carries into it, see `Process`"""


class Process(NamedTuple):
    """An arrival process."""

    workload: Callable[
        [Shape, Params, Any, Any, UInt32[Array, ""], int | Array, Segment | None, Any], Workload
    ]
    """The workload of a seed's episode, or of a segment of it, from
    `(shape, params, common, own, seed, episode, segment, training)`"""
    common: Callable[[Scenario, int], Any] = lambda scenario, max_tasks: None
    """`Tables.common` of any of the scenarios"""
    own: Callable[[Scenario, int], Any] = lambda scenario, max_tasks: None
    """A scenario's part of `Tables.own`"""
    before: Callable[[int], Any] = lambda num_servers: None
    """What is carried into an episode's first segment"""
    after: Callable[[Any], Any] = lambda workload: None
    """What the workload of a segment carries into the next one"""


def _bernoulli(shape, params, common, own, seed, episode, segment, training) -> Workload:
    return bernoulli(params, shape.max_tasks, seed, episode)


def _counted(shape, params, common, own, seed, episode, segment, training) -> Workload:
    return counted(shape, params, own, seed, episode, *(segment or ()))


def _traced(shape, params, common, own, seed, episode, segment, training) -> Workload:
    return traced(shape, params, common, own, seed, episode, training, *(segment or ())[:1])


PROCESSES: dict[str, Process] = {
    "bernoulli": Process(_bernoulli),
    "poisson": Process(_counted, own=poisson_tables),
    "bursty": Process(_counted, own=bursty_tables, before=no_burst, after=last_burst),
    "trace": Process(_traced, requests_of, slots_of),
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
    shape: Shape,
    params: Params,
    tables: Tables,
    seed: UInt32[Array, ""],
    episode: int | Array = 0,
    segment: Segment | None = None,
    *,
    training: bool | Array,
) -> Workload:
    """The workload of one episode of a seed.

    Args:
      tables: those of the scenario, see `Tables.of`.
      segment: the part of the episode that is asked for; None for all of it.
      training: whether agents are trained on it. Drawn arrivals differ by the episode's number alone; of a
        request log, training and everything else play separate parts.
    """
    process = PROCESSES[shape.arrivals]
    return process.workload(shape, params, *tables, seed, episode, segment, training)


__all__ = [
    "PROCESSES",
    "Bernoulli",
    "Process",
    "Recorded",
    "Segment",
    "Tables",
    "Workload",
    "bernoulli",
    "stretches_of",
    "tables_of",
    "workload_of",
]
