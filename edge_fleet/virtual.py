"""A run in virtual time: the queues and links of a fleet without workers, messages or noise.

Every item takes exactly its pace, and every transfer exactly its time. What is left of the errors of a
prediction is what the model itself leaves out.
"""

from __future__ import annotations

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


class _Stopped(Clock):
    """A clock that shows the time of the last event."""

    time = 0.0

    def now(self) -> float:
        return self.time


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
    scenario, service = decider.scenario, decider.scenario.service
    assert service is not None
    if not isinstance(service.batch, int):
        raise InputError(f"service.batch: {service.batch}; legal in virtual time: a number of images")
    clock, ledger = _Stopped(), Ledger(scenario.capacities)
    links, known = Links(clock, scenario.link_rates), SlotKnowledge(scenario)
    there, back = service.batch * service.input_mbit, service.batch * service.result_mbit
    order = itertools.count()
    events: list[Any] = [(arrival.time, next(order), "request", arrival) for arrival in arrivals]
    waiting: list[list[Any]] = [[] for _ in scenario.capacities]
    items: dict[int, Any] = {}
    for absence in absences:
        events += [(absence.began, next(order), "lost", absence.server)]
        events += [(absence.ended, next(order), "back", absence.server)]
    busy, alive = np.zeros(scenario.num_servers, bool), np.ones(scenario.num_servers, bool)
    ends, choices, slot = np.full(len(arrivals), np.nan), list[Choice](), 0

    def post(time: float, kind: str, content: Any) -> None:
        heapq.heappush(events, (time, next(order), kind, content))

    def go_on(server: int) -> None:
        if waiting[server] and not busy[server]:
            item = heapq.heappop(waiting[server])
            busy[server] = True
            ledger.sent(server, str(item[0]), clock.time)
            post(clock.time + item[3] / scenario.capacities[server] + late(), "computed", item)

    def assign(arrival: Arrival) -> Choice:
        backlog = ledger.backlog(clock.time), links.backlog(clock.time)
        choice = decider.decide(seed, episode, known.situation(arrival, *backlog, alive.copy()))
        for server in turns(choice.counts):
            work = float(choice.placed[server] / choice.counts[server])
            item = next(order), arrival, server, work
            items[item[0]] = item
            ledger.add(server, str(item[0]), work)
            post(links.reserve(arrival.station, server, there).ended, "sent", item)
        return choice

    heapq.heapify(events)
    while events:
        clock.time, _, kind, content = heapq.heappop(events)
        if kind == "request":
            arrival: Arrival = content
            while slot < arrival.slot:
                slot += 1
                known.begin(ledger.backlog(slot * scenario.slot_duration))
            known.add(arrival)
            choices.append(assign(arrival))
        elif kind == "lost":
            alive[content], busy[content], waiting[content] = False, False, []
            lost = Counter(items.pop(int(name))[1] for name in ledger.drop(content))
            for arrival, count in lost.items():
                assign(arrival._replace(size=count, work=arrival.work * count / arrival.size))
        elif kind == "back":
            alive[content] = True
        elif content[0] not in items:  # it was lost meanwhile
            continue
        elif kind == "sent":
            heapq.heappush(waiting[content[2]], content)
            go_on(content[2])
        elif kind == "computed":
            number, arrival, server, _ = items.pop(content[0])
            ledger.done(server, str(number), clock.time)
            busy[server] = False
            ended = links.reserve(arrival.station, server, back).ended - arrival.time
            ends[arrival.request] = np.fmax(ends[arrival.request], ended)
            go_on(server)
    return ends, choices


def virtual_requests(plan: Plan, absences: Sequence[Absence] = ()) -> pd.DataFrame:
    """The requests of a plan that is played in virtual time, as in the results of a run of workers.

    Args:
      absences: losses of workers, the same in each episode.

    Raises:
      InputError: servers do all images of a request as one batch.
    """
    scenario = plan.scenario if plan.settings.links else plan.scenario.replace(link_rate=1e9)
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
