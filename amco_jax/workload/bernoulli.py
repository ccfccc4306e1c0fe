"""The published workload: each position holds a task with probability p, independently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from amco_jax.env import Task
from amco_jax.params import Params
from amco_jax.random import Key, Stream, bits, fold_in, stream, unit
from amco_jax.workload.process import ARRIVAL_PROB, ArrivalProcess, Quantity, ScenarioFields
from amco_jax.workload.tasks import drawn_density, drawn_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class BernoulliArrivals(ArrivalProcess):
    """A task at each of the N positions with probability p."""

    name, title = "bernoulli", "Bernoulli"
    varied: ClassVar[Mapping[str, Quantity]] = {"arrival_prob": ARRIVAL_PROB}
    recordable = True

    def num_positions(self, scenario: ScenarioFields) -> int:
        """N."""
        return scenario.num_tasks

    def moments(self, scenario: ScenarioFields) -> tuple[float, float]:
        """The moments of a binomial distribution."""
        mean = scenario.num_tasks * scenario.arrival_prob
        return mean, mean * (1 - scenario.arrival_prob)

    @staticmethod
    def workload(shape, params, tables, seed, episode, segment, training) -> Bernoulli:
        """The whole episode, of which any segment is a part."""
        del tables, segment, training
        return bernoulli(params, shape.max_tasks, seed, episode)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Arrivals, sizes and densities of one seed, drawn on demand."""

    arrivals: Key
    density: Float[Array, " max_tasks"]
    """ρ_n, Gcycles/Mbit, of each position, the same in all slots and at all base stations"""

    def num_positions(self, params: Params) -> Array:
        """N."""
        return params.num_tasks

    def row(self, params: Params, t: Array, b: Array) -> tuple[tuple[Array, Array], Callable[..., Task]]:
        """The positions of base station `b` in slot `t`; those from num_tasks on stay empty."""
        key = fold_in(fold_in(self.arrivals, t), b)
        dtype = params.arrival_prob.dtype

        def task_at(position: tuple[Array, Array]) -> Task:
            n, density = position
            # Sizes do not depend on p: with a larger p, the same tasks arrive, and others in addition.
            draw = bits(key, n)
            present = (unit(draw, dtype) < params.arrival_prob) & (n < params.num_tasks)
            size = drawn_size(params, draw)
            return Task(present=present, size=size, work=size * density)

        return (jnp.arange(self.density.shape[0]), self.density), task_at


def bernoulli(params: Params, max_tasks: int, seed: UInt32[Array, ""], episode: int | Array = 0) -> Bernoulli:
    """The workload of a seed: densities are drawn once per seed, arrivals anew in each episode."""
    return Bernoulli(
        arrivals=fold_in(stream(seed, Stream.ARRIVAL), episode),
        density=drawn_density(params, stream(seed, Stream.DENSITY), jnp.arange(max_tasks)),
    )
