"""The optimal set and split where work on each server has a price."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive
from amco_jax.alloc.waterfill import MAX_INLINE
from amco_jax.compile.wide import Wide

MAX_SUMMED = 16
"""Servers up to which unrolled sums over all prefixes are faster than steps from prefix to prefix"""
_MAX_COUNTED = 512
"""Servers up to which counting is faster than sorting on CPUs"""


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
    cheapest = _cheapest_of_few if wait.shape[0] <= MAX_SUMMED else _cheapest_of_many
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


class _Prefix(NamedTuple):
    """The cheapest servers, filled to their level; the sums are over those that get work."""

    length: Array
    """The number of servers, dry ones included"""
    in_reach: Array
    """The number of servers of the fleet that wait less than the level"""
    level: Array
    dearest: Array
    rate: Wide
    filling: Wide
    """1 + Σ lead·rate, so that the level is this divided by the sum of rates"""
    priced_rate: Wide
    priced_filling: Wide

    @property
    def total(self) -> Array:
        """What `_total` is."""
        return self.level * (1 + self.priced_rate.high) - self.priced_filling.high

    def plus(self, rate: Array, lead: Array, price: Array) -> _Prefix:
        """The sums and the level with a server of this rate, or without it if the rate is negative."""
        rates, filling = self.rate.add(rate), self.filling.add(rate * lead)
        return self._replace(
            # Rounding must not raise it again, since servers that are dry do not come back.
            level=jnp.minimum(self.level, filling.high / rates.high),
            rate=rates,
            filling=filling,
            priced_rate=self.priced_rate.add(rate * price),
            priced_filling=self.priced_filling.add(rate * lead * price),
        )


def _cheapest_of_many(lead: Array, rate: Array, price: Array, limit: Array) -> tuple[Array, Array, Array]:
    """The same, in 2·B + 1 steps, each of which does the next of these:

    - Of the servers within reach of the level, the one that waits longest is dry, and leaves. Levels fall
      from prefix to prefix, so that it will not come back.
    - If it is not dry, the prefix is filled, and the next server in order of price joins.

    The sums that servers join and leave are in two words, and so do not drift.
    """
    num_servers = price.shape[0]
    # Which prefix is the cheapest is piecewise constant, so it has no gradient.
    *fixed, limit = lax.stop_gradient((price, lead, rate, limit))
    by_price = _in_order(*fixed)
    by_wait = _in_order(by_price[1], by_price[2], by_price[0], jnp.arange(num_servers))

    def step(_: Array, state: tuple[_Prefix, tuple[Array, ...]]) -> tuple[_Prefix, tuple[Array, ...]]:
        prefix, best = state
        last_lead, last_rate, last_price, place = (_at(values, prefix.in_reach - 1) for values in by_wait)
        next_price, next_lead, next_rate = (_at(values, prefix.length) for values in by_price)
        dry = (last_lead >= prefix.level) & (prefix.in_reach > 1)
        better = ~dry & (prefix.level <= limit) & (prefix.total < best[0])
        found = prefix.total, prefix.dearest, prefix.level
        best = jax.tree.map(partial(jnp.where, better), found, best)
        more = ~dry & (prefix.length < num_servers)
        left, joined = dry & (place < prefix.length), more & (next_lead < prefix.level)
        changed = prefix.plus(
            jnp.where(left, -last_rate, jnp.where(joined, next_rate, 0)),
            jnp.where(dry, last_lead, next_lead),
            jnp.where(dry, last_price, next_price),
        )
        return changed._replace(
            length=prefix.length + more,
            in_reach=prefix.in_reach - dry,
            dearest=jnp.where(more, next_price, prefix.dearest),
        ), best

    infinite, none = jnp.full((), jnp.inf, lead.dtype), Wide.zero(jnp.zeros((), lead.dtype))
    empty = _Prefix(
        length=jnp.int32(0), in_reach=jnp.int32(num_servers), level=infinite, dearest=infinite,
        rate=none, filling=none.add(jnp.ones_like(infinite)), priced_rate=none, priced_filling=none,
    )  # fmt: skip
    start = empty, (infinite, infinite, infinite)
    _, (total, dearest, level) = lax.fori_loop(0, 2 * num_servers + 1, step, start)
    taken = jnp.where((price <= dearest) & (lead < level), rate, 0)
    level = (1 + jnp.sum(taken * lead)) / positive(jnp.sum(taken))
    return dearest, level, jnp.where(jnp.isfinite(total), _total(level, lead, taken, price), jnp.inf)


def _at(values: Array, index: Array) -> Array:
    return values.at[index].get(mode="clip")


def _in_order(keys: Array, *others: Array) -> tuple[Array, ...]:
    """Arrays of equal length in the order of the first.

    XLA sorts number by number on CPUs. To count how many keys are less than each takes more steps, but steps
    of whole arrays: with 64 keys it is seven times as fast.
    """
    if keys.shape[0] > _MAX_COUNTED:
        return lax.sort((keys, *others), num_keys=1, is_stable=False)
    places = jnp.arange(keys.shape[0])

    def count(place: Array, before: Array) -> Array:
        return before + ((keys[place] < keys) | ((keys[place] == keys) & (place < places)))

    target = lax.fori_loop(0, keys.shape[0], count, jnp.zeros_like(places))
    source = jnp.zeros_like(places).at[target].set(places, mode="promise_in_bounds", unique_indices=True)
    return tuple(values.at[source].get(mode="promise_in_bounds") for values in (keys, *others))


def _total(level: Array, lead: Array, taken: Array, price: Array) -> Array:
    """The makespan above the least wait plus the prices of the split, s, for servers outside at rate 0."""
    return level + jnp.sum(jnp.maximum(level - lead, 0) * taken * price)
