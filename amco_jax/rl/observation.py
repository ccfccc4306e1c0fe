"""Observations of agents, made of named features in the order of request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amco_jax.env import Queues, Site, Task, costs, starts, waits
from amco_jax.errors import check_choice, check_list
from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Situation:
    """The input of a feature: one task, and the state of the system before the task is decided."""

    params: Params
    site: Site
    task: Task
    backlog: Float[Array, " num_servers"]
    """Gcycles, at the start of the slot"""
    queues: Queues

    @property
    def wait(self) -> Float[Array, " num_servers"]:
        """Queueing delay of the task on each server, s, without its `start`."""
        return waits(self.site, self.backlog, self.queues.slot_load, self.queues.link_delay)

    @property
    def start(self) -> Float[Array, " num_servers"]:
        """What each server of an image service does before the first item, s; 0 if nothing."""
        start = starts(self.params, self.task.size, self.task.work)
        return jnp.zeros_like(self.backlog) if start is None else start


@dataclasses.dataclass(frozen=True)
class Feature:
    """A part of an observation."""

    of: Callable[[Situation], Array]
    """A function to a scalar, or to one number per server; all at least 0"""
    per_server: bool
    of_task: bool
    """Whether the feature describes the task, rather than being common to all tasks at a base station"""

    def width(self, num_servers: int) -> int:
        """The number of entries of the feature."""
        return num_servers if self.per_server else 1


FEATURES: dict[str, Feature] = {
    "size": Feature(lambda now: now.task.size, per_server=False, of_task=True),
    "work": Feature(lambda now: now.task.work, per_server=False, of_task=True),
    "cost": Feature(lambda now: costs(now.site, now.task.size, now.task.work), per_server=True, of_task=True),
    "start": Feature(lambda now: now.start, per_server=True, of_task=True),
    "backlog": Feature(lambda now: now.backlog, per_server=True, of_task=False),
    "slot_load": Feature(lambda now: now.queues.slot_load, per_server=True, of_task=False),
    "wait": Feature(lambda now: now.wait, per_server=True, of_task=False),
    "link_delay": Feature(lambda now: now.queues.link_delay, per_server=False, of_task=False),
    "local": Feature(lambda now: now.site.local.astype(now.backlog.dtype), per_server=True, of_task=False),
}
"""The features by name; docs/environment.md gives their units."""

PUBLISHED = ("size", "backlog")
"""The features that the published agents observe."""


def check_features(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; InputError unless there is at least one and all are in `FEATURES`."""
    chosen = tuple(check_list("observe", names))
    for name in chosen:
        check_choice("observe", name, FEATURES)
    return chosen


def observation(names: Sequence[str], now: Situation, *, of_tasks: bool | None = None) -> Array:
    """The features, concatenated; task features are 0 if no task is present.

    Args:
      of_tasks: True for only the task features, False for only the others; all by default.
    """
    chosen = [FEATURES[name] for name in names]
    parts = [
        jnp.atleast_1d(jnp.where(feature.of_task & ~now.task.present, 0, feature.of(now)))
        for feature in chosen
        if of_tasks in (None, feature.of_task)
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, now.backlog.dtype)


def width(names: Sequence[str], num_servers: int, tasks: int) -> int:
    """The number of entries in an observation of `tasks` tasks at one base station."""
    chosen = [FEATURES[name] for name in names]
    return sum(feature.width(num_servers) * (tasks if feature.of_task else 1) for feature in chosen)
