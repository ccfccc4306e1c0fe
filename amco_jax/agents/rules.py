"""Policies that need no training: the baselines, and the cheap rules that one would want beside them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from amco_jax.agents.actions import nonempty_sets
from amco_jax.agents.policy import TaskView
from amco_jax.alloc import cwa, waterfill, waterfill_support
from amco_jax.env import split


def random_pair(view: TaskView) -> Array:
    """RandCoEdge: the local server and a uniformly drawn one (which may be the same)."""
    return view.local | _one_hot(_pick(view.uniform(), view.local.size), view.local.size)


def local_only(view: TaskView) -> Array:
    """No collaboration: the server at the task's own base station."""
    return view.local


def all_servers(view: TaskView) -> Array:
    """Full collaboration: every server."""
    return jnp.ones_like(view.local)


def fastest(k: int) -> Callable[[TaskView], Array]:
    """The k servers of largest capacity; ties go to the first."""

    def choose(view: TaskView) -> Array:
        capacity = view.params.capacity
        kth = jnp.sort(capacity)[max(capacity.size - k, 0)]
        above, tied = capacity > kth, capacity == kth
        return above | (tied & (jnp.cumsum(tied) <= k - jnp.sum(above)))

    return choose


def least_wait(view: TaskView) -> Array:
    """The server of least waiting time; ties go to the first."""
    return _one_hot(jnp.argmin(view.wait), view.wait.size)


def two_choices(view: TaskView) -> Array:
    """Of two different servers drawn uniformly, the one of less waiting time."""
    size = view.wait.size
    first = _pick(view.uniform(0), size)
    second = (first + 1 + _pick(view.uniform(1), size - 1)) % size
    first, second = _one_hot(first, size), _one_hot(second, size)
    wait_first, wait_second = (jnp.sum(jnp.where(s, view.wait, 0)) for s in (first, second))
    return jnp.where(wait_first <= wait_second, first, second)


def optimal(view: TaskView) -> Array:
    """The set of least makespan, by water-filling over all servers; greedy, task by task."""
    if view.params.service is None or not view.params.service.whole:
        return waterfill_support(view.wait, view.cost)
    # A server above the level of the water may still be the first to end a whole item.
    fraction, _ = split(view.params, waterfill, view.task.size, view.wait, view.cost, all_servers(view))
    return fraction > 0


def optimal_admission(view: TaskView) -> Array:
    """`optimal`, but a task that would miss its deadline even so is rejected on arrival."""
    best = optimal(view)
    makespan = _makespan(view, best)
    return best & (makespan <= view.params.deadline)


def optimal_enumeration(view: TaskView) -> Array:
    """`optimal` by trying all 2^B-1 sets with CWA; ties go to the smaller, then the first set."""
    sets = jnp.asarray(nonempty_sets(view.local.size).table())
    makespans = jax.vmap(lambda s: _makespan(view, s))(sets)
    return sets[jnp.argmin(makespans)]


def _makespan(view: TaskView, selected: Array) -> Array:
    return split(view.params, cwa, view.task.size, view.wait, view.cost, selected)[1]


def _pick(u: Array, size: int) -> Array:
    """A uniform draw in [0, 1) as a uniform index; always 0 where there is no choice."""
    return (u * max(size, 1)).astype(jnp.int32)


def _one_hot(index: Array, size: int) -> Array:
    return jnp.arange(size) == index
