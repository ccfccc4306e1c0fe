"""Whole items: the rounding of a split that cannot cut an item in two."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MAX_INLINE = 8
"""Beyond so many servers the steps are a loop: code of their square compiles slowly."""


def whole_items(
    fraction: Float[Array, " num_servers"],
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
    items: Float[Array, ""],
) -> Float[Array, " num_servers"]:
    """Round a split to whole items: all are rounded down, and each item left goes where it ends first.

    Of the water-filling split over S this makes the split of least makespan of all in whole items. For to
    hand the items out one by one, each to where it ends first, is optimal, and it passes through the
    rounded-down split: that holds exactly the items that can end by the level of the water.

    Args:
      fraction: `[num_servers]`, what an allocator returns.
      wait: `[num_servers]`, s, queueing delay before the task starts on each server.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      selected: `[num_servers]`, the set S.
      items: a whole number ≥ 1, items of the task.

    Returns:
      `[num_servers]`, multiples of 1 / items that sum to 1 over S and are 0 outside; all 0 where S is empty.
    """
    chex.assert_equal_shape([fraction, wait, cost, selected])
    num_servers = wait.shape[0]
    count = jnp.floor(fraction * items)
    left = jnp.where(jnp.any(selected), items - jnp.sum(count), 0)
    each = cost / items

    def hand_out(step, count):
        end = jnp.where(selected, wait + (count + 1) * each, jnp.inf)
        first = jnp.arange(num_servers) == jnp.argmin(end)
        return count + jnp.where(first & (step < left), 1, 0)

    # Less than one item is left for each server of S, but for the last digits of the fractions.
    count = lax.fori_loop(0, num_servers, hand_out, count, unroll=num_servers <= MAX_INLINE)
    return count / items
