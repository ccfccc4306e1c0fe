"""The relaxation of a slot against enumeration, linear programming and every split of a few tasks."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from amco_jax.bounds.ascent import ascend
from amco_jax.bounds.relaxation import Multipliers, SlotTasks, alone, cheapest, costs, dual

STATION = np.array([0, 0, 1, 1])
CAPACITY = np.array([10.0, 15.0])
RATE = 20.0
NUM_SERVERS, NUM_TASKS = 2, 4


def slot_of(seed: int, deadline: float = 1.0) -> SlotTasks:
    """Four tasks at two base stations."""
    draw = np.random.default_rng(seed)
    size, work = draw.uniform(1, 3, NUM_TASKS), draw.uniform(1, 4, NUM_TASKS)
    remote = STATION[:, None] != np.arange(NUM_SERVERS)
    return SlotTasks(
        present=np.ones(NUM_TASKS, bool),
        load=work[:, None] / CAPACITY,
        transfer=np.where(remote, size[:, None] / RATE, 0.0),
        start=np.zeros((NUM_TASKS, NUM_SERVERS)),
        remote=remote,
        place=np.array([[0, 1], [2, 3]]),
        sent=np.ones(()),
        deadline=np.asarray(deadline),
    )


def single(tree):
    return jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, tree)


evaluated = jax.jit(dual, static_argnums=(2, 3))
ascended = jax.jit(ascend, static_argnums=(1, 2))
of_tasks_alone, lonely = jax.jit(cheapest), jax.jit(alone)


def best_split(slot: SlotTasks, parts: int = 4) -> float:
    """The least sum of makespans over all splits in multiples of 1/parts and all rejections."""
    splits = [(k / parts, 1 - k / parts) for k in range(parts + 1)] + [(0.0, 0.0)]
    least, deadline = np.inf, float(slot.deadline)
    for chosen in itertools.product(splits, repeat=NUM_TASKS):
        servers, links, total = np.zeros(NUM_SERVERS), np.zeros(NUM_SERVERS), 0.0
        for k, fraction in enumerate(np.array(chosen)):
            b, used = STATION[k], fraction > 0
            if not np.any(used):
                total += deadline
                continue
            away = np.arange(NUM_SERVERS) != b
            ends = servers + links[b] * away + fraction * (slot.load[k] + slot.transfer[k])
            total += min(np.max(ends[used]), deadline)
            servers = servers + fraction * slot.load[k]
            links[b] += np.sum(fraction * slot.transfer[k])
        least = min(least, total)
    return least


@pytest.mark.parametrize(("seed", "deadline"), [(0, 1.0), (1, 1.0), (2, 0.3), (3, 0.15)])
def test_no_split_is_below_the_bound(seed: int, deadline: float):
    slot = slot_of(seed, deadline)
    multipliers, fraction = ascended(single(slot), NUM_TASKS, 100)
    value = max(float(evaluated(single(slot), multipliers, grid, NUM_TASKS)[0]) for grid in (1, 4))
    optimum = best_split(slot)
    assert value <= optimum + 1e-5
    assert value > 0.8 * optimum  # a bound of 0 would be valid, too
    assert value <= float(costs(single(slot), fraction)) + 1e-5


def test_any_multipliers_give_a_bound():
    slot, draw = slot_of(0), np.random.default_rng(0)
    optimum = best_split(slot)
    for _ in range(20):
        server, link = draw.normal(0.2, 0.3, (2, NUM_TASKS, NUM_SERVERS))
        given = Multipliers(server, link, draw.uniform(0, 1, NUM_SERVERS))
        assert float(evaluated(single(slot), single(given), 1, NUM_TASKS)[0]) <= optimum


def test_the_minima_are_exact():
    slot, draw = slot_of(1), np.random.default_rng(1)
    server, link = draw.normal(0.3, 0.3, (2, NUM_TASKS, NUM_SERVERS))
    time = draw.uniform(0, 0.5, NUM_SERVERS)
    subsets = np.array([*itertools.product((0, 1), repeat=NUM_TASKS)])
    later = np.cumsum(subsets[:, ::-1], axis=1)[:, ::-1] - subsets  # [subsets, tasks]
    expected = -np.sum(time) * float(slot.deadline)
    for i in range(NUM_SERVERS):
        price = server[:, i] - time[i] * slot.load[:, i]
        expected += np.min(np.sum(subsets * ((later + 0.5) * slot.load[:, i] - price), axis=1))
        expected -= np.sum(np.maximum(np.diff(slot.load[:, i], prepend=0), 0)) / 8
    for b in range(NUM_SERVERS):  # the only other server is the only one to send to
        own, other = np.flatnonzero(b == STATION), 1 - b
        sets = subsets[(subsets[:, b != STATION] == 0).all(axis=1)][:, own]
        after = np.cumsum(sets[:, ::-1], axis=1)[:, ::-1] - sets
        expected += np.min(np.sum(sets * (after * slot.transfer[own, other] - link[own, other]), axis=1))
    price = server + np.where(slot.remote, link, 0)
    of_tasks, _ = of_tasks_alone(price, 0.5 * slot.load + slot.transfer, slot.deadline)
    expected += float(np.sum(of_tasks))
    given = single(Multipliers(server, link, time))
    assert float(evaluated(single(slot), given, 1, NUM_TASKS)[0]) == pytest.approx(expected, abs=1e-5)


def test_the_supergradient_is_one():
    slot, draw = single(slot_of(2)), np.random.default_rng(2)
    server, link = draw.normal(0.3, 0.1, (2, NUM_TASKS, NUM_SERVERS))
    given = single(Multipliers(server, link, draw.uniform(0, 0.5, NUM_SERVERS)))
    value, gradient, _ = evaluated(slot, given, 1, NUM_TASKS)
    for _ in range(10):
        step = jax.tree.map(lambda x: draw.normal(0, 0.1, x.shape).astype(np.float32), given)
        moved = jax.tree.map(lambda x, y: x + y, given, step)._replace(time=given.time)
        rise = sum(float(np.sum(g * s)) for g, s in zip(gradient[:2], step[:2], strict=True))
        assert float(evaluated(slot, moved, 1, NUM_TASKS)[0]) <= float(value) + rise + 1e-5


def test_cheapest_is_the_minimum_that_scipy_finds():
    draw = np.random.default_rng(3)
    price, own = draw.normal(0.3, 0.3, (20, 3)), draw.uniform(0.05, 0.5, (20, 3))
    found, fraction = map(np.asarray, of_tasks_alone(price, own, 0.7))
    for k in range(20):
        solved = minimize(
            lambda x, k=k: np.sum(price[k] * x + own[k] * x**2) + 0.7 * (1 - np.sum(x)),
            np.full(3, 0.3),
            bounds=[(0, 1)] * 3,
            constraints={"type": "ineq", "fun": lambda x: 1 - np.sum(x)},
        )
        assert found[k] == pytest.approx(solved.fun, abs=1e-4)
        assert np.sum(fraction[k]) <= 1 + 1e-5


def test_the_ascent_comes_near_the_optimum_of_the_linear_program():
    """It mixes choices of 0 or 1 of each server and link; tangents stand for squares."""
    slot = slot_of(0)
    subsets = np.array([*itertools.product((0, 1), repeat=NUM_TASKS)])
    later = np.cumsum(subsets[:, ::-1], axis=1)[:, ::-1] - subsets
    tangents = np.linspace(0, 1, 21)
    at = {(k, i): 2 * k + i for k in range(NUM_TASKS) for i in range(NUM_SERVERS)}
    num_x, num_sets = len(at), len(subsets)
    # Variables: x, squares of x, misses, and the weights of the sets of each server and of each link.
    count = 2 * num_x + NUM_TASKS + 2 * NUM_SERVERS * num_sets
    cost, equal, right, under, limit = np.zeros(count), [], [], [], []
    cost[2 * num_x : 2 * num_x + NUM_TASKS] = float(slot.deadline)
    for (k, i), place in at.items():
        cost[num_x + place] = 0.5 * slot.load[k, i] + slot.transfer[k, i]
        for a in tangents:
            row = np.zeros(count)
            row[place], row[num_x + place] = 2 * a, -1
            under.append(row)
            limit.append(a**2)
    for k in range(NUM_TASKS):
        row = np.zeros(count)
        row[[at[k, i] for i in range(NUM_SERVERS)]] = 1
        row[2 * num_x + k] = 1
        equal.append(row)
        right.append(1.0)
    for j in range(2 * NUM_SERVERS):
        i, first = j % NUM_SERVERS, 2 * num_x + NUM_TASKS + j * num_sets
        of_link = j >= NUM_SERVERS
        weights = slice(first, first + num_sets)
        row = np.zeros(count)
        row[weights] = 1
        equal.append(row)
        right.append(1.0)
        own = (i == STATION) if of_link else np.ones(NUM_TASKS, bool)
        each = slot.transfer[:, 1 - i] * later if of_link else slot.load[:, i] * (later + 0.5)
        cost[weights] = np.where((subsets[:, ~own] == 0).all(axis=1), np.sum(subsets * each, axis=1), 1e3)
        for k in map(int, np.flatnonzero(own)):
            row = np.zeros(count)
            row[weights] = subsets[:, k]
            row[at[k, 1 - i if of_link else i]] = -1
            equal.append(row)
            right.append(0.0)
        if not of_link:
            row = np.zeros(count)
            row[weights] = subsets @ slot.load[:, i]
            under.append(row)
            limit.append(float(slot.deadline))
    solved = linprog(cost, np.array(under), limit, np.array(equal), right)
    assert solved.status == 0
    finer = np.sum(np.maximum(np.diff(slot.load, axis=0, prepend=0), 0)) / 8
    multipliers, _ = ascended(single(slot), NUM_TASKS, 400)
    value = float(evaluated(single(slot), multipliers, 1, NUM_TASKS)[0]) + finer
    assert 0.98 * solved.fun < value <= solved.fun + 2e-3  # tangents at 21 points are below the square


def test_rounding_loses_no_more_than_is_subtracted():
    """The least cost of a server over any fractions is not below that of the dynamic programme."""
    slot, draw = slot_of(6), np.random.default_rng(6)
    none = np.zeros((NUM_TASKS, NUM_SERVERS))
    for _ in range(20):
        price = np.where(np.arange(NUM_SERVERS) == 0, draw.uniform(0, 0.5, (NUM_TASKS, 1)), none)
        given = single(Multipliers(price, none, np.zeros(NUM_SERVERS)))
        rest = float(np.sum(of_tasks_alone(price, 0.5 * slot.load + slot.transfer, slot.deadline)[0]))
        value = float(evaluated(single(slot), given, 1, NUM_TASKS)[0]) - rest
        fraction = draw.uniform(0, 1, (5000, NUM_TASKS))
        after = np.cumsum(fraction[:, ::-1], axis=1)[:, ::-1]
        load = slot.load[:, 0]
        pairs = 0.5 * np.sum(load * (after**2 - (after - fraction) ** 2), axis=1)
        assert value <= np.min(pairs - fraction @ price[:, 0]) + 1e-5


def test_a_server_that_counts_less_work_gives_a_lower_bound():
    slot = single(slot_of(4))
    multipliers, _ = ascended(slot, NUM_TASKS, 100)
    exact = float(evaluated(slot, multipliers, 2, NUM_TASKS)[0])
    dear = multipliers._replace(server=multipliers.server + 1)
    assert float(evaluated(slot, multipliers, 2, 1)[0]) <= exact + 1e-6
    assert float(evaluated(slot, dear, 2, 1)[0]) <= float(evaluated(slot, dear, 2, NUM_TASKS)[0]) + 1e-6


def test_a_task_alone_has_all_servers():
    slot = single(slot_of(5))
    rate = 1 / (slot.load + slot.transfer)
    assert np.asarray(lonely(slot)) == pytest.approx(1 / rate.sum(axis=1), rel=1e-5)
    started = dataclasses.replace(slot, start=slot.start + np.float32(0.5))
    assert np.asarray(lonely(started)) == pytest.approx(0.5 + 1 / rate.sum(axis=1), rel=1e-5)


@pytest.mark.parametrize("least", [0.0, 0.1, 5.0])
def test_a_task_alone_ends_when_its_last_part_does(least: float):
    """By enumeration of the sets of two servers whose starts differ; the mean end of its parts is earlier."""
    slot = slot_of(7)
    start = np.array([0.02, 0.15]) + least
    ends = start + slot.load + slot.transfer
    both = (1 + np.sum(start / (ends - start), axis=1)) / np.sum(1 / (ends - start), axis=1)
    both = np.where(both > start.max(), both, np.inf)
    latest = np.minimum(ends.min(axis=1), both)
    found = np.asarray(lonely(single(dataclasses.replace(slot, start=np.broadcast_to(start, ends.shape)))))
    assert np.isfinite(both).any()
    assert found == pytest.approx(latest, rel=1e-5)
