"""Scans that skip what no lane of a batch needs.

Arrays are as long as the longest list that any lane may ever have, such as the requests in the fullest slot
of a log. `scan_first` computes only as many steps as some lane of the batch needs now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int


@custom_vmap
def most_of_lanes(count: Int[Array, ""]) -> Int[Array, ""]:
    """The largest value that any lane of the surrounding `vmap` has; the same number for all lanes."""
    return count


@most_of_lanes.def_vmap
def _most_of_lanes(axis_size: int, in_batched: Any, count: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return most_of_lanes(jnp.max(count)), False


def scan_first(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    count: Int[Array, ""] | None,
    skipped: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """`lax.scan` of the first `count` entries.

    Args:
      body: as of `lax.scan`; where a lane needs fewer entries, it must leave the carry of that lane as it is.
      count: the number of entries that some lane needs, the same for all lanes; None for all entries.
      skipped: the outputs of entries that are not computed, from a pytree of their shapes and dtypes.
    """
    if count is None:
        return lax.scan(body, carry, xs)

    def step(carry: Any, place: tuple[Array, Any]) -> tuple[Any, Any]:
        index, x = place
        outputs = jax.eval_shape(body, carry, x)[1]
        # A conditional rather than a loop of `count` steps, as that could not be differentiated in reverse.
        return lax.cond(index < count, body, lambda carry, _: (carry, skipped(outputs)), carry, x)

    indices = jnp.arange(jax.tree.leaves(xs)[0].shape[0])
    return lax.scan(step, carry, (indices, xs))
