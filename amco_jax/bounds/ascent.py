"""The multipliers of the bound, by ascent on the dual function; any multipliers give a valid bound."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from amco_jax.bounds.relaxation import Multipliers, SlotTasks, dual, first_multipliers

STEPS = 100
"""Steps of the ascent; docs/bounds.md shows what more of them would gain"""
_RATE, _HALVED = 0.1, 10
"""The first step in units of the time in which the fleet can serve the slot, and the step at which it is
half of that"""
_MEAN, _SQUARE, _ROUGHNESS = 0.9, 0.99, 1e-3
"""Decay of the averages of supergradients and their squares, and what is added to the roots of the latter"""
_KEPT = 0.3
"""The last part of the ascent, whose mean is better than its end"""
_GRID = 1
"""The grid of the ascent, which is coarser than that of the bound"""


class _State(NamedTuple):
    multipliers: Multipliers
    mean: Multipliers
    square: Multipliers
    kept: tuple[Multipliers, Float[Array, "tasks num_servers"]]
    """Sums of the multipliers and fractions that are kept"""


def ascend(
    slot: SlotTasks, most: int, num_steps: int = STEPS
) -> tuple[Multipliers, Float[Array, "tasks num_servers"]]:
    """Multipliers near those of the best bound, and fractions near those of the relaxation.

    The ascent is by Adam, and the results are means over its last part.

    Args:
      most: see `dual`.

    Source: Held and Karp, "The traveling-salesman problem and minimum spanning trees: part II" (1971) for the
    ascent on a dual function; Kingma and Ba, "Adam" (2015).
    """
    clear = 1 / jnp.sum(1 / jnp.maximum(jnp.sum(slot.load, axis=0), 1e-6))
    # Seconds per task, but for the multipliers of times, which have no unit.
    scale = Multipliers(clear, clear, clear / slot.deadline)
    skipped = num_steps - max(round(_KEPT * num_steps), 1)

    def step(state: _State, number: Array) -> tuple[_State, None]:
        _, gradient, fraction = dual(slot, state.multipliers, _GRID, most)
        mean = jax.tree.map(lambda old, new: _MEAN * old + (1 - _MEAN) * new, state.mean, gradient)
        square = jax.tree.map(lambda old, new: _SQUARE * old + (1 - _SQUARE) * new**2, state.square, gradient)
        rate = _RATE / (1 + number / _HALVED) / (1 - _MEAN ** (number + 1))

        def moved(old: Array, mean: Array, square: Array, scale: Array) -> Array:
            root = jnp.sqrt(square / (1 - _SQUARE ** (number + 1)))
            return old + rate * scale * mean / (root + _ROUGHNESS)

        multipliers = jax.tree.map(moved, state.multipliers, mean, square, scale)
        multipliers = multipliers._replace(time=jnp.maximum(multipliers.time, 0))
        add = jnp.where(number >= skipped, 1 / (num_steps - skipped), 0)
        kept = jax.tree.map(lambda old, new: old + add * new, state.kept, (multipliers, fraction))
        return _State(multipliers, mean, square, kept), None

    first = first_multipliers(slot)
    none = jax.tree.map(jnp.zeros_like, first)
    start = _State(first, none, none, (none, jnp.zeros_like(slot.load)))
    end, _ = lax.scan(step, start, jnp.arange(num_steps, dtype=slot.load.dtype))
    return end.kept
