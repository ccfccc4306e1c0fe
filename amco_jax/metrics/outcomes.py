"""What the function of a metric sees: the outcome of one task, or of one slot.

Both exist only while a program is traced. What a metric does not use costs nothing.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Bool, Float, Int

from amco_jax.params import Params


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """One task that arrived, its decision, and what came of it.

    With an image service, Mbit and Gcycles stand for what they stand for in `Params`.
    """

    params: Params
    """The scenario"""
    t: Int[Array, ""]
    """The slot's number, from 0"""
    station: Int[Array, ""]
    """The number of the base station, from 0"""
    local: Bool[Array, " num_servers"]
    """One-hot: the server at that base station"""
    size: Float[Array, ""]
    """d, Mbit"""
    work: Float[Array, ""]
    """w, Gcycles; `work / size` is the density, Gcycles/Mbit"""
    wait: Float[Array, " num_servers"]
    """s until the task would start on each server"""
    cost: Float[Array, " num_servers"]
    """s that the whole task would take on each server, transfer included"""
    selected: Bool[Array, " num_servers"]
    """The set of servers; empty where the task is rejected"""
    fraction: Float[Array, " num_servers"]
    """The share of the task that each server gets; their sum is 1, or 0 where the task is rejected"""
    finish: Float[Array, ""]
    """s until the last part ends, also beyond the deadline; 0 where the task is rejected"""
    makespan: Float[Array, ""]
    """s, at most the deadline; the deadline where the task is missed"""
    missed: Bool[Array, ""]
    """Whether it is late or rejected"""
    rejected: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class SlotOutcome:
    """One slot after its last decision, and how it is closed."""

    params: Params
    """The scenario"""
    t: Int[Array, ""]
    """The slot's number, from 0"""
    backlog: Float[Array, " num_servers"]
    """Q at the start of the slot, Gcycles"""
    slot_load: Float[Array, " num_servers"]
    """q, what the slot's tasks added to each server, Gcycles"""
    link_delay: Float[Array, " num_servers"]
    """L, s queued at the outgoing link of each base station at the end of the slot"""
    next_backlog: Float[Array, " num_servers"]
    """Q at the start of the next slot, Gcycles"""
    busy: Float[Array, " num_servers"]
    """The share of the slot that each server was busy, in [0, 1]"""
