"""The one episode kernel: slot by slot, plan, then decide the tasks in order, then close the slot.

Every method, both physics and every workload run through `serve_slot`. It is written for one episode;
callers vmap it. See `unroll.py` for why plain array code is fast here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import SlotView, TaskView
from amco_jax.alloc import Allocator
from amco_jax.compile.unroll import unroll
from amco_jax.env import (
    Backlog,
    Decision,
    Physics,
    Queues,
    Site,
    Task,
    advance,
    close_slot,
    costs,
    decide,
    site,
    waits,
)
from amco_jax.kernel.order import Turn, by_position, queue_of_slot, tasks_of_slot
from amco_jax.metrics import (
    EPISODE_METRICS,
    Metrics,
    SlotOutcome,
    Sums,
    TaskOutcome,
    add_slot,
    add_task,
    none_of_slots,
    none_of_tasks,
    of_each_task,
    of_slot,
    over_slots,
)
from amco_jax.params import Params, Shape
from amco_jax.random import Key, fold_in
from amco_jax.workload import Workload

MAX_UNROLLED_SERVERS = 32
"""Beyond this, unrolled code compiles slowly and gains little."""

Record = Callable[[Decision], Any]
"""What to keep of each decision: a function to a pytree of arrays."""


def keep_nothing(decision: Decision) -> None:
    """The record of a caller to whom the totals are enough."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slot:
    """What happened in one slot."""

    slot_load: Float[Array, " num_servers"]
    """q at the end of the slot, Gcycles"""
    link_delay: Float[Array, " num_servers"]
    """L of each base station at the end of the slot, s"""
    busy: Float[Array, " num_servers"]
    """Share of the slot that each server was busy, in [0, 1]"""
    totals: Sums
    """Sums of the metrics within the slot"""
    of_tasks: dict[str, Array]
    """Values of metrics with quantiles by name, `[num_servers, max_tasks]`; inf without a task"""
    decisions: Any
    """What `record` kept, with leading axes `[num_servers, max_tasks]`"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of an episode between two slots, and its sums so far."""

    backlog: Backlog
    totals: Sums
    """Sums by the name of the metric, in two words each"""

    @classmethod
    def start(cls, num_servers: int, dtype: Any, metrics: Metrics) -> Progress:
        """The start of an episode."""
        return cls(Backlog.empty(num_servers, dtype), none_of_slots(metrics, num_servers, dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episode:
    """The outcome of an episode, or of a segment of one. `wide.on_host` reads its sums."""

    end: Progress
    """After the last slot"""
    of_tasks: dict[str, Array]
    """Values of metrics with quantiles by name, `[num_slots, num_servers, max_tasks]`; inf without a task"""
    over_slots: dict[str, Array]
    """Values of metrics over slots by name, `[num_slots]`"""
    decisions: Any
    """What `record` kept, with leading axes `[num_slots, num_servers, max_tasks]`"""
    backlog: Any
    """`[num_slots, num_servers]`, Q at the start of each slot, Gcycles; None unless asked for"""
    slot_load: Any
    """`[num_slots, num_servers]`, q at the end of each slot, Gcycles; likewise"""
    link_delay: Any
    """`[num_slots, num_servers]`, L at the end of each slot, s; likewise"""

    @property
    def totals(self) -> Sums:
        """Sums by the name of the metric, over the tasks and slots until the end."""
        return self.end.totals


def serve_task(
    params: Params,
    physics: Physics,
    allocator: Allocator,
    site: Site,
    backlog: Float[Array, " num_servers"],
    task: Task,
    queues: Queues,
    choose: Callable[[Array, Array], Array],
) -> tuple[Queues, Decision, Array, Array]:
    """Decide one task at the base station of `site`: waits, costs, the set, and what it does to the queues.

    Args:
      backlog: `[num_servers]`, Gcycles, at the start of the slot.
      choose: from wait and cost, `[num_servers]`, s, to the set S, `[num_servers]` booleans.

    Returns:
      The queues after it, the decision, wait and cost.
    """
    wait = waits(site, backlog, queues.slot_load, queues.link_delay)
    cost = costs(site, task.size, task.work)
    return *decide(params, physics, site, task, wait, cost, choose(wait, cost), allocator, queues), wait, cost


class _Served(NamedTuple):
    """What the tasks of a slot leave behind."""

    slot_load: Float[Array, " num_servers"]
    link_delay: Float[Array, " num_servers"]
    totals: Sums
    kept: Any
    """Values of metrics with quantiles, and what `record` kept, `[num_servers, max_tasks, ...]` each, or
    `[turns, ...]` with a queue"""
    passed: Any = None
    """In continuous time: until when, s from the start of the slot, what waits then, and how long each server
    was busy, s"""


def serve_slot(
    shape: Shape,
    params: Params,
    physics: Physics,
    method: Method,
    workload: Workload,
    key: Key,
    t: Int[Array, ""],
    backlog: Backlog,
    planned: Any,
    queue: Turn | None,
    record: Record,
    metrics: Metrics,
) -> _Served:
    """Decide all tasks of slot `t` in the scenario's order.

    Args:
      key: the policy's draws in this slot.
      backlog: at the start of the slot.
      planned: `[num_servers, max_tasks, num_servers]` booleans of a per-slot policy, or None.
      queue: all positions in the order of service, `[turns]`; None where that is station by station.
    """
    num_servers = shape.num_servers
    no_totals = none_of_tasks(metrics, num_servers, backlog.servers.dtype)

    def serve(site_b, key_b, servers, queues, totals, turn):
        def choose(wait, cost):
            if method.policy.sees_slot:
                return turn.planned
            view = TaskView(turn.task, wait, cost, site_b.local, params, key_b, turn.position)
            return method.policy.select(view)

        task = turn.task
        queues, decision, wait, cost = serve_task(
            params, physics, method.allocator, site_b, servers, task, queues, choose
        )
        outcome = TaskOutcome(
            params, t, turn.station, site_b.local, task.size, task.work, wait, cost, decision.selected,
            decision.fraction, decision.finish, decision.makespan, decision.missed, decision.rejected,
        )  # fmt: skip
        totals = add_task(metrics, totals, task.present, outcome)
        return queues, totals, (of_each_task(metrics, task.present, outcome), record(decision))

    def station_by_station() -> _Served:
        """The published order; stations are the outer loop, so that what a station fixes is computed once."""

        stations = jnp.arange(num_servers)

        def serve_base_station(carry, row):
            links, slot_load, totals = carry
            b, link, planned_b = row
            site_b, key_b = site(params, physics, b), fold_in(key, b)
            entries, task_at = workload.row(params, t, b)

            def serve_position(carry, position):
                n, entry, planned_n = position
                turn = Turn(b, n, jnp.zeros_like(link), task_at(entry), planned_n)
                queues, totals = carry
                queues, totals, kept = serve(site_b, key_b, backlog.servers, queues, totals, turn)
                return (queues, totals), kept

            positions = jnp.arange(jax.tree.leaves(entries)[0].shape[0]), entries, planned_b
            (queues, totals), kept = lax.scan(serve_position, (Queues(slot_load, link), totals), positions)
            links = jnp.where(stations == b, queues.link_delay, links)
            return (links, queues.slot_load, totals), kept

        none = jnp.zeros_like(backlog.servers)
        rows = stations, backlog.links, planned
        carry = none, none, no_totals
        (links, slot_load, totals), kept = lax.scan(serve_base_station, carry, rows)
        return _Served(slot_load, links, totals, kept)

    def turn_by_turn() -> _Served:
        """In any other order, from a queue of all positions."""
        stations = jnp.arange(num_servers)

        def serve_turn(carry, turn):
            links, slot_load, totals = carry
            here = stations == turn.station
            queues = Queues(slot_load, jnp.sum(jnp.where(here, links, 0)))
            site_b, key_b = site(params, physics, turn.station), fold_in(key, turn.station)
            queues, totals, kept = serve(site_b, key_b, backlog.servers, queues, totals, turn)
            return (jnp.where(here, queues.link_delay, links), queues.slot_load, totals), kept

        carry = backlog.links, jnp.zeros_like(backlog.servers), no_totals
        (links, slot_load, totals), kept = lax.scan(serve_turn, carry, queue)
        return _Served(slot_load, links, totals, kept)

    def as_they_arrive() -> _Served:
        """In the order of time, which passes from one task to the next."""
        stations, idle = jnp.arange(num_servers), jnp.zeros_like(backlog.servers)
        # A cap of a slot's length would be a cap at 0 for short slots.
        carrying = dataclasses.replace(physics, link_capped=False, link_carried=True)

        def serve_turn(carry, turn):
            clock, waiting, busy, slot_load, totals = carry
            elapsed = turn.time - clock
            busy = busy + jnp.minimum(waiting.servers / params.capacity, elapsed)
            waiting = advance(params, waiting, elapsed)
            here = stations == turn.station
            queues = Queues(idle, jnp.sum(jnp.where(here, waiting.links, 0)))
            site_b, key_b = site(params, carrying, turn.station), fold_in(key, turn.station)
            queues, totals, kept = serve(site_b, key_b, waiting.servers, queues, totals, turn)
            links = jnp.where(here, queues.link_delay, waiting.links)
            waiting = Backlog(waiting.servers + queues.slot_load, links)
            return (turn.time, waiting, busy, slot_load + queues.slot_load, totals), kept

        carry = jnp.zeros_like(params.slot_duration), backlog, idle, idle, no_totals
        (clock, waiting, busy, slot_load, totals), kept = lax.scan(serve_turn, carry, queue)
        return _Served(slot_load, waiting.links, totals, kept, (clock, waiting, busy))

    if queue is None:
        return station_by_station()
    return as_they_arrive() if shape.timing == "continuous" else turn_by_turn()


def _pass_slot(
    params: Params, physics: Physics, backlog: Backlog, served: _Served
) -> tuple[Backlog, Float[Array, " num_servers"]]:
    """What waits at the start of the next slot, and the share of this one that each server was busy."""
    if served.passed is None:
        return close_slot(params, physics, backlog, served.slot_load, served.link_delay)
    clock, waiting, busy = served.passed
    rest = params.slot_duration - clock
    busy = busy + jnp.minimum(waiting.servers / params.capacity, rest)
    return advance(params, waiting, rest), busy / params.slot_duration


SlotStep = Callable[[Key, Array, Backlog, Any], tuple[Backlog, Slot]]
"""`(key, t, backlog, planned) -> (next backlog, what happened)`"""


def slot_step(
    shape: Shape,
    params: Params,
    physics: Physics,
    method: Method,
    workload: Workload,
    record: Record,
    metrics: Metrics = (),
) -> SlotStep:
    """The step from one slot to the next that every rollout and every training makes."""

    def serve(params, physics, workload, key, t, backlog, planned, queue):
        return serve_slot(
            shape, params, physics, method, workload, key, t, backlog, planned, queue, record, metrics
        )

    if shape.num_servers <= MAX_UNROLLED_SERVERS:
        serve = unroll(serve)

    def step(key, t, backlog, planned):
        # The queue is sorted out here: unrolled, the sort of a few tasks is a network of many scalars.
        queue, places = queue_of_slot(shape, params, workload, t, planned)
        served = serve(params, physics, workload, key, t, backlog, planned, queue)
        left, busy = _pass_slot(params, physics, backlog, served)
        closed = SlotOutcome(
            params, t, backlog.servers, served.slot_load, served.link_delay, left.servers, busy
        )
        totals = served.totals | of_slot(metrics, closed)
        kept = by_position(served.kept, places)
        return left, Slot(served.slot_load, served.link_delay, busy, totals, *kept)

    return step


def rollout(
    shape: Shape,
    params: Params,
    physics: Physics,
    *,
    method: Method,
    workload: Workload,
    key: Key,
    record: Record = keep_nothing,
    metrics: Metrics = EPISODE_METRICS,
    agent: Any = None,
    keep_queues: bool = False,
    first: Int[Array, ""] | int = 0,
    start: Progress | None = None,
) -> Episode:
    """Run one episode, or a segment of one; pure, traceable, unbatched.

    Nothing is held for each slot but what is asked for: an episode of any length can be run as segments.

    Args:
      shape: static sizes; `num_slots` slots are run.
      params: the scenario's traced part; its dtype is the precision.
      physics: a row of the physics table.
      method: policy and allocator, static.
      workload: what arrives.
      key: of the policy's draws.
      record: what to keep of each decision; by default nothing.
      metrics: what to sum up, static; by default what sweeps do.
      agent: what a per-slot policy has learnt, for its view; None for rules.
      keep_queues: whether to keep the queues of each slot.
      first: the first slot to run; must be the same for all seeds of a batch.
      start: where the episode stands before it, from `Episode.end` of the segment before; None at slot 0.
    """
    step = slot_step(shape, params, physics, method, workload, record, metrics)

    def slot(now, i):
        t = first + i
        key_t, planned = fold_in(key, t), None
        if method.policy.sees_slot:
            tasks = tasks_of_slot(params, workload, t, shape.num_servers)
            planned = method.policy.select(SlotView(t, now.backlog.servers, tasks, params, key_t, agent))
        backlog, served = step(key_t, t, now.backlog, planned)
        queues = (now.backlog.servers, served.slot_load, served.link_delay) if keep_queues else (None,) * 3
        later = Progress(backlog, add_slot(now.totals, served.totals))
        by_slot = over_slots(metrics, served.totals)
        return later, (served.of_tasks, by_slot, served.decisions, *queues)

    if start is None:
        start = Progress.start(shape.num_servers, params.capacity.dtype, metrics)
    end, kept = lax.scan(slot, start, jnp.arange(shape.num_slots))
    return Episode(end, *kept)
