"""The physics of one base station: coefficients computed from a scenario and a row of the physics table.

The published implementations fork the environment for each method. Here their differences are a row of flags
(`Physics`), and `site` turns the row into the coefficients of one fixed set of formulas.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from amco_jax.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Physics:
    """How the published implementations differ, as traced leaves; the defaults are the unified physics."""

    wait_capped: bool = False
    """wait_i is capped at the deadline."""
    local_waits_for_link: bool = False
    """The local server's wait includes the link delay."""
    local_transfer_in_pair: bool = False
    """The local server's cost includes the transfer d/r_b if exactly two servers are selected."""
    link_carries_local: bool = False
    """The local share of a task adds to the link delay too."""
    link_capped: bool = True
    """The link delay is capped at the slot duration if two or more servers are selected."""
    link_carried: bool = False
    """What a link has not sent by the end of a slot waits in the next one; otherwise it is forgotten."""
    link_serial: bool = dataclasses.field(default=False, metadata={"static": True})
    """A link is a queue: tasks wait for it while servers work off what they have, parts go out one after
    another, and results come back after the computation. It is static, so that the programs of other rows
    contain nothing of it."""
    rewarded: bool = True
    """The method has a reward at all."""
    miss_penalty: float = 10.0
    """The reward of a missed task is -deadline · miss_penalty."""


UNIFIED = Physics()
"""One model for all methods, as a fair comparison requires. It is also AMCoEdge's published physics."""

CONSERVING = Physics(link_capped=False, link_carried=True)
"""The unified physics with links that neither forget nor cut what they have to send."""

SERIAL = dataclasses.replace(CONSERVING, link_serial=True)
"""Conserving links that send one thing after another, as real links and token buckets do"""


def in_continuous_time(physics: Physics) -> Physics:
    """The row in continuous time, where a link carries over what it has to send and is not capped.

    A cap at the slot duration would approach a cap at 0 as slots become shorter.
    """
    return dataclasses.replace(physics, link_capped=False, link_carried=True)


class Transfers(NamedTuple):
    """The two directions of a base station's link, s/Mbit of a task; 0 for the server at the station."""

    there: Float[Array, " num_servers"]
    """Of what is sent to each server"""
    back: Float[Array, " num_servers"]
    """Of the results that come back from it"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Site:
    """The coefficients of all decisions at one base station b."""

    local: Bool[Array, " num_servers"]
    """One-hot: the server at b."""
    seconds_per_gcycle: Float[Array, " num_servers"]
    per_mbit: Float[Array, " num_servers"]
    """s/Mbit of cost in addition to the work: the transfer, and the overhead of a service"""
    pair_transfer: Float[Array, " num_servers"]
    """s/Mbit of additional cost if exactly two servers are selected"""
    link_growth: Float[Array, " num_servers"]
    """s/Mbit by which b's link delay grows"""
    link_wait: Float[Array, " num_servers"]
    """1 where a task waits for b's link, else 0"""
    wait_limit: Float[Array, ""]
    """Upper limit of a wait, s"""
    link_limit: Float[Array, ""]
    """Upper limit of the link delay if two or more servers are selected, s"""
    transfers: Transfers | None = None
    """The directions of the link where it is serial; None where it is not"""


def site(params: Params, physics: Physics, b: Int[Array, ""]) -> Site:
    """The coefficients at base station `b` under one row of the physics table."""
    local = jnp.arange(params.capacity.shape[0]) == b
    per_mbit = 1 / params.link_rate[b]
    extra = 0 if params.service is None else params.service.overhead / params.capacity
    zero, inf = jnp.zeros_like(per_mbit), jnp.full_like(params.deadline, jnp.inf)
    return Site(
        local=local,
        seconds_per_gcycle=1 / params.capacity,
        per_mbit=jnp.where(local, zero, per_mbit) + extra,
        pair_transfer=jnp.where(local & physics.local_transfer_in_pair, per_mbit, zero),
        link_growth=jnp.where(local & ~jnp.asarray(physics.link_carries_local), zero, per_mbit),
        link_wait=jnp.where(local & ~jnp.asarray(physics.local_waits_for_link), zero, jnp.ones_like(zero)),
        wait_limit=jnp.where(physics.wait_capped, params.deadline, inf),
        link_limit=jnp.where(physics.link_capped, params.slot_duration, inf),
        transfers=_transfers(params, jnp.where(local, zero, per_mbit)) if physics.link_serial else None,
    )


def _transfers(params: Params, per_mbit: Float[Array, " num_servers"]) -> Transfers:
    """What goes there and back; without a service, a task has no result that counts."""
    share = 0 if params.service is None else params.service.result_share
    return Transfers(per_mbit * (1 - share), per_mbit * share)


def waits(
    site: Site,
    backlog: Float[Array, " num_servers"],
    slot_load: Float[Array, " num_servers"],
    link_delay: Float[Array, ""],
) -> Float[Array, " num_servers"]:
    """wait_i = (Q_i + q_i)/f_i + [i≠b]·L_b: queueing delay of a task on each server, s.

    Where links are serial, it is the larger of the two, as a task waits for both at the same time.
    """
    if site.transfers is not None:
        wait = jnp.maximum((backlog + slot_load) * site.seconds_per_gcycle, site.link_wait * link_delay)
        return jnp.minimum(wait, site.wait_limit)
    wait = (backlog + slot_load) * site.seconds_per_gcycle + site.link_wait * link_delay
    return jnp.minimum(wait, site.wait_limit)


def costs(site: Site, size: Float[Array, ""], work: Float[Array, ""]) -> Float[Array, " num_servers"]:
    """cost_i = (w + d·h_i)/f_i + [i≠b]·d/r_{b,i}: delay of the whole task on each server, s.

    h_i is the overhead of server i with an image service, and 0 without one.
    """
    return work * site.seconds_per_gcycle + size * site.per_mbit


def starts(
    params: Params, size: Float[Array, ""], work: Float[Array, ""]
) -> Float[Array, " num_servers"] | None:
    """(l_i + a_i + ρ·s_i) / f_i, ρ = w/d: what a server does before a task's first item, s; None if nothing.

    It delays all items of a server alike, as a longer wait does. So what is optimal for given waits remains
    optimal when it is added to them.
    """
    if params.service is None or params.service.starts is None:
        return None
    return params.service.starts.of_task(work / size) / params.capacity


def placed(
    params: Params,
    size: Float[Array, ""],
    work: Float[Array, ""],
    selected: Bool[Array, " num_servers"],
    fraction: Float[Array, " num_servers"],
) -> Float[Array, " num_servers"]:
    """x_i·(w + d·h_i) + [i ∈ S]·l_i + [x_i > 0]·(a_i + ρ·s_i): what a task puts on each server, Gcycles.

    A server that is not given an item starts no batch, but has loaded the model when it was selected.
    """
    if params.service is None:
        return fraction * work
    shares, each = fraction * (work + size * params.service.overhead), params.service.starts
    if each is None:
        return shares
    batch = jnp.where(fraction > 0, each.fixed + work / size * each.per_step, 0)
    return shares + batch + jnp.where(selected, each.load, 0)
