"""The tasks drawn by arrival processes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax import Scenario
from amco_jax.env import Task
from amco_jax.kernel import tasks_of_slot
from amco_jax.params import Shape
from amco_jax.workload import Workload, tables_of, workload_of


def tasks_of_slots(params: Any, workload: Workload, num_slots: int) -> Task:
    """All tasks of some slots, with fields `[num_slots, num_servers, max_tasks]`."""
    num_servers = params.capacity.shape[0]
    of_slot = jax.vmap(lambda t: tasks_of_slot(params, workload, t, num_servers))
    return of_slot(jnp.arange(num_slots))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _arrivals(shape: Shape, params: Any, tables: Any, seeds: Any, episode: Any, training: bool) -> Task:
    def of_seed(seed: Any) -> Task:
        workload = workload_of(shape, params, tables, seed, episode, training=training)
        return tasks_of_slots(params, workload, shape.num_slots)

    return jax.vmap(of_seed)(seeds)


def arrivals(
    scenario: Scenario,
    seeds: int = 50,
    episode: int = 0,
    max_tasks: int | None = None,
    training: bool = False,
) -> Task:
    """All tasks of an episode, with fields `[seeds, num_slots, num_servers, max_tasks]`."""
    shape = scenario.shape(max_tasks)
    tables = tables_of([scenario], shape).of(0)
    numbers = jnp.arange(seeds, dtype=jnp.uint32)
    found = _arrivals(shape, scenario.params(), tables, numbers, episode, training)
    return jax.tree.map(np.asarray, found)
