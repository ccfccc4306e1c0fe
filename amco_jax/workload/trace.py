"""Arrivals from a request log: each seed and episode plays a stretch of it.

Training draws its stretches anywhere in the earlier part of the log. What is evaluated plays the disjoint
stretches of the later part, so that two seeds have the very same stretch or no request in common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from amco_jax.env import Task
from amco_jax.params import Params, Shape
from amco_jax.random import Key, Stream, bits, fold_in, stream, unit
from amco_jax.scenario import Scenario
from amco_jax.workload.tasks import DrawnTasks


class Requests(NamedTuple):
    """The log in the order of time, with as many further entries as there are positions."""

    user: Int[Array, " requests"]
    size: Float[Array, " requests"] | None
    """Mbit; None where sizes are drawn"""
    density: Float[Array, " requests"] | None
    """Gcycles/Mbit; None where densities are drawn"""
    work: Float[Array, " requests"] | None
    """Gcycles; None where it is size times density"""


class Slots(NamedTuple):
    """How the slots of one scenario lie on the log."""

    num_positions: Int[Array, ""]
    """Most requests of a slot"""
    starts: Int[Array, ""]
    """Slots that an episode of training may start with, from slot 0 on"""
    first: Int[Array, ""]
    """The slot with which the first stretch for testing starts"""
    num_stretches: Int[Array, ""]
    """Stretches for testing"""
    spacing: Int[Array, ""]
    """Slots from the start of one to that of the next"""
    stride: Int[Array, ""]
    """Stretches from that of one seed to that of the next"""
    slot: Int[Array, " requests"]
    """The slot of each request"""


def requests_of(scenario: Scenario, max_tasks: int) -> Requests:
    """The log of a scenario."""
    log = scenario.require_trace().log

    def padded(column: np.ndarray | None, dtype: Any) -> Any:
        return None if column is None else np.pad(column.astype(dtype), (0, max_tasks), mode="edge")

    numbers = (padded(column, np.float32) for column in (log.size, log.density, log.work))
    return Requests(padded(log.user, np.int32), *numbers)


def slots_of(scenario: Scenario, max_tasks: int) -> Slots:
    """The slots of a scenario."""
    del max_tasks
    cuts, slot = scenario.stretches, scenario.trace_slots.astype(np.int32)
    places = (cuts.starts(scenario.num_slots), cuts.first, cuts.num_stretches, cuts.spacing, cuts.stride)
    return Slots(np.int32(scenario.num_positions), *map(np.int32, places), slot)  # pyright: ignore


def stretch_at(count: Any, stride: Any, seed: Any, episode: Any) -> UInt32[Array, "*seeds"]:
    """Which of the `count` stretches for testing a seed plays in an episode, from 0.

    Consecutive seeds go through all of them by strides before one comes again. An episode shifts all seeds.
    """
    count, stride, seed = (jnp.asarray(x).astype(jnp.uint32) for x in (count, stride, seed))
    shift = bits(fold_in(stream(jnp.uint32(0), Stream.TRACE), 3), episode)
    return (seed % count * stride % count + shift % count) % count


def stretches_of(scenario: Scenario, seeds: np.ndarray, episode: int) -> np.ndarray:
    """`[seeds]`, the stretch of the log that each seed plays in an episode that is evaluated."""
    cuts = scenario.stretches
    return np.asarray(stretch_at(cuts.num_stretches, cuts.stride, seeds.astype(np.uint32), episode)).astype(
        np.int64
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Traced:
    """A stretch of a log.

    The positions of a base station are all requests of the slot; those that come at other base stations leave
    theirs empty. So no request is ever lost, and nothing of a log's length is held for each seed.
    """

    requests: Requests
    most: Int[Array, ""]
    """Requests of a slot"""
    first: Int[Array, " num_slots+2"]
    """Of each slot of the episode, or of the segment of it, the one after, and the one after that: its first
    request"""
    since: Int[Array, ""] | None
    """The first slot of the segment; None where that is slot 0"""
    stations: Key
    draws: Key
    tasks: DrawnTasks
    max_tasks: int = dataclasses.field(metadata={"static": True})

    def num_positions(self, params: Params) -> Array:
        """No slot of the log has more requests."""
        del params
        return self.most

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[..., Task]]:
        """The requests of slot `t` whose users are at base station `b`."""
        here = t if self.since is None else t - self.since
        first, count = self.first[here], self.first[here + 1] - self.first[here]
        num_servers = params.capacity.shape[0]
        slot = jax.tree.map(lambda x: lax.dynamic_slice(x, (first,), (self.max_tasks,)), self.requests)

        def task_at(position: tuple[Array, Requests]) -> Task:
            n, request = position
            station = (unit(bits(self.stations, request.user), jnp.float32) * num_servers).astype(jnp.int32)
            size, density = self.tasks.draw(params, bits(self.draws, first + n))
            size = size if request.size is None else request.size
            density = density if request.density is None else request.density
            work = size * density if request.work is None else request.work
            return Task(present=(n < count) & (station == b), size=size, work=work)

        return (jnp.arange(self.max_tasks), slot), task_at


def traced(
    shape: Shape,
    params: Params,
    requests: Requests,
    slots: Slots,
    seed: UInt32[Array, ""],
    episode: int | Array,
    training: bool | Array,
    since: Int[Array, ""] | None = None,
) -> Traced:
    """The workload of a seed: users and kinds of requests drawn once, the stretch anew in each episode.

    Args:
      since: the first slot, of a segment of the episode.
    """
    del params
    key = stream(seed, Stream.TRACE)
    windows, stations, draws = (fold_in(key, purpose) for purpose in range(3))
    fraction = unit(bits(windows, episode), jnp.float32)
    # Beyond 2²⁴ slots the product may round up to their number.
    window = jnp.minimum((fraction * slots.starts).astype(jnp.int32), slots.starts - 1)
    stretch = stretch_at(slots.num_stretches, slots.stride, seed, episode).astype(jnp.int32)
    start = jnp.where(training, window, slots.first + stretch * slots.spacing)
    edges = start + (0 if since is None else since) + jnp.arange(shape.num_slots + 2)
    return Traced(
        requests=requests,
        most=slots.num_positions,
        first=jnp.searchsorted(slots.slot, edges).astype(jnp.int32),
        since=since,
        stations=stations,
        draws=draws,
        tasks=DrawnTasks(stream(seed, Stream.DENSITY)),
        max_tasks=shape.max_tasks,
    )
