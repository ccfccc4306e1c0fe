"""The tasks of drawn episodes slot by slot, as the bounds need them: in order, without empty positions.

Slots differ in the number of their tasks, those of request logs most of all. They are therefore divided into
groups with similar numbers of tasks, each of which has arrays of its own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.bounds.relaxation import SlotTasks
from amco_jax.kernel.order import queue_of_slot, tasks_of_slot
from amco_jax.params import Params, Shape
from amco_jax.scenario import Scenario
from amco_jax.workload import Tables, workload_of

_DEVIATIONS = 5
"""Standard deviations of the number of tasks for which arrays have places; slots with more are rare"""
_ROUND = 8
"""Numbers of places are multiples of this, so that scenarios share programs"""
_FACTOR = 4
"""The ratio of one size of arrays to the next smaller one; each size has programs, which take seconds to
compile"""


class Drawn(NamedTuple):
    """The positions of slots in the order of service, `[slots, positions]`; JAX or NumPy arrays."""

    present: Any
    station: Any
    size: Any
    """Mbit"""
    work: Any
    """Gcycles"""


class Places(NamedTuple):
    """The numbers of places in the arrays of a slot."""

    tasks: int
    station_tasks: int
    """The number of places of one base station"""


def drawn(shape: Shape, params: Params, tables: Tables, seed: Any, episode: Any) -> Drawn:
    """All slots of an episode of a seed; traceable."""
    workload = workload_of(shape, params, tables, seed, episode, training=False)

    def of_slot(t: Any) -> Drawn:
        queue, _ = queue_of_slot(shape, params, workload, t, None)
        if queue is not None:
            return Drawn(queue.task.present, queue.station, queue.task.size, queue.task.work)
        tasks = tasks_of_slot(params, workload, t, shape.num_servers)
        station = jnp.broadcast_to(jnp.arange(shape.num_servers)[:, None], tasks.present.shape)
        return Drawn(*(x.ravel() for x in (tasks.present, station, tasks.size, tasks.work)))

    return jax.vmap(of_slot)(jnp.arange(shape.num_slots))


def by_places(scenario: Scenario, slots: Drawn) -> Iterator[tuple[np.ndarray, Places]]:
    """Divide slots by the places that they need.

    Args:
      slots: leaves `[slots, positions]`.

    Yields:
      The indices of slots, and the number of places that suffices for them; slots without tasks are left out.
    """
    tasks = slots.present.sum(axis=1)
    of_stations = [slots.present & (slots.station == b) for b in range(scenario.num_servers)]
    most = np.max([of_station.sum(axis=1) for of_station in of_stations], axis=0)
    left = tasks > 0
    for places in _sizes(scenario):
        fit = left & (tasks <= places.tasks) & (most <= places.station_tasks)
        if np.any(fit):
            yield np.flatnonzero(fit), places
        left &= ~fit


def _sizes(scenario: Scenario) -> list[Places]:
    """Numbers of places, in ascending order.

    They are all positions, what slots usually need, a quarter of that, and so on, as long as a good part of
    the slots has no more tasks.
    """
    mean, variance = (scenario.num_servers * moment for moment in scenario.count_moments)
    sizes, few = [all_places(scenario), usual_places(scenario)], mean - math.sqrt(variance)
    while (size := Places(*(min(n, _rounded(n / _FACTOR)) for n in sizes[-1]))) != sizes[-1]:
        if size.tasks < few:
            break
        sizes.append(size)
    return sizes[::-1]


def _rounded(number: float) -> int:
    return -(-math.ceil(number) // _ROUND) * _ROUND


def usual_places(scenario: Scenario) -> Places:
    """The places that nearly all slots of a scenario need."""
    mean, variance = scenario.count_moments

    def enough(stations: int) -> int:
        most = stations * scenario.num_positions
        return min(most, _rounded(stations * mean + _DEVIATIONS * math.sqrt(stations * variance) + 1))

    return Places(enough(scenario.num_servers), enough(1))


def all_places(scenario: Scenario) -> Places:
    """A place for each position."""
    return Places(scenario.num_servers * scenario.num_positions, scenario.num_positions)


def packed(scenario: Scenario, slots: Drawn, places: Places) -> SlotTasks:
    """The tasks of slots without empty positions, leaves `[slots, ...]`, as NumPy arrays in float64."""
    params = scenario.params(np.float64)
    num_servers = scenario.num_servers
    order = np.argsort(~slots.present, axis=1, kind="stable")[:, : places.tasks]
    present, station, size, work = (np.take_along_axis(x, order, axis=1) for x in slots)
    size, work = (np.where(present, x, 0.0)[..., None] for x in (size, work))
    remote = present[..., None] & (station[..., None] != np.arange(num_servers))
    load, start = work / params.capacity, np.zeros((*station.shape, num_servers))
    if params.service is not None:
        load = load + size * params.service.overhead / params.capacity
        if (each := params.service.starts) is not None:
            per_task = each.of_task(work / np.where(size > 0, size, 1.0))
            start = np.where(present[..., None], per_task / params.capacity, 0.0)
    transfer = np.where(remote, size / params.link_rate[station], 0.0)
    return SlotTasks(
        present=present, load=load, transfer=transfer, start=start, remote=remote,
        place=_places(present, station, num_servers, places),
        sent=_waited_for(scenario, station, transfer),
        deadline=np.full(len(present), params.deadline),
    )  # fmt: skip


def _places(present: np.ndarray, station: np.ndarray, num_servers: int, places: Places) -> np.ndarray:
    """`SlotTasks.place` of each slot."""
    own = present[:, None] & (station[:, None] == np.arange(num_servers)[:, None])
    order = np.argsort(~own, axis=2, kind="stable")[..., : places.station_tasks]
    return np.where(np.take_along_axis(own, order, axis=2), order, present.shape[1]).astype(np.int32)


def _waited_for(scenario: Scenario, station: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    """`SlotTasks.sent` of each slot: less than 1 only where a link's cap may hide what it has to send."""
    if scenario.deadline <= scenario.slot_duration:
        return np.ones(len(station))
    all_sent = transfer.max(axis=2)[..., None] * (station[..., None] == np.arange(scenario.num_servers))
    most = all_sent.sum(axis=1).max(axis=1)
    return np.minimum(1.0, scenario.slot_duration / np.maximum(most, 1e-9))
