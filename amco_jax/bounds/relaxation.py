"""A relaxation of the tasks of one slot, and its dual function, every value of which is a lower bound.

Let task k put the fraction x_ki on server i, or miss (y_k = 1 - Σ_i x_ki = 1). Its makespan is the latest end
of its parts, so at least their mean weighted by x. Without backlog, and without the load of tasks that miss,
a slot therefore costs at least

    Σ_k (Σ_i x_ki·s_ki + Σ_i x_ki²·(l_ki + τ_ki) + D·y_k)            each task alone
    + Σ_i Σ_{j before k} l_ji·x_ji·x_ki                              waiting for server i
    + Σ_b Σ_{j before k, both at b} (Σ_i τ_ji·x_ji)·(Σ_{i≠b} x_ki)   waiting for the link of b

where l_ki is the time of the whole task on server i, s_ki that of a start, and τ_ki that of its transfer. The
order of service is the true one. docs/bounds.md proves this for every row of the physics table.

The pairs are not convex. Half of l_ki·x_ki² joins those of server i: with S_k = Σ_{j≥k} x_ji, the work that
comes from k on, they sum to ½·Σ_k l_ki·(S_k² - S_{k+1}²). Each server, each link and each task then gets its
own copy of x, and multipliers price the difference between copies. What remains are minima that are exact:

- of a server by dynamic programming over S, in steps of 1/g. Rounding all S to that grid with one common
  random shift keeps their means, and adds at most l_ki - l_{k-1,i}, where positive, times 1/(8·g²), with
  l_0i = 0. On a server that is so slow that this matters, tasks wait too little for each other to count, and
  the minimum without pairs is the better bound;
- of a link by dynamic programming over the number of tasks sent, as its pairs are linear in each task alone;
- of a task in closed form, as it is a convex quadratic function on a simplex.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_NEVER = 1e9
"""s, more than anything in a slot can cost"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotTasks:
    """The tasks of a slot in the order of service, and what they cost; JAX or NumPy arrays."""

    present: Any
    """`[tasks]`, whether there is a task"""
    load: Any
    """`[tasks, num_servers]`, s, the time of the whole task on each server; 0 without a task"""
    transfer: Any
    """`[tasks, num_servers]`, s, the time of the transfer of the whole task; 0 without a task, and to its own
    server"""
    start: Any
    """`[tasks, num_servers]`, s, what a server does before the first item of the task"""
    remote: Any
    """`[tasks, num_servers]`, whether a server is not the task's own; False without a task"""
    place: Any
    """`[num_servers, station_tasks]`, the tasks of each base station, in order; `tasks` at places without
    one"""
    sent: Any
    """The share of transfers that later tasks surely wait for, see docs/bounds.md"""
    deadline: Any
    """D, s"""


class Multipliers(NamedTuple):
    """The multipliers of the dual function; any are legal if `time` is at least 0."""

    server: Any
    """`[tasks, num_servers]`, s, of x in the copy of each server"""
    link: Any
    """`[tasks, num_servers]`, s, of x in the copy of each link"""
    time: Any
    """`[num_servers]`, of the time until the deadline, into which what a server does for tasks in time must
    fit"""


def dual(
    slot: SlotTasks, multipliers: Multipliers, grid: int, most: int
) -> tuple[Float[Array, ""], Multipliers, Float[Array, "tasks num_servers"]]:
    """The value of the dual function, s, a lower bound on the summed makespans of the slot.

    Args:
      grid: g, the steps of a whole task in the dynamic programme of a server.
      most: the work up to which that programme counts, in tasks; beyond it, more work costs no more.

    Returns:
      The value, a supergradient, and the fractions `[tasks, num_servers]` of the tasks' own copies.
    """
    here = slot.present[:, None]
    of_servers, on_servers = _servers(slot, multipliers, grid, most)
    of_links, on_links = _links(slot, multipliers.link)
    # What is left of the own time of a task, once the servers have half of it.
    own = jnp.where(here, 0.5 * slot.load + slot.transfer, 1.0)
    price = multipliers.server + jnp.where(slot.remote, multipliers.link, 0) + slot.start
    of_tasks, fraction = cheapest(price, own, slot.deadline)
    fraction = jnp.where(here, fraction, 0)
    value = of_servers + of_links + jnp.sum(jnp.where(slot.present, of_tasks, 0))
    value = value - jnp.sum(multipliers.time) * slot.deadline
    gradient = Multipliers(
        fraction - on_servers,
        jnp.where(slot.remote, fraction - on_links, 0),
        jnp.sum(slot.load * on_servers, axis=0) - slot.deadline,
    )
    return value, gradient, fraction


