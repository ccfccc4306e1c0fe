"""Figures: what is drawn where."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from amco_jax.metrics import MAKESPAN
from amco_jax.report.figures import sweep_figure


@pytest.mark.parametrize(
    ("count", "panels"), [(1, [1]), (6, [6]), (7, [4, 3]), (11, [6, 5]), (13, [5, 4, 4])]
)
def test_no_panel_has_more_curves_than_a_reader_can_tell_apart(count: int, panels: list[int]):
    rows = [
        (f"method-{number}", value, MAKESPAN.name, MAKESPAN.weightings[0], number + value, number, number + 2)
        for number in range(count)
        for value in (1.0, 0.5)
    ]
    summary = pd.DataFrame(
        rows, columns=["method", "value", "metric", "per", "estimate", "ci_low", "ci_high"]
    )
    figure = sweep_figure(summary, MAKESPAN, "load")
    grey = "#bbbbbb"
    curves = [[to_hex(line.get_color()) for line in axes.lines] for axes in figure.axes]
    assert [sum(colour != grey for colour in of) for of in curves] == panels
    assert all(len(of) == count for of in curves)  # the others are behind
    assert all(
        np.asarray(line.get_xdata()).tolist() == [0.5, 1.0] for axes in figure.axes for line in axes.lines
    )
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    if count > 1:
        coloured = [
            line.get_label() for axes in figure.axes for line in axes.lines if line.get_marker() != "None"
        ]
        assert coloured == [f"method-{number}" for number in range(count)]
