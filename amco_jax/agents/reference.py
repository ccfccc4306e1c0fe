"""The policies of what methods are compared with, and which cannot be used without knowing the future."""

from __future__ import annotations

from jaxtyping import Array

from amco_jax.agents.policy import TaskView, per_task
from amco_jax.errors import InputError


def _undecided(view: TaskView) -> Array:
    raise InputError("method: bound is a lower bound and decides nothing; legal: in a sweep")


UNDECIDED = per_task(_undecided)
"""Stands for a policy where there is none"""
