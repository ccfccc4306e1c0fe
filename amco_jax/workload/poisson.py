"""Poisson arrivals, and bursty ones: Poisson at a rate that switches between calm and burst."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from amco_jax.counts import burst_rates, burst_share, thresholds
from amco_jax.env import Task
from amco_jax.params import Params, Shape
from amco_jax.random import Key, Stream, bits, fold_in, stream, uniform
from amco_jax.scenario import Scenario
from amco_jax.workload.tasks import DrawnTasks


class Chain(NamedTuple):
    """The two-state Markov chain of each base station, by slots."""

    share: Float[Array, ""]
    """π, probability of a burst in the first slot, and so in every one"""
    begin: Float[Array, ""]
    """Probability that a burst follows on calm"""
    end: Float[Array, ""]
    """Probability that calm follows on a burst"""


class CountTables(NamedTuple):
    """What the host computes of one scenario."""

    num_positions: Int[Array, ""]
    threshold: UInt32[Array, "states max_tasks"]
    """See `counts.thresholds`; of calm and burst, or of the one state of Poisson arrivals"""
    chain: Chain | None


def poisson_tables(scenario: Scenario, max_tasks: int) -> CountTables:
    """Of the rate N·p at each base station and slot."""
    threshold = thresholds(scenario.num_tasks * scenario.arrival_prob, max_tasks)
    return CountTables(np.int32(scenario.num_positions), threshold[None], None)  # pyright: ignore


def bursty_tables(scenario: Scenario, max_tasks: int) -> CountTables:
    """Of the two rates, whose mean is N·p."""
    share = burst_share(scenario.burst_slots, scenario.calm_slots)
    rates = burst_rates(scenario.num_tasks * scenario.arrival_prob, scenario.burst_intensity, share)
    threshold = np.stack([thresholds(rate, max_tasks) for rate in rates])
    chain = Chain(*(np.float32(p) for p in (share, 1 / scenario.calm_slots, 1 / scenario.burst_slots)))  # pyright: ignore
    return CountTables(np.int32(scenario.num_positions), threshold, chain)  # pyright: ignore


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counted:
    """A count for each slot and base station, whose tasks take the first positions."""

    arrivals: Key
    counts: Key
    tasks: DrawnTasks
    tables: CountTables
    burst: Bool[Array, "num_slots+1 num_servers"] | None
    """Of the slots of the episode, or of the segment of it, and the one after"""
    first: Int[Array, ""] | None
    """The first slot of the segment; None where that is slot 0"""

    def num_positions(self, params: Params) -> Array:
        """No count is larger: see `counts.positions_for`."""
        del params
        return self.tables.num_positions

    def row(self, params: Params, t: Array, b: Array) -> tuple[tuple[Array, Array], Callable[..., Task]]:
        """The tasks of base station `b` in slot `t`."""
        key = fold_in(fold_in(self.arrivals, t), b)
        draw = bits(fold_in(self.counts, t), b)
        threshold = self.tables.threshold[0]
        if self.burst is not None:
            here = t if self.first is None else t - self.first
            threshold = jnp.where(self.burst[here, b], self.tables.threshold[1], threshold)

        def task_at(position: tuple[Array, Array]) -> Task:
            n, threshold = position
            size, density = self.tasks.draw(params, bits(key, n))
            return Task(present=draw > threshold, size=size, work=size * density)

        return (jnp.arange(threshold.shape[0]), threshold), task_at


def counted(
    shape: Shape,
    params: Params,
    tables: CountTables,
    seed: UInt32[Array, ""],
    episode: int | Array,
    first: Int[Array, ""] | None = None,
    before: Bool[Array, " num_servers"] | None = None,
) -> Counted:
    """The workload of a seed: kinds of tasks drawn once, arrivals and bursts anew in each episode.

    Args:
      first: the first slot, of a segment of the episode.
      before: whether the slot before it is one of a burst, at each base station; of bursty arrivals.
    """
    del params
    burst = None
    if tables.chain is not None:
        key = fold_in(stream(seed, Stream.BURST), episode)
        before = no_burst(shape.num_servers) if before is None else before
        burst = bursts(tables.chain, key, shape.num_slots + 1, 0 if first is None else first, before)
    return Counted(
        arrivals=fold_in(stream(seed, Stream.ARRIVAL), episode),
        counts=fold_in(stream(seed, Stream.COUNT), episode),
        tasks=DrawnTasks(stream(seed, Stream.DENSITY)),
        tables=tables,
        burst=burst,
        first=first,
    )


def no_burst(num_servers: int) -> Bool[Array, " num_servers"]:
    """What stands before slot 0, and means nothing there."""
    return jnp.zeros(num_servers, bool)


def last_burst(workload: Counted) -> Bool[Array, " num_servers"]:
    """Whether the last slot of a segment is one of a burst, at each base station."""
    assert workload.burst is not None
    return workload.burst[-2]


def bursts(
    chain: Chain, key: Key, num_slots: int, first: Int[Array, ""] | int, before: Bool[Array, " num_servers"]
) -> Bool[Array, "num_slots num_servers"]:
    """Whether each slot from `first` on is one of a burst, at each base station on its own."""
    stations = jnp.arange(before.shape[0])

    def step(burst, t):
        draw = uniform(fold_in(key, t), stations, chain.share.dtype)
        follows = draw < jnp.where(burst, 1 - chain.end, chain.begin)
        burst = jnp.where(t == 0, draw < chain.share, follows)
        return burst, burst

    return lax.scan(step, before, first + jnp.arange(num_slots))[1]
