"""Warm-up: left out of every column, found by pilot runs that depend on nothing but the cell, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.studies import carry_out
from helpers.tiny_training import METHOD, TINY, Script

from amco_jax import Execution, InputError, Scenario, Sweep, Training, get_method, run_study
from amco_jax.env import UNIFIED
from amco_jax.stats import ratio_interval
from amco_jax.stats.stationarity import mser_truncation, trend_p_value
from amco_jax.study.compare import Comparison
from amco_jax.study.grid import Cell
from amco_jax.study.pilot import TREND, pilots_of
from amco_jax.study.simulate import block_program, simulate

SMALL = Scenario(num_servers=2, num_tasks=4, num_slots=25, arrival_prob=0.6, capacity=1.0, deadline=9.0)
"""Overloaded by three quarters, so that makespans grow from the first slot on"""
LEARNT = TINY.replace(num_slots=10)
STEADY = SMALL.replace(capacity=5.0, num_slots=20)


def sums_of(
    scenarios: list[Scenario], seeds: int = 20, mean: str = "makespan_mean_s"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sums of makespans, or of another mean over tasks, and numbers of tasks of each seed."""
    batches = simulate(scenarios, get_method("local"), UNIFIED, 0, seeds)
    return [(b.metrics[mean] * b.metrics["num_tasks"], b.metrics["num_tasks"]) for b in batches]


