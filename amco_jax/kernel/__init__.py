"""The episode kernel: `rollout`, its steps and its results."""

from amco_jax.kernel.episode import (
    MAX_UNROLLED_SERVERS,
    Episode,
    Progress,
    Record,
    keep_nothing,
    rollout,
    serve_task,
    slot_step,
)
from amco_jax.kernel.order import tasks_of_slot

__all__ = [
    "MAX_UNROLLED_SERVERS",
    "Episode",
    "Progress",
    "Record",
    "keep_nothing",
    "rollout",
    "serve_task",
    "slot_step",
    "tasks_of_slot",
]
