"""Tasks given as arrays: recorded trajectories, and user-defined workloads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amco_jax.env import Task
from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recorded:
    """Given task sizes; a size of 0 is an empty position."""

    size: Float[Array, "num_slots num_servers max_tasks"]
    """d, Mbit"""
    density: Float[Array, " max_tasks"]
    """ρ_n, Gcycles/Mbit"""

    def num_positions(self, params: Params) -> int:
        """All of them."""
        del params
        return self.size.shape[-1]

    def row(self, params: Params, t: Array, b: Array) -> tuple[tuple[Array, Array], Callable[..., Task]]:
        """The recorded positions of base station `b` in slot `t`."""
        del params

        def task_at(position: tuple[Array, Array]) -> Task:
            size, density = position
            present = size > 0
            size = jnp.where(present, size, 1)  # the cost of an empty position must be positive, too
            return Task(present=present, size=size, work=size * density)

        return (self.size[t, b], self.density), task_at
