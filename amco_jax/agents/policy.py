"""Stage 1 of a decision: the protocol by which a policy picks the set of edge servers.

A policy is one pure function of a view, returning booleans; the view it asks for says when it runs:

- `per_task(choose)`: `choose(TaskView) -> [num_servers]`, for each task in order, with live waits;
- `per_slot(plan)`: `plan(SlotView) -> [num_servers, max_tasks, num_servers]`, at the start of a slot, for
  all its task positions `[b, n]` at once, knowing the backlog but not what the slot's tasks will add.

The empty set rejects a task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from amco_jax.env import Task
from amco_jax.errors import InputError
from amco_jax.identity import hashable, name_of
from amco_jax.params import Params
from amco_jax.random import Key, fold_in, uniform

MAX_DRAWS = 64
"""Draws that a policy may make for one task."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskView:
    """What a per-task policy may look at."""

    task: Task
    wait: Float[Array, " num_servers"]
    """s, queueing delay before the task would start on each server"""
    cost: Float[Array, " num_servers"]
    """s, delay of the whole task on each server"""
    local: Bool[Array, " num_servers"]
    """One-hot: the server at the task's own base station"""
    params: Params
    key: Key
    n: Int[Array, ""]

    def uniform(self, index: int = 0) -> Float[Array, ""]:
        """The task's `index`-th draw from Uniform[0, 1); the same on each call.

        Raises:
          InputError: an index beyond `MAX_DRAWS`.
        """
        return uniform(self.key, _counter(self.n, index), self.wait.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotView:
    """What a per-slot policy may look at."""

    t: Int[Array, ""]
    """The slot's number, from 0"""
    backlog: Float[Array, " num_servers"]
    """Gcycles, at the start of the slot"""
    tasks: Task
    """Fields `[num_servers, max_tasks]`: base station, position"""
    params: Params
    key: Key
    agent: Any = None
    """What the policy has learnt, a pytree; None for rules"""

    def uniform(self, index: int = 0) -> Float[Array, "num_servers max_tasks"]:
        """Each task's `index`-th draw from Uniform[0, 1): the numbers that its `TaskView` would give."""
        num_servers, max_tasks = self.tasks.present.shape
        keys = fold_in(self.key, jnp.arange(num_servers)[:, None])
        return uniform(keys, _counter(jnp.arange(max_tasks), index), self.backlog.dtype)


def _counter(n: Array, index: int) -> Array:
    if not 0 <= index < MAX_DRAWS:
        raise InputError(f"index: {index}; legal: 0 to {MAX_DRAWS - 1}")
    return n * MAX_DRAWS + index


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy's function, and whether it wants a view per task or per slot."""

    function: Callable
    sees_slot: bool

    def __post_init__(self):
        object.__setattr__(self, "function", hashable("policy", self.function))

    def select(self, view: TaskView | SlotView) -> Array:
        """The sets that the policy picks.

        Raises:
          InputError: the function does not return booleans of the right shape.
        """
        shape = view.tasks.present.shape if isinstance(view, SlotView) else ()
        shape = (*shape, view.params.capacity.shape[0])
        selected = jnp.asarray(self.function(view))
        if selected.dtype != bool or selected.shape != shape:
            found = f"{name_of(self.function)} returns {selected.dtype}{list(selected.shape)}"
            raise InputError(f"policy: {found}; legal: bool{list(shape)}")
        return selected


def per_task(choose: Callable[[TaskView], Array]) -> Policy:
    """A policy that picks `[num_servers]` booleans for each task from its `TaskView`.

    Example:
      >>> idle = per_task(lambda view: view.wait == 0)
      >>> idle.sees_slot
      False
    """
    return Policy(choose, sees_slot=False)


def per_slot(plan: Callable[[SlotView], Array]) -> Policy:
    """A policy that picks `[num_servers, max_tasks, num_servers]` booleans from a `SlotView`."""
    return Policy(plan, sees_slot=True)
