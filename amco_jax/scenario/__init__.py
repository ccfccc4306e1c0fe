"""Scenarios: what is simulated."""

from amco_jax.scenario.fields import (
    ARRIVALS,
    Scenario,
    check_fields,
    largest_time_scale,
)

__all__ = [
    "ARRIVALS",
    "Scenario",
    "check_fields",
    "largest_time_scale",
]
