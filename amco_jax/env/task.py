"""A task, as one decision sees it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Bool, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """The content of a task position; size and work are positive even if no task is present."""

    present: Bool[Array, ""]
    size: Float[Array, ""]
    """d, Mbit"""
    work: Float[Array, ""]
    """w, Gcycles"""
    user: Any = None
    """The number of its user, int32; None where tasks have no users"""
