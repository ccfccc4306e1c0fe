"""Scenarios: what is simulated."""

from amco_jax.scenario.fields import (
    Scenario,
    as_fields,
)

__all__ = [
    "Scenario",
    "as_fields",
]