def cheapest(
    price: Float[Array, "tasks num_servers"], own: Float[Array, "tasks num_servers"], deadline: Array
) -> tuple[Float[Array, " tasks"], Float[Array, "tasks num_servers"]]:
    """The minimum of Σ_i (price_i·x_i + own_i·x_i²) + D·(1 - Σ_i x_i) over x ≥ 0 with Σ_i x_i ≤ 1.

    It is that of water-filling: x_i = max(λ - price_i, 0) / (2·own_i), where λ is D, or less where the x
    would then sum to more than 1.

    Args:
      own: s, > 0.

    Returns:
      The minimum of each task, and x.
    """
    level = jnp.minimum(jnp.min(_levels(price, 0.5 / own), axis=1), deadline)
    fraction = jnp.maximum(level[:, None] - price, 0) * (0.5 / own)
    return level - jnp.sum(own * fraction**2, axis=1), fraction


def alone(slot: SlotTasks) -> Float[Array, " tasks"]:
    """The makespan of each task if it had all servers and links for itself, s; 0 without a task.

    It is the level λ at which water-filling ends: x_i = max(λ - start_i, 0) / own_i sum to 1, where own_i is
    the time of the whole task. No task ends earlier, in any order and at any time of service.
    """
    own = jnp.where(slot.present[:, None], slot.load + slot.transfer, 1.0)
    return jnp.where(slot.present, jnp.min(_levels(slot.start, 1 / own), axis=1), 0)


def _levels(
    price: Float[Array, "tasks num_servers"], rate: Float[Array, "tasks num_servers"]
) -> Float[Array, "tasks num_servers"]:
    """The λ at which Σ_i max(λ - price_i, 0)·rate_i = 1 over the k servers of least price, for each k.

    The least of them is that over all servers.
    """
    order = jnp.argsort(price, axis=1)
    price, rate = (jnp.take_along_axis(x, order, axis=1) for x in (price, rate))
    return (1 + jnp.cumsum(price * rate, axis=1)) / jnp.cumsum(rate, axis=1)


def first_multipliers(slot: SlotTasks) -> Multipliers:
    """The derivatives of the cost of servers where each takes a share of every task by its speed; else 0."""
    here = slot.present[:, None]
    speed = jnp.where(here, 1 / jnp.where(here, slot.load, 1), 0)
    share = speed / jnp.maximum(jnp.sum(speed, axis=1, keepdims=True), 1e-9)
    before = jnp.cumsum(slot.load * share, axis=0)
    after = jnp.cumsum(share[::-1], axis=0)[::-1]
    return Multipliers(before + slot.load * after, jnp.zeros_like(slot.load), jnp.zeros_like(slot.load[0]))


def costs(slot: SlotTasks, fraction: Float[Array, "tasks num_servers"]) -> Float[Array, ""]:
    """What the slot costs by the formula at the top, s: at least the best bound that `dual` can give."""
    work, away = slot.load * fraction, jnp.where(slot.remote, fraction, 0)
    missed = jnp.sum(jnp.where(slot.present, 1 - jnp.sum(fraction, axis=1), 0))
    own = fraction * (slot.start + fraction * (slot.load + slot.transfer))
    waiting = (jnp.cumsum(work, axis=0) - work) * fraction
    sent = _of_stations(slot, jnp.sum(slot.sent * slot.transfer * away, axis=1), 0.0)
    linked = (jnp.cumsum(sent, axis=1) - sent) * _of_stations(slot, jnp.sum(away, axis=1), 0.0)
    return jnp.sum(own) + jnp.sum(waiting) + jnp.sum(linked) + slot.deadline * missed


