"""One slot: it decides the tasks in the order of service, and closes.

Every method, physics row and workload runs through `slot_step`. `unroll.py` explains why plain array code
is fast here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import TaskView
from amco_jax.compile.bounded import scan_first
from amco_jax.compile.fused import fuse_under_vmap, fusing
from amco_jax.compile.lanes import lanes_last
from amco_jax.compile.unroll import MAX_SIZE, unroll
from amco_jax.env import (
    Background,
    Backlog,
    Decision,
    Physics,
    Queues,
    advance,
    close_slot,
    in_continuous_time,
    site,
)
from amco_jax.kernel.decision import decide_task
from amco_jax.kernel.order import Turn, most_positions, queue_of_slot, still_to_come, to_positions
from amco_jax.metrics import (
    Metrics,
    SlotOutcome,
    Sums,
    TaskOutcome,
    add_task,
    values_of_slot,
    values_per_task,
    zero_task_sums,
)
from amco_jax.params import Params, Shape
from amco_jax.random import Key, fold_in
from amco_jax.workload import Workload

Record = Callable[[Decision, TaskView], Any]
"""A function from a decision and its view to what is kept of it, a pytree of arrays."""


Scalarise = Callable[[Callable], Callable]
"""How the service of a slot becomes scalar code: by `unroll`; or, under a `vmap` over seeds and if it is not
differentiated, by `lanes_last`, or by `fuse_under_vmap` as a kernel"""

_MAX_UNROLLED = 8
"""Servers up to which `unroll` is as fast as `lanes_last` on CPUs, and compiles as fast"""


def ways_to_scalarise(num_servers: int) -> list[Scalarise]:
    """The ways that suit the default device, the best one first; the last one always compiles."""
    if fusing() and num_servers <= MAX_SIZE:
        return [fuse_under_vmap, unroll]
    return [lanes_last if jax.default_backend() == "cpu" and num_servers > _MAX_UNROLLED else unroll]


def keep_nothing(decision: Decision, view: TaskView) -> None:
    """A record that keeps nothing, for callers that need only the totals."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slot:
    """The results of one slot."""

    slot_load: Float[Array, " num_servers"]
    """q at the end of the slot, Gcycles"""
    link_delay: Float[Array, " num_servers"]
    """L of each base station at the end of the slot, s"""
    busy: Float[Array, " num_servers"]
    """Share of the slot during which each server was busy, in [0, 1]"""
    totals: Sums
    """Sums of the metrics over the slot; 0 in the warm-up"""
    of_tasks: dict[str, Array]
    """Values of metrics with quantiles, `[num_servers, max_tasks]` by name; inf without a task, and in the
    warm-up"""
    decisions: Any
    """The results of `record`, with leading axes `[num_servers, max_tasks]`"""


class _Served(NamedTuple):
    """The results of serving the tasks of a slot."""

    slot_load: Float[Array, " num_servers"]
    link_delay: Float[Array, " num_servers"]
    totals: Sums
    kept: Any
    """Values of the metrics with quantiles, and the results of `record`: `[num_servers, max_tasks, ...]`, or
    `[turns, ...]` with a queue"""
    passed: Any = None
    """With continuous timing: the time of the last turn, s from the start of the slot, the backlog then, and
    the time for which each server has been busy, s"""


class _Given(NamedTuple):
    """What the service of a slot depends on, all of it traced."""

    params: Params
    physics: Physics
    workload: Workload
    key: Key
    """Random key of the policy in this slot"""
    t: Int[Array, ""]
    """Index of the slot in the episode, from 0"""
    backlog: Backlog
    """The backlog at the start of the slot"""
    planned: Any
    """The sets of a per-slot policy, `[num_servers, max_tasks, num_servers]` booleans; or what agents hold
    for each position of the slot; or None"""
    queue: Turn | None
    """All positions in the order of service, `[turns]`; None if stations are served one by one"""
    most: Int[Array, ""] | None
    """The number of the first positions of a base station, or turns of the queue, that hold a task in some
    lane; None for all"""
    agent: Any
    """The agents of a per-task policy, or None"""
    arrived: Any
    """See `TaskView.arrived`"""
    background: Background | None
    """That of the slot, unless the turns of the queue have it"""


