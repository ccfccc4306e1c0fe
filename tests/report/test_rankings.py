"""Rankings of methods by several measures, on results whose order is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from amco_jax.metrics import METRICS
from amco_jax.report.analysis import means as estimates
from amco_jax.report.rankings import rankings, reversal_of
from amco_jax.report.studies import SavedStudy
from amco_jax.report.tables import overview_tables

MEASURES = ("makespan_mean_s", "goodput_per_s", "response_mean_s")


def study(
    means: Mapping[str, tuple[float, float, float]], conditions: int = 1, label: str = "load"
) -> SavedStudy:
    """A study of 12 seeds, whose common deviations cancel in pairs; each method has small ones of its own.

    Args:
      means: makespan, goodput and response time of each method; the last condition reverses responses.
    """
    random = np.random.default_rng(0)
    common, rows = random.normal(0, 1, 12), []
    for condition in range(conditions):
        for method, (makespan, goodput, response) in means.items():
            own = random.normal(0, 1e-3, 12)
            response = -response if condition == 1 else response
            for seed in range(12):
                shift = common[seed] + own[seed]
                values = (20 + makespan + shift, 20 + goodput + shift, 20 + response + shift)
                rows.append((condition / 2, method, seed, 50, 40, *values))
    columns = ["condition", "method", "seed", "num_tasks", "num_accepted", *MEASURES]
    measured = tuple(METRICS[name].column for name in (*MEASURES, "num_tasks", "num_accepted"))
    return SavedStudy("study", "sweep", {}, label, measured, pd.DataFrame(rows, columns=columns))


def texts(of: SavedStudy) -> list[list[str]]:
    table = rankings(of)
    assert table is not None
    return [[cell.text for cell in row] for row in table.rows]


def test_ranks_count_the_methods_that_are_better():
    """Goodput is better when it is higher; b and c differ by less than chance."""
    of = study({"a": (1, 3, 1), "b": (2, 2, 2), "c": (2.0001, 2.0001, 2.0001), "d": (3, 1, 3)})
    assert texts(of) == [
        ["0.0", "a", "1", "1", "1"],
        ["0.0", "b", "2", "2", "2"],
        ["0.0", "c", "2", "2", "2"],
        ["0.0", "d", "4", "4", "4"],
    ]
    table = rankings(of)
    assert table is not None
    assert [cell.text for row in table.rows for cell in row if cell.best] == ["1", "1", "1"]
    assert list(table.columns) == [
        "load", "method", "rank by mean makespan per task", "rank by goodput",
        "rank by mean response time of accepted tasks",
    ]  # fmt: skip


def test_a_sentence_names_the_methods_that_measures_reverse():
    means = {"a": (1, 5, 1), "b": (2, 4, 5), "c": (3, 3, 4), "d": (4, 2, 2)}
    assert reversal_of(study(means, label="")) == (
        "Ranks depend on the measure: b is ahead of d by mean makespan per task and goodput, and behind "
        "by mean response time of accepted tasks."
    )
    assert reversal_of(study({"a": (1, 5, 1), "b": (2, 4, 5)})) == ""


def test_a_method_without_an_estimate_has_no_rank_and_is_not_argued_from():
    """A method that rejects every task has no response time."""
    means = {"a": (1, 5, 1), "b": (2, 4, 2), "rejecting": (3, 3, float("nan"))}
    of = study(means, label="")
    assert [row[2:] for row in texts(of)] == [["1", "1", "1"], ["2", "2", "2"], ["3", "3", "–"]]
    table = rankings(of)
    assert table is not None
    assert [cell.best for cell in table.rows[2][2:]] == [False] * 3
    assert reversal_of(of) == ""
    shown = overview_tables(of, estimates(of))["means"]
    assert [row[-1].text for row in shown.rows][2] == "–"
    nothing = {name: np.nan for name in MEASURES} | {"num_tasks": 0, "num_accepted": 0}
    empty = dataclasses.replace(of, results=of.results.assign(**nothing))
    assert {
        cell.text for row in overview_tables(empty, estimates(empty))["means"].rows for cell in row[2:]
    } == {"no tasks"}
    assert rankings(empty) is None


def test_a_single_seed_gives_no_ranks():
    of = study({"a": (1, 5, 1), "b": (2, 4, 5)})
    assert rankings(dataclasses.replace(of, results=of.results.loc[of.results["seed"] == 0])) is None


def test_one_method_has_no_ranks():
    assert rankings(study({"a": (1, 2, 3)})) is None
