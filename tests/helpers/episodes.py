"""Small episodes with everything recorded, shared by the tests of the kernel."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from amco_jax.agents.methods import METHODS, Method
from amco_jax.compile.unroll import unroll
from amco_jax.compile.wide import on_host
from amco_jax.env import UNIFIED, Physics, Task
from amco_jax.kernel import Episode, rollout
from amco_jax.kernel.slot import Scalarise
from amco_jax.params import Params, Shape
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.workload import bernoulli
from helpers.drawn import tasks_of_slots

# The load is about three quarters of the capacity, so that queues build up and drain.
SMALL = Scenario(
    num_servers=3, num_tasks=4, num_slots=5, arrival_prob=0.6, density_min=1, density_max=4, deadline=0.4
)
OPTIMAL = METHODS["optimal"]


def episode(
    shape: Shape,
    method: Method,
    params: Params,
    physics: Physics,
    seed: Any,
    policy_seed: Any,
    scalarise: Scalarise = unroll,
) -> Episode:
    """Run one episode with everything recorded."""
    workload = bernoulli(params, shape.max_tasks, seed)
    key = stream(policy_seed, Stream.POLICY)
    return rollout(
        shape,
        params,
        physics,
        method=method,
        workload=workload,
        key=key,
        record=lambda decision, _: decision,
        keep_queues=True,
        scalarise=scalarise,
    )


compiled = jax.jit(episode, static_argnums=(0, 1))


def run(
    method: Method = OPTIMAL,
    seed: int = 0,
    policy_seed: int = 0,
    scenario: Scenario = SMALL,
    physics: Physics = UNIFIED,
    max_tasks: int | None = None,
    dtype: type = np.float32,
) -> Episode:
    with jax.enable_x64(dtype == np.float64):
        seeds = np.uint32(seed), np.uint32(policy_seed)
        out = compiled(scenario.shape(max_tasks), method, scenario.params(dtype), physics, *seeds)
        return on_host(out)


@functools.partial(jax.jit, static_argnums=0)
def arrivals(shape: Shape, params: Params, seed: jax.Array) -> Task:
    """All tasks of an episode, with fields `[num_slots, num_servers, num_tasks]`."""
    return tasks_of_slots(params, bernoulli(params, shape.max_tasks, seed), shape.num_slots)
