"""The least number of misses against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from amco_jax.bounds.misses import fewest_misses

CAPACITY = np.array([4.0, 6.0])


def misses(work, deadline: float = 1.0, within: bool = False, alone: float = 0.1) -> int:
    work = np.asarray(work, np.float64)
    return fewest_misses(work, np.full(work.shape, alone), CAPACITY, deadline, 1.0, within)


def test_of_one_slot_the_fewest_tasks_leave_that_fit():
    draw = np.random.default_rng(0)
    for _ in range(20):
        work = draw.uniform(1, 5, 5)
        fits = [s for s in itertools.product((0, 1), repeat=5) if np.dot(s, work) <= 10]
        assert misses(work[None]) == 5 - max(map(sum, fits))


def test_what_fits_exactly_is_in_time():
    assert misses([[4, 6]]) == 0
    assert misses([[4, 6.01]]) == 1


def test_slots_have_a_deadline_each():
    assert misses([[10, 5], [0, 0]]) == 1  # the idle second slot comes too late
    assert misses([[10, 5], [0, 0]], deadline=2.0) == 0


def test_a_long_deadline_is_shared_by_the_slots_before_it():
    # Each slot alone would have 20 Gcycles, but both together have 30 until the second deadline.
    assert misses([[10, 9], [10, 9]], deadline=2.0) == 1


def test_tasks_that_come_within_a_slot_have_its_end_too():
    assert misses([[10, 9]], within=True) == 0
    assert misses([[10, 11]], within=True) == 1


@pytest.mark.parametrize(("alone", "late"), [(1.0, 0), (1.1, 2)])
def test_a_task_that_is_late_on_its_own_misses(alone: float, late: int):
    assert (
        fewest_misses(np.array([[1.0, 1.0, 0.0]]), np.array([[alone, alone, 0.0]]), CAPACITY, 1.0, 1.0, False)
        == late
    )
