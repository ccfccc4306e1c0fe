"""Water-filling: the exact workload allocation, O(B log B) in the number of servers."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive, wait_lead


def waterfill(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
) -> Float[Array, " num_servers"]:
    """The x that minimises max_{x_i>0} (x_i·cost_i + wait_i) over the fractions of the set S.

    Servers fill like connected vessels: all that take part finish at one level T, and those whose wait
    exceeds T stay dry. Sorted by wait, the first k servers alone would finish at

        T_k = (1 + Σ_{j≤k} wait_j/cost_j) / Σ_{j≤k} 1/cost_j,

    T_k falls as long as the next wait lies below it and rises afterwards, so T = min_k T_k.

    Args:
      wait: `[num_servers]`, s, queueing delay before the task starts on each server.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      selected: `[num_servers]`, the set S.

    Returns:
      `[num_servers]`, fractions ≥ 0 that sum to 1 over S and are 0 outside; all 0 where S is empty.
    """
    chex.assert_equal_shape([wait, cost, selected])
    rate = jnp.where(selected, 1 / cost, 0)
    lead = wait_lead(wait, selected)
    share = jnp.maximum((_level(lead, rate, selected) - lead) * rate, 0)
    return share / positive(jnp.sum(share))


def waterfill_support(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
) -> Bool[Array, " num_servers"]:
    """The servers that water-filling over all servers uses: the set of least makespan of all 2^B-1."""
    everyone = jnp.ones(wait.shape, bool)
    lead = wait_lead(wait, everyone)
    return lead < _level(lead, 1 / cost, everyone)


def _level(
    lead: Float[Array, " num_servers"],
    rate: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
) -> Float[Array, ""]:
    """T above the least selected wait, s."""
    # Servers outside S sort last and add nothing to either sum, so they repeat the level before them.
    order = jnp.where(selected, lead, jnp.inf)
    _, rate, weighted = lax.sort((order, rate, lead * rate), num_keys=1)
    return jnp.min((1 + jnp.cumsum(weighted)) / positive(jnp.cumsum(rate)))
