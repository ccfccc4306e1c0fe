"""HECWA, the heuristic workload allocation of AMCoEdge, which ignores the waits."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from amco_jax.alloc.cwa import positive


def hecwa(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
) -> Float[Array, " num_servers"]:
    """x_i = (1/cost_i) / Σ_S 1/cost_i: equal processing times on the selected servers.

    Args:
      wait: `[num_servers]`, s, unused; part of the common signature of allocators.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      selected: `[num_servers]`, the set S.

    Returns:
      `[num_servers]`, fractions ≥ 0 that sum to 1 over S and are 0 outside S; all 0 if S is empty.

    Source: AMCoEdge (ICDCS 2024), heuristic allocation.

    Example:
      >>> import jax.numpy as jnp
      >>> wait, cost = jnp.array([0.0, 0.5]), jnp.array([1.0, 3.0])
      >>> hecwa(wait, cost, jnp.array([True, True]))
      Array([0.75, 0.25], dtype=float32)
    """
    chex.assert_equal_shape([wait, cost, selected])
    rate = jnp.where(selected, 1 / cost, 0)
    return rate / positive(jnp.sum(rate))
