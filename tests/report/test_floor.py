"""A lower bound in reports: a floor and a distance, and never a method."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from helpers.drawn_studies import study_of

from amco_jax.metrics import MAKESPAN, MISS_RATE
from amco_jax.report.analysis import above_bound, best_of, comparisons, means
from amco_jax.report.answers import answer_of
from amco_jax.report.figures import sweep_figure
from amco_jax.report.rankings import rankings
from amco_jax.report.studies import SavedStudy
from amco_jax.report.tables import estimate_text, overview_tables

BOUNDS = [0.20, 0.22, 0.24, 0.26]


@pytest.fixture
def study() -> SavedStudy:
    """The optimum is between the bound and `planner`; `local` is 50 % above the bound in each seed."""
    at = {"bound": 1.0, "planner": 1.1, "local": 1.5, "fastest-1": 2.0}
    values = {
        (condition, method): [factor * load * value for value in BOUNDS]
        for condition, load in ((0.5, 1.0), (0.6, 1.2))
        for method, factor in at.items()
    }
    return study_of(values)


def test_the_distance_is_relative_to_the_bound(study: SavedStudy):
    found = above_bound(study, study.first)
    assert list(found) == ["planner", "local", "fastest-1"]
    for interval in found["local"].values():
        assert [float(x) for x in interval] == pytest.approx([0.5, 0.5, 0.5])
    table = overview_tables(study, means(study))["mean makespan per task: above the lower bound [%]"]
    assert [[cell.text for cell in row] for row in table.rows][1] == ["local", "50.0", "50.0"]


def test_the_answer_is_the_best_rule_and_its_distance(study: SavedStudy):
    text = answer_of(study, means(study))
    assert "lowest with local" in text
    assert (
        "The mean makespan per task with local is at most 50.0 % [50.0, 50.0] above what any method could "
        "reach, as no method is below the lower bound."
    ) in text
    assert "lowest with planner" not in text


def test_it_is_neither_ranked_nor_compared(study: SavedStudy):
    table = rankings(study)
    assert table is not None
    assert [(row[1].text, row[2].text) for row in table.rows] == 2 * [("local", "1"), ("fastest-1", "2")]
    compared = comparisons([study], ["local"])
    assert "bound" not in {*compared["method"], *compared["baseline"]}


def test_references_are_never_best():
    estimates = {"bound": 0.1, "planner": 0.2, "local": 0.3, "fastest-1": 0.4}
    rows = {method: {"estimate": x, "ci_low": x, "ci_high": x} for method, x in estimates.items()}
    assert best_of(MAKESPAN, estimates, rows) == ["local"]
    assert best_of(MAKESPAN, {method: estimates[method] for method in ("bound", "planner")}, rows) == []


def test_figures_fill_the_area_below_it(study: SavedStudy):
    rows = means(study).rename(columns={"condition": "value"})
    (axes,) = sweep_figure(rows, study.first, "deadline [s]").axes
    floor = axes.collections[0].get_paths()[0].get_extents()
    assert (floor.ymin, floor.ymax) == pytest.approx((0, 1.2 * sum(BOUNDS) / 4))
    assert "bound" not in [line.get_label() for line in axes.lines]
    (plain,) = sweep_figure(rows.loc[rows["method"] != "bound"], study.first, "deadline [s]").axes
    assert len(plain.collections) == len(axes.collections) - 1


@pytest.mark.parametrize(
    ("values", "bound", "expected"),
    [
        ([0.3, 0.6, 0.9], [0, 0, 0.04], (0.3, 0.9)),
        (["a", "b", "c"], [0, 0, 0.04], (1.6, 2.4)),
        (["a", "b", "c"], [0, 0.04, 0], (0.6, 1.4)),
        ([0.6], [0.04], (0.6, 0.6)),
        ([0.6], [0], None),
    ],
)
def test_a_bound_of_zero_keeps_its_place(values: list[Any], bound: list[float], expected: Any):
    rows = pd.DataFrame(
        [(method, v, MISS_RATE.name, "task", x, x, x)
         for method, of in (("local", [0.5] * len(bound)), ("bound", bound))
         for v, x in zip(values, of, strict=True)],
        columns=["method", "value", "metric", "per", "estimate", "ci_low", "ci_high"],
    )  # fmt: skip
    (axes,) = sweep_figure(rows, MISS_RATE, "load").axes
    grey = [each for each in (*axes.collections, *axes.patches) if each.get_label() == "lower bound"]
    bars = [bar for each in axes.containers if each.get_label() == "lower bound" for bar in each]
    areas = [each.get_window_extent().transformed(axes.transData.inverted()) for each in grey + bars]
    areas = [area for area in areas if area.height > 1e-9]
    if expected is None:
        assert not areas
        return
    (area,) = areas
    assert (area.y0, area.y1) == pytest.approx((0, 0.04))
    if len(values) > 1:
        assert (area.x0, area.x1) == pytest.approx(expected)
    else:  # the axis still shows the surroundings of the value alone
        assert axes.get_xlim() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("tasks", "text"), [(40, "–"), (0, "no tasks")])
def test_a_dash_stands_for_what_does_not_exist_and_words_for_no_tasks(tasks: int, text: str):
    none = dict.fromkeys(("estimate", "ci_low", "ci_high"), float("nan"))
    assert estimate_text(pd.Series(none), {"n_tasks": tasks}) == text


def test_a_study_of_the_bound_alone_has_an_answer():
    alone = study_of({(0.5, "bound"): BOUNDS, (0.6, "bound"): BOUNDS})
    assert "the mean makespan per task with bound is 0.2300 " in answer_of(alone, means(alone))
    sweep_figure(means(alone).rename(columns={"condition": "value"}), alone.first, "deadline [s]")
