"""The optimal set and split where work on each server has a price."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive, wait_lead


def priced_support(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    price: Float[Array, " num_servers"],
    limit: ArrayLike = jnp.inf,
) -> tuple[Bool[Array, " num_servers"], Float[Array, ""]]:
    """The servers of the split x that minimises max_{x_i>0} (x_i·cost_i + wait_i) + Σ_i price_i·x_i.

    For a given makespan T, the cheapest split fills the servers in order of price, each up to T, and the last
    one in part. As a function of T, its total has convex kinks only where the last server's part vanishes. A
    minimum over all 2^B-1 sets is therefore among the B prefixes of the servers in order of price, each
    filled to its water level. The level of a set is the least of the averages
    (1 + Σ wait_i/cost_i) / Σ 1/cost_i over its servers of waits up to that of each member.

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
    lead, rate = wait_lead(wait, jnp.ones(wait.shape, bool)), 1 / cost
    cheaper = price[None, :] <= price[:, None]  # [k, i]: whether server i is in the prefix up to server k
    sooner = lead[None, :] <= lead[:, None]
    both = cheaper[:, None, :] & sooner[None, :, :]  # [k, j, i]
    above = 1 + jnp.sum(jnp.where(both, lead * rate, 0), axis=-1)
    below = jnp.sum(jnp.where(both, rate, 0), axis=-1)
    levels = jnp.min(jnp.where(cheaper, above / positive(below), jnp.inf), axis=-1)
    shares = jnp.where(cheaper, jnp.maximum(levels[:, None] - lead, 0) * rate, 0)
    least = jnp.min(wait)
    totals = jnp.where(levels + least <= limit, levels + jnp.sum(shares * price, axis=-1), jnp.inf)
    best = jnp.argmin(totals)
    here = jnp.arange(totals.shape[0]) == best
    selected = jnp.any(here[:, None] & (shares > 0) & jnp.isfinite(totals)[:, None], axis=0)
    return selected, jnp.min(totals) + least
