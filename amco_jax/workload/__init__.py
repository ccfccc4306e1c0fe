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
from typing import Any, NamedTuple, Protocol

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
from amco_jax.workload.trace import requests_of, slots_of, stretches_of, traced


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

    def of(self, index: Int[Array, ""]) -> Tables:
        """Those of one scenario."""
        return Tables(self.common, jax.tree.map(lambda leaf: leaf[index], self.own))


class Process(NamedTuple):
    """An arrival process."""

    workload: Callable[[Shape, Params, Any, Any, UInt32[Array, ""], int | Array, bool], Workload]
    """The workload of a seed's episode from `(shape, params, common, own, seed, episode, training)`"""
    common: Callable[[Scenario, int], Any] = lambda scenario, max_tasks: None
    """`Tables.common` of any of the scenarios"""
    own: Callable[[Scenario, int], Any] = lambda scenario, max_tasks: None
    """A scenario's part of `Tables.own`"""


def _bernoulli(
    shape: Shape, params: Params, common: Any, own: Any, seed: Any, episode: Any, _: bool
) -> Workload:
    return bernoulli(params, shape.max_tasks, seed, episode)


def _counted(
    shape: Shape, params: Params, common: Any, own: Any, seed: Any, episode: Any, _: bool
) -> Workload:
    return counted(shape, params, own, seed, episode)


PROCESSES: dict[str, Process] = {
    "bernoulli": Process(_bernoulli),
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
    shape: Shape,
    params: Params,
    tables: Tables,
    seed: UInt32[Array, ""],
    episode: int | Array = 0,
    *,
    training: bool,
) -> Workload:
    """The workload of one episode of a seed.

    Args:
      tables: those of the scenario, see `Tables.of`.
      training: whether agents are trained on it. Drawn arrivals differ by the episode's number alone; of a
        request log, training and everything else play separate parts.
    """
    return PROCESSES[shape.arrivals].workload(shape, params, *tables, seed, episode, training)


def played(scenario: Scenario, seeds: np.ndarray, episode: int = 0) -> dict[str, np.ndarray]:
    """Columns that say which arrivals were evaluated: `seed`, and where they come from a log `stretch`."""
    stretch = {"stretch": stretches_of(scenario, seeds, episode)} if scenario.arrivals == "trace" else {}
    return {"seed": seeds} | stretch


__all__ = [
    "PROCESSES",
    "Bernoulli",
    "Process",
    "Recorded",
    "Tables",
    "Workload",
    "bernoulli",
    "played",
    "tables_of",
    "workload_of",
]
