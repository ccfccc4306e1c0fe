"""A scenario as compiled programs see it: `Shape` is static under jit, `Params` is traced."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

ORDERS = ("stations", "turns", "random")
"""Orders of service: one base station after the other, as published; position by position, the base stations
taking turns; or an order drawn anew for each slot"""

TIMINGS = ("slotted", "continuous")
"""All tasks of a slot arrive at its start, as published; or each at its own time, and is served then"""


class Shape(NamedTuple):
    """The part of a scenario that fixes array shapes, and is therefore static under jit."""

    num_servers: int
    max_tasks: int
    num_slots: int
    arrivals: type[Any]
    """The class of the arrival process, whose parameters are no part of it"""
    order: str = "stations"
    """In which order the tasks of a slot are served, one of `ORDERS`"""
    timing: str = "slotted"
    """When tasks arrive within a slot, one of `TIMINGS`"""

    @property
    def by_station(self) -> bool:
        """Whether tasks are served as published: all at the start of a slot, station by station."""
        return (self.order, self.timing) == (ORDERS[0], TIMINGS[0])

    @property
    def has_times(self) -> bool:
        """Whether tasks have times within their slot: of their arrival, or that sort a random order."""
        return self.order == "random" or self.timing == "continuous"

    def words(self) -> str:
        """The shape as users read it."""
        return str((*self[:3], self.arrivals.name, *self[4:]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Starts:
    """What a member of a set does besides its items, in the time of denoising steps of an item."""

    load: Float[Array, " num_servers"]
    """Loading the model, of each selected server"""
    fixed: Float[Array, " num_servers"]
    """Starting a batch, of each server that gets items"""
    per_step: Float[Array, " num_servers"]
    """What starting a batch adds to each denoising step"""

    def of_task(self, steps: Any) -> Any:
        """l_i + a_i + ρ·s_i: what a server that gets items of a task with ρ steps does before the first."""
        return self.load + self.fixed + steps * self.per_step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ServiceParams:
    """Extra parameters of an image service, where the size of a task is a number of items (image batches)."""

    overhead: Float[Array, " num_servers"]
    """Overhead of an item on each server, in denoising steps"""
    whole: bool = dataclasses.field(metadata={"static": True})
    """Whether a task is split into whole items only"""
    together: bool = dataclasses.field(metadata={"static": True})
    """Whether a server does all items that it gets of a task as one batch"""
    result_share: Float[Array, ""]
    """The share of the results in what goes over links"""
    starts: Starts | None = None
    """None if models are resident, and items are processed one after the other"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
    """Every quantity of a scenario that is not a shape: leaves of a pytree, traced under jit.

    All floating-point leaves share one dtype, the precision of the simulation. With an image service, the
    unit of size is an image batch instead of a Mbit, and the unit of work is a denoising step of one batch
    instead of a Gcycle.
    """

    num_tasks: Int[Array, ""]
    warmup: Int[Array, ""]
    """Slots at the beginning of an episode that no metric counts"""
    slot_duration: Float[Array, ""]
    """s"""
    capacity: Float[Array, " num_servers"]
    """Gcycles/s"""
    link_rate: Float[Array, "num_servers num_servers"]
    """Mbit/s, `[b, i]`: from base station b to edge server i."""
    arrival_prob: Float[Array, ""]
    deadline: Float[Array, ""]
    """s"""
    task_size_min: Float[Array, ""]
    """Mbit"""
    task_size_max: Float[Array, ""]
    """Mbit"""
    density_min: Float[Array, ""]
    """Gcycles/Mbit"""
    density_max: Float[Array, ""]
    """Gcycles/Mbit"""
    energy_per_mbit: Float[Array, ""]
    """J/Mbit of what is sent over links"""
    power_idle: Float[Array, " num_servers"] | None = None
    """W of an idle server; None if it is not known; likewise the next two"""
    power_busy: Float[Array, " num_servers"] | None = None
    """W of a busy server"""
    price_per_hour: Float[Array, " num_servers"] | None = None
    """USD per hour of a server"""
    service: ServiceParams | None = None
