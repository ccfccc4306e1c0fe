"""The environment: the physics of a base station, a single decision, and the end of a slot."""

from amco_jax.env.physics import UNIFIED, Physics, Site, costs, site, waits
from amco_jax.env.split import split
from amco_jax.env.step import Decision, Queues, Task, close_slot, decide

__all__ = [
    "UNIFIED",
    "Decision",
    "Physics",
    "Queues",
    "Site",
    "Task",
    "close_slot",
    "costs",
    "decide",
    "site",
    "split",
    "waits",
]
