"""Scenarios: what is simulated."""

from amco_jax.scenario.fields import (
    AUTO,
    Scenario,
    as_fields,
    vary,
)

__all__ = [
    "AUTO",
    "Scenario",
    "as_fields",
    "vary",
]