def _serve_slot(shape: Shape, method: Method, record: Record, metrics: Metrics, given: _Given) -> _Served:
    """Decide all tasks of a slot in the scenario's order of service."""
    params, physics, workload = given.params, given.physics, given.workload
    key, t, backlog = given.key, given.t, given.backlog
    num_servers, counted = shape.num_servers, t >= params.warmup
    no_totals = zero_task_sums(metrics, num_servers, backlog.servers.dtype)

    def serve(site_b, key_b, servers, queues, totals, turn):
        task, link_delay = turn.task, queues.link_delay

        def view(wait, cost):
            coming = None
            if method.policy.sees_load:
                coming = still_to_come(shape, params, workload, turn, given.arrived.recent)
            known = turn.planned if method.policy.by_position else given.agent
            return TaskView(
                task, wait, cost, site_b.local, params, key_b, turn.position, link_delay, coming, known, t,
                given.arrived,
            )  # fmt: skip

        queues, decision, seen = decide_task(
            params, physics, method, site_b, servers, task, queues, view, turn.planned
        )
        if turn.background is not None:
            work, delay = turn.background
            queues = Queues(queues.slot_load + work, queues.link_delay + delay)
        outcome = TaskOutcome(
            params, t, turn.station, site_b.local, task.size, task.work, seen.wait, seen.cost,
            decision.selected, decision.fraction, decision.finish, decision.makespan, decision.missed,
            decision.rejected, task.user,
        )  # fmt: skip
        here = task.present & counted
        totals = add_task(metrics, totals, here, outcome)
        return queues, totals, (values_per_task(metrics, here, outcome), record(decision, seen))

    def station_by_station() -> _Served:
        """Serve in the published order; the outer loop computes the coefficients of a station once."""

        stations = jnp.arange(num_servers)

        def serve_base_station(carry, row):
            links, slot_load, totals = carry
            b, link, planned_b, background_b = row
            site_b, key_b = site(params, physics, b), fold_in(key, b)
            entries, task_at = workload.row(params, t, b)

            def serve_position(carry, position):
                n, entry, planned_n, background_n = position
                now = jnp.zeros_like(link)
                turn = Turn(b, n, now, now, task_at(entry), planned_n, background_n)
                queues, totals = carry
                queues, totals, kept = serve(site_b, key_b, backlog.servers, queues, totals, turn)
                return (queues, totals), kept

            numbers = jnp.arange(jax.tree.leaves(entries)[0].shape[0])
            positions = numbers, entries, planned_b, background_b
            (queues, totals), kept = scan_first(
                serve_position, (Queues(slot_load, link), totals), positions, given.most, _not_served
            )
            links = jnp.where(stations == b, queues.link_delay, links)
            return (links, queues.slot_load, totals), kept

        none = jnp.zeros_like(backlog.servers)
        rows = stations, backlog.links, given.planned, given.background
        carry = none, none, no_totals
        (links, slot_load, totals), kept = lax.scan(serve_base_station, carry, rows)
        return _Served(slot_load, links, totals, kept)

    def turn_by_turn() -> _Served:
        """Serve in any other order, from a queue of all positions."""
        stations = jnp.arange(num_servers)

        def serve_turn(carry, turn):
            links, slot_load, totals = carry
            here = stations == turn.station
            queues = Queues(slot_load, jnp.sum(jnp.where(here, links, 0)))
            site_b, key_b = site(params, physics, turn.station), fold_in(key, turn.station)
            queues, totals, kept = serve(site_b, key_b, backlog.servers, queues, totals, turn)
            return (jnp.where(here, queues.link_delay, links), queues.slot_load, totals), kept

        carry = backlog.links, jnp.zeros_like(backlog.servers), no_totals
        (links, slot_load, totals), kept = scan_first(serve_turn, carry, given.queue, given.most, _not_served)
        return _Served(slot_load, links, totals, kept)

    def as_they_arrive() -> _Served:
        """Serve in order of arrival time, and let time pass between arrivals."""
        idle, carrying = jnp.zeros_like(backlog.servers), in_continuous_time(physics)

        def serve_turn(carry, turn):
            clock, waiting, busy, slot_load, totals = carry
            elapsed = turn.time - clock
            busy = busy + jnp.minimum(waiting.servers / params.capacity, elapsed)
            # Without time, nothing is worked off. Each max(0, ·) at 0 would halve a derivative.
            passed = advance(params, waiting, elapsed)
            waiting = jax.tree.map(functools.partial(jnp.where, elapsed > 0), passed, waiting)
            queues = waiting.queues_at(turn.station)
            site_b, key_b = site(params, carrying, turn.station), fold_in(key, turn.station)
            queues, totals, kept = serve(site_b, key_b, waiting.servers, queues, totals, turn)
            waiting = waiting.after(turn.station, queues)
            return (turn.time, waiting, busy, slot_load + queues.slot_load, totals), kept

        carry = jnp.zeros_like(params.slot_duration), backlog, idle, idle, no_totals
        (clock, waiting, busy, slot_load, totals), kept = lax.scan(serve_turn, carry, given.queue)
        return _Served(slot_load, waiting.links, totals, kept, (clock, waiting, busy))

    if given.queue is None:
        return station_by_station()
    return as_they_arrive() if shape.timing == "continuous" else turn_by_turn()


