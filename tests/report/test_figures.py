"""Figures: what is drawn where."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers.drawn_studies import study_of
from matplotlib.colors import to_hex

from amco_jax.metrics import LEVELS, MAKESPAN, METRICS, MISS_RATE, REJECT_RATE, Column
from amco_jax.report.analysis import distributions
from amco_jax.report.figures import profile_figure, sweep_figure

_COLUMNS = ["method", "value", "metric", "per", "estimate", "ci_low", "ci_high"]


@pytest.mark.parametrize(
    ("count", "panels"), [(1, [1]), (6, [6]), (7, [4, 3]), (11, [6, 5]), (13, [5, 4, 4])]
)
def test_no_panel_has_more_curves_than_a_reader_can_tell_apart(count: int, panels: list[int]):
    rows = [
        (f"method-{number}", value, MAKESPAN.name, MAKESPAN.weightings[0], number + value, number, number + 2)
        for number in range(count)
        for value in (1.0, 0.5)
    ]
    summary = pd.DataFrame(rows, columns=_COLUMNS)
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


@pytest.mark.parametrize(
    ("column", "labels"), [(MISS_RATE, ["some", "never"]), (REJECT_RATE, ["others", "some"])]
)
def test_a_rate_without_events_has_no_band(column: Column, labels: list[str]):
    rows = [
        (method, value, column.name, "task", rate * value, 0.0, 0.5)
        for method, rate in (("some", 0.4), ("never", 0.0))
        for value in (0.0, 1.0)
    ]
    (axes,) = sweep_figure(pd.DataFrame(rows, columns=_COLUMNS), column, "load").axes
    assert [line.get_label() for line in axes.lines] == labels
    assert len(axes.collections) == 1


def test_a_category_has_the_same_place_for_all_methods():
    rows = [
        (method, value, MAKESPAN.name, "task", 1.0, 0.9, 1.1)
        for method, values in (("all", "abc"), ("two", "ac"))
        for value in values
    ]
    (axes,) = sweep_figure(pd.DataFrame(rows, columns=_COLUMNS), MAKESPAN, "arrivals").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    places = [np.asarray(container[0].get_xdata()).round().tolist() for container in axes.containers]
    assert places == [[0, 1, 2], [0, 2]]


def test_a_distribution_jumps_where_many_values_are_equal():
    """Tasks that miss count as the deadline, below which a line between few percentiles would hide them."""
    column = METRICS["makespan_quantiles_s"]
    study = study_of({(1, "local"): [0.5] * 4, (1, "none"): [0.5] * 4})
    values = np.where(LEVELS > 0.64, 1.0, 0.4 * LEVELS)
    lists = {column.name: np.tile(values, (8, 1))}
    lists[column.name][4:] = np.nan  # without tasks
    results = study.results.assign(num_tasks=1000)
    study = dataclasses.replace(study, columns=(*study.columns, column), results=results, lists=lists)
    found = distributions(study, column, 1)
    assert set(found["method"]) == {"local"}
    below = found.loc[found["value"] < 0.999, "level"].max()
    assert below == pytest.approx(0.64, abs=0.05)  # as far apart as the levels are


def test_profiles_have_a_logarithmic_axis_and_a_short_label():
    profiles = pd.DataFrame(
        {"method": "local", "level": [0.5, 1, 20], "share": [0, 0.5, 1], "share_low": 0, "share_high": 1}
    )
    (axes,) = profile_figure(profiles, "relative to randcoedge", "Response time", ["local"]).axes
    assert (axes.get_xscale(), axes.get_title()) == ("log", "Response time")
