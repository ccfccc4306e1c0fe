"""The decisions of a scheduler, against those of the simulator on the same arrivals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amco_jax.agents.methods import Method, get_method
from amco_jax.env import SERIAL, UNIFIED, Physics, advance
from amco_jax.params import Shape
from amco_jax.random import Stream, fold_in, stream
from amco_jax.scenario import Scenario
from edge_fleet.decisions import Decider, SlotKnowledge, work_of

# Loads of about three quarters, so that requests wait for servers and for links.
JETSONS: Any = {"devices": ["NVIDIA Jetson AGX Orin", "NVIDIA Jetson Xavier NX", "NVIDIA Jetson AGX Orin"]}
FLEET = Scenario(
    service=JETSONS,
    capacity=(6.5, 1.1, 5.9), num_slots=6, num_tasks=5, arrival_prob=0.6, slot_duration=20, deadline=20,
    task_size_min=1, task_size_max=4, density_min=10, density_max=20, link_rate=(90, 110, 140),
    timing="continuous",
)  # fmt: skip
BATCHES = FLEET.replace(
    service={
        "devices": ["NVIDIA H100 PCIe", "NVIDIA A100 80GB PCIe", "Tesla V100-SXM2-16GB"],
        "tables": ["published", "estimated"],
        "batch": "all",
    },
    capacity=None,
    slot_duration=4,
)


def agents_of(method: Method, scenario: Scenario) -> Any:
    """Agents with the weights of before any training, whose sets depend on sizes and backlogs."""
    learner = method.require_training()
    shape: Shape = scenario.shape()
    settings = learner.settings.traced()

    def one(key: Any) -> Any:
        learnt, _ = learner.static().init(settings, shape, 1, key)
        return learner.static().deployed(settings, jax.tree.map(jnp.asarray, scenario.params()), learnt)

    keys = fold_in(stream(jnp.uint32(3), Stream.INIT), jnp.arange(scenario.num_servers))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))  # as they are read from a disk


@pytest.mark.parametrize(
    ("name", "scenario", "physics"),
    [
        ("optimal", FLEET, UNIFIED), ("least-wait", FLEET, UNIFIED), ("amco-priced", FLEET, UNIFIED),
        ("amcoedge", FLEET, UNIFIED), ("optimal", BATCHES, UNIFIED), ("optimal", FLEET, SERIAL),
    ],
    ids=["optimal", "least-wait", "amco-priced", "amcoedge", "batches", "serial"],
)  # fmt: skip
def test_decisions_are_those_of_the_simulator(name: str, scenario: Scenario, physics: Physics):
    method = get_method(name)
    agent = None if method.training is None else agents_of(method, scenario)
    decider = Decider(scenario, method, physics, agent)
    arrivals = decider.arrivals(5, 2)
    simulated = decider.simulate(5, 2, arrivals)
    assert len(arrivals) > 25
    assert len({tuple(row) for row in simulated.selected.tolist()}) > 1  # the method has a choice

    params: Any = jax.tree.map(jnp.asarray, scenario.params())
    pass_time = jax.jit(advance)
    backlog, clock, slot = None, 0.0, 0
    everyone, knowledge = np.ones(3, bool), SlotKnowledge(scenario)
    for number, arrival in enumerate(arrivals):
        while slot < arrival.slot:
            slot += 1
            start = slot * scenario.slot_duration
            if backlog is not None:
                backlog = pass_time(params, backlog, start - clock)
            knowledge.begin(np.zeros(3) if backlog is None else np.asarray(backlog.servers))
            clock = start
        if backlog is not None:
            backlog = pass_time(params, backlog, arrival.time - clock)
        knowledge.add(arrival)
        clock = arrival.time
        servers, links = (np.zeros(3), np.zeros(3)) if backlog is None else map(np.asarray, backlog)
        choice = decider.decide(5, 2, knowledge.situation(arrival, servers, links, everyone))
        backlog = choice.after
        work = work_of(scenario, choice.counts, arrival.size, arrival.work / arrival.size)
        np.testing.assert_allclose(work, choice.placed, rtol=1e-5)
        np.testing.assert_array_equal(choice.counts, simulated.counts[number])
        np.testing.assert_allclose(choice.finish, simulated.finish[number], rtol=2e-4)
        if choice.counts.any():
            assert choice.counts.sum() == arrival.size
