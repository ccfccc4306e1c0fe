"""Metrics over the slots of an episode, from the device to the figures of a report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.drawn_studies import MANIFEST
from helpers.episodes import SMALL, run

from amco_jax.agents.methods import get_method
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.metrics import METRICS, Metric, Reduction, choose, column_entries, columns_in, columns_of
from amco_jax.report.analysis import means, over_slots
from amco_jax.report.pictures import all_figures
from amco_jax.report.studies import SavedStudy, load_studies
from amco_jax.stats import rate_interval, ratio_interval
from amco_jax.study.run import run_study
from amco_jax.study.simulate import simulate
from amco_jax.study.sweep import Sweep

NAMES = [name for name in METRICS if "over_slots" in name]
TIGHT = SMALL.replace(deadline=0.3, num_slots=6)
METHOD = get_method("local")


def test_a_list_holds_what_the_decisions_of_each_slot_give(monkeypatch: pytest.MonkeyPatch):
    assert len(NAMES) == 5
    (batch,) = simulate([TIGHT], METHOD, UNIFIED, 0, 3, metrics=choose(NAMES))
    for seed in range(3):
        episode = run(method=METHOD, seed=seed, policy_seed=seed, scenario=TIGHT)
        d, found = episode.decisions, {name: batch.metrics[name][seed] for name in NAMES}
        assert all(values.shape == (TIGHT.num_slots,) for values in found.values())
        tasks = d.present.sum(axis=(1, 2))
        np.testing.assert_array_equal(found["tasks_over_slots"], tasks)
        missed = np.divide((d.missed & d.present).sum(axis=(1, 2)), tasks)
        np.testing.assert_array_equal(found["miss_rate_over_slots"], missed.astype(np.float32))
        makespans = np.divide(np.where(d.present, d.makespan, 0).sum(axis=(1, 2)), tasks)
        np.testing.assert_allclose(found["makespan_over_slots_s"], makespans, rtol=1e-5)
        served = np.float32(TIGHT.capacities) * np.float32(TIGHT.slot_duration)
        load = episode.backlog + episode.slot_load
        after = np.maximum(load - served, 0).mean(axis=1)
        np.testing.assert_allclose(found["backlog_over_slots_gcycles"], after, rtol=1e-4, atol=1e-6)
        busy = np.minimum(load / served, 1).mean(axis=1)
        np.testing.assert_allclose(found["utilisation_over_slots"], busy, rtol=1e-5)
        # The sums over slots are those of the episode.
        assert found["tasks_over_slots"].sum() == batch.metrics["num_tasks"][seed]
    # Segments of slots change nothing.
    monkeypatch.setattr("amco_jax.study.simulate.segments_of", lambda slots, most: [(0, 3), (3, 3)])
    (cut,) = simulate([TIGHT], METHOD, UNIFIED, 0, 3, metrics=choose(NAMES))
    for name in NAMES:
        np.testing.assert_array_equal(cut.metrics[name], batch.metrics[name])


def test_estimates_of_a_slot_are_ratios_over_seeds():
    tasks = np.array([[1, 2], [3, 0], [4, 4]])
    sums = np.array([[1, 1], [0, 0], [2, 3]], np.float64)
    rows = pd.DataFrame({
        "condition": "", "method": "m", "seed": range(3), "num_tasks": tasks.sum(axis=1),
        "makespan_mean_s": 1.0,
    })  # fmt: skip
    columns = tuple(c for c in columns_of(choose(NAMES)) if c.is_over_slots or c.name == "makespan_mean_s")
    means_of_slots = np.divide(sums, tasks, out=np.full(sums.shape, np.nan), where=tasks > 0)
    lists: dict[str, np.ndarray] = dict.fromkeys(NAMES, sums) | {"tasks_over_slots": tasks}
    lists |= dict.fromkeys(("makespan_over_slots_s", "miss_rate_over_slots"), means_of_slots)
    study = SavedStudy("study", "evaluate", MANIFEST, "", columns, rows, None, lists)
    by_name = {column.name: column for column in columns}
    numbers = ["estimate", "ci_low", "ci_high"]

    found = over_slots(study, by_name["makespan_over_slots_s"], "")
    assert found["slot"].tolist() == [0, 1]
    np.testing.assert_allclose(found["estimate"], [3 / 8, 4 / 6], rtol=1e-12)
    expected = np.stack(ratio_interval(sums, np.where(tasks > 0, tasks, np.nan)), axis=1)
    np.testing.assert_allclose(found[numbers], np.maximum(expected, 0))
    found = over_slots(study, by_name["miss_rate_over_slots"], "")
    expected = np.stack(rate_interval(sums, np.where(tasks > 0, tasks, np.nan)), axis=1)
    np.testing.assert_allclose(found[numbers], expected)
    found = over_slots(study, by_name["backlog_over_slots_gcycles"], "")
    np.testing.assert_allclose(found["estimate"], sums.mean(axis=0))
    assert "backlog_over_slots_gcycles" in all_figures(study, means(study))


def test_the_warm_up_and_slots_without_tasks_have_no_numbers(tmp_path: Path):
    scenario = SMALL.replace(num_servers=1, num_tasks=2, arrival_prob=0.5, num_slots=5, capacity=1.0)
    found = {}
    for warmup in (0, 2):
        size: dict[str, Any] = {"methods": ["local"], "seeds": 4, "metrics": NAMES}
        study = Sweep("deadline", values=[0.1], scenario=scenario.replace(warmup=warmup), **size)
        rows = run_study(study, tmp_path / str(warmup)).rows
        found[warmup] = {name: np.stack([*rows[name]]) for name in NAMES}
        shown = load_studies([tmp_path / str(warmup)])[0]
        for column in (c for c in shown.columns if c.is_over_slots):
            numbers = over_slots(shown, column, 0.1)["estimate"].to_numpy(np.float64)
            values, tasks = found[warmup][column.name], found[warmup]["tasks_over_slots"]
            weight = tasks if column.weight == "tasks_over_slots" else np.ones_like(tasks)
            expected = np.nansum(values * weight, axis=0) / weight.sum(axis=0)
            expected[:warmup] = math.nan
            np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    none = found[0]["tasks_over_slots"] == 0
    assert none.any()
    for name in NAMES:
        assert np.isnan(found[2][name][:, :2]).all()
        np.testing.assert_array_equal(found[2][name][:, 2:], found[0][name][:, 2:])
        assert np.array_equal(np.isnan(found[0][name]), none & ("makespan" in name or "miss" in name))


def test_results_with_sums_over_slots_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amco_jax.study.run.FORMAT", 4)
    run_study(
        Sweep("deadline", values=[1], methods=["local"], seeds=1, scenario=SMALL, metrics=NAMES), tmp_path
    )
    with pytest.raises(InputError, match="has sums over slots; legal: results of this version"):
        load_studies([tmp_path])


def test_a_sweep_over_the_number_of_slots_has_lists_of_each_length(tmp_path: Path):
    result = run_study(
        Sweep(
            "num_slots",
            values=[2, 3],
            methods=["local"],
            seeds=2,
            scenario=SMALL,
            metrics=["utilisation_over_slots"],
        ),
        tmp_path / "run",
    )
    (study,) = load_studies([tmp_path / "run"])
    (column,) = (c for c in study.columns if c.name == "utilisation_over_slots")
    assert columns_in({"metrics": column_entries([column])}) == (column,)
    for value in (2, 3):
        rows = result.rows.query("value == @value")
        found = over_slots(study, column, value)
        assert found["slot"].tolist() == list(range(value))
        expected = np.stack([*rows["utilisation_over_slots"]]).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found["estimate"], expected)
        servers = rows[[f"utilisation_{i}" for i in range(3)]].to_numpy(np.float64)
        assert found["estimate"].to_numpy(np.float64).mean() == pytest.approx(servers.mean(), rel=1e-5)


def test_a_metric_over_slots_has_one_number_for_each_and_is_over_its_like():
    plain = {"name": "x", "label": "x", "of_slot": lambda slot: slot.busy}
    with pytest.raises(InputError, match="x is over slots and servers"):
        Metric(**plain, per_server=True, reduction=Reduction.OVER_SLOTS)
    with pytest.raises(InputError, match="x is over num_tasks; legal: a metric that is over slots too"):
        Metric(
            name="x", label="x", bounds=(0, math.inf), of_task=lambda task: task.missed,
            reduction=Reduction.OVER_SLOTS, over=METRICS["num_tasks"],
        )  # fmt: skip
