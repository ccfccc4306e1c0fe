"""Warnings that need no rows; those from rows are tested with the studies that have them."""

from __future__ import annotations

import pandas as pd
import pytest

from amco_jax.agents.methods import METHODS
from amco_jax.scenario import Scenario
from amco_jax.study.diagnostics import Diagnostics
from amco_jax.study.grid import Cell
from amco_jax.study.units import Unit


@pytest.mark.parametrize(
    ("method", "timing", "warned"),
    [("amco-priced", "continuous", 1), ("amco-priced", "slotted", 0), ("optimal", "continuous", 0)],
)
def test_prices_are_known_to_vanish_with_continuous_timing(method: str, timing: str, warned: int):
    cell = Cell(scenario=Scenario(timing=timing), method=METHODS[method], train_episodes=0, num_seeds=1)
    diagnostics = Diagnostics()
    for _ in range(2):
        diagnostics.observe(Unit("0", (cell,)), pd.DataFrame())
    warnings = diagnostics.warnings()
    assert len(warnings) == warned
    assert all(warning.startswith(f"{method}: with continuous timing") for warning in warnings)
