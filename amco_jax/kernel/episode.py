"""The only episode kernel: a scan over slots, in each of which it plans, and serves the slot.

The kernel is written for one episode, and callers vmap it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import Arrived, SlotView
from amco_jax.compile.unroll import unroll
from amco_jax.env import Background, Backlog, Physics, Task
from amco_jax.kernel.order import tasks_of_slot
from amco_jax.kernel.slot import Record, Scalarise, keep_nothing, slot_step
from amco_jax.metrics import (
    EPISODE_METRICS,
    Metrics,
    Sums,
    add_slot,
    sums_per_slot,
    zero_slot_sums,
)
from amco_jax.params import Params, Shape
from amco_jax.random import Key, fold_in
from amco_jax.workload import Workload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of an episode between two slots, and its sums so far."""

    backlog: Backlog
    totals: Sums
    """Sums by metric name, in two words each"""
    arrived: Any = None
    """What has arrived, an `Arrived`; None unless the policy sees the load"""

    @classmethod
    def start(cls, num_servers: int, dtype: Any, metrics: Metrics, sees_load: bool = False) -> Progress:
        """The start of an episode.

        Args:
          sees_load: `Policy.sees_load`.
        """
        backlog = Backlog.empty(num_servers, dtype)
        none = jnp.zeros(num_servers, dtype)
        arrived = Arrived(none, none[0], none[0]) if sees_load else None
        return cls(backlog, zero_slot_sums(metrics, num_servers, dtype), arrived)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episode:
    """The results of an episode, or of a segment of one; `wide.on_host` reads the sums."""

    end: Progress
    """The progress after the last slot"""
    of_tasks: dict[str, Array]
    """Values of metrics with quantiles, `[num_slots, num_servers, max_tasks]` by name; inf without a task,
    and in the warm-up"""
    over_slots: dict[str, Array]
    """Sums of metrics over slots, `[num_slots]` by name; 0 in the warm-up"""
    decisions: Any
    """The results of `record`, with leading axes `[num_slots, num_servers, max_tasks]`"""
    backlog: Any
    """`[num_slots, num_servers]`, Q at the start of each slot, Gcycles; None unless `keep_queues` is set"""
    slot_load: Any
    """`[num_slots, num_servers]`, q at the end of each slot, Gcycles; None likewise"""
    link_delay: Any
    """`[num_slots, num_servers]`, L at the end of each slot, s; None likewise"""

    @property
    def totals(self) -> Sums:
        """Sums by metric name over all tasks and slots since the warm-up."""
        return self.end.totals


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
    checkpointed: bool = False,
    background: Background | None = None,
    scalarise: Scalarise = unroll,
) -> Episode:
    """Run one episode, or a segment of one; a pure, traceable function without a batch axis.

    Only what is requested is kept for each slot, so an episode of any length can be run in segments.

    Args:
      shape: static sizes; `num_slots` is the number of slots to run.
      params: the traced part of the scenario; its dtype is the precision.
      physics: a row of the physics table.
      method: policy and allocator, static.
      workload: the arriving tasks.
      key: random key of the policy.
      record: what to keep of each decision; by default nothing.
      metrics: the metrics to sum up, static; by default those of sweeps.
      agent: the trained agents for the view of the policy; None for rules.
      keep_queues: whether to keep the queues of each slot.
      first: the first slot to run; must be the same for all seeds of a batch.
      start: the progress before that slot, which is `Episode.end` of the previous segment; None at slot 0.
      checkpointed: whether reverse-mode differentiation keeps only the state between slots, and computes each
        slot again on its way back; without differentiation, it changes nothing.
      background: load that belongs to no task, with leaves `[num_slots, ...]`; derivatives in it are shadow
        prices.
      scalarise: see `Scalarise`; kernels cannot be differentiated.
    """
    step = slot_step(shape, params, physics, method, workload, record, metrics, agent, scalarise)

    def slot(now, x):
        i, background = x
        t = first + i
        key_t, planned, arrived = fold_in(key, t), None, now.arrived
        if method.policy.by_position:
            planned = jax.tree.map(lambda leaf: leaf[t], agent)
        if method.policy.sees_slot or method.policy.sees_load:
            tasks = tasks_of_slot(params, workload, t, shape.num_servers)
            if method.policy.sees_slot:
                planned = method.policy.select(SlotView(t, now.backlog.servers, tasks, params, key_t, agent))
            if method.policy.sees_load:
                arrived = _with(arrived, t, tasks)
        backlog, served = step(key_t, t, now.backlog, planned, now.arrived, background)
        queues = (now.backlog.servers, served.slot_load, served.link_delay) if keep_queues else (None,) * 3
        later = Progress(backlog, add_slot(now.totals, served.totals), arrived)
        by_slot = sums_per_slot(metrics, served.totals)
        return later, (served.of_tasks, by_slot, served.decisions, *queues)

    if start is None:
        start = Progress.start(shape.num_servers, params.capacity.dtype, metrics, method.policy.sees_load)
    if checkpointed:
        slot = jax.checkpoint(slot, prevent_cse=False)  # a scan separates the two computations anyway
    end, kept = lax.scan(slot, start, (jnp.arange(shape.num_slots), background))
    return Episode(end, *kept)


def _with(arrived: Arrived, t: Int[Array, ""], tasks: Task) -> Arrived:
    """What has arrived after slot `t` with these tasks, whose fields are `[num_servers, max_tasks]`."""
    count = jnp.sum(tasks.present, axis=1, dtype=arrived.recent.dtype)
    return arrived.after(t, count, jnp.sum(jnp.where(tasks.present, tasks.work, 0)))