def _servers(
    slot: SlotTasks, multipliers: Multipliers, grid: int, most: int
) -> tuple[Float[Array, ""], Float[Array, "tasks num_servers"]]:
    """The minimum of the servers' copies, less what a finer grid could save, and their fractions."""
    num_servers = slot.load.shape[1]
    price = jnp.where(slot.present[:, None], multipliers.server - multipliers.time * slot.load, -_NEVER)
    steps = jnp.arange(most * grid + 1, dtype=price.dtype) / grid  # S

    def step(least: Array, task: tuple[Array, Array]) -> tuple[Array, Array]:
        """The least cost of each S from this task on; later tasks come first."""
        load, price = task
        best, moves = least, jnp.zeros(least.shape, jnp.int8)
        for k in range(1, grid + 1):
            part = k / grid
            moved = least[:, :-k] + load[:, None] * part * (steps[k:] - part / 2)
            # Beyond the last S, the work that comes later is at least this much.
            beyond = jnp.min(least[:, -k:], axis=1) + load * part * (steps[-k] + part / 2)
            last = jnp.minimum(moved[:, -1], beyond)[:, None]
            moved = jnp.concatenate([moved[:, :-1], last], axis=1) - price[:, None] * part
            taken = moved < best[:, k:]
            best = jnp.concatenate([best[:, :k], jnp.where(taken, moved, best[:, k:])], axis=1)
            moves = jnp.concatenate([moves[:, :k], jnp.where(taken, jnp.int8(k), moves[:, k:])], axis=1)
        return best, moves

    def back(now: Array, moves: Array) -> tuple[Array, Array]:
        taken = jnp.take_along_axis(moves, now[:, None], axis=1)[:, 0].astype(now.dtype)
        return now - taken, taken

    nothing = jnp.where(steps == 0, 0.0, _NEVER).astype(price.dtype)
    first = jnp.broadcast_to(nothing, (num_servers, steps.size))
    least, moves = lax.scan(step, first, (slot.load, price), reverse=True)
    _, taken = lax.scan(back, jnp.argmin(least, axis=1), moves)
    rises = jnp.maximum(jnp.diff(slot.load, axis=0, prepend=0), 0)
    value = jnp.min(least, axis=1) - jnp.sum(rises, axis=0) / (8 * grid**2)

    # Without the pairs, each task costs ½·l·x² less its price.
    fraction = jnp.clip(price / jnp.where(slot.load > 0, slot.load, 1), 0, 1)
    without = jnp.sum(jnp.where(fraction > 0, fraction * (0.5 * slot.load * fraction - price), 0), axis=0)
    slow = without > value
    value = jnp.sum(jnp.where(slow, without, value))
    return value, jnp.where(slow, fraction, taken.astype(price.dtype) / grid)


def _links(
    slot: SlotTasks, price: Float[Array, "tasks num_servers"]
) -> tuple[Float[Array, ""], Float[Array, "tasks num_servers"]]:
    """The minimum of the links' copies, and their fractions, which are 0 or 1."""
    num_servers, most = slot.place.shape
    cost = _of_stations(slot, jnp.where(slot.remote, slot.sent * slot.transfer, _NEVER), _NEVER)
    price = _of_stations(slot, jnp.where(slot.remote, price, -_NEVER), -_NEVER)
    later = jnp.arange(most, dtype=price.dtype)

    def step(least: Array, task: tuple[Array, Array]) -> tuple[Array, Array]:
        """The least cost of each number of tasks sent from this one on, at all stations at once."""
        cost, price = task
        of_target = cost[:, :, None] * later - price[:, :, None]
        moved = least[:, :-1] + jnp.min(of_target, axis=1)
        taken = moved < least[:, 1:]
        target = jnp.where(taken, jnp.argmin(of_target, axis=1).astype(jnp.int16), -1)
        target = jnp.concatenate([jnp.full((num_servers, 1), -1, jnp.int16), target], axis=1)
        return jnp.concatenate([least[:, :1], jnp.where(taken, moved, least[:, 1:])], axis=1), target

    def back(now: Array, targets: Array) -> tuple[Array, Array]:
        target = jnp.take_along_axis(targets, now[:, None], axis=1)[:, 0]
        return now - (target >= 0), target

    nothing = jnp.where(jnp.arange(most + 1) == 0, 0.0, _NEVER).astype(price.dtype)
    first = jnp.broadcast_to(nothing, (num_servers, most + 1))
    least, targets = lax.scan(step, first, (cost.swapaxes(0, 1), price.swapaxes(0, 1)), reverse=True)
    _, target = lax.scan(back, jnp.argmin(least, axis=1), targets)
    sent = (target.T[:, :, None] == jnp.arange(num_servers)).astype(price.dtype)
    return jnp.sum(jnp.min(least, axis=1)), _of_tasks(slot, sent)


def _of_stations(slot: SlotTasks, values: Array, empty: float) -> Array:
    """Values of tasks, `[tasks, ...]`, by base station and place, `[num_servers, station_tasks, ...]`."""
    padded = jnp.concatenate([values, jnp.full((1, *values.shape[1:]), empty, values.dtype)])
    return padded[slot.place]


def _of_tasks(slot: SlotTasks, values: Array) -> Array:
    """The inverse of `_of_stations`; 0 without a task."""
    num_tasks = slot.present.shape[0]
    none = jnp.zeros((num_tasks + 1, *values.shape[2:]), values.dtype)
    return none.at[slot.place].set(values)[:num_tasks]
