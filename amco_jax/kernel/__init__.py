"""The episode kernel: `rollout`, its steps and its results."""

from amco_jax.kernel.decision import decide_task, serve_task
from amco_jax.kernel.episode import Episode, Progress, rollout
from amco_jax.kernel.order import tasks_of_slot
from amco_jax.kernel.slot import Record, keep_nothing, slot_step

__all__ = [
    "Episode",
    "Progress",
    "Record",
    "decide_task",
    "keep_nothing",
    "rollout",
    "serve_task",
    "slot_step",
    "tasks_of_slot",
]
