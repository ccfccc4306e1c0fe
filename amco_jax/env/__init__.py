"""The environment: the physics of a base station, a single decision, and the end of a slot."""

from amco_jax.env.physics import (
    CONSERVING,
    SERIAL,
    UNIFIED,
    Physics,
    Site,
    costs,
    in_continuous_time,
    placed,
    site,
    starts,
    waits,
)
from amco_jax.env.split import split
from amco_jax.env.step import Background, Backlog, Decision, Queues, advance, close_slot, decide
from amco_jax.env.task import Task

__all__ = [
    "CONSERVING",
    "SERIAL",
    "UNIFIED",
    "Background",
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
    "placed",
    "site",
    "split",
    "starts",
    "waits",
]
