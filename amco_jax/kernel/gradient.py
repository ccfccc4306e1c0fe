"""Exact gradients of what an episode sums up, by reverse-mode differentiation of `rollout`.

The sets of servers are held fixed: a gradient is that of one sample path, with the decisions that it takes.
Hence an episode is played first, and then differentiated with the sets that it has selected, so that nothing
of the policy is in the program that is differentiated. docs/gradients.md says where this is the derivative
of the mean, and where it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import TaskView, per_slot
from amco_jax.env import Background, Decision, Physics
from amco_jax.errors import InputError, check_choice
from amco_jax.kernel import Episode, Record, keep_nothing, rollout
from amco_jax.kernel.slot import ways_to_scalarise
from amco_jax.metrics import MAKESPAN, NUM_TASKS, Metric, Metrics
from amco_jax.params import Params, Shape
from amco_jax.random import Key
from amco_jax.workload import Workload

PRICES = ("none", "summed", "by_slot")
"""Which shadow prices to compute: none, their sums over the slots, or those of each slot"""


class Gradient(NamedTuple):
    """The sum of a metric over one episode, and its derivatives."""

    total: Float[Array, ""]
    """The sum of the metric over the episode"""
    weight: Array
    """What a mean of the metric is taken over, such as the number of tasks"""
    params: Params
    """The derivative in each leaf, in the unit of the metric per unit of the leaf; None for whole numbers"""
    work: Any
    """`[(t,) b, n, i]`: shadow prices of work, per Gcycle on server i right after the decision at position n
    of base station b; None unless asked for"""
    delay: Any
    """`[(t,) b, n]`: shadow prices of delay, per second on the link of base station b right after it"""


def gradient(
    shape: Shape,
    params: Params,
    physics: Physics,
    *,
    method: Method,
    workload: Callable[[Params], Workload],
    key: Key,
    metric: Metric = MAKESPAN,
    prices: str = "none",
) -> Gradient:
    """Differentiate the sum of a metric over one episode; a pure, traceable function without a batch axis.

    The slots are checkpointed, so memory is that of one slot, of the queues between slots, and of the sets.

    Args:
      shape: static sizes.
      params: the traced part of the scenario, whose floating-point leaves are differentiated.
      physics: a row of the physics table.
      method: a method without training, static.
      workload: makes the arriving tasks from the params, on which sizes and densities depend.
      key: random key of the policy.
      metric: a metric of tasks or slots with one sum of real numbers, static.
      prices: one of `PRICES`, static.

    Raises:
      InputError: the method is trained, the metric has no such sum, or tasks are split into whole images.
    """
    check_choice("prices", prices, PRICES)
    check_differentiable(method, metric)
    if params.service is not None and params.service.whole:
        raise InputError("service: split = whole; legal for gradients: fluid")
    counted = metric.over or NUM_TASKS
    play = partial(rollout, shape, physics=physics, key=key)
    sets = play(params, workload=workload(params), method=method, metrics=(), record=_set_of).decisions
    real, whole = _split(params)

    def total(real: Params, background: Background | None) -> tuple[Array, Array]:
        given = _merged(real, whole)
        if prices == "summed":
            background = jax.tree.map(lambda x: jnp.broadcast_to(x, (shape.num_slots, *x.shape)), background)
        totals = play(
            given, workload=workload(given), method=_repeated(method, sets), metrics=(metric, counted),
            background=background, checkpointed=True,
        ).totals  # fmt: skip
        dtype = given.capacity.dtype
        return totals[metric.name].rounded(dtype), totals[counted.name].rounded(dtype)

    none = None if prices == "none" else _no_load(shape, prices == "by_slot", params.capacity.dtype)
    (value, weight), (of_params, of_load) = jax.value_and_grad(total, (0, 1), has_aux=True)(real, none)
    return Gradient(value, weight, of_params, *(of_load or (None, None)))


def with_prices(
    shape: Shape,
    params: Params,
    physics: Physics,
    *,
    method: Method,
    workload: Workload,
    key: Key,
    agent: Any = None,
    record: Record = keep_nothing,
    metrics: Metrics = (),
) -> tuple[Episode, Background]:
    """Play an episode, and find the shadow prices along it: the derivatives of its summed makespan.

    Where a service splits tasks into whole images, the numbers of images are held fixed along the path, like
    the sets: prices are those of waits alone.

    Args:
      agent, record, metrics: as of `rollout`.

    Returns:
      The episode, whose totals contain `MAKESPAN`, and the prices of background load after each decision.
    """
    play = partial(rollout, shape, params, physics, workload=workload, key=key)
    metrics = tuple(dict.fromkeys((*metrics, MAKESPAN)))

    def both(decision: Decision, view: TaskView) -> tuple[Array, Any]:
        return _set_of(decision, view), record(decision, view)

    way = ways_to_scalarise(shape.num_servers)[-1]
    out = play(method=method, agent=agent, record=both, metrics=metrics, scalarise=way)
    sets, kept = out.decisions

    def total(background: Background) -> Array:
        totals = play(
            method=_repeated(method, sets), metrics=(MAKESPAN,), background=background, checkpointed=True
        ).totals
        return totals[MAKESPAN.name].rounded(params.capacity.dtype)

    prices = jax.grad(total)(_no_load(shape, by_slot=True, dtype=params.capacity.dtype))
    return dataclasses.replace(out, decisions=kept), prices


def check_differentiable(method: Method, metric: Metric) -> None:
    """Raise InputError unless the sums of the metric have gradients with the method."""
    method.check_rule("for gradients")
    if not metric.is_sum or metric.whole or metric.per_server:
        raise InputError(
            f"metric: {metric.name}; legal for gradients: one sum of real numbers, such as {MAKESPAN.name}"
        )


def _set_of(decision: Decision, view: TaskView) -> Array:
    return decision.selected


def _repeated(method: Method, sets: Array) -> Method:
    """A method that selects the sets of an episode again, which are then not differentiated."""
    return Method(method.name, per_slot(lambda view: sets[view.t]), method.allocator)


def _split(params: Params) -> tuple[Params, Params]:
    """The floating-point leaves and the others, with None in place of those of the other kind."""

    def only(real: bool) -> Params:
        return jax.tree.map(
            lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) == real else None, params
        )

    return only(True), only(False)


def _merged(real: Params, whole: Params) -> Params:
    return jax.tree.map(lambda a, b: b if a is None else a, real, whole, is_leaf=lambda leaf: leaf is None)


def _no_load(shape: Shape, by_slot: bool, dtype: Any) -> Background:
    """Background load of 0 at each position, in which prices are derivatives."""
    positions = (shape.num_slots,) * by_slot + (shape.num_servers, shape.max_tasks)
    return Background(jnp.zeros((*positions, shape.num_servers), dtype), jnp.zeros(positions, dtype))
