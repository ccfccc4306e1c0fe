"""Metrics of energy and cost, which are measured only where a user asks for them.

The power of a server is linear in the share of the time that it is busy, P_idle + (P_busy - P_idle) · u. What
it needs when it is idle belongs to the fleet and is spent whatever is decided; what it needs beyond that, and
what links need, belongs to tasks.

Source: Fan, Weber and Barroso, Power Provisioning for a Warehouse-sized Computer, ISCA 2007.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp

from amco_jax.env.physics import placed
from amco_jax.errors import InputError
from amco_jax.metrics.counts import ACCEPTED, IN_TIME
from amco_jax.metrics.metric import Metric, Reduction, Shown
from amco_jax.metrics.outcomes import SlotOutcome, TaskOutcome
from amco_jax.params import Params

_SECONDS_PER_HOUR = 3600


def _known(params: Params, *names: str) -> list[Any]:
    """Leaves of the parameters; InputError if one of them is not known."""
    found = [getattr(params, name) for name in names]
    if any(leaf is None for leaf in found):
        raise InputError(
            f"metrics: no {' and '.join(names)} of all devices of the service; legal: to set "
            f"{'it' if len(names) == 1 else 'them'} in the scenario, or other metrics"
        )
    return found


def _energy_of_servers(slot: SlotOutcome) -> Any:
    """Σ_i (P_idle,i + (P_busy,i - P_idle,i) · u_i) · Δ, J."""
    idle, busy = _known(slot.params, "power_idle", "power_busy")
    return jnp.sum(idle + (busy - idle) * slot.busy) * slot.params.slot_duration


def _energy_of_links(task: TaskOutcome) -> Any:
    """ε · d · Σ_{i ≠ b} x_i, J."""
    return task.params.energy_per_mbit * task.size * jnp.sum(jnp.where(task.local, 0, task.fraction))


def _energy_of_task(task: TaskOutcome) -> Any:
    """Σ_i (P_busy,i - P_idle,i) · p_i / f_i, p_i what the task puts on server i, and that of links, J."""
    idle, busy = _known(task.params, "power_idle", "power_busy")
    load = placed(task.params, task.size, task.work, task.selected, task.fraction)
    return jnp.sum((busy - idle) * load / task.params.capacity) + _energy_of_links(task)


def _cost_of_servers(slot: SlotOutcome) -> Any:
    """Σ_i c_i · Δ, USD."""
    (price,) = _known(slot.params, "price_per_hour")
    return jnp.sum(price) * slot.params.slot_duration / _SECONDS_PER_HOUR


_asked = functools.partial(Metric, better="lower", bounds=(0.0, math.inf), shown=Shown.ASKED)

ENERGY = (
    IN_TIME,
    _asked(
        name="server_energy_j",
        label="energy of the servers per episode",
        unit="J",
        caption="Energy of all servers in an episode, idle or busy.",
        reduction=Reduction.SUM,
        of_slot=_energy_of_servers,
    ),
    _asked(
        name="link_energy_j",
        label="energy of the links per episode",
        unit="J",
        caption="Energy of what base stations send to other servers in an episode.",
        reduction=Reduction.SUM,
        of_task=_energy_of_links,
    ),
    _asked(
        name="task_energy_mean_j",
        label="mean dynamic energy of accepted tasks",
        unit="J",
        caption="Energy that accepted tasks need beyond that of idle servers, links included, in the mean.",
        over=ACCEPTED,
        of_task=_energy_of_task,
    ),
    _asked(
        name="energy_per_task_in_time_j",
        label="energy of the servers per task in time",
        unit="J",
        caption="Energy of all servers, idle or busy, over the tasks in time.",
        over=IN_TIME,
        of_slot=_energy_of_servers,
    ),
    _asked(
        name="cost_usd",
        label="cost of the fleet per episode",
        unit="USD",
        caption="Price of all servers for the time of an episode.",
        reduction=Reduction.SUM,
        of_slot=_cost_of_servers,
    ),
    _asked(
        name="cost_per_task_in_time_usd",
        label="cost of the fleet per task in time",
        unit="USD",
        caption="Price of all servers for the time of an episode, over the tasks in time.",
        over=IN_TIME,
        of_slot=_cost_of_servers,
    ),
)
"""The entries of the registry"""
