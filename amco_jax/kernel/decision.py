"""One decision of a method, which the kernel and a scheduler of real servers take in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import TaskView
from amco_jax.alloc import Allocator
from amco_jax.env import Decision, Physics, Queues, Site, Task, costs, decide, starts, waits
from amco_jax.params import Params


def serve_task(
    params: Params,
    physics: Physics,
    allocator: Allocator,
    site: Site,
    backlog: Float[Array, " num_servers"],
    task: Task,
    queues: Queues,
    choose: Callable[[Array, Array], Array],
) -> tuple[Queues, Decision, Array, Array]:
    """Decide one task at the base station of `site`: waits, costs, the set, the split, and the new queues.

    Args:
      backlog: `[num_servers]`, Gcycles, at the start of the slot.
      choose: maps wait and cost, `[num_servers]`, s, to the set S, `[num_servers]` booleans.

    Returns:
      The queues after the decision, the decision, the wait and the cost.
    """
    wait = waits(site, backlog, queues.slot_load, queues.link_delay)
    start = starts(params, task.size, task.work)
    wait = wait if start is None else wait + start
    cost = costs(site, task.size, task.work)
    return *decide(params, physics, site, task, wait, cost, choose(wait, cost), allocator, queues), wait, cost


def decide_task(
    params: Params,
    physics: Physics,
    method: Method,
    site: Site,
    backlog: Float[Array, " num_servers"],
    task: Task,
    queues: Queues,
    view: Callable[[Array, Array], TaskView],
    planned: Any = None,
    available: Bool[Array, " num_servers"] | None = None,
) -> tuple[Queues, Decision, TaskView]:
    """Decide one task with a method: its policy selects the set, unless it has planned the slot.

    Without a mask, the program is the same as if there were none. With a mask, servers that are not available
    leave the set, and a per-task policy sees them as in `waits_without`.

    Args:
      backlog: `[num_servers]`, Gcycles, at the start of the slot.
      view: makes the view of the policy from wait and cost, `[num_servers]`, s.
      planned: the set that a per-slot policy has planned for the task, `[num_servers]` booleans, or None.
      available: `[num_servers]`, the servers that may be selected; None for all.

    Returns:
      The queues after the decision, the decision, and the view with the actual waits.
    """

    def choose(wait: Array, cost: Array) -> Array:
        seen = wait if available is None else waits_without(wait, cost, available)
        chosen = planned if method.policy.sees_slot else method.policy.select(view(seen, cost))
        return chosen if available is None else available_set(chosen, wait + cost, available)

    queues, decision, wait, cost = serve_task(
        params, physics, method.allocator, site, backlog, task, queues, choose
    )
    return queues, decision, view(wait, cost)


def waits_without(
    wait: Float[Array, " num_servers"],
    cost: Float[Array, " num_servers"],
    available: Bool[Array, " num_servers"],
) -> Float[Array, " num_servers"]:
    """The waits that a policy sees if some servers are not available, s.

    A server that is not available has the wait at which each of the others has finished the whole task. No
    split of least makespan gives it any work, so rules that minimise the makespan find the best set of the
    others without knowing of masks, and features of the waits keep their order of magnitude.
    """
    alone = jnp.max(jnp.where(available, wait + cost, 0))
    return jnp.where(available, wait, alone)


def available_set(
    chosen: Bool[Array, " num_servers"],
    alone: Float[Array, " num_servers"],
    available: Bool[Array, " num_servers"],
) -> Bool[Array, " num_servers"]:
    """The set without the servers that are not available.

    If none of its servers is left, it is the available server that finishes the whole task first. The empty
    set, which rejects the task, remains empty; and a task is also rejected if no server is available.

    Args:
      alone: `[num_servers]`, s until each server has finished the whole task.
    """
    left = chosen & available
    first = jnp.arange(available.shape[0]) == jnp.argmin(jnp.where(available, alone, jnp.inf))
    lost = jnp.any(chosen) & ~jnp.any(left)
    return left | (lost & first & available)
