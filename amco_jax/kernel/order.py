"""The queue of a slot: its tasks in the order of service, if that is not station by station."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from amco_jax.compile.bounded import most_of_lanes
from amco_jax.env import Background, Task
from amco_jax.params import Params, Shape
from amco_jax.workload import TimedWorkload, Workload, count_of, expected_after


class Turn(NamedTuple):
    """A task position in a queue; in a whole queue, leaves have a leading axis."""

    station: Int[Array, ""]
    position: Int[Array, ""]
    drawn: Float[Array, ""]
    """The time by which a random order is sorted, as a share of the slot in [0, 1); 0 in other orders"""
    time: Float[Array, ""]
    """Arrival time of its task, s from the start of the slot; 0 if all tasks arrive at the start"""
    task: Task
    planned: Any
    """The set that a per-slot policy selected for it, `[num_servers]` booleans, what agents hold for it, or
    None"""
    background: Background | None = None
    """Load that comes right after it"""


def tasks_of_slot(params: Params, workload: Workload, t: Int[Array, ""], num_servers: int) -> Task:
    """The tasks of slot `t`, with fields `[num_servers, max_tasks]` by base station and position."""

    def row(b) -> Task:
        entries, task_at = workload.row(params, t, b)
        return jax.vmap(task_at)(entries)

    return jax.vmap(row)(jnp.arange(num_servers))


def still_to_come(
    shape: Shape, params: Params, workload: Workload, turn: Turn, recent: Float[Array, " num_servers"]
) -> Float[Array, " num_servers"]:
    """The number of tasks that the slot is still expected to bring to each base station after a turn.

    It is 0 with continuous timing, where the end of a slot means nothing.

    Args:
      recent: the expected number in a whole slot, see `Arrived`.
    """
    if shape.timing == "continuous":
        return jnp.zeros_like(recent)
    if shape.order == "random":
        # Not the place in the queue, which counts positions that only pad the arrays.
        return recent * (1 - turn.drawn)
    station, n = jnp.arange(shape.num_servers), turn.position.astype(recent.dtype)
    here = expected_after(workload, params, n + 1, recent, known=True)
    if shape.order == "stations":
        others = jnp.where(station > turn.station, recent, 0)
    else:
        passed = n + jnp.where(station < turn.station, 1, 0)
        others = expected_after(workload, params, passed, recent, known=False)
    return jnp.where(station == turn.station, here, others)


def queue_of_slot(
    shape: Shape,
    params: Params,
    workload: Workload,
    t: Int[Array, ""],
    planned: Any,
    background: Background | None = None,
) -> tuple[Turn | None, Int[Array, "num_servers max_tasks"] | None]:
    """All positions of slot `t` in the order of service, `[turns]`, if that is not station by station.

    Args:
      planned, background: leaves `[num_servers, max_tasks, ...]`, see `Turn`, or None.

    Returns:
      The queue, and the index of each position in it; None and None if stations are served one by one.
    """
    if shape.by_station:
        return None, None
    tasks = tasks_of_slot(params, workload, t, shape.num_servers)
    num_servers, max_tasks = tasks.present.shape
    count = num_servers * max_tasks
    if shape.has_times:
        assert isinstance(workload, TimedWorkload)
        drawn = jax.vmap(lambda b: workload.times(params, t, b))(jnp.arange(num_servers)).ravel()
        late = jnp.zeros(count, bool)
        if shape.timing == "slotted" and (used := count_of(workload, t)) is not None:
            late = jnp.tile(jnp.arange(max_tasks) >= used, num_servers)  # what need not be served comes last
        _, times, order = lax.sort((late, drawn, jnp.arange(count)), num_keys=2)
    else:
        order = jnp.arange(count).reshape(num_servers, max_tasks).T.ravel()
        times = jnp.zeros(count, tasks.size.dtype)
    drawn = times
    if shape.timing == "slotted":
        times = jnp.zeros_like(times)
    of_turns = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:])[order], (tasks, planned, background))
    times = times * params.slot_duration
    queue = Turn(order // max_tasks, order % max_tasks, drawn, times, *of_turns)
    _, places = lax.sort((order, jnp.arange(count)), num_keys=1)
    return queue, places.reshape(num_servers, max_tasks)


def most_positions(shape: Shape, workload: Workload, t: Int[Array, ""]) -> Int[Array, ""] | None:
    """The number of positions of a base station, or of the queue of slot `t`, that hold a task in some lane.

    None if that is not known in advance, and with continuous timing, where positions without a task divide
    the slot, and so decide how the backlog is rounded.
    """
    count = None if shape.timing == "continuous" else count_of(workload, t)
    if count is None:
        return None
    return most_of_lanes(count) * (1 if shape.by_station else shape.num_servers)


def to_positions(served: Any, places: Int[Array, "num_servers max_tasks"] | None) -> Any:
    """Reorder values of turns, `[turns, ...]`, to values of positions, `[num_servers, max_tasks, ...]`."""
    if places is None:
        return served
    return jax.tree.map(lambda x: x[places.ravel()].reshape(*places.shape, *x.shape[1:]), served)
