"""When a task ends if the link of its base station sends one thing after another.

The published model adds the wait for a server to the wait for the link, and lets all parts of a task start at
the same time, each after the transfers of both directions. Here, parts go out one after another while the
servers work off what they have, and results come back after the computation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from amco_jax.env.physics import Site, Transfers, starts
from amco_jax.env.task import Task
from amco_jax.params import Params


def serial_finish(
    params: Params,
    site: Site,
    transfers: Transfers,
    task: Task,
    wait: Float[Array, " num_servers"],
    fraction: Float[Array, " num_servers"],
    link_delay: Float[Array, ""],
) -> Float[Array, ""]:
    """When the last result of a task is back at its base station, s from now; 0 if the set is empty.

    A part consists of items that servers take one at a time, such as images, or is one item. The items of a
    task leave in turns: the first item of each part in the order of the servers, then the second, and so on.
    Part i of n_i items of c_i seconds has been computed at

        T_i = max(wait_i + n_i·c_i, a_i + n_i·c_i, z_i + c_i),

    where a_i and z_i are the times at which its first and its last item arrive. Results take the link in the
    order of computation, behind everything that the task sends. What other tasks will send or get back
    meanwhile is not known yet, and not counted.

    Args:
      wait: `[num_servers]`, s, from `physics.waits`, with what precedes the first item of a server.
      fraction: `[num_servers]`, the split.
      link_delay: L_b, s.

    Source: this project; edge_fleet/links.py is such a link.
    """
    taking = fraction > 0
    size = fraction * task.size
    service = params.service
    by_item = service is not None and service.whole and not service.together
    items = jnp.where(taking, jnp.round(size) if by_item else jnp.ones_like(size), 0)
    each = size / jnp.maximum(items, 1)  # in the unit of size
    seconds = site.seconds_per_gcycle * (task.work / task.size)
    seconds = each * (seconds + site.per_mbit - transfers.there - transfers.back)
    there, back = each * transfers.there, each * transfers.back

    # The last turn of part i is n_i; parts of lower index have already had theirs in each turn.
    first = link_delay + jnp.cumsum(there)
    index = jnp.arange(items.shape[0])
    turns = jnp.minimum(items[None, :], items[:, None] - (index[None, :] > index[:, None]))
    last = link_delay + jnp.sum(there[None, :] * jnp.maximum(turns, 0), axis=1)
    sent = link_delay + jnp.sum(there * items)

    away = ~site.local
    begun = starts(params, task.size, task.work)
    arrived = first if begun is None else first + begun
    done = jnp.where(away, jnp.maximum(wait, arrived), wait) + items * seconds
    done = jnp.where(away, jnp.maximum(done, last + seconds), done)
    computed = jnp.max(jnp.where(taking, done, 0))

    # A queue ends at the latest of: an arrival and all that is served from it on. Besides the last items, the
    # first one of all counts, behind which everything comes; it decides where the link is the bottleneck.
    coming = taking & away
    later = coming[None, :] & (done[None, :] >= done[:, None])
    behind = jnp.maximum(done, sent) + jnp.sum(jnp.where(later, back[None, :], 0), axis=1)
    earliest = jnp.min(jnp.where(coming, jnp.maximum(wait, arrived) + seconds, jnp.inf))
    whole = jnp.maximum(earliest, sent) + jnp.sum(jnp.where(coming, back * items, 0))
    returned = jnp.max(jnp.where(coming, jnp.maximum(behind, whole), 0))
    return jnp.maximum(computed, returned)
