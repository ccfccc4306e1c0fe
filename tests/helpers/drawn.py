"""The tasks drawn by arrival processes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax import Scenario
from amco_jax.env import Task
from amco_jax.params import Shape
from amco_jax.workload import tables_of, workload_of


@functools.partial(jax.jit, static_argnums=(0, 5))
def _arrivals(shape: Shape, params: Any, tables: Any, seeds: Any, episode: Any, training: bool) -> Task:
    def of_seed(seed: Any) -> Task:
        workload = workload_of(shape, params, tables, seed, episode, training=training)

        def tasks(t: Any, b: Any) -> Task:
            entries, task_at = workload.row(params, t, b)
            return jax.vmap(task_at)(entries)

        each = jax.vmap(jax.vmap(tasks, (None, 0)), (0, None))
        return each(jnp.arange(shape.num_slots), jnp.arange(shape.num_servers))

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
