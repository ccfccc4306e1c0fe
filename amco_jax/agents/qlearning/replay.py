"""Experience replay that stores whole slots, because the number of tasks in a slot varies.

A row is one slot of one base station with all positions, including empty ones. A write is therefore one
contiguous copy, without a scatter, to an index that is the same for all seeds. Sampling finds the k-th task
of the history from the running count of tasks. It draws from exactly the last `capacity` tasks, as a ring
buffer of tasks would, provided that the rows hold that many (`rows_for`).

flashbax is not used, because its buffers add a fixed number of items at a time. Adding the tasks of a slot
conditionally, one by one, took 400 times as long as this (benchmarks/replay.py), and with whole slots as
items, sampling would be uniform over slots, not over tasks.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from amco_jax.agents.learner import Experience
from amco_jax.scenario import Scenario


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """The replay of one agent, a ring buffer of rows."""

    size: Float[Array, "rows max_tasks+1"]
    """d, Mbit, 0 at empty positions; the entry after the last position is position 0 of the next slot"""
    backlog: Float[Array, "rows 2 num_servers"]
    """Q at the start of the slot, and at the start of the next slot, Gcycles"""
    action: Any
    """Leaves `[rows, max_tasks, ...]`"""
    reward: Float[Array, "rows max_tasks"]
    present: UInt32[Array, "rows words"]
    """Bit flags of the positions that hold a task, 32 per word"""
    stored: Int[Array, " rows"]
    """The number of tasks in the whole history up to and including the row"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Transitions (s, a, r, s')."""

    size: Float[Array, " batch"]
    backlog: Float[Array, "num_servers batch"]
    action: Any
    """Leaves `[batch, ...]`"""
    reward: Float[Array, " batch"]
    next_size: Float[Array, " batch"]
    next_backlog: Float[Array, "num_servers batch"]


