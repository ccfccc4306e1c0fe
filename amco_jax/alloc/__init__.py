"""Workload allocation, stage 2 of a decision: how a task's work is split over the selected servers.

An allocator is a pure function `allocate(wait, cost, selected) -> fraction` of `[num_servers]` arrays, and
is independent of the environment. All three are closed forms, differentiable in wait and cost, with finite
gradients even where a fraction is clipped or a server is masked out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from amco_jax.alloc.cwa import cwa
from amco_jax.alloc.hecwa import hecwa
from amco_jax.alloc.priced import priced_support
from amco_jax.alloc.waterfill import waterfill, waterfill_support
from amco_jax.compile.runtime import own_numerics
from amco_jax.errors import InputError
from amco_jax.identity import name_of

Allocator = Callable[[Array, Array, Array], Array]
"""`(wait, cost, selected) -> fraction`, each of shape `[num_servers]`; times in s."""

ALLOCATORS: dict[str, Allocator] = {"cwa": cwa, "hecwa": hecwa, "waterfill": waterfill}

_TRIED, _ROUNDING = 64, 1e-3
"""Tasks that an allocator of the user is tried on, and by how much its fractions may be off"""


@functools.lru_cache(64)
@own_numerics()
def check_allocator(allocator: Allocator, num_servers: int) -> None:
    """Try an allocator of the user on random waits and costs in s, and sets, one of them empty and one full.

    Raises:
      InputError: it does not return `[num_servers]`, or fractions are negative or not finite, do not sum to 1
        over the set, or are not 0 outside it.
    """
    if allocator in ALLOCATORS.values():
        return
    draw = np.random.default_rng(0)
    wait, cost = draw.uniform(0.01, 1, (2, _TRIED, num_servers)).astype(np.float32)
    selected = draw.random((_TRIED, num_servers)) < draw.random((_TRIED, 1))
    selected[0], selected[1] = False, True
    found = jax.jit(jax.vmap(allocator))(wait, cost, selected)
    shape = list(found.shape[1:]) if isinstance(found, jax.Array) else type(found).__name__
    if shape != [num_servers]:
        raise InputError(f"allocator: {name_of(allocator)} returns {shape}; legal: an array [{num_servers}]")
    fraction = np.asarray(found)
    legal = np.all((fraction >= -_ROUNDING) & (selected | (fraction == 0)), axis=1)
    wrong = ~legal | ~(np.abs(fraction.sum(axis=1) - selected.any(axis=1)) <= _ROUNDING)
    if np.any(wrong):
        first = int(np.argmax(wrong))
        servers, given = np.flatnonzero(selected[first]).tolist(), fraction[first].round(4).tolist()
        raise InputError(
            f"allocator: {name_of(allocator)} gives the set {servers} the fractions {given}; legal: "
            "fractions of at least 0 that sum to 1 over the set, and 0 outside it"
        )


__all__ = [
    "ALLOCATORS",
    "Allocator",
    "check_allocator",
    "cwa",
    "hecwa",
    "priced_support",
    "waterfill",
    "waterfill_support",
]
