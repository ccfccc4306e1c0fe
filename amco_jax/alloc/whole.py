"""Whole items: rounding a split so that no item is divided."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MAX_INLINE = 8
"""With more servers, the steps run in a loop: unrolled code grows with the square and compiles slowly."""


def whole_items(
    fraction: Float[Array, " num_servers"],
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
    items: Float[Array, ""],
) -> Float[Array, " num_servers"]:
    """Round a split down to whole items, and give each remaining item to the server that ends it first.

    Applied to the water-filling split over S, this gives the whole-item split of least makespan. The reason:
    assigning the items one at a time, each to the server that ends it first, is optimal, and this greedy
    assignment passes through the rounded-down split, which holds exactly the items that can end by the water
    level.

    Args:
      fraction: `[num_servers]`, the split that an allocator returned.
      wait: `[num_servers]`, s, queueing delay before the task starts on each server.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      selected: `[num_servers]`, the set S.
      items: the number of items of the task, a whole number ≥ 1.

    Returns:
      `[num_servers]`, multiples of 1 / items that sum to 1 over S and are 0 outside S; all 0 if S is empty.
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

    # Less than one item per server of S is left, apart from rounding of the fractions.
    count = lax.fori_loop(0, num_servers, hand_out, count, unroll=num_servers <= MAX_INLINE)
    return count / items
