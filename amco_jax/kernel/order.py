"""The queue of a slot: its tasks in the order of service, where that is not station by station."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from amco_jax.env import Task
from amco_jax.params import Params, Shape
from amco_jax.workload import Timed, Workload


class Turn(NamedTuple):
    """A task position when its turn comes; in a queue, leaves have a leading axis."""

    station: Int[Array, ""]
    position: Int[Array, ""]
    time: Float[Array, ""]
    """When its task arrives, s from the start of the slot; 0 where all arrive there"""
    task: Task
    planned: Any
    """The set that a per-slot policy has chosen for it, `[num_servers]` booleans, or None"""


def tasks_of_slot(params: Params, workload: Workload, t: Int[Array, ""], num_servers: int) -> Task:
    """The tasks of slot `t`: fields `[num_servers, max_tasks]`, base station and position."""

    def row(b) -> Task:
        entries, task_at = workload.row(params, t, b)
        return jax.vmap(task_at)(entries)

    return jax.vmap(row)(jnp.arange(num_servers))


def queue_of_slot(
    shape: Shape, params: Params, workload: Workload, t: Int[Array, ""], planned: Any
) -> tuple[Turn | None, Int[Array, "num_servers max_tasks"] | None]:
    """All positions of slot `t` in the order of service, `[turns]`, where that is not station by station.

    Args:
      planned: `[num_servers, max_tasks, num_servers]` booleans of a per-slot policy, or None.

    Returns:
      The queue, and the place of each position in it; None and None where stations are served one by one.
    """
    if shape.by_station:
        return None, None
    tasks = tasks_of_slot(params, workload, t, shape.num_servers)
    num_servers, max_tasks = tasks.present.shape
    count = num_servers * max_tasks
    if shape.has_times:
        assert isinstance(workload, Timed)
        drawn = jax.vmap(lambda b: workload.times(params, t, b))(jnp.arange(num_servers))
        times, order = lax.sort((drawn.ravel(), jnp.arange(count)), num_keys=1)
    else:
        order = jnp.arange(count).reshape(num_servers, max_tasks).T.ravel()
        times = jnp.zeros(count, tasks.size.dtype)
    if shape.timing == "slotted":
        times = jnp.zeros_like(times)
    tasks, planned = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:])[order], (tasks, planned))
    queue = Turn(order // max_tasks, order % max_tasks, times * params.slot_duration, tasks, planned)
    _, places = lax.sort((order, jnp.arange(count)), num_keys=1)
    return queue, places.reshape(num_servers, max_tasks)


def by_position(served: Any, places: Int[Array, "num_servers max_tasks"] | None) -> Any:
    """What was kept of each turn, `[turns, ...]`, as `[num_servers, max_tasks, ...]`."""
    if places is None:
        return served
    return jax.tree.map(lambda x: x[places.ravel()].reshape(*places.shape, *x.shape[1:]), served)
