"""The state transitions of the model: a single decision, and the end of a slot."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from amco_jax.alloc import Allocator
from amco_jax.env.physics import Physics, Site, placed
from amco_jax.env.serial import serial_finish
from amco_jax.env.split import split
from amco_jax.env.task import Task
from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queues:
    """The queues that one decision changes and the next one observes."""

    slot_load: Float[Array, " num_servers"]
    """q_i, Gcycles assigned to each server so far in the slot"""
    link_delay: Float[Array, ""]
    """L_b, s that a task waits for the base station's outgoing link"""


class Background(NamedTuple):
    """Load that belongs to no task and comes right after a decision, or the price of each unit of it.

    That of all decisions has leading axes `[num_slots, num_servers, max_tasks]`.
    """

    work: Float[Array, "*positions num_servers"]
    """Gcycles on each server; a price in s/Gcycle"""
    delay: Float[Array, "*positions"]
    """s on the link of the base station; a price in s/s"""


class Backlog(NamedTuple):
    """What waits at the start of a slot."""

    servers: Float[Array, " num_servers"]
    """Q, work left on each server, Gcycles"""
    links: Float[Array, " num_servers"]
    """Time that the outgoing link of each base station still has to send, s"""

    @classmethod
    def empty(cls, num_servers: int, dtype: Any) -> Backlog:
        """The start of an episode, when nothing waits."""
        none = jnp.zeros(num_servers, dtype)
        return cls(none, none)

    def queues_at(self, station: Int[Array, ""]) -> Queues:
        """The queues of a task that arrives now at a base station, with nothing assigned before it."""
        here = jnp.arange(self.servers.shape[0]) == station
        return Queues(jnp.zeros_like(self.servers), jnp.sum(jnp.where(here, self.links, 0)))

    def after(self, station: Int[Array, ""], queues: Queues) -> Backlog:
        """What waits after that task has been decided, which has led to these queues."""
        here = jnp.arange(self.servers.shape[0]) == station
        links = jnp.where(here, queues.link_delay, self.links)
        return Backlog(self.servers + queues.slot_load, links)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decision:
    """The outcome of one decision."""

    present: Bool[Array, ""]
    """False at a position without a task, where the other fields are meaningless."""
    selected: Bool[Array, " num_servers"]
    fraction: Float[Array, " num_servers"]
    finish: Float[Array, ""]
    """s until the last part ends, also beyond the deadline; 0 of an empty set"""
    makespan: Float[Array, ""]
    """s, at most the deadline"""
    missed: Bool[Array, ""]
    rejected: Bool[Array, ""]
    reward: Float[Array, ""]


def decide(
    params: Params,
    physics: Physics,
    site: Site,
    task: Task,
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    selected: Bool[Array, " num_servers"],
    allocator: Allocator,
    queues: Queues,
) -> tuple[Queues, Decision]:
    """Split a task over the selected servers, and queue its parts.

    An empty set rejects the task, which then counts as missed and adds no load.

    Args:
      wait: `[num_servers]`, s, from `physics.waits`.
      cost: `[num_servers]`, s, from `physics.costs`.
      selected: `[num_servers]`, the set S.

    Source: published code, one file per method; the differences are in `physics` and `site`.
    """
    count = jnp.sum(selected, dtype=jnp.int32)
    cost = cost + jnp.where(count == 2, task.size, 0) * site.pair_transfer
    fraction, finish = split(params, allocator, task.size, wait, cost, selected)
    if site.transfers is not None:
        finish = serial_finish(params, site, site.transfers, task, wait, fraction, queues.link_delay)
    rejected = count == 0
    missed = rejected | (finish > params.deadline)
    makespan = jnp.where(missed, params.deadline, finish)
    reward = jnp.where(missed, -params.deadline * physics.miss_penalty, -makespan)

    load = jnp.where(task.present, placed(params, task.size, task.work, selected, fraction), 0)
    sent = jnp.sum(fraction * site.link_growth) * jnp.where(task.present, task.size, 0)
    link_limit = jnp.where(task.present & (count >= 2), site.link_limit, jnp.inf)
    queues = Queues(
        slot_load=queues.slot_load + load,
        link_delay=jnp.minimum(queues.link_delay + sent, link_limit),
    )
    return queues, Decision(
        present=task.present,
        selected=selected & task.present,
        fraction=jnp.where(task.present, fraction, 0),
        finish=finish,
        makespan=makespan,
        missed=missed,
        rejected=rejected,
        reward=jnp.where(physics.rewarded, reward, 0),
    )


def advance(params: Params, backlog: Backlog, elapsed: ArrayLike) -> Backlog:
    """What waits after some time: servers and links have worked off what they could.

    Q_i ← max(Q_i - f_i·τ, 0) and L_b ← max(L_b - τ, 0).

    Args:
      elapsed: τ, s.
    """
    servers = jnp.maximum(backlog.servers - params.capacity * elapsed, 0)
    return Backlog(servers, jnp.maximum(backlog.links - elapsed, 0))


def close_slot(
    params: Params,
    physics: Physics,
    backlog: Backlog,
    slot_load: Float[Array, " num_servers"],
    link_delay: Float[Array, " num_servers"],
) -> tuple[Backlog, Float[Array, " num_servers"]]:
    """The end of a slot: Q_i ← max(Q_i + q_i - f_i·Δ, 0); L_b ← 0, or max(L_b - Δ, 0) where links carry over.

    Args:
      backlog: at the start of the slot.
      slot_load: q, what the slot's tasks have put on each server, Gcycles.
      link_delay: L of each base station at the end of the slot, s.

    Returns:
      What waits at the start of the next slot, and the share of this one that each server was busy.
    """
    full = Backlog(backlog.servers + slot_load, link_delay)
    left = advance(params, full, params.slot_duration)
    busy = jnp.minimum(full.servers / (params.capacity * params.slot_duration), 1)
    return left._replace(links=jnp.where(physics.link_carried, left.links, 0)), busy
