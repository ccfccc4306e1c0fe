"""The replay of whole slots against a ring buffer of tasks."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amco_jax.agents.learner import Experience, Observation
from amco_jax.agents.qlearning.replay import (
    Batch,
    Replay,
    _rows_up_to,
    empty_replay,
    rows_for,
    sample,
    store,
)
from amco_jax.scenario import Scenario

SERVERS = 2
DRAWS = 256
LARGEST_DRAW = 1 - 2**-24


class Slot(NamedTuple):
    """What is stored of one slot."""

    size: np.ndarray
    """`[max_tasks]`, 0 where empty"""
    next_size: np.float32
    backlog: np.ndarray
    next_backlog: np.ndarray
    action: dict[str, np.ndarray]
    """Two leaves: a number, and one flag per server"""
    reward: np.ndarray
    """`[max_tasks]`, a different number for every task of a history"""


def history(
    seed: int, slots: int, max_tasks: int, num_tasks: int, busy: float | list[float]
) -> Iterator[Slot]:
    """Slots as a training makes them: what follows one slot is how the next one begins.

    Args:
      busy: the probability of a task, of all slots or of each.
    """
    random = np.random.default_rng(seed)
    share = iter(np.append(np.broadcast_to(busy, slots), 0.5))

    def sizes() -> np.ndarray:
        present = (random.random(max_tasks) < next(share)) & (np.arange(max_tasks) < num_tasks)
        return np.where(present, random.uniform(2, 5, max_tasks), 0).astype(np.float32)

    size, backlog = sizes(), np.zeros(SERVERS, np.float32)
    for t in range(slots):
        then, later = sizes(), random.uniform(0, 9, SERVERS).astype(np.float32)
        servers = random.random((max_tasks, SERVERS)) < 0.5
        number = random.integers(31, size=max_tasks).astype(np.int32)
        reward = -np.arange(t * max_tasks, (t + 1) * max_tasks, dtype=np.float32)
        yield Slot(size, then[0], backlog, later, {"number": number, "servers": servers}, reward)
        size, backlog = then, later


def transitions(slot: Slot, num_tasks: int) -> list[np.ndarray]:
    """(s, a, r, s') of the tasks in order of position, each as one row of numbers."""
    rows = []
    for n in np.flatnonzero(slot.size):
        if n + 1 < num_tasks:
            next_size, next_backlog = slot.size[n + 1], slot.backlog
        else:
            next_size, next_backlog = slot.next_size, slot.next_backlog
        action = [slot.action["number"][n], *slot.action["servers"][n]]
        rows.append([slot.size[n], *slot.backlog, *action, slot.reward[n], next_size, *next_backlog])
    return [np.asarray(row, np.float32) for row in rows]


def rows_of(batch: Batch) -> np.ndarray:
    """The same rows from a batch."""
    columns = [
        batch.size,
        *batch.backlog,
        batch.action["number"],
        *batch.action["servers"].T,
        batch.reward,
        batch.next_size,
        *batch.next_backlog,
    ]
    return np.stack([np.asarray(c, np.float32) for c in columns], axis=1)


def new_replay(rows: int, max_tasks: int) -> Replay:
    action = {"number": jnp.int32(0), "servers": jnp.zeros(SERVERS, bool)}
    return empty_replay(rows, max_tasks, SERVERS, action, jnp.float32)


@jax.jit
def stored(replay: Replay, wanted: Any, row_number: Any, num_tasks: Any, slot: Slot) -> Replay:
    fields: Any = slot
    size, next_size, backlog, next_backlog, action, reward = fields
    seen = Observation(size, backlog, jnp.zeros(SERVERS, bool))
    experience = Experience(seen, action, reward, next_size, next_backlog)
    return store(replay, experience, wanted, row_number, num_tasks)


drawn = jax.jit(sample)


def every_draw(number: int) -> np.ndarray:
    """`[DRAWS]` uniforms: the first ones hit each of `number` tasks once, two are the ends of the range."""
    assert number <= DRAWS - 2
    uniforms = np.append((np.arange(number) + 0.5) / max(number, 1), [0, LARGEST_DRAW])
    return np.resize(uniforms, DRAWS).astype(np.float32)


def assert_draws_from(replay: Replay, newest: int, window: int, num_tasks: int, capacity: int, wanted: Any):
    """Every one of the wanted transitions can be drawn, equally well, and nothing else can."""
    batch, filled = drawn(replay, newest, window, num_tasks, capacity, every_draw(len(wanted)))
    assert filled == len(wanted)
    if len(wanted) == 0:
        return
    found, wanted = rows_of(batch), np.stack(wanted)
    reward = 3 + SERVERS + SERVERS - 1
    once = found[: len(wanted)]
    np.testing.assert_array_equal(once[once[:, reward].argsort()], wanted[wanted[:, reward].argsort()])
    assert np.isin(found[:, reward], wanted[:, reward]).all()


@pytest.mark.parametrize(
    ("rows", "max_tasks", "num_tasks", "busy"),
    [
        (1, 1, 1, 0.7),
        (1, 6, 6, 0.5),
        (5, 6, 6, 0.6),
        (5, 6, 6, 1.0),
        (5, 6, 4, 0.3),
        (5, 6, 1, 0.4),
        (4, 40, 40, 0.3),
        (4, 40, 33, 0.7),
        (3, 70, 65, 0.9),
        (3, 70, 31, 0.05),
        (40, 6, 6, 0.7),
        (60, 6, 6, 0.2),
        (70, 6, 6, 0.2),
        (100, 3, 3, 0.7),
    ],
)
def test_draws_are_those_of_a_ring_buffer_of_tasks(rows: int, max_tasks: int, num_tasks: int, busy: float):
    """After every slot of a history that goes around several times, and for three capacities."""
    replay = new_replay(rows, max_tasks)
    recent: deque[list[np.ndarray]] = deque(maxlen=rows)
    most = rows * num_tasks
    for t, slot in enumerate(history(rows + max_tasks, 4 * rows + 3, max_tasks, num_tasks, busy)):
        replay = stored(replay, True, t, num_tasks, slot)
        recent.append(transitions(slot, num_tasks))
        tasks = [task for slot in recent for task in slot]
        for capacity in {1, most // 2 + 1, most + 5}:
            assert_draws_from(replay, t, rows, num_tasks, capacity, tasks[-capacity:])


@pytest.mark.parametrize(("rows", "room"), [(64, 64), (65, 80), (1024, 1024), (1025, 1280), (20_000, 20_480)])
def test_many_rows_are_counted_by_shelves_of_shelves(rows: int, room: int):
    assert new_replay(rows, 1).stored.size == room
    rng = np.random.default_rng(rows)
    for written in (1, room // 2 + 1, room, room + 7, 3 * room + 11):
        ends = np.cumsum(rng.integers(0, 4, written))
        held = np.arange(max(written - room, 0), written)
        stored = np.zeros(room, np.int32)
        stored[held % room] = ends[held]
        numbers = rng.integers(0, max(ends[-1], 1), 32).astype(np.int32)
        found = _rows_up_to(jnp.asarray(stored), jnp.int32((written - 1) % room), jnp.asarray(numbers))
        np.testing.assert_array_equal(found, (stored <= numbers[:, None]).sum(axis=1))


def test_a_history_is_counted_across_slots_without_tasks():
    replay, busy = new_replay(5, 6), [1, 0, 0, 1, 0, 0, 0, 0, 0, 0.9, 0]
    recent: deque[list[np.ndarray]] = deque(maxlen=5)
    for t, slot in enumerate(history(5, len(busy), 6, 4, busy)):
        replay = stored(replay, True, t, 4, slot)
        recent.append(transitions(slot, 4))
        assert_draws_from(replay, t, 5, 4, 100, [task for slot in recent for task in slot])


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 63, 64, 79, 80, 100])
def test_a_window_limits_the_rows_that_are_drawn_from(window: int):
    replay, num_tasks = new_replay(70, 6), 3
    rows = replay.stored.size
    assert rows == 80  # more than 64 are in shelves of 16 rows
    recent: deque[list[np.ndarray]] = deque(maxlen=min(window, rows))
    for t, slot in enumerate(history(1, 2 * rows + 20, 6, num_tasks, 0.6)):
        replay = stored(replay, True, t, num_tasks, slot)
        recent.append(transitions(slot, num_tasks))
        assert_draws_from(replay, t, window, num_tasks, 1000, [task for slot in recent for task in slot])


def test_what_is_not_wanted_is_not_written():
    slots = list(history(2, 5, 6, 3, 0.9))
    replay = new_replay(5, 6)
    for t, slot in enumerate(slots[:3]):
        replay = stored(replay, True, t, 3, slot)
    for row_number in (-1, 0, 2, 3):
        again = stored(replay, False, row_number, 3, slots[3])
        jax.tree.map(np.testing.assert_array_equal, again, replay)


def test_a_row_left_out_before_the_first_does_no_harm():
    """As in slot 0 of the first episode, whose row would be number -1."""
    slots = list(history(3, 2, 6, 3, 0.9))
    replay = stored(new_replay(5, 6), False, -1, 3, slots[0])
    assert_draws_from(replay, -1, 5, 3, 10, [])
    assert_draws_from(stored(replay, True, 0, 3, slots[1]), 0, 5, 3, 10, transitions(slots[1], 3))


@pytest.mark.parametrize("newest", [-1, 0, 3, 17])
def test_nothing_is_drawn_from_an_empty_replay(newest: int):
    _, filled = drawn(new_replay(5, 6), newest, 4, 3, 10, every_draw(0))
    assert filled == 0


def test_every_position_of_three_words_is_found():
    """Tasks at one position only: the lowest and highest bits of each word among them."""
    for position in (0, 1, 15, 16, 31, 32, 33, 63, 64, 69):
        slot = next(history(4, 1, 70, 70, 1.0))
        slot = slot._replace(size=np.where(np.arange(70) == position, slot.size, 0))
        replay = stored(new_replay(3, 70), True, 0, 70, slot)
        assert_draws_from(replay, 0, 3, 70, 10, transitions(slot, 70))


@functools.cache
def slot_counts(num_tasks: int, arrival_prob: float, rows: int) -> np.ndarray:
    """Tasks of one base station in `rows` slots, many times over."""
    return np.random.default_rng(0).binomial(num_tasks * rows, arrival_prob, 20_000)


@pytest.mark.parametrize("capacity", [1, 20, 500, 8000])
@pytest.mark.parametrize(
    ("num_tasks", "arrival_prob"), [(50, 0.3), (1, 0.5), (1, 0.01), (100, 0.9), (4, 0.999)]
)
def test_rows_hold_the_capacity_with_a_margin(capacity: int, num_tasks: int, arrival_prob: float):
    rows = rows_for(capacity, Scenario(num_tasks=num_tasks, arrival_prob=arrival_prob))
    assert slot_counts(num_tasks, arrival_prob, rows).min() >= capacity
    deviation = np.sqrt(num_tasks * rows * arrival_prob * (1 - arrival_prob))
    spare = num_tasks * rows * arrival_prob - capacity
    assert spare <= 5 * deviation + num_tasks * arrival_prob + 5  # and memory is not wasted


@pytest.mark.parametrize("capacity", [1, 3, 4, 5, 500, 8001])
def test_no_row_is_spare_where_chance_plays_no_part(capacity: int):
    always = Scenario(num_tasks=4, arrival_prob=1.0)
    exact = -(-capacity // 4)
    assert exact <= rows_for(capacity, always) <= exact + 1  # one more by rounding
    assert rows_for(capacity, always.replace(arrival_prob=0.0)) == 1


def test_rows_fit_the_counters_where_tasks_are_rare():
    assert rows_for(10**7, Scenario(num_tasks=1, arrival_prob=1e-12)) <= 2**30
