"""Water-filling, the optimal workload allocation."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive, wait_lead

MAX_INLINE = 8
"""With more servers, the steps run in a loop that ends when no further server is dropped."""


def waterfill(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
) -> Float[Array, " num_servers"]:
    """The x that minimises max_{x_i>0} (x_i·cost_i + wait_i) over the fractions of the set S.

    Servers fill like connected vessels: those that take part all finish at one level T, and those whose wait
    exceeds T stay dry. T is the root of Σ_S max(T - wait_i, 0) / cost_i = 1, whose left side is convex and
    piecewise linear with kinks at the waits. Newton's method, started from above where all servers take part,

        T ← (1 + Σ_{wait_i < T} wait_i/cost_i) / Σ_{wait_i < T} 1/cost_i,

    drops the servers that stay dry, a few per step, and ends exactly at the root.

    Args:
      wait: `[num_servers]`, s, queueing delay before the task starts on each server.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      selected: `[num_servers]`, the set S.

    Returns:
      `[num_servers]`, fractions ≥ 0 that sum to 1 over S and are 0 outside S; all 0 if S is empty.

    Example:
      The third server would start after the others end, at 0.75 s, and gets nothing:

      >>> import jax.numpy as jnp
      >>> wait, cost = jnp.array([0.0, 0.5, 2.0]), jnp.ones(3)
      >>> waterfill(wait, cost, jnp.ones(3, bool))
      Array([0.75, 0.25, 0.  ], dtype=float32)
    """
    chex.assert_equal_shape([wait, cost, selected])
    rate = jnp.where(selected, 1 / cost, 0)
    lead = wait_lead(wait, selected)
    share = jnp.maximum((water_level(lead, rate) - lead) * rate, 0)
    return share / positive(jnp.sum(share))


def waterfill_support(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
) -> Bool[Array, " num_servers"]:
    """The servers that water-filling over all B servers uses: the set of least makespan among all 2^B-1."""
    lead = wait_lead(wait, jnp.ones(wait.shape, bool))
    return lead < water_level(lead, 1 / cost)


def water_level(lead: Float[Array, " num_servers"], rate: Float[Array, " num_servers"]) -> Float[Array, ""]:
    """T minus the smallest selected wait, s; servers outside S have rate 0."""

    def sums(wet: Array, lead: Array, rate: Array) -> tuple[Array, Array]:
        return 1 + jnp.sum(jnp.where(wet, lead * rate, 0)), jnp.sum(jnp.where(wet, rate, 0))

    # Which servers stay dry is piecewise constant, so it has no gradient.
    fixed_lead, fixed_rate = lax.stop_gradient((lead, rate))

    wet, num_servers = jnp.ones(lead.shape, bool), lead.shape[0]
    if num_servers <= MAX_INLINE:
        for _ in range(num_servers - 1):  # each step drops at least one server, and one always remains
            numerator, denominator = sums(wet, fixed_lead, fixed_rate)
            wet = wet & (fixed_lead * denominator < numerator)  # lead < T, without a division
    else:

        def lower(levels: tuple[Array, Array]) -> tuple[Array, Array]:
            numerator, denominator = sums(fixed_lead < levels[0], fixed_lead, fixed_rate)
            return numerator / positive(denominator), levels[0]

        infinite = jnp.full((), jnp.inf, lead.dtype)
        start = lower((infinite, infinite))
        level, _ = lax.while_loop(lambda levels: levels[0] < levels[1], lower, start)
        wet = fixed_lead < level
    numerator, denominator = sums(wet, lead, rate)
    return numerator / positive(denominator)
