"""Workloads: the arrivals of tasks at the base stations in each slot."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array
from jaxtyping import UInt32

from amco_jax.errors import InputError
from amco_jax.identity import attribute_of
from amco_jax.params import Params, Shape
from amco_jax.random import Stream, fold_in, stream
from amco_jax.workload.bernoulli import BernoulliArrivals, bernoulli
from amco_jax.workload.bursty import BurstyArrivals, BurstyParameters
from amco_jax.workload.counts import Counted, count_tables, positions_for
from amco_jax.workload.poisson import PoissonArrivals
from amco_jax.workload.process import (
    ARRIVAL_PROB,
    ArrivalProcess,
    CountedWorkload,
    Quantity,
    ScenarioFields,
    Segment,
    Tables,
    TimedWorkload,
    Workload,
    expected_after,
    offered_load,
)
from amco_jax.workload.recorded import Recorded
from amco_jax.workload.timed import Timed
from amco_jax.workload.trace import TraceArrivals, TraceParameters

PROCESSES: dict[str, type[ArrivalProcess]] = {
    process.name: process for process in (BernoulliArrivals, PoissonArrivals, BurstyArrivals, TraceArrivals)
}
"""The arrival processes by name; the first one is the default"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters(BurstyParameters, TraceParameters):
    """The parameters of the processes above; a scenario has all of them, whichever process it names."""


def process_of(arrivals: Any) -> str | ArrivalProcess:
    """The name of one of `PROCESSES`, or a process as an object, given as such or as `module:attribute`.

    Raises:
      InputError: the value is neither, or cannot be imported.
    """
    found = attribute_of("arrivals", arrivals) if isinstance(arrivals, str) and ":" in arrivals else arrivals
    if isinstance(found, ArrivalProcess) or (isinstance(found, str) and found in PROCESSES):
        return found
    shown = repr(arrivals) if found is arrivals else f"{arrivals!r} is a {type(found).__name__}"
    legal = f"{', '.join(PROCESSES)}, or an ArrivalProcess, also as module:attribute"
    raise InputError(f"arrivals: {shown}; legal: {legal}")


@runtime_checkable
class ScenarioWithProcess(ScenarioFields, Protocol):
    """These fields of a scenario together with its arrival process."""

    @property
    def process(self) -> ArrivalProcess: ...


def tables_of(scenarios: Sequence[ScenarioWithProcess], shape: Shape) -> Tables:
    """The tables of scenarios of one shape, as NumPy arrays.

    Raises:
      InputError: the scenarios cannot be simulated together.
    """
    processes = [scenario.process for scenario in scenarios]
    own = [p.own(scenario, shape.max_tasks) for p, scenario in zip(processes, scenarios, strict=True)]
    common = shape.arrivals.common(processes, scenarios, shape.max_tasks)
    return Tables(common, jax.tree.map(lambda *leaves: np.stack(leaves), *own))


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
      tables: those of the scenario, see `tables_of`.
      segment: the part of the episode to generate; None for all of it.
      training: whether agents are trained on it. Drawn arrivals depend on the number of the episode alone,
        whereas a request log has separate parts for training and for everything else.
    """
    workload = shape.arrivals.workload(shape, params, tables, seed, episode, segment, training)
    if not shape.has_times:
        return workload
    return Timed(workload, fold_in(stream(seed, Stream.TIME), episode), shape.timing, shape.max_tasks)


def count_of(workload: Workload, t: Array) -> Array | None:
    """`CountedWorkload.count` of a slot; None if the workload does not tell it."""
    drawn = workload.workload if isinstance(workload, Timed) else workload
    return drawn.count(t) if isinstance(drawn, CountedWorkload) else None


def carried_by(shape: Shape, workload: Workload) -> Any:
    """The state that a segment carries into the next one, see `ArrivalProcess.after`."""
    return shape.arrivals.after(workload.workload if isinstance(workload, Timed) else workload)


__all__ = [
    "ARRIVAL_PROB",
    "PROCESSES",
    "ArrivalProcess",
    "Counted",
    "Parameters",
    "Quantity",
    "Recorded",
    "Segment",
    "Tables",
    "TimedWorkload",
    "Workload",
    "bernoulli",
    "carried_by",
    "count_of",
    "count_tables",
    "expected_after",
    "offered_load",
    "positions_for",
    "process_of",
    "tables_of",
    "workload_of",
]
