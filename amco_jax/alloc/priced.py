"""The optimal set and split where work on each server has a price."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive
from amco_jax.alloc.waterfill import MAX_INLINE


def priced_support(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    price: Float[Array, " num_servers"],
    *,
    limit: ArrayLike = jnp.inf,
) -> tuple[Bool[Array, " num_servers"], Float[Array, ""]]:
    """The servers of the split x that minimises max_{x_i>0} (x_i·cost_i + wait_i) + Σ_i price_i·x_i.

    For a given makespan T, the cheapest split fills the servers in order of price, each up to T, and the last
    one in part. As a function of T, its total has convex kinks only where the last server's part vanishes. A
    minimum over all 2^B-1 sets is therefore among the B prefixes of the servers in order of price, each
    filled to its water level.

    Args:
      wait: `[num_servers]`, s, queueing delay before the task starts on each server.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      price: `[num_servers]`, s, what the whole task on each server costs others; with prices of 0, the set
        is that of `waterfill_support`.
      limit: s, the longest makespan that a set may have; the minimum is then that over the prefixes.

    Returns:
      `[num_servers]`, the set, whose water-filling is the optimal split; and the minimum, s. They are the
      empty set and infinity if the limit rules out all sets.

    Example:
      Without a price, both servers end at 0.75 s. Half the work on the second costs more than it saves:

      >>> import jax.numpy as jnp
      >>> wait, cost = jnp.array([0.0, 0.5]), jnp.array([1.0, 1.0])
      >>> selected, total = priced_support(wait, cost, jnp.array([0.0, 1.5]))
      >>> selected.tolist(), float(total)
      ([True, False], 1.0)
    """
    chex.assert_equal_shape([wait, cost, price])
    # In order of wait, each server stays dry that waits longer than the level of those up to it.
    least = jnp.min(wait)
    operands = wait - least, 1 / cost, price
    lead, rate, each = lax.sort(operands, num_keys=1, is_stable=False)

    def filled(dearest: Array) -> tuple[Array, Array]:
        """The water level of the prefix up to a price, above the least wait, and its total, s."""
        taken = jnp.where(each <= dearest, rate, 0)
        filling = taken * lead
        wet = lead * jnp.cumsum(taken) < 1 + jnp.cumsum(filling)
        level = (1 + jnp.sum(jnp.where(wet, filling, 0))) / positive(jnp.sum(jnp.where(wet, taken, 0)))
        total = level + jnp.sum(jnp.maximum(level - lead, 0) * taken * each)
        return level, jnp.where(level + least <= limit, total, jnp.inf)

    # One after the other, short arrays stay short enough to be unrolled.
    if wait.shape[0] <= MAX_INLINE:
        levels, totals = map(jnp.stack, zip(*(filled(dearest) for dearest in each), strict=True))
    else:
        levels, totals = lax.map(filled, each)
    best = jnp.arange(totals.shape[0]) == jnp.argmin(totals)
    level, dearest = (jnp.sum(jnp.where(best, values, 0)) for values in (levels, each))
    total = jnp.min(totals)
    return (wait - least < level) & (price <= dearest) & jnp.isfinite(total), total + least
