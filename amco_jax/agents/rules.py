"""Policies that need no training: the baselines of the paper, and simple rules to compare them with."""

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

_HALVINGS = 40
"""Steps of a bisection, beyond which float32 has no more digits"""


def random_pair(view: TaskView) -> Array:
    """RandCoEdge: the local server and a uniformly drawn server, which may be the same."""
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
    """The server with the shortest wait; ties go to the first."""
    return _one_hot(jnp.argmin(view.wait), view.wait.size)


def two_choices(view: TaskView) -> Array:
    """The one with the shorter wait of two different, uniformly drawn servers."""
    size = view.wait.size
    first = _pick(view.uniform(0), size)
    second = (first + 1 + _pick(view.uniform(1), size - 1)) % size
    first, second = _one_hot(first, size), _one_hot(second, size)
    wait_first, wait_second = (jnp.sum(jnp.where(s, view.wait, 0)) for s in (first, second))
    return jnp.where(wait_first <= wait_second, first, second)


def optimal(view: TaskView) -> Array:
    """The set of least makespan for each task in turn (greedy), by water-filling over all servers."""
    if view.params.service is None or not view.params.service.whole:
        return waterfill_support(view.wait, view.cost)
    # A server whose wait exceeds the water level may still be the first to finish a whole item.
    fraction, _ = split(view.params, waterfill, view.task.size, view.wait, view.cost, all_servers(view))
    return fraction > 0


def best(k: int, with_local: bool = False) -> Callable[[TaskView], Array]:
    """The set of least makespan among all sets of at most k servers, for each task in turn (greedy).

    By time T, server i can finish the share g_i(T) = max(T - wait_i, 0) / cost_i of the task. The optimal
    makespan is the least T at which the k largest g_i sum to 1, and their servers are the optimal set. The
    sum over a fixed set is convex in T, and so is the maximum over sets. Newton's method, started above the
    root at the makespan of the best single server, therefore reaches the exact optimum without enumeration.

    Args:
      with_local: whether to consider only sets that contain the local server, whose wait then counts even if
        it gets no work.
    """

    def choose(view: TaskView) -> Array:
        fixed = view.local if with_local else jnp.zeros_like(view.local)
        lead, rate = wait_lead(view.wait, all_servers(view)), 1 / view.cost
        service = view.params.service

        def of_level(level: Array) -> tuple[Array, Array]:
            """The best set for the time `level`, and the share that each server can finish by then."""
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

        # The level, the set that it was computed from, and the previous level.
        _, chosen, _ = lax.while_loop(lambda now: now[0] < now[2], step, step((alone, fixed, alone)))
        return fixed | chosen

    return choose


def _by_bisection(of_level: Callable[[Array], tuple[Array, Array]], enough: Array, items: Array) -> Array:
    """The set that finishes the items first, by bisection, because step functions rule out Newton's method.

    Args:
      of_level: from a time to the best set, and to the number of items that each server can finish by then.
      enough: a time by which all items can be finished.
    """

    def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        chosen, count = of_level(middle)
        ends = jnp.sum(jnp.where(chosen, count, 0)) >= items
        return jnp.where(ends, low, middle), jnp.where(ends, middle, high)

    # The upper bound is raised so that rounding cannot lose the last item there.
    _, level = lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(enough), enough * (1 + 1e-6)))
    return of_level(level)[0]


def optimal_admission(view: TaskView) -> Array:
    """`optimal`, except that a task that would miss its deadline even so is rejected on arrival."""
    best = optimal(view)
    makespan = makespan_of(view, best)
    return best & (makespan <= view.params.deadline)


def optimal_enumeration(view: TaskView) -> Array:
    """`optimal` by trying all 2^B-1 sets with CWA; ties go to the smallest, then to the first set."""
    sets = jnp.asarray(nonempty_sets(view.local.size).table())
    makespans = jax.vmap(lambda s: makespan_of(view, s))(sets)
    return sets[jnp.argmin(makespans)]


def makespan_of(view: TaskView, selected: Array) -> Array:
    """The makespan of the task on a set, split by CWA, s; not limited by the deadline, and 0 on no server."""
    return split(view.params, cwa, view.task.size, view.wait, view.cost, selected)[1]


def _largest(values: Array, k: int) -> Array:
    """A mask of the k largest values; ties go to the first."""

    def take(_: Array, taken: Array) -> Array:
        left = jnp.where(taken, -jnp.inf, values)
        return taken | _one_hot(jnp.argmax(left), values.size)

    return lax.fori_loop(0, min(k, values.size), take, jnp.zeros(values.shape, bool))


def _pick(u: Array, size: int) -> Array:
    """A uniform index below `size`, from a uniform draw in [0, 1); 0 if `size` is 0."""
    return (u * max(size, 1)).astype(jnp.int32)


def _one_hot(index: Array, size: int) -> Array:
    return jnp.arange(size) == index
