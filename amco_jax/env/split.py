"""The split of one task over the selected servers, and its makespan."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from amco_jax.alloc import Allocator
from amco_jax.alloc.whole import whole_items
from amco_jax.params import Params


def split(
    params: Params,
    allocator: Allocator,
    size: Float[Array, ""],
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
) -> tuple[Float[Array, " num_servers"], Float[Array, ""]]:
    """The fraction of each server, and the makespan in s; all 0 if the set is empty.

    Args:
      size: Mbit; with a service that splits into whole items, the number of items.
      wait: `[num_servers]`, s, from `physics.waits`.
      cost: `[num_servers]`, s, from `physics.costs`.
      selected: `[num_servers]`, the set S.
    """
    fraction, taking = allocator(wait, cost, selected), selected
    if params.service is not None and params.service.whole:
        fraction = whole_items(fraction, wait, cost, selected, size)
        # Fewer items than servers is common here, and a server without work delays nobody. The published
        # model, which is fluid, counts the wait of every selected server.
        taking = fraction > 0
    return fraction, jnp.max(jnp.where(taking, fraction * cost + wait, 0))
