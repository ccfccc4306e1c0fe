"""Poisson arrivals: independent counts of mean N·p."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from amco_jax.workload.counts import Counted, CountTables, count_tables, positions_for
from amco_jax.workload.process import ARRIVAL_PROB, MAX_RATE, ArrivalProcess, Quantity, ScenarioFields


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonArrivals(ArrivalProcess):
    """A Poisson number of tasks, with mean N·p, at each base station in each slot."""

    name, title = "poisson", "Poisson"
    max_arrival_prob = MAX_RATE
    varied: ClassVar[Mapping[str, Quantity]] = {"arrival_prob": ARRIVAL_PROB}

    def num_positions(self, scenario: ScenarioFields) -> int:
        """The largest count that a 32-bit draw can give."""
        return positions_for(scenario.num_tasks * scenario.arrival_prob)

    def moments(self, scenario: ScenarioFields) -> tuple[float, float]:
        """The rate, which is both the mean and the variance."""
        rate = scenario.num_tasks * scenario.arrival_prob
        return rate, rate

    def own(self, scenario: ScenarioFields, max_tasks: int) -> CountTables:
        """The distribution of the counts."""
        return count_tables([scenario.num_tasks * scenario.arrival_prob], max_tasks)

    @staticmethod
    def workload(shape, params, tables, seed, episode, segment, training) -> Counted:
        """The whole episode, of which any segment is a part."""
        del shape, params, segment, training
        return Counted.drawn(tables.own, seed, episode)
