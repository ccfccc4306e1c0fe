"""CWA, the closed-form workload allocation of AMCoEdge: equal finish times on the selected servers."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def cwa(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
) -> Float[Array, " num_servers"]:
    """x_i = max((T* - wait_i) / cost_i, 0) / (their sum), T* = (1 + Σ_S wait_i/cost_i) / Σ_S 1/cost_i.

    T* is the finish time that all selected servers would share. If it is below a server's wait, that fraction
    is clipped to 0 and the others are rescaled once, without a second solve, as published.

    Args:
      wait: `[num_servers]`, s, queueing delay before the task starts on each server.
      cost: `[num_servers]`, s, > 0, delay of the whole task on each server.
      selected: `[num_servers]`, the set S.

    Returns:
      `[num_servers]`, fractions ≥ 0 that sum to 1 over S and are 0 outside S; all 0 if S is empty.

    Source: AMCoEdge (ICDCS 2024), workload allocation stage; the published code solves the same system
    densely.

    Example:
      >>> import jax.numpy as jnp
      >>> wait, cost = jnp.array([0.0, 0.5]), jnp.array([1.0, 1.0])
      >>> cwa(wait, cost, jnp.array([True, True]))  # both end at 0.75 s
      Array([0.75, 0.25], dtype=float32)
    """
    chex.assert_equal_shape([wait, cost, selected])
    rate = jnp.where(selected, 1 / cost, 0)
    lead = wait_lead(wait, selected)
    finish = (1 + jnp.sum(lead * rate)) / positive(jnp.sum(rate))
    share = jnp.maximum((finish - lead) * rate, 0)
    return share / positive(jnp.sum(share))


def wait_lead(
    wait: Float[Array, " num_servers"], selected: Bool[Array, " num_servers"]
) -> Float[Array, " num_servers"]:
    """Each wait minus the smallest selected wait, s; 0 outside the set.

    Fractions depend only on differences between waits. With a backlog of minutes, float32 resolves these only
    if the common part is subtracted first. That part cancels, so it needs no gradient.
    """
    least = lax.stop_gradient(jnp.min(jnp.where(selected, wait, jnp.inf)))
    return jnp.where(selected, wait - least, 0)


def positive(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x`, with the 0 of a sum over an empty set replaced by 1, so that 0 / x is 0 with a finite gradient."""
    return jnp.where(x > 0, x, 1)
