"""The argument of a metric's function: the outcome of one task, or of one slot.

Both exist only while a program is traced. Values that no metric uses cost nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Bool, Float, Int

from amco_jax.params import Params


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """One task that arrived, the decision on it, and the outcome.

    With an image service, other units replace Mbit and Gcycles, as in `Params`.
    """

    params: Params
    """The scenario"""
    t: Int[Array, ""]
    """The slot's number, from 0"""
    station: Int[Array, ""]
    """The index of the base station, from 0"""
    local: Bool[Array, " num_servers"]
    """One-hot: the server at that base station"""
    size: Float[Array, ""]
    """d, Mbit"""
    work: Float[Array, ""]
    """w, Gcycles; `work / size` is the density, Gcycles/Mbit"""
    wait: Float[Array, " num_servers"]
    """Time until the task's first item would start on each server, s"""
    cost: Float[Array, " num_servers"]
    """Time that the whole task would take on each server, including the transfer, s"""
    selected: Bool[Array, " num_servers"]
    """The set of servers; empty if the task is rejected"""
    fraction: Float[Array, " num_servers"]
    """The share of the task that each server gets; the sum is 1, or 0 if the task is rejected"""
    finish: Float[Array, ""]
    """Time until the last part ends, even if after the deadline, s; 0 if the task is rejected"""
    makespan: Float[Array, ""]
    """s, at most the deadline; equal to the deadline if the task misses it"""
    missed: Bool[Array, ""]
    """Whether the task is late or rejected"""
    rejected: Bool[Array, ""]
    user: Any = None
    """The number of the user in a request log, int32; None where tasks have no users"""


@dataclasses.dataclass(frozen=True)
class SlotOutcome:
    """One slot after its last decision, and the state in which it ends."""

    params: Params
    """The scenario"""
    t: Int[Array, ""]
    """The slot's number, from 0"""
    backlog: Float[Array, " num_servers"]
    """Q at the start of the slot, Gcycles"""
    slot_load: Float[Array, " num_servers"]
    """q, the work that the slot's tasks added to each server, Gcycles"""
    link_delay: Float[Array, " num_servers"]
    """L, the queueing delay of each base station's outgoing link at the end of the slot, s"""
    next_backlog: Float[Array, " num_servers"]
    """Q at the start of the next slot, Gcycles"""
    busy: Float[Array, " num_servers"]
    """The share of the slot in which each server was busy, in [0, 1]"""
