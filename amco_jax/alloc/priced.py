"""The optimal set and split where work on each server has a price."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive
from amco_jax.alloc.waterfill import MAX_INLINE

_MAX_SUMMED = 32
"""Servers up to which cumulative sums are unrolled; elsewhere, their time is quadratic in their length"""


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
    least = jnp.min(wait)
    prefixes = _short_prefixes if wait.shape[0] <= _MAX_SUMMED else _long_prefixes
    each, levels, totals = prefixes(wait - least, 1 / cost, price)
    totals = jnp.where(levels + least <= limit, totals, jnp.inf)
    best = jnp.arange(totals.shape[0]) == jnp.argmin(totals)
    level, dearest = (jnp.sum(jnp.where(best, values, 0)) for values in (levels, each))
    total = jnp.min(totals)
    return (wait - least < level) & (price <= dearest) & jnp.isfinite(total), total + least


def _short_prefixes(lead: Array, rate: Array, price: Array) -> tuple[Array, Array, Array]:
    """The dearest price of each prefix, in any order, its water level above the least wait, and its total, s.

    Levels come from cumulative sums, which are cheap if they are unrolled.
    """
    # In order of wait, each server stays dry that waits longer than the level of those up to it.
    lead, rate, price = lax.sort((lead, rate, price), num_keys=1, is_stable=False)

    def filled(dearest: Array) -> tuple[Array, Array]:
        taken = jnp.where(price <= dearest, rate, 0)
        filling = taken * lead
        wet = lead * jnp.cumsum(taken) < 1 + jnp.cumsum(filling)
        level = (1 + jnp.sum(jnp.where(wet, filling, 0))) / positive(jnp.sum(jnp.where(wet, taken, 0)))
        return level, _total(level, lead, taken, price)

    # One after the other, short arrays stay short enough to be unrolled.
    if price.shape[0] <= MAX_INLINE:
        levels, totals = map(jnp.stack, zip(*(filled(dearest) for dearest in price), strict=True))
    else:
        levels, totals = lax.map(filled, price)
    return price, levels, totals


def _long_prefixes(lead: Array, rate: Array, price: Array) -> tuple[Array, Array, Array]:
    """The same. Each further server lowers the level a little, which Newton's method finds in a few steps."""
    price, lead, rate = lax.sort((price, lead, rate), num_keys=1, is_stable=False)
    places = jnp.arange(price.shape[0])
    # Which servers stay dry is piecewise constant, so it has no gradient.
    fixed_lead, fixed_rate = lax.stop_gradient((lead, rate))

    def level_of(wet: Array, lead: Array, rate: Array) -> Array:
        return (1 + jnp.sum(jnp.where(wet, lead * rate, 0))) / jnp.sum(jnp.where(wet, rate, 0))

    def add(above: Array, last: Array) -> tuple[Array, tuple[Array, Array]]:
        within = places <= last
        above = jnp.minimum(above, fixed_lead[last] + 1 / fixed_rate[last])

        def lower(levels: tuple[Array, Array]) -> tuple[Array, Array]:
            level, _ = levels
            wet = within & (fixed_lead < level)
            return jnp.minimum(level_of(wet, fixed_lead, fixed_rate), level), level

        limit, _ = lax.while_loop(lambda levels: levels[0] < levels[1], lower, lower((above, above)))
        level = level_of(within & (fixed_lead < limit), lead, rate)
        return limit, (level, _total(level, lead, jnp.where(within, rate, 0), price))

    _, (levels, totals) = lax.scan(add, jnp.full((), jnp.inf, lead.dtype), places)
    return price, levels, totals


def _total(level: Array, lead: Array, taken: Array, price: Array) -> Array:
    """The makespan above the least wait plus the prices of the split, s, for servers outside at rate 0."""
    return level + jnp.sum(jnp.maximum(level - lead, 0) * taken * price)
