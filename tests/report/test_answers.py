"""The answer that a report begins with: its words against numbers by hand, tables, figures, caveats."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.drawn_studies import MANIFEST, study_of

from amco_jax.metrics import METRICS, Column, Shown
from amco_jax.report.analysis import best_of, comparable, comparisons, means, winners_of
from amco_jax.report.answers import _KINDS, answer_of, summary_of
from amco_jax.report.page import make_report, write_report
from amco_jax.report.pictures import leading_figures
from amco_jax.report.studies import KINDS, SavedStudy
from amco_jax.report.tables import bracket, comparison_table, estimate_text, overview_tables
from amco_jax.report.warnings import Caveat, Kind, by_kind

MAKESPAN = METRICS["makespan_mean_s"]
RISING = [0.2, 0.4, 0.6, 0.8]  # of mean 0.5
HALVED, HIGHER = [x / 2 for x in RISING], [1.1 * x for x in RISING]


def swept(**manifest: Any) -> SavedStudy:
    makespans = {
        (0.5, "a"): HALVED, (0.5, "local"): RISING, (0.5, "randcoedge"): HIGHER,
        (1.0, "a"): RISING, (1.0, "local"): RISING, (1.0, "randcoedge"): HALVED,
    }  # fmt: skip
    return study_of(makespans, misses={(0.5, "a"): 0.2, (0.5, "local"): 0.1}, **manifest)


def test_the_answer_of_a_sweep_says_who_is_best_where_and_by_how_much():
    study = swept()
    text = answer_of(study, means(study))
    assert text.startswith("At deadline 0.5 s, the mean makespan per task is lowest with a, 0.2500")
    # Ratios are the same for every seed, so that intervals have no width: 1 - 1/2, and 1 - 1/2.2.
    assert ": 50.0 % [50.0, 50.0] lower than with local, the next best, and 54.5 % [54.5, 54.5]" in text
    assert "lower than with randcoedge, the baseline." in text
    assert "Best over the sweep: a at 0.5; randcoedge at 1.0." in text
    assert "By miss rate per task, another method is best: randcoedge at 0.5." in text


def test_one_winner_at_all_values_is_named_once():
    makespans = {(v, m): x for v in (1, 2, 3) for m, x in (("a", HALVED), ("b", RISING))}
    study = study_of(makespans, label="tasks")
    text = answer_of(study, means(study))
    assert text.startswith("At tasks 2, the mean makespan per task is lowest with a")
    assert "The same method is best at all 3 values." in text
    assert "agree" not in text  # nothing is ever missed, so the miss rate names none
    tied = study_of({(v, m): x for v in (1, 2) for m, x in (("a", HALVED), ("b", HALVED), ("c", RISING))})
    assert "The same methods are best at both values." in answer_of(tied, means(tied))


def test_intervals_that_hold_zero_and_equal_methods_are_no_differences():
    noise = [0.21, 0.38, 0.62, 0.79]
    study = study_of({("", "mine"): RISING, ("", "local"): noise, ("", "same"): RISING}, "evaluate", label="")
    text = answer_of(study, means(study), ["local", "same"])
    assert text.startswith("The mean makespan per task with mine is 0.5000")
    assert "in unseen episodes: not clearly different from that with local (0.0 % [" in text
    assert "and the same as with same." in text


def test_the_answer_of_a_comparison_is_of_its_first_method():
    makespans = {
        (physics, method): values
        for physics, mine in (("published", HALVED), ("unified", HIGHER))
        for method, values in (("amcoedge", mine), ("randcoedge", RISING))
    }
    study = study_of(makespans, "compare", label="physics")
    text = answer_of(study, means(study))
    assert "With published physics, the mean makespan per task with amcoedge is 0.2500" in text
    assert "in the last 5 of 10 episodes of training: 50.0 % [50.0, 50.0] lower than with randcoedge." in text
    assert "10.0 % [10.0, 10.0] higher than with randcoedge." in text


def test_the_answer_of_a_tuning_counts_settings_that_are_as_good():
    makespans = {
        ("", "optimal"): HALVED,
        ("", "discount=0"): RISING,
        ("", "discount=0.5"): [0.81, 0.61, 0.39, 0.2],
        ("", "discount=0.9"): HIGHER,
    }
    study = study_of(makespans, "tune", label="", method="amcoedge", reference="optimal")
    text = answer_of(study, means(study))
    assert text.startswith("Of 3 combinations of settings, discount=0 has the lowest mean makespan per task")
    assert "100.0 % [100.0, 100.0] higher than with the greedy optimum, the reference." in text
    assert "1 of the 2 others is not clearly different from it. As it was chosen on these" in text


def test_the_answer_of_a_training_compares_its_ends():
    curves = pd.DataFrame(
        [("unified", "m", s, e, 10, (2.0 if e < 2 else 1.5) * (1 + s)) for s in range(4) for e in range(10)],
        columns=["condition", "method", "seed", "episode", "num_tasks", "makespan_mean_s"],
    )
    study = SavedStudy("study", "train", MANIFEST, "", (MAKESPAN,), curves, curves)
    text = answer_of(study, means(study))
    assert "over the last 10 of 10 episodes of training." in text
    assert "it is 25.0 % [25.0, 25.0] lower than in the first fifth." in text


@pytest.mark.parametrize(
    ("estimates", "half", "best"),
    [
        ({"a": 0.12341, "b": 0.12342, "c": 0.2, "d": np.nan}, 0.01, ["a", "b"]),
        ({"a": 3.5e-5, "b": 1.2e-6, "c": 0.9e-6}, 4e-6, ["b", "c"]),
        ({"a": 6.94e-6, "b": 7.02e-6}, 2e-8, ["a"]),
        ({"a": 6.94e-6, "b": 7.02e-6}, np.nan, ["a"]),
        ({"a": 149.9181, "b": 149.9184, "c": 150.2}, 0.4, ["a", "b"]),
        ({"a": 0.1, "b": 0.1}, 0.01, []),
        ({}, 0.01, []),
    ],
)
def test_the_best_are_those_that_tables_cannot_tell_apart(
    estimates: dict[str, float], half: float, best: list[str]
):
    rows = {
        method: {"estimate": value, "ci_low": value - half, "ci_high": value + half}
        for method, value in estimates.items()
    }
    assert best_of(MAKESPAN, estimates, rows) == best
    texts = {estimate_text(rows[method]) for method in best}
    assert len(texts) == min(len(best), 1)
    assert not any(estimate_text(row) in texts for method, row in rows.items() if method not in best)
    higher = Column(name="gain", label="gain", better="higher")
    upside_down = {method: -value for method, value in estimates.items()}
    turned = {
        method: {"estimate": -row["estimate"], "ci_low": -row["ci_high"], "ci_high": -row["ci_low"]}
        for method, row in rows.items()
    }
    assert best_of(higher, upside_down, turned) == best
    assert best_of(Column(name="size", label="size"), estimates, rows) == []


def test_methods_with_fewer_seeds_are_judged_on_common_ones():
    """Seeds 0 and 1, which all methods have, are easier than the others."""
    easy = RISING[:2]
    worse = [1.05 * x for x in easy]
    makespans = {("", "local"): RISING, ("", "randcoedge"): HIGHER, ("", "same"): easy, ("", "worse"): worse}
    study = study_of(makespans, label="")
    estimated = means(study)
    np.testing.assert_allclose(
        [*comparable(study, MAKESPAN, estimated)[""].values()], [0.5, 0.55, 0.5, 0.5 + 0.05 * 0.3]
    )
    assert winners_of(study, MAKESPAN, estimated) == {"": ["local", "same"]}
    text = answer_of(study, estimated)
    assert "is lowest with local and same, 0.5000" in text
    assert "4.8 % [4.8, 4.8] lower than with worse, the next best" in text  # 1 - 1 / 1.05
    best = {row[0].text: row[2].best for row in overview_tables(study, estimated)["means"].rows}
    assert best == {"local": True, "randcoedge": False, "same": True, "worse": False}


def test_no_method_is_judged_against_a_bound_or_against_one_without_an_estimate():
    for other in ("bound", "rejects-all"):
        makespans = {("", other): [np.nan] * 4, ("", "a"): RISING[:2], ("", "b"): HIGHER[:2]}
        study = study_of(makespans, label="")
        estimated = means(study)
        found = comparable(study, MAKESPAN, estimated)[""]
        np.testing.assert_allclose([found["a"], found["b"]], [0.3, 0.33])
        assert winners_of(study, MAKESPAN, estimated) == {"": ["a"]}


def test_an_overview_has_a_column_for_each_of_at_most_ten_conditions():
    study = study_of({(v, m): RISING if m == "b" else HALVED for v in range(1, 26) for m in "ab"})
    tables = overview_tables(study, means(study))
    assert list(tables) == ["at deadline [s] = 13", "mean makespan per task [s]", "miss rate per task"]
    first = tables["at deadline [s] = 13"]
    assert list(first.columns) == ["method", "seeds", "mean makespan per task [s]", "miss rate per task"]
    table = tables["mean makespan per task [s]"]
    assert len(table.columns) == 11
    assert (table.columns[1], table.columns[-1]) == ("deadline [s] 1", "25")
    assert [row[0].text for row in table.rows] == ["a", "b"]
    assert all(cell.best for cell in table.rows[0][1:])
    assert not any(cell.best for cell in table.rows[1])
    one = study_of({("", "a"): RISING, ("", "b"): HALVED}, "evaluate", label="")
    (single,) = overview_tables(one, means(one)).values()
    assert [row[2].best for row in single.rows] == [False, True]
    assert "| b | 4 | **0.2500** ± " in single.to_markdown()


def test_few_methods_stand_out_of_many():
    methods = [f"m{k}" for k in range(8)] + ["randcoedge"]
    study = study_of({(v, m): [x * (k + 1) for x in RISING] for v in (1, 2) for k, m in enumerate(methods)})
    found = leading_figures(study, means(study), comparisons([study]))
    assert list(found) == ["leading", "leading-gain"]
    (axes,) = found["leading"][0].axes
    labels = [text.get_text() for text in found["leading"][0].legends[0].get_texts()]
    assert labels == ["others", "m0", "m1", "m2", "m3", "randcoedge"]
    assert len([line for line in axes.lines if line.get_color() == "#BBBBBB"]) == 4
    (gains,) = found["leading-gain"][0].axes
    best = next(line for line in gains.lines if line.get_label() == "m0")
    np.testing.assert_allclose(np.asarray(best.get_ydata()), 100 * (1 - 1 / 9))


def test_caveats_are_grouped_by_kind_and_keep_the_order_of_kinds():
    caveats = [Caveat(Kind.CHANCE, "x"), Caveat(Kind.SEEDS, "y", ("a", "b")), Caveat(Kind.CHANCE, "z")]
    grouped = by_kind(caveats)
    assert list(grouped) == [Kind.SEEDS, Kind.CHANCE]
    assert [str(c) for c in grouped[Kind.SEEDS]] == ["a, b: y"]
    assert [c.text for c in grouped[Kind.CHANCE]] == ["x", "z"]


def test_every_format_begins_with_the_answer(tmp_path: Path):
    study = swept(param="deadline")
    report = make_report([study])
    write_report(report, tmp_path, ["html", "md", "latex", "csv"])
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    answer = report.answer(0)
    assert answer in markdown
    assert answer.replace("%", r"\%") in (tmp_path / "study-answer.tex").read_text().replace(r"$\pm$", "±")
    assert (tmp_path / "study-overview.tex").exists()
    assert (tmp_path / "study-leading.pdf").exists()
    assert page.index('class="answer"') < page.index('class="caveats"') < page.index('class="full"')
    assert markdown.index(answer) < markdown.index("Before you believe") < markdown.index("study in full")
    (overall,) = report.overall
    for text in (page, markdown):
        assert "Mean makespan per task over both scenarios of study" in text
        assert overall.answer in text
    assert (tmp_path / "overall.tex").exists()
    assert (tmp_path / "overall.pdf").exists()
    table = pd.read_csv(tmp_path / "overall.csv")
    np.testing.assert_allclose(table["iqm"], overall.methods["iqm"])
    of_kind = by_kind(report.warnings)
    for heading, caveats in of_kind.items():
        assert f"<summary>{heading} ({len(caveats)})</summary>" in page
        assert f"- **{heading} ({len(caveats)})**" in markdown


def test_without_tasks_the_answer_says_so():
    none = [np.nan] * 4
    for kind in ("sweep", "compare", "evaluate", "tune"):
        study = study_of({("", "optimal"): none, ("", "x=1"): none}, kind, label="", reference="optimal")
        assert answer_of(study, means(study)) == "There are no tasks, and so nothing to compare."
    tuned = study_of({("", "optimal"): RISING, ("", "x=1"): none}, "tune", label="", reference="optimal")
    assert answer_of(tuned, means(tuned)).startswith("There are no tasks")


def test_the_answer_of_one_method_is_its_value():
    study = study_of({(v, "optimal"): RISING for v in (1, 2)})
    text = answer_of(study, means(study))
    assert text.startswith("At deadline 1 s, the mean makespan per task with the greedy optimum is 0.5000 ")


def test_a_single_seed_makes_no_difference_clear():
    makespans = {(v, m): [x * v] for v in (1, 2) for m, x in (("a", 0.5), ("randcoedge", 1.0))}
    study = study_of(makespans, num_seeds=1)
    text = answer_of(study, means(study))
    assert "0.5000 s: not clearly different from that with randcoedge (−50.0 %), the next best." in text
    assert text.endswith("With fewer than two seeds there are no intervals, so that no difference is clear.")
    assert summary_of(study) == "deadline [s], 2 values; seed 0 alone; unified physics."
    tuned = study_of({("", "x=1"): [1.0], ("", "x=2"): [2.0], ("", "x=3"): [3.0]}, "tune", reference="x=3")
    assert "Of 2 combinations of settings, x=1 has" in (text := answer_of(tuned, means(tuned)))
    assert "The other is not clearly different from it." in text


def test_a_summary_says_how_methods_were_trained_and_counts_episodes():
    training = {"settings": {"a": {}, "b": {}}, "num_seeds": 16, "episodes": {"a": 1, "optimal": 1000}}
    summary = summary_of(study_of({(1, "a"): RISING}, training=training))
    assert summary.endswith(
        "unified physics; trained at each value with 16 seeds: a for 1 episode and the greedy optimum for "
        "1,000 episodes."
    )
    evaluated = summary_of(study_of({("", "a"): RISING}, "evaluate", episodes=1))
    assert evaluated.startswith("trained agents on 1 unseen episode;")


@pytest.mark.parametrize("theirs", [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.1]])
def test_a_difference_from_what_may_be_zero_is_absolute(theirs: list[float]):
    study = study_of({("", "a"): RISING, ("", "b"): theirs}, "evaluate", label="")
    assert re.search(r": 0\.[45]\d+ \[.*\] s higher than with b", answer_of(study, means(study), ["b"]))


def test_equal_methods_have_no_best():
    study = study_of({(v, m): RISING for v in (1, 2) for m in ("a", "local")})
    assert "no method has a better mean makespan per task than another" in answer_of(study, means(study))


def test_a_study_of_one_method_beside_others_changes_nothing():
    alone = study_of({("", "a"): RISING}, "evaluate", label="", method="a", trained={"episodes": 5})
    report = make_report([swept(), alone])
    pd.testing.assert_frame_equal(report.compared, comparisons([swept()]))
    assert report.answer(1).startswith("The mean makespan per task with a is 0.5000")
    assert list(report.leading_figures(0)) == ["leading", "leading-gain"]


def test_comparisons_show_small_differences_and_a_dash_for_what_is_unknown():
    study = study_of({("", "a"): RISING, ("", "b"): HALVED, ("", "c"): RISING}, "evaluate", label="")
    price = Column(name="price", label="price", unit="USD", better="lower", shown=Shown.TABLES)
    cost = {"a": 6.94e-6, "b": 7.02e-6, "c": 6.94e-6}
    costs = [
        cost[method] + 1e-9 * seed * (method == "a")
        for method, seed in zip(study.results["method"], study.results["seed"], strict=True)
    ]
    miss_rate = METRICS["miss_rate"].column
    study = dataclasses.replace(
        study, columns=(MAKESPAN, miss_rate, price), results=study.results.assign(price=costs)
    )
    compared = comparisons([study], ["b"])
    (a, c) = comparison_table(study, price, compared).rows
    assert a[5].text == "−0.000000079 [−0.000000081, −0.000000076]"
    assert c[5].text == "−0.00000008 [−0.00000008, −0.00000008]"
    for row in comparison_table(study, miss_rate, compared).rows:
        assert row[4].text == "–"  # nobody misses, so that a reduction has no meaning


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0042, 0.0039, 0.0045), "0.0042 [0.0039, 0.0045]"),
        ((50.0, 50.0 - 1e-14, 50.0 + 1e-14), "50.0 [50.0, 50.0]"),
        ((0.0, 0.0, 0.0), "0.0 [0.0, 0.0]"),
        ((1e-17, -1e-17, 2e-17), "0.0 [0.0, 0.0]"),
        ((-22.94, np.nan, np.nan), "−22.9"),
        ((np.nan, np.nan, np.nan), "–"),
    ],
)
def test_an_interval_has_a_width_in_print_if_it_has_one(numbers: tuple[float, float, float], text: str):
    assert bracket(*numbers, digits=1) == text


def test_metrics_of_tables_take_part_whatever_they_are():
    own = Column(name="gain", label="gain", better="higher", shown=Shown.TABLES)
    study = swept()
    results = study.results.assign(gain=np.where(study.results["method"] == "local", 2.0, 1.0))
    other = SavedStudy("study", "sweep", study.manifest, study.axis_label, (MAKESPAN, own), results)
    text = answer_of(other, means(other))
    assert "By gain, another method is best: local at 0.5; local at 1.0." in text
    first, *others = overview_tables(other, means(other))
    assert others == [f"{first}, also asked for", "mean makespan per task [s]", "gain"]


def test_every_kind_of_study_has_a_question_and_an_answer():
    assert set(_KINDS) == set(KINDS)
