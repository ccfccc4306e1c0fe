"""A run in virtual time: the queues and links of a fleet without workers, messages or noise.

Every item takes exactly its pace, and every transfer exactly its time. What is left of the errors of a
prediction is what the model itself leaves out.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from edge_fleet.clock import Clock
from edge_fleet.decisions import Arrival, Choice, Decider, SlotKnowledge
from edge_fleet.ledger import Ledger
from edge_fleet.links import Links
from edge_fleet.run import Plan
from edge_fleet.scheduler import turns
from edge_fleet.troubles import Trouble, disturbed


class Absence(NamedTuple):
    """A worker that is lost at a time and comes back at another, s; what it had is decided again."""

    server: int
    began: float
    ended: float


def run_virtually(
    decider: Decider,
    seed: int,
    episode: int,
    arrivals: list[Arrival],
    absences: Sequence[Absence] = (),
    late: Callable[[], float] = float,
) -> tuple[np.ndarray, list[Choice]]:
    """Play an episode, decided as a scheduler does.

    Args:
      absences: losses of workers; at least one worker is there at any time.
      late: called for each item; s by which it takes longer than its pace.

    Returns:
      `[requests]`, s from the arrival of each to its last result, NaN if it is rejected; and the decisions
      that were made at the arrivals.

    Raises:
      InputError: servers do all images of a request as one batch.
    """
    played = _Episode(decider, seed, episode, arrivals, absences, late)
    played.play()
    return played.ends, played.choices


class _Stopped(Clock):
    """A clock that shows the time of the last event."""

    time = 0.0

    def now(self) -> float:
        return self.time


class _Item(NamedTuple):
    """An image batch of a request that a server has to do."""

    number: int
    """Ascending in the order of assignment, in which servers do their items"""
    arrival: Arrival
    server: int
    work: float
    """Denoising steps"""

    @property
    def name(self) -> str:
        """Its name in a ledger."""
        return str(self.number)


class _Episode:
    """What happens in an episode, event by event, and what the fleet and its scheduler have at the time."""

    def __init__(
        self,
        decider: Decider,
        seed: int,
        episode: int,
        arrivals: Sequence[Arrival],
        absences: Sequence[Absence],
        late: Callable[[], float],
    ):
        """Begin with idle servers and links; the arguments are those of `run_virtually`."""
        scenario, service = decider.scenario, decider.scenario.service
        assert service is not None
        if not isinstance(service.batch, int):
            raise InputError(f"service.batch: {service.batch}; legal in virtual time: a number of images")
        self.ends, self.choices = np.full(len(arrivals), np.nan), list[Choice]()
        self._decider, self._seed, self._episode, self._late = decider, seed, episode, late
        self._scenario, self._clock = scenario, _Stopped()
        self._there, self._back = service.batch * service.input_mbit, service.batch * service.result_mbit
        self._ledger, self._links = Ledger(scenario.capacities), Links(self._clock, scenario.link_rates)
        self._known, self._slot = SlotKnowledge(scenario), 0
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._items: dict[int, _Item] = {}
        self._waiting: list[list[_Item]] = [[] for _ in scenario.capacities]
        self._busy, self._alive = np.zeros(scenario.num_servers, bool), np.ones(scenario.num_servers, bool)
        for arrival in arrivals:
            self._at(arrival.time, self._request, arrival)
        for absence in absences:
            self._at(absence.began, self._lose, absence.server)
            self._at(absence.ended, self._welcome, absence.server)

    def play(self) -> None:
        """Go from event to event until none is left."""
        while self._events:
            self._clock.time, _, happen = heapq.heappop(self._events)
            happen()

    def _at(self, time: float, happen: Callable[[Any], None], argument: Any) -> None:
        """Call `happen(argument)` at a time; events of the same time happen in the order of these calls."""
        heapq.heappush(self._events, (time, next(self._numbers), functools.partial(happen, argument)))

    def _request(self, arrival: Arrival) -> None:
        """A request arrives at a base station."""
        while self._slot < arrival.slot:
            self._slot += 1
            self._known.begin(self._ledger.backlog(self._slot * self._scenario.slot_duration))
        self._known.add(arrival)
        self.choices.append(self._assign(arrival))

    def _lose(self, server: int) -> None:
        """A worker is lost; what it had to do is decided again, request by request."""
        self._alive[server], self._busy[server] = False, False
        self._waiting[server] = []
        lost = Counter(self._items.pop(int(name)).arrival for name in self._ledger.drop(server))
        for arrival, count in lost.items():
            self._assign(arrival._replace(size=count, work=arrival.work * count / arrival.size))

    def _welcome(self, server: int) -> None:
        """A worker is back."""
        self._alive[server] = True

    def _assign(self, arrival: Arrival) -> Choice:
        now = self._clock.time
        backlog = self._ledger.backlog(now), self._links.backlog(now)
        situation = self._known.situation(arrival, *backlog, self._alive.copy())
        choice = self._decider.decide(self._seed, self._episode, situation)
        for server in turns(choice.counts):
            work = float(choice.placed[server] / choice.counts[server])
            item = _Item(next(self._numbers), arrival, server, work)
            self._items[item.number] = item
            self._ledger.add(server, item.name, work)
            sent = self._links.reserve(arrival.station, server, self._there)
            self._at(sent.ended, self._arrive, item)
        return choice

    def _arrive(self, item: _Item) -> None:
        """An item is at its server, unless that was lost meanwhile."""
        if item.number in self._items:
            heapq.heappush(self._waiting[item.server], item)
            self._go_on(item.server)

    def _go_on(self, server: int) -> None:
        if self._waiting[server] and not self._busy[server]:
            item = heapq.heappop(self._waiting[server])
            self._busy[server] = True
            self._ledger.sent(server, item.name, self._clock.time)
            ended = self._clock.time + item.work / self._scenario.capacities[server] + self._late()
            self._at(ended, self._finish, item)

    def _finish(self, item: _Item) -> None:
        """A server has done an item, unless it was lost meanwhile."""
        if self._items.pop(item.number, None) is None:
            return
        self._ledger.done(item.server, item.name, self._clock.time)
        self._busy[item.server] = False
        arrival = item.arrival
        took = self._links.reserve(arrival.station, item.server, self._back).ended - arrival.time
        self.ends[arrival.request] = np.fmax(self.ends[arrival.request], took)
        self._go_on(item.server)


def virtual_requests(plan: Plan, absences: Sequence[Absence] = ()) -> pd.DataFrame:
    """The requests of a plan that is played in virtual time, as in the results of a run of workers.

    Args:
      absences: losses of workers, the same in each episode.

    Raises:
      InputError: servers do all images of a request as one batch.
    """
    scenario = plan.scenario
    rows = plan.method.physics(plan.physics), UNIFIED
    decider, other = (Decider(scenario, plan.method, row, plan.agent) for row in rows)
    troubles = [Trouble(absence.began, absence.ended) for absence in absences]
    planned = scenario.slot_duration if plan.method.policy.sees_slot else 0.0
    tables = []
    for episode in plan.episodes:
        arrivals = decider.arrivals(plan.seed, episode)
        ends, choices = run_virtually(decider, plan.seed, episode, arrivals, absences)
        alone, beside = (each.simulate(plan.seed, episode, arrivals).finish for each in (decider, other))
        table = pd.DataFrame({
            "episode": episode, "request": range(len(arrivals)),
            "arrival_s": [arrival.time for arrival in arrivals], "measured_s": ends, "simulated_s": alone,
            "predicted_s": [choice.finish for choice in choices], "simulated_published_s": beside,
            "predicted_published_s": [choice.published for choice in choices],
            "missed": ~(ends <= scenario.deadline), "rejected": np.isnan(ends),
        })  # fmt: skip
        tables.append(table.assign(disturbed=disturbed(table, troubles, planned)))
    return pd.concat(tables, ignore_index=True)
