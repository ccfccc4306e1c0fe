"""Policies that need no training: the baselines, and the cheap rules that one would want beside them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from amco_jax.agents.actions import nonempty_sets
from amco_jax.agents.policy import TaskView
from amco_jax.alloc import cwa, waterfill, waterfill_support
from amco_jax.alloc.cwa import positive, wait_lead
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
        return _largest(view.params.capacity, k)

    return choose


def least_wait(view: TaskView) -> Array:
    """The server of least waiting time; ties go to the first."""
    return _one_hot(jnp.argmin(view.wait), view.wait.size)


def two_choices(view: TaskView) -> Array:
    """Draw two different servers uniformly, and select the one with the shorter wait."""
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


def best(k: int, with_local: bool = False) -> Callable[[TaskView], Array]:
    """The set of least makespan among all sets of at most k servers; greedy, task by task.

    By the time T, server i can end the share g_i(T) = max(T - wait_i, 0) / cost_i of the task. So the best
    set is that of the k largest g_i at the least T at which these sum to 1. Each sum over a set is convex in
    T, and so is the largest of them: Newton's method from above, from the T of the best single server, goes
    from set to set and ends at the exact optimum, without enumeration.

    Args:
      with_local: only sets that contain the local server; of these, that server's wait counts even where it
        has no work.
    """

    def choose(view: TaskView) -> Array:
        fixed = view.local if with_local else jnp.zeros_like(view.local)
        lead, rate = wait_lead(view.wait, all_servers(view)), 1 / view.cost
        service = view.params.service

        def of_level(level: Array) -> tuple[Array, Array]:
            """The set that is best by that time, and the share that each server can end."""
            share = jnp.maximum(level - lead, 0) * rate
            if service is not None and service.whole:
                share = jnp.floor(share * view.task.size)
            chosen = fixed | _largest(jnp.where(fixed, -1, share), k - with_local)
            return chosen & (share > 0), share

        alone = jnp.min(jnp.where(fixed | (not with_local), lead + view.cost, jnp.inf))
        if service is not None and service.whole:
            return fixed | _by_bisection(of_level, alone, view.task.size)

        def newton(level: Array) -> tuple[Array, Array]:
            chosen, _ = of_level(level)
            numerator = 1 + jnp.sum(jnp.where(chosen, lead * rate, 0))
            return numerator / positive(jnp.sum(jnp.where(chosen, rate, 0))), chosen

        def step(now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            level, _, _ = now
            return *newton(level), level

        # Level, the set it belongs to, and the level before.
        _, chosen, _ = lax.while_loop(lambda now: now[0] < now[2], step, step((alone, fixed, alone)))
        return fixed | chosen

    return choose


def _by_bisection(
    of_level: Callable[[Array], tuple[Array, Array]], enough: Array, items: Array, steps: int = 40
) -> Array:
    """The set by which a number of items ends first: what can end by a time grows in steps, without slopes.

    Args:
      of_level: the best set by a time, and the items that each server can end.
      enough: a time by which all items can end.
    """

    def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        chosen, count = of_level(middle)
        ends = jnp.sum(jnp.where(chosen, count, 0)) >= items
        return jnp.where(ends, low, middle), jnp.where(ends, middle, high)

    # Rounding must not take away the last item of the first bound.
    _, level = lax.fori_loop(0, steps, halve, (jnp.zeros_like(enough), enough * (1 + 1e-6)))
    return of_level(level)[0]


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


def _largest(values: Array, k: int) -> Array:
    """The k largest, of which ties go to the first; none where k is 0."""
    if k == 0:
        return jnp.zeros(values.shape, bool)
    kth = jnp.sort(values)[max(values.size - k, 0)]
    above, tied = values > kth, values == kth
    return above | (tied & (jnp.cumsum(tied) <= k - jnp.sum(above)))


def _pick(u: Array, size: int) -> Array:
    """A uniform draw in [0, 1) as a uniform index; always 0 where there is no choice."""
    return (u * max(size, 1)).astype(jnp.int32)


def _one_hot(index: Array, size: int) -> Array:
    return jnp.arange(size) == index
