"""The state transitions of the model: a single decision, and the end of a slot."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from amco_jax.alloc import Allocator
from amco_jax.env.physics import Physics, Site, loads
from amco_jax.env.split import split
from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """The content of a task position; size and work are positive even if no task is present."""

    present: Bool[Array, ""]
    size: Float[Array, ""]
    """d, Mbit"""
    work: Float[Array, ""]
    """w, Gcycles"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queues:
    """The queues that one decision changes and the next one observes."""

    slot_load: Float[Array, " num_servers"]
    """q_i, Gcycles assigned to each server so far in the slot"""
    link_delay: Float[Array, ""]
    """L_b, s already queued at the base station's outgoing link in the slot"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decision:
    """The outcome of one decision."""

    present: Bool[Array, ""]
    """False at a position without a task, where the other fields are meaningless."""
    selected: Bool[Array, " num_servers"]
    fraction: Float[Array, " num_servers"]
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
    rejected = count == 0
    missed = rejected | (finish > params.deadline)
    makespan = jnp.where(missed, params.deadline, finish)
    reward = jnp.where(missed, -params.deadline * physics.miss_penalty, -makespan)

    placed = fraction * jnp.where(task.present, loads(params, task.size, task.work), 0)
    sent = jnp.sum(fraction * site.link_growth) * jnp.where(task.present, task.size, 0)
    link_limit = jnp.where(task.present & (count >= 2), site.link_limit, jnp.inf)
    queues = Queues(
        slot_load=queues.slot_load + placed,
        link_delay=jnp.minimum(queues.link_delay + sent, link_limit),
    )
    return queues, Decision(
        present=task.present,
        selected=selected & task.present,
        fraction=jnp.where(task.present, fraction, 0),
        makespan=makespan,
        missed=missed,
        rejected=rejected,
        reward=jnp.where(physics.rewarded, reward, 0),
    )


def close_slot(
    params: Params,
    backlog: Float[Array, " num_servers"],
    slot_load: Float[Array, " num_servers"],
) -> tuple[Float[Array, " num_servers"], Float[Array, " num_servers"]]:
    """Q_i ← max(Q_i + q_i - f_i·Δ, 0).

    Returns:
      The next backlog, Gcycles, and the share of the slot in which each server was busy, in [0, 1].
    """
    work, served = backlog + slot_load, params.capacity * params.slot_duration
    return jnp.maximum(work - served, 0), jnp.minimum(work / served, 1)
