"""The kernel against the model page, written as plain loops in `amco_jax/kernel/reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.refusals import refused

from amco_jax.kernel.recording import replay
from amco_jax.kernel.reference import (
    ALLOCATORS,
    PUBLISHED,
    best_sets,
    cwa,
    cwa_by_solve,
    random_pairs,
    simulate,
)

SHAPES = {1: (4, 4), 2: (4, 5), 3: (5, 6), 7: (3, 4)}
"""Positions and slots by number of servers; one compilation each, and allocator."""

every_size = pytest.mark.parametrize("num_servers", SHAPES)


def random_recording(
    method: str, num_servers: int, seed: int, slot_s: float = 1.0, load: float = 1.0
) -> dict:
    """Random tasks and fleet, with sets of the kind that the method picks."""
    random = np.random.default_rng([seed, num_servers])
    num_tasks, num_slots = SHAPES[num_servers]
    shape = num_slots, num_servers, num_tasks
    sizes = random.uniform(2, 5, shape) * (random.random(shape) < 0.7)
    recording = {
        "method": method,
        "task_mbit": sizes,
        # A load of 1 keeps the servers about half busy.
        "density_gcycles_per_mbit": random.uniform(0.5, 1.5, num_tasks) * load,
        "capacity_gcycles_per_s": random.uniform(5, 25, num_servers),
        "rate_mbit_per_s": random.uniform(10, 100, (num_servers, num_servers)),
        "deadline_s": 0.5,
        "slot_s": slot_s,
        "selected": random_sets(method, shape, random),  # empty positions too, where they mean nothing
    }
    recording["task_mbit"][-1, 0, 0] = 3.0  # a last slot without any set would not be scheduled
    recording["selected"][-1, 0, 0, 0] = True
    return recording


def random_sets(method: str, shape: tuple[int, int, int], random: np.random.Generator) -> np.ndarray:
    num_servers = shape[1]
    ranks = random.random((*shape, num_servers)).argsort(axis=-1)
    if method == "smcoedge":
        return ranks < 3
    if method in ("drlcoedge", "randcoedge"):
        return (ranks == 0) | np.eye(num_servers, dtype=bool)[:, None]
    sets = random.random((*shape, num_servers)) < 0.5
    return np.where(sets.any(axis=-1, keepdims=True), sets, ranks == 0)


def assert_same(recording: dict, physics: str, allocator: str = "cwa") -> dict[str, Any]:
    found = replay(recording, physics=physics, allocator=allocator, precision="float64")
    expected = simulate(recording, physics, ALLOCATORS[allocator])
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-11, err_msg=name)
    return expected


@every_size
@pytest.mark.parametrize("physics", ["published", "unified", "conserving", "serial"])
@pytest.mark.parametrize("method", PUBLISHED)
def test_every_physics_row(method: str, physics: str, num_servers: int):
    outcomes = [
        assert_same(random_recording(method, num_servers, seed, slot_s, load), physics)
        for seed, (slot_s, load) in enumerate([(1.0, 1.0), (0.25, 1.0), (2.0, 0.3), (1.0, 8.0)])
    ]
    arrived = [o["makespan_s"] > 0 for o in outcomes]
    rates = [o["missed"][here].mean() for o, here in zip(outcomes, arrived, strict=True)]
    assert min(rates) < 0.5 < max(rates)  # the scenarios reach from light load to overload
    assert any((o["backlog_gcycles"] > 0).any() for o in outcomes)


# Seven servers compile for seconds, and once is enough.
@pytest.mark.parametrize(
    ("num_servers", "allocator"),
    [(b, a) for b in SHAPES for a in ALLOCATORS if b < 7 or a == "waterfill"],
)
def test_empty_sets_reject_tasks(num_servers: int, allocator: str):
    recording = random_recording("amcoedge", num_servers, seed=9)
    rejected = np.random.default_rng(num_servers).random(recording["task_mbit"].shape) < 0.4
    rejected[-1, 0, 0] = False
    recording["selected"] &= ~rejected[..., None]
    expected = assert_same(recording, "unified", allocator)
    gone = rejected & (recording["task_mbit"] > 0)
    assert gone.any()
    assert (expected["makespan_s"][gone] == 0.5).all()
    assert (expected["reward"][gone] == -5).all()


def test_the_capped_link_is_reached():
    # Slow links, so that the cap of L_b at the slot's length makes the difference between physics rows.
    recording = random_recording("amcoedge", 3, seed=3, slot_s=0.25)
    recording["rate_mbit_per_s"] = 8.0
    expected = assert_same(recording, "unified")
    assert (expected["link_delay_s"] == 0.25).any()
    uncapped = assert_same(recording | {"method": "optimal"}, "published")
    assert (uncapped["link_delay_s"] > 0.25).any()


def test_the_rate_of_a_link_belongs_to_both_its_ends():
    recording = random_recording("amcoedge", 3, seed=4)
    receiver_only = recording | {"rate_mbit_per_s": recording["rate_mbit_per_s"][0]}
    assert_same(receiver_only, "unified")
    one, other = (simulate(r, "unified", cwa)["makespan_s"] for r in (recording, receiver_only))
    assert not np.allclose(one, other)


def test_trailing_slots_without_sets_are_not_scheduled():
    recording = random_recording("amcoedge", 3, seed=5)
    recording["selected"][-2:] = False
    assert (recording["task_mbit"][-2:] > 0).any()
    served = recording | {"task_mbit": recording["task_mbit"].copy()}
    served["task_mbit"][-2:] = 0
    found = replay(recording, precision="float64")
    for name, values in simulate(served, "unified", cwa).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    "method", ["amcoedge", "ppo-sets", "amcoedge-plus", "amco-priced-trained", "smcoedge-2"]
)
def test_trained_methods_are_refused_as_a_replay_has_no_agents(method: str):
    recording = random_recording("optimal", 3, seed=7)
    refused(lambda: replay(recording, method=method), f"method: {method} is trained; legal in a replay: ")


def test_ragged_arrays_are_refused():
    recording = random_recording("optimal", 3, seed=8) | {"task_mbit": [[[1.0, 2.0], [3.0]]]}
    refused(lambda: replay(recording), "task_mbit: [[[1.0, 2.0], [3.0]]]; legal: an array")


@pytest.mark.parametrize("num_servers", [1, 2, 3])
def test_the_published_ways_to_optimal_and_to_cwa(num_servers: int):
    """Enumeration of all sets, and a dense solve for each: what the benchmark times."""
    recording = random_recording("optimal", num_servers, seed=6)
    arrivals = {name: array for name, array in recording.items() if name != "selected"}
    found = replay(arrivals, method="optimal", precision="float64")
    expected = simulate(arrivals, "unified", cwa_by_solve, best_sets(num_servers, cwa_by_solve))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-11, err_msg=name)
    assert num_servers == 1 or len(np.unique(expected["selected"].sum(axis=-1))) > 2


def test_random_pairs_are_local_and_uniform():
    choose = random_pairs(4, np.random.default_rng(0))
    pairs = [choose(0, 2, 0, None) for _ in range(4000)]  # pyright: ignore[reportArgumentType]  # needs no times
    assert all(2 in pair and len(set(pair)) == len(pair) <= 2 for pair in pairs)
    partners = [next((i for i in pair if i != 2), 2) for pair in pairs]
    assert np.abs(np.bincount(partners) - 1000).max() < 120  # four standard deviations
