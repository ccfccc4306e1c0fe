"""Workload allocation, stage 2 of a decision: how a task's work is split over the selected servers.

An allocator is a pure function `allocate(wait, cost, selected) -> fraction` of `[num_servers]` arrays, and
is independent of the environment. All three are closed forms, differentiable in wait and cost, with finite
gradients even where a fraction is clipped or a server is masked out.
"""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from amco_jax.alloc.cwa import cwa
from amco_jax.alloc.hecwa import hecwa
from amco_jax.alloc.priced import priced_support
from amco_jax.alloc.waterfill import waterfill, waterfill_support

Allocator = Callable[[Array, Array, Array], Array]
"""`(wait, cost, selected) -> fraction`, each of shape `[num_servers]`; times in s."""

ALLOCATORS: dict[str, Allocator] = {"cwa": cwa, "hecwa": hecwa, "waterfill": waterfill}

__all__ = ["ALLOCATORS", "Allocator", "cwa", "hecwa", "priced_support", "waterfill", "waterfill_support"]
