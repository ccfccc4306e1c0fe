"""Tasks whose size and density are drawn, from one random number per task."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt32

from amco_jax.params import Params
from amco_jax.random import Key, rehash, uniform, unit


def _between(params: Params, low: ArrayLike, high: ArrayLike, draw: Array) -> Array:
    """Scale a draw from [0, 1) to uniform between two bounds, which is an integer with a service."""
    low, high = jnp.asarray(low), jnp.asarray(high)  # the leaves of a scenario are NumPy arrays
    if params.service is None:
        return low + (high - low) * draw
    return low + jnp.floor((high - low + 1) * draw)


def drawn_size(params: Params, draw: UInt32[Array, ""]) -> Float[Array, ""]:
    """d, Mbit, uniform between the scenario's bounds; the top bits of the draw stay free for other use."""
    fraction = unit(rehash(draw), params.task_size_min.dtype)
    return _between(params, params.task_size_min, params.task_size_max, fraction)


def drawn_density(params: Params, key: Key, n: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """ρ_n of one seed, Gcycles/Mbit, uniform between the scenario's bounds."""
    fraction = uniform(key, n, params.density_min.dtype)
    return _between(params, params.density_min, params.density_max, fraction)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DrawnTasks:
    """Tasks of N equally frequent kinds with the densities ρ_0, …, ρ_{N-1} of the Bernoulli positions."""

    density: Key

    def draw(self, params: Params, draw: UInt32[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Size [Mbit] and density [Gcycles/Mbit] of the task that a random number determines.

        The density is recomputed for each task, since a lookup would be a gather in the innermost loop.
        """
        size = drawn_size(params, draw)
        # Less than N even after rounding, because the draw is at most 1 - 2⁻²⁴.
        kind = (unit(draw, size.dtype) * params.num_tasks).astype(jnp.int32)
        return size, drawn_density(params, self.density, kind)
