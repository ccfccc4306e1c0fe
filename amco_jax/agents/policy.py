"""The protocol of policies, stage 1 of a decision: a policy selects the set of edge servers of a task.

A policy is a pure function from a view to booleans. There are two kinds of views:

- `per_task(choose)`: `choose(TaskView) -> [num_servers]` runs for each task in order and sees current waits;
- `per_slot(plan)`: `plan(SlotView) -> [num_servers, max_tasks, num_servers]` runs at the start of a slot, for
  all task positions `[b, n]` at once. It sees the backlog, but not the load that the slot's tasks will add.

The empty set rejects a task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from amco_jax.env import Task
from amco_jax.errors import InputError
from amco_jax.identity import hashable, name_of
from amco_jax.params import Params
from amco_jax.random import Key, fold_in, uniform

MAX_DRAWS = 64
"""The maximum number of random draws for one task."""


class Arrived(NamedTuple):
    """What has arrived in earlier slots."""

    recent: Float[Array, " num_servers"]
    """The mean number of tasks per slot at each base station, in which a slot counts half as much as the next
    one, so that it follows a load that changes; 0 in the first slot"""
    tasks: Float[Array, ""]
    """The number of all tasks"""
    work: Float[Array, ""]
    """The work of all tasks, Gcycles"""

    def after(
        self, t: Int[Array, ""], count: Float[Array, " num_servers"], work: Float[Array, ""]
    ) -> Arrived:
        """The same after slot `t`, which brought `count` tasks to each base station, with `work` Gcycles."""
        recent = self.recent + jnp.where(t == 0, 1, 0.5) * (count - self.recent)
        return Arrived(recent, self.tasks + jnp.sum(count), self.work + work)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskView:
    """The input of a per-task policy."""

    task: Task
    wait: Float[Array, " num_servers"]
    """s, queueing delay before the task would start on each server, with the starts of an image service"""
    cost: Float[Array, " num_servers"]
    """s, delay of the whole task on each server"""
    local: Bool[Array, " num_servers"]
    """One-hot: the server at the task's base station"""
    params: Params
    key: Key
    n: Int[Array, ""]
    link_delay: Any = None
    """L, s that what is sent from the task's base station waits for its link, which `wait` contains"""
    coming: Any = None
    """`[num_servers]`, the number of tasks that the slot is still expected to bring to each base station
    after this one; 0 in the first slot, and with continuous timing; None unless the policy sees the load"""
    agent: Any = None
    """The trained agents, a pytree, or what they hold for this position (`Policy.by_position`); None for
    rules"""
    t: Any = None
    """Index of the slot, from 0"""
    arrived: Any = None
    """An `Arrived`; None unless the policy sees the load"""

    def uniform(self, index: int = 0) -> Float[Array, ""]:
        """The task's draw number `index` from Uniform[0, 1); it is the same on each call.

        Raises:
          InputError: the index is not in 0 to `MAX_DRAWS` - 1.
        """
        return uniform(self.key, _counter(self.n, index), self.wait.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotView:
    """The input of a per-slot policy."""

    t: Int[Array, ""]
    """Index of the slot, from 0"""
    backlog: Float[Array, " num_servers"]
    """Q at the start of the slot, Gcycles"""
    tasks: Task
    """Fields `[num_servers, max_tasks]`, indexed by base station and position"""
    params: Params
    key: Key
    agent: Any = None
    """The trained agents, a pytree; None for rules"""

    def uniform(self, index: int = 0) -> Float[Array, "num_servers max_tasks"]:
        """Draw number `index` of each task from Uniform[0, 1), the same number as in its `TaskView`."""
        num_servers, max_tasks = self.tasks.present.shape
        keys = fold_in(self.key, jnp.arange(num_servers)[:, None])
        return uniform(keys, _counter(jnp.arange(max_tasks), index), self.backlog.dtype)


def _counter(n: Array, index: int) -> Array:
    if not 0 <= index < MAX_DRAWS:
        raise InputError(f"index: {index}; legal: 0 to {MAX_DRAWS - 1}")
    return n * MAX_DRAWS + index


@dataclasses.dataclass(frozen=True)
class Policy:
    """The function of a policy, and what it sees."""

    function: Callable
    _: dataclasses.KW_ONLY
    sees_slot: bool
    """Whether it takes a `SlotView` rather than a `TaskView`"""
    sees_load: bool = False
    """Whether its `TaskView` tells what has `arrived` in earlier slots, and what is `coming`"""
    by_position: bool = False
    """Whether agents have leaves `[num_slots, num_servers, max_tasks, ...]`, of which a `TaskView` has what
    belongs to its slot, base station and position"""

    def __post_init__(self):
        object.__setattr__(self, "function", hashable("policy", self.function))

    def select(self, view: TaskView | SlotView) -> Array:
        """The sets that the policy selects.

        Raises:
          InputError: the function does not return booleans of the right shape.
        """
        shape = view.tasks.present.shape if isinstance(view, SlotView) else ()
        shape = (*shape, view.params.capacity.shape[0])
        return checked("policy", name_of(self.function), self.function(view), bool, shape)


def checked(field: str, function: str, result: Any, kind: type, shape: tuple[int, ...]) -> Array:
    """What a function of the user's returns, as an array; InputError unless it has that type and shape."""
    try:
        array = jnp.asarray(result)
        found = f"{array.dtype}{list(array.shape)}"
    except (TypeError, ValueError):  # such as None, where a `return` was forgotten
        array, found = None, type(result).__name__
    if array is None or not jnp.issubdtype(array.dtype, kind) or array.shape != shape:
        raise InputError(f"{field}: {function} returns {found}; legal: {kind.__name__}{list(shape)}")
    return array


def per_task(choose: Callable[[TaskView], Array], *, sees_load: bool = False) -> Policy:
    """A policy that selects the set of each task, `[num_servers]` booleans, from its `TaskView`.

    Args:
      sees_load: see `Policy`.

    Example:
      >>> idle = per_task(lambda view: view.wait == 0)
      >>> idle.sees_slot
      False
    """
    return Policy(choose, sees_slot=False, sees_load=sees_load)


def per_slot(plan: Callable[[SlotView], Array]) -> Policy:
    """A policy that plans all sets of a slot, `[num_servers, max_tasks, num_servers]`, from a `SlotView`."""
    return Policy(plan, sees_slot=True)
