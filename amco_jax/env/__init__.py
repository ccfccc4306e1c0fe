"""The environment: the physics of a base station, a single decision, and the end of a slot."""

from amco_jax.env.physics import (
    CONSERVING,
    UNIFIED,
    Physics,
    Site,
    costs,
    in_continuous_time,
    site,
    starts,
    waits,
)
from amco_jax.env.split import split
from amco_jax.env.step import Backlog, Decision, Queues, Task, advance, close_slot, decide

__all__ = [
    "CONSERVING",
    "UNIFIED",
    "Backlog",
    "Decision",
    "Physics",
    "Queues",
    "Site",
    "Task",
    "advance",
    "close_slot",
    "costs",
    "decide",
    "in_continuous_time",
    "site",
    "split",
    "starts",
    "waits",
]
