"""What agents observe: named features, in the order in which they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amco_jax.env import Queues, Site, Task, costs, waits
from amco_jax.errors import check_choice, check_list
from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Situation:
    """All that a feature may be computed from: one task, and the system before it is decided."""

    params: Params
    site: Site
    task: Task
    backlog: Float[Array, " num_servers"]
    """Gcycles, at the start of the slot"""
    queues: Queues

    @property
    def wait(self) -> Float[Array, " num_servers"]:
        """s, queueing delay before the task would start on each server."""
        return waits(self.site, self.backlog, self.queues.slot_load, self.queues.link_delay)


@dataclasses.dataclass(frozen=True)
class Feature:
    """A part of an observation."""

    of: Callable[[Situation], Array]
    """A scalar, or one number per server; at least 0"""
    per_server: bool
    of_task: bool
    """Whether the feature belongs to a task; the others are common to all tasks at a base station"""

    def width(self, num_servers: int) -> int:
        """Numbers of the feature."""
        return num_servers if self.per_server else 1


FEATURES: dict[str, Feature] = {
    "size": Feature(lambda now: now.task.size, per_server=False, of_task=True),
    "work": Feature(lambda now: now.task.work, per_server=False, of_task=True),
    "cost": Feature(lambda now: costs(now.site, now.task.size, now.task.work), per_server=True, of_task=True),
    "backlog": Feature(lambda now: now.backlog, per_server=True, of_task=False),
    "slot_load": Feature(lambda now: now.queues.slot_load, per_server=True, of_task=False),
    "wait": Feature(lambda now: now.wait, per_server=True, of_task=False),
    "link_delay": Feature(lambda now: now.queues.link_delay, per_server=False, of_task=False),
    "local": Feature(lambda now: now.site.local.astype(now.backlog.dtype), per_server=True, of_task=False),
}
"""The features by name; docs/environment.md gives their units."""

PUBLISHED = ("size", "backlog")
"""What the published agents see."""


def check_features(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; InputError unless there is one, and all are names of `FEATURES`."""
    chosen = tuple(check_list("observe", names))
    for name in chosen:
        check_choice("observe", name, FEATURES)
    return chosen


def observation(names: Sequence[str], now: Situation, *, of_tasks: bool | None = None) -> Array:
    """The features one after the other; those of the task are 0 where there is none.

    Args:
      of_tasks: only the features of tasks, or only the others; by default all.
    """
    chosen = [FEATURES[name] for name in names]
    parts = [
        jnp.atleast_1d(jnp.where(feature.of_task & ~now.task.present, 0, feature.of(now)))
        for feature in chosen
        if of_tasks in (None, feature.of_task)
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, now.backlog.dtype)


def width(names: Sequence[str], num_servers: int, tasks: int) -> int:
    """Numbers of an observation of so many tasks at one base station."""
    chosen = [FEATURES[name] for name in names]
    return sum(feature.width(num_servers) * (tasks if feature.of_task else 1) for feature in chosen)
