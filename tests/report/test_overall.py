"""Aggregates over the scenarios of a report: against rliable's statistics and numbers by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers.drawn_studies import study_of

from amco_jax.metrics import Column, Shown
from amco_jax.report.overall import overall_of
from amco_jax.report.studies import SavedStudy
from amco_jax.stats import aggregate_interval, interquartile_mean


def drawn() -> dict[tuple[float, str], list[float]]:
    rng = np.random.default_rng(5)
    scale = {"randcoedge": 1.0, "good": 0.5, "bad": 2.0}
    return {(v, m): list(s * rng.uniform(0.9, 1.1, 8)) for v in (1, 2, 3) for m, s in scale.items()}


def costs_of(makespans: dict[tuple[float, str], list[float]], method: str) -> np.ndarray:
    """`[seeds, values]`."""
    return np.stack([np.divide(makespans[v, method], makespans[v, "randcoedge"]) for v in (1, 2, 3)], axis=1)


def test_costs_are_ratios_on_the_same_seed_and_aggregates_those_of_the_statistics():
    makespans = drawn()
    (overall,) = overall_of([study_of(makespans)])  # the miss rate is 0, and has no ratios
    assert (overall.reference, overall.num_scenarios, overall.studies) == ("randcoedge", 3, ("study",))
    assert list(overall.methods["method"]) == ["good", "bad"]
    for row in overall.methods.to_dict("records"):
        cost = costs_of(makespans, row["method"])
        rng = np.random.default_rng(0)
        expected = aggregate_interval(interquartile_mean, cost, rng=rng, resamples=1000)
        found = [row[name] for name in ("iqm", "iqm_low", "iqm_high")]
        np.testing.assert_allclose(found, [float(bound) for bound in expected])
        assert row["p"] == np.mean(cost < 1)
        profile = overall.profiles.loc[overall.profiles["method"] == row["method"]]
        assert np.ptp(np.diff(np.log(profile["level"]))) == pytest.approx(0)
        for level, share in zip(profile["level"], profile["share"], strict=True):
            assert share == pytest.approx(float(np.mean(cost <= level)))
        assert (profile["share_low"] <= profile["share"]).all()
        assert (profile["share"] <= profile["share_high"]).all()


def test_all_methods_are_measured_on_the_seeds_that_each_has_in_every_scenario():
    makespans = drawn()
    makespans[2, "good"] = makespans[2, "good"][:5]
    (overall,) = overall_of([study_of(makespans)])
    kept = {key: values[:5] for key, values in makespans.items()}
    for row in overall.methods.to_dict("records"):
        assert row["n_seeds"] == 5
        assert row["iqm"] == pytest.approx(float(interquartile_mean(costs_of(kept, row["method"]))))


@pytest.mark.parametrize(
    ("many", "words"),
    [
        ([0.91, 0.81, 0.86], "0.010 [0.010, 0.010] higher."),
        ([0.95, 0.75, 0.90], "not clearly different (0.025 [−0.050, 0.050])."),
    ],
)
def test_the_best_is_so_on_common_seeds(many: list[float], words: str):
    """`many` has further seeds, on which everything is easier, so that its mean over all of them is lower."""
    makespans = {
        (v, m): list(x)
        for v in (1, 2)
        for m, x in (("many", many + [0.5] * 20), ("few", [0.9, 0.8, 0.85]), ("local", [1.0] * 23))
    }
    (overall,) = overall_of([study_of(makespans)], ["local"])
    assert list(overall.methods["method"]) == ["few", "many"]
    assert "is best with few: " in overall.answer
    assert overall.answer.endswith(f"The interquartile mean with many, the next best, is {words}")


@pytest.mark.parametrize("method", ["good", "randcoedge"])
def test_a_seed_without_a_mean_counts_as_little(method: str):
    makespans = drawn()
    makespans[2, method][5] = np.nan
    (overall,) = overall_of([study_of(makespans)])
    rows = overall.methods.set_index("method")
    assert rows.loc["good", "n_seeds"] == 7
    assert rows.loc["bad", "n_seeds"] == 7
    kept = {key: [*values[:5], *values[6:]] for key, values in makespans.items()}
    assert rows.loc["good", "iqm"] == pytest.approx(float(interquartile_mean(costs_of(kept, "good"))))
    assert "left out" not in overall.answer


def test_a_method_without_a_seed_in_every_scenario_is_left_out_and_named():
    makespans = drawn()
    makespans[2, "bad"] = [np.nan] * 8
    (overall,) = overall_of([study_of(makespans)])
    assert list(overall.methods["method"]) == ["good"]
    assert overall.answer.endswith(
        "The table leaves out bad, as no seed has a value with it and with the reference in every scenario."
    )


def test_a_cost_of_zero_over_zero_is_none_at_all():
    makespans = drawn()
    for method in ("good", "randcoedge"):
        makespans[2, method][5] = 0.0
    assert overall_of([study_of(makespans)]) == []


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        (
            {"good": 0.5, "same": 0.5, "bad": 2},
            "Relative to local, the mean makespan per task is best with good and same: the interquartile "
            "mean of the cost is 0.500 [0.500, 0.500], and the probability of being better on the same seed "
            "is 1.000 [1.000, 1.000].",
        ),
        (
            {"planner": 0.5, "good": 0.9, "bad": 2},
            "Relative to local, the mean makespan per task is best with good: the interquartile mean of the "
            "cost is 0.900 ",
        ),
        (
            {"worse": 1.5, "bad": 2},
            "No method has a clearly better mean makespan per task than local, the reference. The best of "
            "the others is worse: the interquartile mean of the cost is 1.500 ",
        ),
        (
            {"same": 1, "too": 1, "bad": 2},
            "No method has a clearly better mean makespan per task than local, the reference, which is "
            "equalled by same and too: the interquartile mean of the cost is 1.000 [1.000, 1.000], and",
        ),
        ({"planner": 0.5}, "There is no method to compare with local."),
    ],
)
def test_the_best_are_better_than_the_reference_and_no_references(scales: dict[str, float], words: str):
    own = np.random.default_rng(5).uniform(0.9, 1.1, 8)
    makespans = {(v, m): list(x * own) for v in (1, 2) for m, x in ({"local": 1.0} | scales).items()}
    (overall,) = overall_of([study_of(makespans)], ["local"])
    assert overall.answer.startswith(words)


def test_a_single_seed_makes_no_method_better():
    makespans = {(v, m): [x] for v in (1, 2) for m, x in (("randcoedge", 1.0), ("good", 0.5))}
    (overall,) = overall_of([study_of(makespans)])
    assert overall.answer == (
        "With fewer than two seeds there are no intervals, so that no method has a clearly better mean "
        "makespan per task than randcoedge, the reference. The best of the others is good: the interquartile "
        "mean of the cost is 0.500, and the probability of being better on the same seed is 1.000."
    )


def test_runs_with_the_same_methods_are_one_and_others_apart():
    makespans = drawn()
    first, second = (dataclasses.replace(study_of(makespans), name=name) for name in ("a", "b"))
    other = study_of({key: x for key, x in makespans.items() if key[1] != "bad"})
    published = study_of(makespans, physics="published")
    found = overall_of([first, second, other, published])
    assert [(o.studies, o.num_scenarios) for o in found] == [
        (("a", "b"), 6),
        (("study",), 3),
        (("study",), 3),
    ]
    alone = found[2].methods.set_index("method")["iqm"]
    both = found[0].methods.set_index("method")["iqm"]
    np.testing.assert_allclose(np.asarray(alone), np.asarray(both))  # the same scenarios twice


def test_costs_turn_round_where_higher_is_better():
    rows = [(v, m, s, 10, g) for v in (1, 2) for m, g in (("a", 4.0), ("local", 2.0)) for s in range(3)]
    results = pd.DataFrame(rows, columns=["condition", "method", "seed", "num_tasks", "gain"])
    gain = Column(name="gain", label="gain", better="higher", bounds=(0, 9), shown=Shown.EVERYWHERE)
    (overall,) = overall_of(
        [SavedStudy("s", "sweep", {"physics": "unified"}, "x", (gain,), results)], ["local"]
    )
    assert overall.methods[["iqm", "p"]].to_numpy().tolist() == [[0.5, 1.0]]


def test_there_are_none_of_one_scenario_of_stretches_or_of_trainings():
    makespans = drawn()
    assert overall_of([study_of({key: x for key, x in makespans.items() if key[0] == 1})]) == []
    assert overall_of([study_of(makespans, "compare", label="physics")]) == []
    study = study_of(makespans)
    stretches = study.results.assign(stretch=study.results["seed"] % 4)
    assert overall_of([dataclasses.replace(study, results=stretches)]) == []
