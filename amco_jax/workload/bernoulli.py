"""The published workload: each position holds a task with probability p, independently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from amco_jax.env import Task
from amco_jax.random import Key, Stream, bits, fold_in, rehash, stream, uniform, unit
from amco_jax.scenario import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Arrivals, sizes and densities of one seed, drawn where they are needed."""

    arrivals: Key
    density: Float[Array, " max_tasks"]
    """ρ_n, Gcycles/Mbit: of the position, the same in all slots and at all base stations"""

    def row(self, params: Params, t: Array, b: Array) -> tuple[tuple[Array, Array], Callable[..., Task]]:
        """The positions of base station `b` in slot `t`; those from num_tasks on stay empty."""
        key = fold_in(fold_in(self.arrivals, t), b)
        dtype = params.arrival_prob.dtype

        def task_at(position: tuple[Array, Array]) -> Task:
            n, density = position
            # A task's size does not depend on p: the same tasks come, only more of them, as p is swept.
            draw = bits(key, n)
            present = (unit(draw, dtype) < params.arrival_prob) & (n < params.num_tasks)
            size = _between(params.task_size_min, params.task_size_max, unit(rehash(draw), dtype))
            return Task(present=present, size=size, work=size * density)

        return (jnp.arange(self.density.shape[0]), self.density), task_at


def bernoulli(params: Params, max_tasks: int, seed: UInt32[Array, ""], episode: int | Array = 0) -> Bernoulli:
    """The workload of a seed: densities drawn once per seed, arrivals anew in each episode."""
    draws = uniform(stream(seed, Stream.DENSITY), jnp.arange(max_tasks), params.density_min.dtype)
    return Bernoulli(
        arrivals=fold_in(stream(seed, Stream.ARRIVAL), episode),
        density=_between(params.density_min, params.density_max, draws),
    )


def _between(low: Array, high: Array, fraction: Array) -> Array:
    return low + (high - low) * fraction
