"""The one episode kernel: slot by slot, plan, then decide the tasks in order, then close the slot.

Every method, both physics and every workload run through `serve_slot`. It is written for one episode;
callers vmap it. See `unroll.py` for why plain array code is fast here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import SlotView, TaskView
from amco_jax.alloc import Allocator
from amco_jax.compile.unroll import unroll
from amco_jax.env import Decision, Physics, Queues, Site, Task, close_slot, costs, decide, site, waits
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
    totals: Sums
    """Of the metrics, within the slot"""
    of_tasks: dict[str, Array]
    """By name what metrics with quantiles give, `[num_servers, max_tasks]`; inf without a task"""
    decisions: Any
    """What `record` kept, with leading axes `[num_servers, max_tasks]`"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """Where an episode stands between two slots, and what it has summed up so far."""

    backlog: Float[Array, " num_servers"]
    """Q, Gcycles"""
    totals: Sums
    """By the name of the metric, in two words each"""

    @classmethod
    def start(cls, num_servers: int, dtype: Any, metrics: Metrics) -> Progress:
        """The start of an episode."""
        return cls(jnp.zeros(num_servers, dtype), none_of_slots(metrics, num_servers, dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episode:
    """The outcome of an episode, or of a segment of one. `wide.on_host` reads its sums."""

    end: Progress
    """After the last slot"""
    of_tasks: dict[str, Array]
    """By name what metrics with quantiles give, `[num_slots, num_servers, max_tasks]`; inf without a task"""
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


def serve_slot(
    params: Params,
    physics: Physics,
    method: Method,
    workload: Workload,
    key: Key,
    t: Int[Array, ""],
    backlog: Float[Array, " num_servers"],
    planned: Any,
    record: Record,
    metrics: Metrics,
) -> Slot:
    """Decide all tasks of slot `t`, base station by base station, position by position.

    Args:
      key: the policy's draws in this slot.
      backlog: `[num_servers]`, Gcycles, at the start of the slot.
      planned: `[num_servers, max_tasks, num_servers]` booleans of a per-slot policy, or None.
    """

    num_servers, dtype = backlog.shape[0], backlog.dtype

    def serve_position(site_b, b, task_at, key_b, carry, position):
        queues, totals = carry
        n, entry, planned_n = position
        task = task_at(entry)

        def choose(wait, cost):
            if method.policy.sees_slot:
                return planned_n
            return method.policy.select(TaskView(task, wait, cost, site_b.local, params, key_b, n))

        queues, decision, wait, cost = serve_task(
            params, physics, method.allocator, site_b, backlog, task, queues, choose
        )
        outcome = TaskOutcome(
            params, t, b, site_b.local, task.size, task.work, wait, cost, decision.selected,
            decision.fraction, decision.finish, decision.makespan, decision.missed, decision.rejected,
        )  # fmt: skip
        totals = add_task(metrics, totals, task.present, outcome)
        return (queues, totals), (of_each_task(metrics, task.present, outcome), record(decision))

    def serve_base_station(carry, b_and_plan):
        slot_load, totals = carry
        b, planned_b = b_and_plan
        site_b, key_b = site(params, physics, b), fold_in(key, b)
        entries, task_at = workload.row(params, t, b)
        positions = jnp.arange(jax.tree.leaves(entries)[0].shape[0]), entries, planned_b
        queues = Queues(slot_load, jnp.zeros_like(params.deadline))
        (queues, totals), kept = lax.scan(
            lambda c, x: serve_position(site_b, b, task_at, key_b, c, x), (queues, totals), positions
        )
        return (queues.slot_load, totals), (queues.link_delay, kept)

    carry = jnp.zeros_like(backlog), none_of_tasks(metrics, num_servers, dtype)
    stations = jnp.arange(num_servers), planned
    (slot_load, totals), (link_delay, kept) = lax.scan(serve_base_station, carry, stations)
    return Slot(slot_load, link_delay, totals, *kept)


def tasks_of_slot(params: Params, workload: Workload, t: Int[Array, ""], num_servers: int) -> Task:
    """The tasks of slot `t`: fields `[num_servers, max_tasks]`, base station and position."""

    def row(b) -> Task:
        entries, task_at = workload.row(params, t, b)
        return jax.vmap(task_at)(entries)

    return jax.vmap(row)(jnp.arange(num_servers))


SlotStep = Callable[[Key, Array, Array, Any], tuple[Array, Array, Slot]]
"""`(key, t, backlog, planned) -> (next backlog, busy share of the slot, what happened)`"""


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

    def serve(params, physics, workload, key, t, backlog, planned):
        return serve_slot(params, physics, method, workload, key, t, backlog, planned, record, metrics)

    if shape.num_servers <= MAX_UNROLLED_SERVERS:
        serve = unroll(serve)

    def step(key, t, backlog, planned):
        slot = serve(params, physics, workload, key, t, backlog, planned)
        next_backlog, busy = close_slot(params, backlog, slot.slot_load)
        closed = SlotOutcome(params, t, backlog, slot.slot_load, slot.link_delay, next_backlog, busy)
        totals = slot.totals | of_slot(metrics, closed)
        return next_backlog, busy, dataclasses.replace(slot, totals=totals)

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
            planned = method.policy.select(SlotView(t, now.backlog, tasks, params, key_t, agent))
        backlog, _, served = step(key_t, t, now.backlog, planned)
        queues = (now.backlog, served.slot_load, served.link_delay) if keep_queues else (None,) * 3
        later = Progress(backlog, add_slot(now.totals, served.totals))
        return later, (served.of_tasks, served.decisions, *queues)

    if start is None:
        start = Progress.start(shape.num_servers, params.capacity.dtype, metrics)
    end, kept = lax.scan(slot, start, jnp.arange(shape.num_slots))
    return Episode(end, *kept)
