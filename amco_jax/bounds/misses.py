"""The least number of tasks that must miss their deadlines.

A task is in time only if each server ends its part by the deadline. So what the servers do for tasks in time
of consecutive slots fits into the time from the first slot to the last deadline,

    Σ_{k in time} x_ki·w_ki ≤ f_i · (D + (L - 1)·Δ)   for L slots, or L·Δ where tasks arrive within a slot.

Work is least where each task is where it takes the least of all servers' capacity; the fewest tasks miss if
the largest do. A task that is late even if it has all servers and links for itself always misses.
"""

from __future__ import annotations

import numpy as np

SLACK = 1e-5
"""The share by which times are extended, and bounds lowered, for the rounding of simulations in float32"""


def fewest_misses(
    work: np.ndarray, alone: np.ndarray, capacity: np.ndarray, deadline: float, slot: float, within: bool
) -> int:
    """The least number of tasks of an episode that miss their deadlines.

    Windows of 1, 2, 4, … slots are tried, from the first slot on.

    Args:
      work: `[slots, tasks]`, Gcycles, the least work of each task on any server; 0 without a task.
      alone: `[slots, tasks]`, s, the least makespan of each task.
      capacity: `[num_servers]`, Gcycles/s.
      deadline: D, s.
      slot: Δ, s.
      within: whether tasks arrive within a slot rather than at its start.
    """
    late = alone > deadline * (1 + SLACK)
    work = np.where(late, 0.0, work).astype(np.float64)
    num_slots, most = len(work), 0
    length = 1
    while True:
        windows = np.array_split(work, range(length, num_slots, length))
        time = [deadline + (len(window) - (not within)) * slot for window in windows]
        capacities = float(np.sum(capacity)) * (1 + SLACK) * np.array(time)
        most = max(most, sum(map(_removed, windows, capacities)))
        if length >= num_slots:
            return int(np.count_nonzero(late)) + most
        length *= 2


def _removed(work: np.ndarray, capacity: float) -> int:
    """How many of the largest must go, so that the rest fits."""
    largest = np.sort(work, axis=None)[::-1]
    left = largest.sum() - np.concatenate([[0.0], np.cumsum(largest)])
    return int(np.argmax(left <= capacity))
