"""The sums of an episode's metrics on the device, as dictionaries by the name of the metric.

A sum over the tasks of a slot takes one word, a sum over slots takes two (`compile/wide.py`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from amco_jax.compile.wide import Wide
from amco_jax.errors import InputError
from amco_jax.metrics.metric import Metric, Metrics, Reduction
from amco_jax.metrics.outcomes import SlotOutcome, TaskOutcome

Sums = dict[str, Any]
"""An int32 or float within a slot, `Wide` over slots, and a 64-bit NumPy array on the host"""

MAX_USERS = 2**24
"""The largest number of users that float32 tells apart; their numbers accompany the values of metrics"""


def zero_task_sums(metrics: Metrics, num_servers: int, dtype: Any) -> Sums:
    """The sums over the tasks of a slot, before its first task."""
    return {m.name: _zero(m, num_servers, dtype) for m in metrics if m.is_summed_in_slots and m.of_task}


def zero_slot_sums(metrics: Metrics, num_servers: int, dtype: Any) -> Sums:
    """The sums over the slots of an episode, before its first slot."""
    return {m.name: Wide.zero(_zero(m, num_servers, dtype)) for m in metrics if m.is_sum}


def add_task(metrics: Metrics, sums: Sums, here: Bool[Array, ""], task: TaskOutcome) -> Sums:
    """Add a task to the sums of its slot, if `here`."""

    def add(metric: Metric) -> Array:
        value = value_of(metric, task)
        if value.dtype == bool:
            return sums[metric.name] + (here & value)
        return sums[metric.name] + jnp.where(here, value, 0)

    by_name = {metric.name: metric for metric in metrics}
    return {name: add(by_name[name]) for name in sums}


def values_of_slot(metrics: Metrics, slot: SlotOutcome) -> Sums:
    """The values of the metrics with `of_slot` in one slot."""
    values = {m.name: value_of(m, slot) for m in metrics if m.is_summed_in_slots and m.of_slot}
    return {name: x.astype(jnp.int32) if x.dtype == bool else x for name, x in values.items()}


def add_slot(sums: Sums, slot: Sums) -> Sums:
    """Add a slot to the sums over slots."""
    return {name: total.add(slot[name]) for name, total in sums.items()}


def sums_per_slot(metrics: Metrics, slot: Sums) -> Sums:
    """Those sums of a slot that are reported for each slot."""
    return {m.name: slot[m.name] for m in metrics if m.is_over_slots}


def values_per_task(metrics: Metrics, here: Bool[Array, ""], task: TaskOutcome) -> dict[str, Array]:
    """The values of which the host takes quantiles, by the name of the metric; inf if no task counts.

    For quantiles over users, `[2]`: the value and the user's number, see `MAX_USERS`.
    """

    def counts(metric: Metric) -> Array:
        return here if metric.over is None else here & (value_of(metric.over, task) > 0)

    def value(metric: Metric) -> Array:
        own = value_of(metric, task)
        return jnp.stack([own, task.user.astype(own.dtype)]) if metric.is_of_users else own

    chosen = (m for m in metrics if m.is_list and not m.is_over_slots)
    return {m.name: jnp.where(counts(m), value(m), jnp.inf) for m in chosen}


def value_of(metric: Metric, outcome: TaskOutcome | SlotOutcome) -> Array:
    """Evaluate a metric: a boolean, an int32, or a float of the simulation's precision.

    Raises:
      InputError: the result is not one number, or one per server, or has the wrong type.
    """
    dtype, rate = outcome.params.capacity.dtype, metric.reduction is Reduction.RATE
    shape = outcome.params.capacity.shape if metric.per_server else ()
    given = metric.function(outcome)
    try:
        value = jnp.asarray(given)
    except (TypeError, ValueError):
        kind = type(given).__name__
        raise InputError(f"metrics: {metric.name} gives a {kind}; legal: a number") from None
    if value.shape != shape:
        legal = "one number for each server" if metric.per_server else "one number, or per_server = True"
        raise InputError(f"metrics: {metric.name} gives shape {list(value.shape)}; legal: {legal}")
    if not metric.whole:
        return value.astype(dtype)
    if jnp.issubdtype(value.dtype, jnp.floating) or (rate and value.dtype != bool):
        legal = "booleans" if rate else "whole numbers or booleans"
        raise InputError(f"metrics: {metric.name} gives {value.dtype}; legal: {legal}")
    return value if value.dtype == bool else value.astype(jnp.int32)


def _zero(metric: Metric, num_servers: int, dtype: Any) -> Array:
    return jnp.zeros((num_servers,) if metric.per_server else (), jnp.int32 if metric.whole else dtype)
