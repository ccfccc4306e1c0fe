"""One decision: servers that are not available, against fleets without these servers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amco_jax.agents.methods import Method, get_method
from amco_jax.agents.policy import TaskView, per_task
from amco_jax.env import (
    UNIFIED,
    Backlog,
    Decision,
    Queues,
    Task,
    advance,
    close_slot,
    in_continuous_time,
    site,
)
from amco_jax.kernel import decide_task
from amco_jax.kernel.decision import available_set
from amco_jax.scenario import Scenario

DEVICES = ("NVIDIA Jetson AGX Orin", "NVIDIA Jetson Xavier NX", "NVIDIA Jetson AGX Orin")
KEY: Any = np.zeros(2, np.uint32)
LAST_DEAD = jnp.array([True, True, True, False])


def fleet(whole: bool, num_servers: int) -> Any:
    """The params of the first servers of a fleet of four."""
    if whole:
        service: Any = {"devices": (*DEVICES, DEVICES[0])[:num_servers]}
        scenario = Scenario(
            service=service, task_size_max=4, task_size_min=1, density_min=20, density_max=20, link_rate=400.0
        )
    else:
        scenario = Scenario(num_servers=num_servers, capacity=(10, 20, 30, 40)[:num_servers], link_rate=400.0)
    return jax.tree.map(jnp.asarray, scenario.params())


def decision(method: Method, params: Any, servers: Any, size: Any, available: Any) -> tuple[Queues, Decision]:
    physics = in_continuous_time(UNIFIED)
    here, queues = site(params, physics, jnp.int32(0)), Backlog(servers, 0 * servers).queues_at(jnp.int32(0))
    task = Task(jnp.bool_(True), size, size * params.density_min)

    def view(wait: Any, cost: Any) -> TaskView:
        return TaskView(task, wait, cost, here.local, params, KEY, jnp.int32(0))

    return decide_task(params, physics, method, here, servers, task, queues, view, None, available)[:2]


@pytest.mark.parametrize(("name", "whole"), [("optimal", False), ("optimal", True), ("best-2", True)])
def test_a_dead_server_is_as_if_it_were_not_there(name: str, whole: bool):
    method, four, three = get_method(name), fleet(whole, 4), fleet(whole, 3)
    random = np.random.default_rng(0)
    servers = jnp.asarray(random.uniform(0, 5, (40, 4)), jnp.float32) * four.capacity
    sizes = jnp.asarray(random.integers(1, 5, 40), jnp.float32)

    def both(servers: Any, size: Any) -> Any:
        masked = decision(method, four, servers, size, LAST_DEAD)
        return masked, decision(method, three, servers[:3], size, None)

    (queues, found), (queues_of_three, wanted) = jax.jit(jax.vmap(both))(servers, sizes)
    assert not found.selected[:, 3].any()
    np.testing.assert_array_equal(found.selected[:, :3], wanted.selected)
    np.testing.assert_allclose(found.fraction[:, :3], wanted.fraction, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.finish, wanted.finish, rtol=1e-5)
    np.testing.assert_allclose(queues.slot_load[:, :3], queues_of_three.slot_load, rtol=1e-5, atol=1e-3)


def test_a_set_of_dead_servers_becomes_the_server_that_ends_first():
    only_last = Method("last", per_task(lambda view: jnp.arange(4) == 3))
    servers = jnp.array([50.0, 20.0, 60.0, 0.0])  # 5, 1 and 2 s of work at 10, 20 and 30 per second
    run = jax.jit(lambda servers: decision(only_last, fleet(False, 4), servers, jnp.float32(3), LAST_DEAD))
    _, found = run(servers)
    assert found.selected.tolist() == [False, True, False, False]
    assert not found.rejected


@pytest.mark.parametrize(
    ("chosen", "available", "left"),
    [
        ([1, 1, 0], [1, 0, 1], [1, 0, 0]),
        ([0, 1, 0], [1, 0, 1], [0, 0, 1]),
        ([0, 0, 0], [1, 0, 1], [0, 0, 0]),
        ([0, 1, 0], [0, 0, 0], [0, 0, 0]),
        ([1, 1, 1], [1, 1, 1], [1, 1, 1]),
    ],
)
def test_sets_without_dead_servers(chosen: list[int], available: list[int], left: list[int]):
    alone = jnp.array([3.0, 1.0, 2.0])
    found = available_set(jnp.array(chosen, bool), alone, jnp.array(available, bool))
    assert found.tolist() == np.array(left, bool).tolist()


def test_time_passes_as_in_a_slot_that_closes():
    params, row = fleet(False, 4), in_continuous_time(UNIFIED)
    backlog = Backlog(jnp.array([0.0, 5.0, 40.0, 90.0]), jnp.array([0.0, 0.2, 1.4, 3.0]))

    def both(backlog: Backlog) -> tuple[Backlog, Backlog]:
        closed, _ = close_slot(params, row, backlog, jnp.zeros(4), backlog.links)
        return advance(params, advance(params, backlog, 0.25), 0.75), closed

    halves, closed = jax.jit(both)(backlog)
    for found, wanted in zip(halves, closed, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