def _not_served(kept: Any) -> Any:
    """What is kept of a position that is not served, from its shapes: inf as without a task, and zeros."""
    of_tasks, recorded = kept
    none = jax.tree.map(lambda x: jnp.full(x.shape, jnp.inf, x.dtype), of_tasks)
    return none, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), recorded)


def _pass_slot(
    params: Params, physics: Physics, backlog: Backlog, served: _Served
) -> tuple[Backlog, Float[Array, " num_servers"]]:
    """The backlog at the start of the next slot, and each server's busy share of this slot."""
    if served.passed is None:
        return close_slot(params, physics, backlog, served.slot_load, served.link_delay)
    clock, waiting, busy = served.passed
    rest = params.slot_duration - clock
    busy = busy + jnp.minimum(waiting.servers / params.capacity, rest)
    return advance(params, waiting, rest), busy / params.slot_duration


SlotStep = Callable[..., tuple[Backlog, Slot]]
"""`(key, t, backlog, planned, arrived=None, background=None) -> (next backlog, results of the slot)`"""


def slot_step(
    shape: Shape,
    params: Params,
    physics: Physics,
    method: Method,
    workload: Workload,
    record: Record,
    metrics: Metrics = (),
    agent: Any = None,
    scalarise: Scalarise = unroll,
) -> SlotStep:
    """The function that computes one slot, shared by all rollouts and trainings."""

    serve = functools.partial(_serve_slot, shape, method, record, metrics)
    # Beyond, code and compile time would grow with the number of scalars.
    if shape.num_servers <= MAX_SIZE or scalarise is lanes_last:
        serve = scalarise(serve)

    def step(key, t, backlog, planned, arrived=None, background=None):
        # The queue is sorted outside `serve`, because unrolling would turn a sort into a large network.
        queue, places = queue_of_slot(shape, params, workload, t, planned, background)
        own = None if method.policy.sees_slot or method.policy.by_position else agent
        # There is background load at all positions, and a kernel has no conditionals.
        skips = background is None and scalarise is unroll
        most = most_positions(shape, workload, t) if skips else None
        served = serve(
            _Given(params, physics, workload, key, t, backlog, planned, queue, most, own, arrived, background)
        )
        left, busy = _pass_slot(params, physics, backlog, served)
        closed = SlotOutcome(
            params, t, backlog.servers, served.slot_load, served.link_delay, left.servers, busy
        )
        of_slots = jax.tree.map(
            lambda x: jnp.where(t >= params.warmup, x, 0), values_of_slot(metrics, closed)
        )
        totals = served.totals | of_slots
        kept = to_positions(served.kept, places)
        return left, Slot(served.slot_load, served.link_delay, busy, totals, *kept)

    return step