def empty_replay(rows: int, max_tasks: int, num_servers: int, action: Any, dtype: Any) -> Replay:
    """An empty replay of at least `rows` rows; `action` is an example of an action, without leading axes."""
    shelf = 1  # the largest ones, see `_rows_up_to`
    while rows > shelf * _MAX_COUNTED:
        shelf *= _SHELF
    rows = -(-rows // shelf) * shelf
    return Replay(
        size=jnp.zeros((rows, max_tasks + 1), dtype),
        backlog=jnp.zeros((rows, 2, num_servers), dtype),
        action=jax.tree.map(lambda a: jnp.zeros((rows, max_tasks, *a.shape), a.dtype), action),
        reward=jnp.zeros((rows, max_tasks), dtype),
        present=jnp.zeros((rows, -(-max_tasks // _WORD)), jnp.uint32),
        stored=jnp.zeros(rows, jnp.int32),
    )


def store(
    replay: Replay,
    experience: Experience,
    wanted: Bool[Array, ""],
    row_number: Int[Array, ""],
    num_positions: Int[Array, ""],
) -> Replay:
    """Overwrite the oldest row with one slot.

    Args:
      wanted: whether to write at all.
      row_number: the number of rows written before this one; must be the same for all seeds of a batch.
      num_positions: the number of positions before the padding, see `Workload`.
    """
    rows, max_tasks = replay.reward.shape
    size, after_last = experience.seen.size, jnp.arange(max_tasks + 1) == num_positions
    with_next = jnp.where(after_last, experience.next_size, jnp.append(size, 0))
    before = jnp.where(row_number > 0, replay.stored[(row_number - 1) % rows], 0)
    new = Replay(
        size=with_next,
        backlog=jnp.stack([experience.seen.backlog, experience.next_backlog]),
        action=experience.action,
        reward=experience.reward,
        present=_words(size > 0),
        stored=before + jnp.sum(size > 0, dtype=jnp.int32),
    )
    here = row_number % rows
    return jax.tree.map(lambda kept, row: kept.at[here].set(jnp.where(wanted, row, kept[here])), replay, new)


def sample(
    replay: Replay,
    newest: Int[Array, ""],
    window: Int[Array, ""],
    num_positions: Int[Array, ""],
    capacity: Int[Array, ""],
    uniforms: Float[Array, " batch"],
) -> tuple[Batch, Int[Array, ""]]:
    """Transitions drawn uniformly, with replacement, from the last `capacity` tasks.

    Args:
      newest: number of the last row written.
      window: the maximum number of rows to draw from, from `rows_for`; the replay may have more rows, because
        agents with other settings in the same program need them.
      num_positions: the same as in `store`.
      uniforms: `[batch]`, one draw from Uniform[0, 1) for each transition.

    Returns:
      The batch, and the number of tasks that it was drawn from; if this is 0, the batch is meaningless.
    """
    rows = replay.reward.shape[0]
    total = replay.stored[newest % rows]
    oldest_row = (newest + 1 - jnp.minimum(window, rows)) % rows
    lost = replay.stored[oldest_row] - _count(replay.present[oldest_row])
    filled = jnp.minimum(capacity, total - lost)
    # Indices of the drawn tasks in the whole history, among the last `filled` tasks.
    number = total - 1 - jnp.minimum((uniforms * filled).astype(jnp.int32), filled - 1)
    # The drawn task lies after all rows that end at or before it. Here and below, the barrier keeps XLA from
    # repeating the computation for each gather.
    row = lax.optimization_barrier((newest + 1 + _rows_up_to(replay.stored, newest % rows, number)) % rows)
    present = _at(replay.present, row)
    before = _at(replay.stored, row) - _count(present)
    position = lax.optimization_barrier(_kth_bit(present, number - before))
    backlog = _at(replay.backlog, row)
    now, then = backlog[:, 0].T, backlog[:, 1].T
    batch = Batch(
        size=_at(replay.size, row, position),
        backlog=now,
        action=jax.tree.map(lambda a: _at(a, row, position), replay.action),
        reward=_at(replay.reward, row, position),
        next_size=_at(replay.size, row, position + 1),
        next_backlog=jnp.where(position == num_positions - 1, then, now),
    )
    return batch, filled


def _rows_up_to(
    stored: Int[Array, " rows"], newest: Int[Array, ""], number: Int[Array, " batch"]
) -> Int[Array, " batch"]:
    """The number of rows that end at or before task `number`.

    If there are many rows, whole shelves of `_SHELF` rows are counted by their last rows, which are again
    rows in order of age, starting after the shelf of the newest row. Rows are counted one by one in only two
    shelves: the one that contains the task, and that of the newest row, which also holds the oldest rows.

    Args:
      stored: see `Replay`; as many rows as `empty_replay` makes.
      newest: index of the row written last.
      number: `[batch]`, indices of tasks in the whole history.
    """
    if stored.shape[0] <= _MAX_COUNTED:
        return jnp.sum(stored <= number[:, None], axis=1, dtype=jnp.int32)
    shelves = stored.reshape(-1, _SHELF)
    own = newest // _SHELF
    # The barrier keeps the ends of the shelves together in memory. Without it, every draw collects them anew.
    others = lax.optimization_barrier(jnp.where(jnp.arange(shelves.shape[0]) == own, _MAX, shelves[:, -1]))
    whole = _rows_up_to(others, own, number)
    partly = (own + 1 + whole) % shelves.shape[0]
    in_partly = jnp.sum(_at(shelves, partly) <= number[:, None], axis=1, dtype=jnp.int32)
    in_own = jnp.sum(_at(shelves, own) <= number[:, None], axis=1, dtype=jnp.int32)
    return whole * _SHELF + in_own + jnp.where(partly == own, 0, in_partly)


def _at(array: Array, *indices: Array) -> Array:
    """The entries at indices, which are clipped; JAX otherwise selects between each entry and NaN."""
    return array.at[indices].get(mode="clip")


_SHELF = 16
_MAX_COUNTED = 64
"""Rows or shelves that are counted one by one"""
_WORD = 32
_MAX = 2**31 - 1
_MAX_ROWS = 2**30


def _words(present: Bool[Array, " max_tasks"]) -> UInt32[Array, " words"]:
    """Pack flags into words; the first flag is the lowest bit."""
    padded = jnp.pad(present, (0, -present.shape[0] % _WORD)).reshape(-1, _WORD)
    return jnp.sum(padded.astype(jnp.uint32) << jnp.arange(_WORD, dtype=jnp.uint32), axis=1, dtype=jnp.uint32)


def _count(words: UInt32[Array, "... words"]) -> Int[Array, "..."]:
    return jnp.sum(lax.population_count(words), axis=-1).astype(jnp.int32)


def _kth_bit(words: UInt32[Array, "batch words"], k: Int[Array, " batch"]) -> Int[Array, " batch"]:
    """The position of the k-th set bit, counted from 0: word by word, then by binary search."""
    word, position, before = words[:, 0], jnp.zeros_like(k), jnp.zeros_like(k)
    total = before
    for i in range(1, words.shape[1]):
        total = total + lax.population_count(words[:, i - 1]).astype(jnp.int32)
        later = k >= total
        word, before = jnp.where(later, words[:, i], word), jnp.where(later, total, before)
        position = jnp.where(later, _WORD * i, position)
    k = k - before
    half = _WORD // 2
    while half:
        low = lax.population_count(word & jnp.uint32((1 << half) - 1)).astype(jnp.int32)
        above = k >= low
        k, position = k - jnp.where(above, low, 0), position + jnp.where(above, half, 0)
        word = jnp.where(above, word >> half, word)
        half //= 2
    return position


def rows_for(capacity: int, scenario: Scenario) -> int:
    """The number of rows that hold the last `capacity` tasks of a base station, with a margin.

    The margin is five standard deviations of the number of tasks. For a request log, mean and variance are
    those over all its slots, so in a quiet stretch the rows hold fewer tasks.
    """
    mean, variance = scenario.count_moments
    if mean == 0:
        return 1
    deviation = math.sqrt(variance)
    # The smallest x with x² · mean - 5 · x · deviation ≥ capacity, where x² is the number of rows.
    root = (5 * deviation + math.sqrt(25 * deviation**2 + 4 * mean * capacity)) / (2 * mean)
    return min(math.ceil(root**2), _MAX_ROWS)
