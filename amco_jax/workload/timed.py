"""The times at which tasks arrive within their slot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amco_jax.env import Task
from amco_jax.params import Params
from amco_jax.random import Key, fold_in, uniform
from amco_jax.workload.process import TimedWorkload, expected_after


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Timed:
    """A workload whose tasks have times within their slot: of their arrival, or that sort a random order.

    With continuous timing, a workload with a method `times`, such as that of a request log, provides them.
    Otherwise they are uniform and independent, which is the distribution of Poisson arrivals given their
    number, and makes all orders equally likely.
    """

    workload: Any
    draws: Key
    timing: str = dataclasses.field(metadata={"static": True})
    """That of the scenario, one of `TIMINGS`"""
    max_tasks: int = dataclasses.field(metadata={"static": True})

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[[Any], Task]]:
        """The positions of base station `b` in slot `t`."""
        return self.workload.row(params, t, b)

    def num_positions(self, params: Params) -> Any:
        """The number of positions that may hold a task."""
        return self.workload.num_positions(params)

    def expected_after(self, params: Params, passed: Array, mean: Array, known: bool) -> Array:
        """The expectation of the workload."""
        return expected_after(self.workload, params, passed, mean, known=known)

    def times(self, params: Params, t: Array, b: Array) -> Float[Array, " max_tasks"]:
        """The time at each position, as a share of the slot in [0, 1)."""
        if self.timing == "continuous" and isinstance(self.workload, TimedWorkload):
            return self.workload.times(params, t, b)
        draws = fold_in(fold_in(self.draws, t), b)
        return uniform(draws, jnp.arange(self.max_tasks), params.slot_duration.dtype)
