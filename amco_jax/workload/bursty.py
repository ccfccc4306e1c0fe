"""Bursty arrivals: Poisson arrivals whose rate switches between calm and burst states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from amco_jax.errors import check_number
from amco_jax.random import Key, Stream, fold_in, stream, uniform
from amco_jax.workload.counts import Counted, CountTables, count_tables, positions_for
from amco_jax.workload.process import ARRIVAL_PROB, MAX_RATE, ArrivalProcess, Quantity, ScenarioFields


class Chain(NamedTuple):
    """The two-state Markov chain of each base station, with one step per slot."""

    share: Float[Array, ""]
    """π, the stationary probability of a burst, from the first slot on"""
    begin: Float[Array, ""]
    """Probability of a transition from calm to burst"""
    end: Float[Array, ""]
    """Probability of a transition from burst to calm"""


class BurstyTables(NamedTuple):
    """The tables that the host computes for one scenario."""

    counts: CountTables
    """The distributions of the counts in calm and in burst"""
    chain: Chain


@dataclasses.dataclass(frozen=True, kw_only=True)
class BurstyParameters:
    """The parameters of bursty arrivals."""

    burst_intensity: float = 5.0
    """κ, the rate in a burst relative to that in calm"""
    burst_slots: float = 5.0
    """Mean duration of a burst, slots"""
    calm_slots: float = 15.0
    """Mean duration of a calm period, slots"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BurstyArrivals(BurstyParameters, ArrivalProcess):
    """Poisson arrivals of mean N·p whose rate is κ times as high in bursts as in calm.

    The bursts of base stations are independent, and their durations are geometric.
    """

    name = "bursty"
    max_arrival_prob = MAX_RATE
    varied: ClassVar[Mapping[str, Quantity]] = {
        "arrival_prob": ARRIVAL_PROB,
        "burst_intensity": Quantity("rate in bursts over that in calm", (1, 2, 5, 10, 20)),
        "burst_slots": Quantity("mean duration of a burst [slots]", (1, 2, 5, 10, 20)),
        "calm_slots": Quantity("mean duration of calm [slots]", (5, 10, 15, 20, 30)),
    }
    fuses_segments = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            number = check_number(field.name, getattr(self, field.name), 1, 1e6)
            object.__setattr__(self, field.name, number)

    @property
    def share(self) -> float:
        """π, the share of slots in a burst."""
        return self.burst_slots / (self.burst_slots + self.calm_slots)

    def rates(self, scenario: ScenarioFields) -> tuple[float, float]:
        """(λ₀, λ₁) in calm and in burst: λ₁ = κ·λ₀ and (1 − π)·λ₀ + π·λ₁ = N·p."""
        mean = scenario.num_tasks * scenario.arrival_prob
        calm = mean / (1 - self.share + self.share * self.burst_intensity)
        return calm, self.burst_intensity * calm

    def num_positions(self, scenario: ScenarioFields) -> int:
        """The largest count that a 32-bit draw can give in a burst."""
        return positions_for(max(self.rates(scenario)))

    def moments(self, scenario: ScenarioFields) -> tuple[float, float]:
        """N·p, and the variance of Poisson counts plus that of their varying rate."""
        mean = scenario.num_tasks * scenario.arrival_prob
        calm, burst = self.rates(scenario)
        switches = 1 / self.burst_slots + 1 / self.calm_slots
        spread = self.share * (1 - self.share) * (burst - calm) ** 2
        return mean, mean + spread * (2 - switches) / switches

    def own(self, scenario: ScenarioFields, max_tasks: int) -> BurstyTables:
        """The distributions of the counts, and the chain."""
        chain = (np.float32(p) for p in (self.share, 1 / self.calm_slots, 1 / self.burst_slots))
        return BurstyTables(count_tables(self.rates(scenario), max_tasks), Chain(*chain))  # pyright: ignore[reportArgumentType]

    @staticmethod
    def workload(shape, params, tables, seed, episode, segment, training) -> Counted:
        """The bursts in the slots of the shape, and the arrivals at the resulting rates."""
        del params, training
        key = fold_in(stream(seed, Stream.BURST), episode)
        before = BurstyArrivals.before(shape.num_servers) if segment is None else segment.carried
        first = None if segment is None else segment.first
        burst = bursts(tables.own.chain, key, shape.num_slots + 1, 0 if first is None else first, before)
        return Bursting.drawn(tables.own.counts, seed, episode, burst=burst, first=first)

    @staticmethod
    def before(num_servers: int) -> Bool[Array, " num_servers"]:
        """A placeholder for the state before slot 0, which is never used."""
        return jnp.zeros(num_servers, bool)

    @staticmethod
    def after(workload: Any) -> Bool[Array, " num_servers"]:
        """Whether each base station is in a burst in the last slot of a segment."""
        return workload.burst[-2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bursting(Counted):
    """Counts at the rates of calm and burst."""

    burst: Bool[Array, "num_slots+1 num_servers"]
    """Whether there is a burst, in the slots of the episode or segment and in the one after"""
    first: Int[Array, ""] | None
    """The first slot of the segment; None if that is slot 0"""

    def thresholds(self, t: Array, b: Array) -> tuple[Any, Callable[[Any], Array]]:
        """Those of calm and burst, of which the state in slot `t` at base station `b` selects one."""
        here = self.burst[t if self.first is None else t - self.first, b]
        calm, burst = self.tables.threshold[0], self.tables.threshold[1]
        return (calm, burst), lambda pair: jnp.where(here, pair[1], pair[0])


def bursts(
    chain: Chain, key: Key, num_slots: int, first: Int[Array, ""] | int, before: Bool[Array, " num_servers"]
) -> Bool[Array, "num_slots num_servers"]:
    """Whether each base station is in a burst in each slot from `first` on."""
    stations = jnp.arange(before.shape[0])

    def step(burst, t):
        draw = uniform(fold_in(key, t), stations, chain.share.dtype)
        follows = draw < jnp.where(burst, 1 - chain.end, chain.begin)
        burst = jnp.where(t == 0, draw < chain.share, follows)
        return burst, burst

    return lax.scan(step, before, first + jnp.arange(num_slots))[1]
