"""The optimal set and split where work on each server has a price."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive
from amco_jax.alloc.waterfill import MAX_INLINE
from amco_jax.compile.fused import fusing

_MAX_FUSED = 16
"""Servers up to which a kernel of a GPU, which has no loops that end early, sums up all prefixes"""


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
      limit: s, the longest makespan that a set may have. The minimum is then that over the prefixes that keep
        to it; another set that does may be cheaper.

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
    few = wait.shape[0] <= (_MAX_FUSED if fusing() else MAX_INLINE)
    cheapest = _cheapest_of_few if few else _cheapest_of_many
    dearest, level, total = cheapest(wait - least, 1 / cost, price, jnp.asarray(limit) - least)
    return (wait - least < level) & (price <= dearest) & jnp.isfinite(total), total + least


def _cheapest_of_few(lead: Array, rate: Array, price: Array, limit: Array) -> tuple[Array, Array, Array]:
    """The dearest price of the cheapest prefix, its water level above the least wait, and its total, s.

    Levels come from cumulative sums, which are cheap if they are unrolled.

    Args:
      limit: the highest level.
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
    totals = jnp.where(levels <= limit, totals, jnp.inf)
    best = jnp.arange(totals.shape[0]) == jnp.argmin(totals)
    dearest, level = (jnp.sum(jnp.where(best, values, 0)) for values in (price, levels))
    return dearest, level, jnp.min(totals)


class _Sums(NamedTuple):
    """What each server adds to sums over those of a prefix that are not dry so far, and these sums."""

    rate: Array
    filling: Array
    """lead·rate"""
    priced_rate: Array
    priced_filling: Array
    last: Array
    """The longest wait"""
    following: Array
    """The least price beyond the prefix"""

    def over_servers(self) -> _Sums:
        """In one pass, which takes half of the time that a pass for each would take."""

        def combine(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
            sums = (lax.add(x, y) for x, y in zip(a[:4], b[:4], strict=True))
            return *sums, lax.max(a[4], b[4]), lax.min(a[5], b[5])

        start = (*np.zeros(5), np.inf)
        return _Sums(*lax.reduce(tuple(self), tuple(np.asarray(start, self.rate.dtype)), combine, (0,)))


def _cheapest_of_many(lead: Array, rate: Array, price: Array, limit: Array) -> tuple[Array, Array, Array]:
    """The same, from prefix to prefix, without sorting.

    Levels fall from prefix to prefix, so that a server that is dry remains so. Each step computes the level
    of the servers that are not dry so far. Either that leaves some of them dry, or the prefix is filled, and
    the next one is due. There are thus fewer than 2·B steps.
    """
    # Which prefix is the cheapest is piecewise constant, so it has no gradient.
    fixed_lead, fixed_rate, fixed_price, limit = lax.stop_gradient((lead, rate, price, limit))
    infinite = jnp.full((), jnp.inf, lead.dtype)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        dearest, bound, best = state
        within = fixed_price <= dearest
        wet = within & (fixed_lead < bound)
        taken = jnp.where(wet, fixed_rate, 0)
        filling = taken * fixed_lead
        sums = _Sums(
            rate=taken,
            filling=filling,
            priced_rate=taken * fixed_price,
            priced_filling=filling * fixed_price,
            last=jnp.where(wet, fixed_lead, 0),
            following=jnp.where(within, jnp.inf, fixed_price),
        ).over_servers()
        level = (1 + sums.filling) / positive(sums.rate)
        filled = sums.last < level
        total = level * (1 + sums.priced_rate) - sums.priced_filling
        better = filled & (level <= limit) & (total < best[0])
        best = jax.tree.map(partial(jnp.where, better), (total, dearest, level), best)
        return jnp.where(filled, sums.following, dearest), jnp.minimum(bound, level), best

    start = jnp.min(fixed_price), infinite, (infinite, infinite, infinite)
    _, _, (total, dearest, level) = lax.while_loop(lambda state: jnp.isfinite(state[0]), step, start)
    taken = jnp.where((price <= dearest) & (lead < level), rate, 0)
    level = (1 + jnp.sum(taken * lead)) / positive(jnp.sum(taken))
    return dearest, level, jnp.where(jnp.isfinite(total), _total(level, lead, taken, price), jnp.inf)


def _total(level: Array, lead: Array, taken: Array, price: Array) -> Array:
    """The makespan above the least wait plus the prices of the split, s, for servers outside at rate 0."""
    return level + jnp.sum(jnp.maximum(level - lead, 0) * taken * price)
