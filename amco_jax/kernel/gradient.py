"""Exact gradients of what an episode sums up, by reverse-mode differentiation of `rollout`.

The sets of servers are held fixed: a gradient is that of one sample path, with the decisions that it takes.
docs/gradients.md says where this is the derivative of the mean, and where it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import Policy, TaskView
from amco_jax.env import Physics
from amco_jax.errors import InputError, check_choice
from amco_jax.kernel import rollout
from amco_jax.metrics import MAKESPAN, NUM_TASKS, Metric
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

    The slots are checkpointed, so memory is that of one slot and of the queues between all slots.

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
    deciding = Method(method.name, held_fixed(method.policy), method.allocator)
    real, whole = _split(params)

    def total(real: Params, background: tuple[Array, Array] | None) -> tuple[Array, Array]:
        given = _merged(real, whole)
        totals = rollout(
            shape, given, physics, method=deciding, workload=workload(given), key=key,
            metrics=(metric, counted), checkpointed=True,
            probe=None if background is None else Partial(background_load, *background),
        ).totals  # fmt: skip
        dtype = given.capacity.dtype
        return totals[metric.name].rounded(dtype), totals[counted.name].rounded(dtype)

    none = None if prices == "none" else _no_background(shape, prices == "by_slot", params.capacity.dtype)
    (value, weight), (of_params, of_load) = jax.value_and_grad(total, (0, 1), has_aux=True)(real, none)
    return Gradient(value, weight, of_params, *(of_load or (None, None)))


def planned_prices(
    shape: Shape,
    params: Params,
    physics: Physics,
    *,
    method: Method,
    workload: Workload,
    key: Key,
    plan: Any,
) -> tuple[Float[Array, ""], Any]:
    """The summed makespan of an episode under a plan, and the shadow prices along it, in the form of a plan.

    Args:
      method: a method whose policy is `by_position`, static.
      plan: what its agents hold: prices of work and of delay by position.
    """
    fixed = held_fixed(method.policy)
    policy = dataclasses.replace(
        fixed, function=lambda view: fixed.select(dataclasses.replace(view, agent=view.agent[0]))
    )
    deciding = Method(method.name, policy, method.allocator)

    def total(background: Any) -> Array:
        totals = rollout(
            shape, params, physics, method=deciding, workload=workload, key=key, agent=(plan, background),
            metrics=(MAKESPAN,), checkpointed=True, probe=Partial(lambda view: tuple(view.agent[1])),
        ).totals  # fmt: skip
        return totals[MAKESPAN.name].rounded(params.capacity.dtype)

    return jax.value_and_grad(total)(jax.tree.map(jnp.zeros_like, plan))


def background_load(work: Array, delay: Array, view: TaskView) -> tuple[Array, Array]:
    """A probe: background load by position, `[(t,) b, n, i]` in Gcycles and `[(t,) b, n]` in s."""
    place = (jnp.argmax(view.local), view.n)
    place = (view.t, *place) if work.ndim == 4 else place
    return work[place], delay[place]


def check_differentiable(method: Method, metric: Metric) -> None:
    """Raise InputError unless the sums of the metric have gradients with the method."""
    if method.training is not None:
        raise InputError(f"method: {method.name} is trained; legal for gradients: a method without training")
    if not metric.is_sum or metric.whole or metric.per_server:
        raise InputError(
            f"metric: {metric.name}; legal for gradients: one sum of real numbers, such as {MAKESPAN.name}"
        )


def held_fixed(policy: Policy) -> Policy:
    """The policy without derivatives; sets have none, and loops that search for them cannot be reversed."""
    return dataclasses.replace(policy, function=lambda view: policy.select(lax.stop_gradient(view)))


def _split(params: Params) -> tuple[Params, Params]:
    """The floating-point leaves and the others, with None in place of those of the other kind."""

    def only(real: bool) -> Params:
        return jax.tree.map(
            lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) == real else None, params
        )

    return only(True), only(False)


def _merged(real: Params, whole: Params) -> Params:
    return jax.tree.map(lambda a, b: b if a is None else a, real, whole, is_leaf=lambda leaf: leaf is None)


def _no_background(shape: Shape, by_slot: bool, dtype: Any) -> tuple[Array, Array]:
    """Background work and delay of 0 at each position, in which the prices are derivatives."""
    positions = (shape.num_slots,) * by_slot + (shape.num_servers, shape.max_tasks)
    return jnp.zeros((*positions, shape.num_servers), dtype), jnp.zeros(positions, dtype)