@pytest.fixture(scope="module")
def by_batch() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pilot runs of the overloaded scenario, in batches of five slots: differences between warm-ups.

    First those of makespans, then those of response times.
    """
    scenarios, batches = [SMALL.replace(warmup=w) for w in range(0, 25, 5)], []
    for mean in ("makespan_mean_s", "response_mean_s"):
        found = sums_of(scenarios, mean=mean)
        sums, tasks = (np.array([*part, np.zeros(20)]) for part in zip(*found, strict=True))
        batches.append((-np.diff(sums, axis=0).T, -np.diff(tasks, axis=0).T))
    return batches


def cell(scenario: Scenario, **changes: Any) -> Cell:
    fields: dict[str, Any] = {"method": get_method("local"), "num_seeds": 20, "plays": (0,)} | changes
    return Cell(scenario=scenario, **fields)


def run(scenario: Scenario, **changes: Any) -> Any:
    options: dict[str, Any] = {"values": [5.0, 9.0], "methods": ["local"], "seeds": 20} | changes
    return carry_out(Sweep, "deadline", scenario=scenario, **options)


def test_all_warm_ups_share_one_program_and_means_are_over_what_is_counted():
    block_program.cache_clear()
    none, some = simulate([SMALL, SMALL.replace(warmup=24)], get_method("local"), UNIFIED, 0, 20)
    assert block_program.cache_info().misses == 1
    assert np.all(some.metrics["num_tasks"] < none.metrics["num_tasks"])
    # Far into an overload, a server is busy during nearly all of its last slot, the only one that counts.
    assert 0.9 < np.mean(some.metrics["utilisation_0"]) <= 1
    assert np.mean(some.metrics["makespan_p50_s"]) > np.mean(none.metrics["makespan_p50_s"])


def test_a_pilot_run_is_mser_and_a_trend_test_of_its_slots(by_batch: list[tuple[np.ndarray, np.ndarray]]):
    def corrected(first: int) -> float:
        return 2 * min(float(trend_p_value(sums[:, first:], tasks[:, first:])) for sums, tasks in by_batch)

    (found,) = pilots_of([cell(SMALL.replace(warmup="auto"))], None)
    left_out = [mser_truncation(sums.sum(axis=0) / tasks.sum(axis=0), 1) for sums, tasks in by_batch]
    assert found.warmup == 5 * max(left_out) > 0
    np.testing.assert_allclose(found.trend_p, corrected(max(left_out)), rtol=1e-3)
    (given,) = pilots_of([cell(SMALL.replace(warmup=7))], None)
    np.testing.assert_allclose(given.trend_p, corrected(2), rtol=1e-3)


def test_equal_means_are_tested_once():
    in_time = STEADY.replace(warmup=10, deadline=1e3)  # so that makespans are response times
    (found,) = pilots_of([cell(in_time)], None)
    parts = [sums_of([in_time.replace(warmup=w)])[0] for w in (10, 15)]
    halves = [np.stack([all_ - last, last], axis=1) for all_, last in zip(*parts, strict=True)]
    np.testing.assert_allclose(found.trend_p, trend_p_value(*halves), rtol=1e-3)


def test_queues_that_grow_are_found_where_makespans_are_at_the_deadline():
    hidden = SMALL.replace(deadline=1e-3, num_slots=60)  # every task misses, and so has the same makespan
    (found,) = pilots_of([cell(hidden.replace(warmup=30))], None)
    assert found.trend_p < 1e-6
    (found,) = pilots_of([cell(hidden.replace(warmup="auto"))], None)
    assert (found.warmup, found.trend_p < 1e-6) == (30, True)


def test_results_tell_the_warm_up_of_each_cell_whatever_the_cut(tmp_path: Path):
    scenario = STEADY.replace(warmup="auto")
    whole = run(scenario, seeds=200, out=tmp_path / "whole")
    parts = run(scenario, seeds=200, execution=Execution(unit_seconds=1e-6))
    pd.testing.assert_frame_equal(parts.rows, whole.rows)
    rows = whole.rows.groupby("value")["warmup"].unique()
    told = json.loads((tmp_path / "whole/manifest.json").read_text())["pilots"]
    assert [(each["method"], each["value"]) for each in told] == [("local", 5.0), ("local", 9.0)]
    for each in told:
        assert rows[each["value"]].tolist() == [each["warmup"]]
        assert 0 <= each["trend_p"] <= 1
        given = run(STEADY.replace(warmup=each["warmup"]), values=[each["value"]], seeds=200)
        same = whole.rows.query(f"value == {each['value']}").reset_index(drop=True)
        pd.testing.assert_frame_equal(given.rows, same)
    none = run(STEADY)
    assert "warmup" not in none.rows
    assert "pilots" not in none.manifest


def test_episodes_that_are_not_stationary_are_told_and_others_are_not():
    drifting = run(SMALL.replace(warmup=1), values=[9.0, 20.0])
    (warning,) = drifting.manifest["warnings"]
    assert warning.startswith("Episodes are not stationary in 2 of 2 cases, so results depend on num_slots: ")
    assert " for deadline = 9.0, local (warm-up 1, p = " in warning
    assert "; deadline = 20.0, local (warm-up 1, p = " in warning
    assert all(each["trend_p"] < TREND / 2 for each in drifting.manifest["pilots"])
    assert run(STEADY.replace(warmup=5)).manifest["warnings"] == []


def test_no_warm_up_is_tested_only_if_it_is_asked_for():
    (warning,) = run(SMALL.replace(warmup=0)).manifest["warnings"]
    assert " for deadline = 5.0, local (warm-up 0, p = " in warning
    steady, silent = run(STEADY.replace(warmup=0)), run(SMALL)
    assert steady.manifest["warnings"] == silent.manifest["warnings"] == []
    assert (steady.rows["warmup"] == 0).all()
    assert "pilots" not in silent.manifest


def test_a_single_long_episode_has_intervals_of_its_batches():
    scenario = STEADY.replace(num_slots=337, warmup=20, deadline=9.0)
    result = run(scenario, values=[9.0], seeds=1)
    rows = result.rows
    assert rows["batch"].tolist() == list(range(30))
    assert (rows["seed"] == 0).all()
    # 337 - 2 - 20 slots are 63 times 5, and so two times 5 for each batch.
    ((sums, tasks),) = sums_of([scenario.replace(num_slots=335, warmup=35)], 1)
    numerator, denominator = rows["makespan_mean_s"] * rows["num_tasks"], rows["num_tasks"]
    assert denominator.sum() == tasks[0]
    np.testing.assert_allclose(numerator.sum(), sums[0], rtol=1e-6)
    assert rows["utilisation_0"].between(0, 1).all()
    assert np.all(rows["makespan_p50_s"] <= rows["makespan_p95_s"])
    found = result.summary.set_index(["metric", "per"]).loc["makespan_mean_s", "task"]
    assert (found["n_seeds"], found["n_clusters"]) == (1, 30)
    expected = ratio_interval(numerator.to_numpy(), denominator.to_numpy())
    np.testing.assert_allclose(found[["estimate", "ci_low", "ci_high"]].to_numpy(float), expected)
    with pytest.raises(InputError, match=r"^num_slots: 300; legal for a single seed .*: 320 or more"):
        run(scenario.replace(num_slots=300), seeds=1)
    assert "batch" not in run(STEADY, seeds=1).rows
    with pytest.raises(InputError, match=r"^metrics: makespan_over_slots_s is over the slots of an episode"):
        run(scenario, seeds=1, metrics=["makespan_over_slots_s"])


def test_agents_are_the_same_with_a_warm_up():
    scenario = LEARNT
    options: dict[str, Any] = {"method": METHOD, "num_seeds": 1, "train_episodes": 2}
    plain, steady = cell(scenario, **options), cell(scenario.replace(warmup="auto"), **options)
    assert plain.training_name(0) == steady.training_name(0)
    assert plain.describe() != steady.describe()
    result = run(
        scenario.replace(warmup="auto"), values=[1.0], methods=[METHOD], seeds=2, trained_seeds=2, episodes=2
    )
    (told,) = result.manifest["pilots"]
    assert result.rows["warmup"].tolist() == [told["warmup"]] * 2


def test_curves_of_a_training_leave_out_the_warm_up():
    plain, steady = (
        run_study(Training(METHOD, scenario=LEARNT.replace(warmup=w), seeds=2, episodes=2)).rows["num_tasks"]
        for w in (0, 4)
    )
    assert np.all(steady < plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup": 25}, r"^warmup: 25; legal: a whole number from 0 to 24, or auto"),
        ({"warmup": -1}, "^warmup: -1; legal"),
        ({"warmup": "some"}, "^warmup: 'some'; legal"),
        ({"warmup": 2.5}, "^warmup: 2.5; legal"),
        ({"warmup": np.zeros(2)}, "^warmup: .*; legal"),
        ({"warmup": "auto", "num_slots": 9}, "^num_slots: 9; legal with warmup = auto: 10"),
    ],
    ids=str,
)
def test_bad_warm_ups_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        run(SMALL.replace(**changes))


def test_no_steady_state_is_looked_for_while_agents_learn():
    scenario = LEARNT.replace(warmup="auto")
    for study in (
        lambda: run_study(Training(METHOD, scenario=scenario, seeds=1, episodes=1)),
        lambda: run_study(Comparison(["local"], scenario=scenario, seeds=1, episodes=1, last=1)),
    ):
        with pytest.raises(InputError, match=r"^warmup: auto; legal in episodes of training"):
            study()


def test_the_option_sets_the_field(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    script = Script(monkeypatch, capsys)
    code, _, words = script("sweep", "--param", "deadline", "--warmup", "60")
    assert (code, words) == (2, "error: warmup: 60; legal: a whole number from 0 to 59, or auto\n")
    code, _, words = script("sweep", "--param", "deadline", "--warmup", "1", "--set", "warmup=2")
    assert (code, words) == (2, "error: set: warmup is given twice; legal: each field once\n")
