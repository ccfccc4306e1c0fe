"""Searches for settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.studies import carry_out
from helpers.tiny_training import EPISODES, METHOD, SEEDS, TINY, local_metrics

from amco_jax.errors import InputError
from amco_jax.study.run import run_study
from amco_jax.study.simulate import Batch
from amco_jax.study.sweep import Sweep
from amco_jax.study.tune import Tuning


def test_tuning_ranks_every_combination_on_an_unseen_episode(tmp_path: Path):
    vary = {"discount": [0.0, 0.9], "learning_rate": [0.01]}
    found = run_study(
        Tuning(METHOD, vary, seeds=SEEDS, episodes=EPISODES, within=0.1, scenario=TINY, reference="local"),
        tmp_path,
    )
    summary, results = found.summary, found.rows
    assert summary[["discount", "learning_rate"]].to_numpy().tolist() == [["0.0", "0.01"], ["0.9", "0.01"]]
    assert results["seed"].tolist() == 2 * list(range(SEEDS))
    local = local_metrics(TINY, 0)["makespan_mean_s"]
    np.testing.assert_allclose(results["gap"], results["makespan_mean_s"] / np.tile(local, 2) - 1)
    columns = ["gap_p50", "gap_p90", "gap_p99", "gap_max"]
    assert np.all(np.diff(summary[columns].to_numpy(float), axis=1) >= 0)
    for number, row in enumerate(summary.to_dict("records")):
        own = results.iloc[number * SEEDS : (number + 1) * SEEDS]
        assert set(own["discount"]) == {row["discount"]}
        np.testing.assert_allclose(row["gap_mean"], own["gap"].mean())
        np.testing.assert_allclose(row["within_0.1"], np.mean(own["gap"] <= 0.1))
        assert row["n_seeds"] == row["n_seeds_all"] == SEEDS
        sums = own["makespan_mean_s"] * own["num_tasks"]
        np.testing.assert_allclose(row["makespan_mean_s"], sums.sum() / own["num_tasks"].sum())
        np.testing.assert_allclose(row["makespan_mean_s_per_episode"], own["makespan_mean_s"].mean())
    names = {"results.parquet", "summary.csv", "manifest.json", "SHA256SUMS", "units", "agents"}
    assert {p.name for p in tmp_path.iterdir()} == names
    own = evaluate_one(discount=0.9, learning_rate=0.01)
    np.testing.assert_array_equal(results.iloc[SEEDS:]["makespan_mean_s"], own)


def test_seeds_without_tasks_are_no_failures():
    quiet = TINY.replace(arrival_prob=0.01)
    found = run_study(
        Tuning(
            METHOD, {"discount": [0.9]}, seeds=12, episodes=1, within=10.0, scenario=quiet, reference="local"
        )
    )
    some = np.count_nonzero(found.rows["num_tasks"])
    assert 0 < some < 12
    (row,) = found.summary.to_dict("records")
    assert (row["n_seeds"], row["n_seeds_all"]) == (some, 12)
    assert row["within_10"] == 1.0
    assert np.isfinite([row["makespan_mean_s"], row["miss_rate"], row["gap_mean"], row["gap_max"]]).all()


@pytest.mark.parametrize("whole_reference", [True, False])
def test_tuning_keeps_results_with_their_settings(monkeypatch: pytest.MonkeyPatch, whole_reference: bool):
    """Combinations of several widths train in groups, and seeds come in pieces; the figures are made up."""

    def simulated(
        scenarios: Any, method: Any, row: Any, first: int, count: int, source: Any, *played: Any
    ) -> Any:
        del method, row, played
        all_seeds = np.arange(first, first + count)
        for index in range(len(scenarios)):
            value, pieces = 1.0, [all_seeds] if whole_reference else [all_seeds[:1], all_seeds[1:]]
            if source is not None:
                settings = source._cells[index].settings
                value, pieces = settings.hidden[0] + settings.discount, [all_seeds[:2], all_seeds[2:]]
            for seeds in pieces:
                yield Batch(
                    index,
                    seeds,
                    {
                        "num_tasks": np.ones_like(seeds),
                        "makespan_mean_s": value * (1.0 + seeds),
                        "miss_rate": 0.0 * seeds,
                    },
                )

    monkeypatch.setattr("amco_jax.study.units.simulate", simulated)
    monkeypatch.setattr("amco_jax.study.units.train_missing", lambda *arguments: None)
    vary = {"hidden": [12, 3, 7], "discount": [0.5, 0.25]}
    found = run_study(Tuning(METHOD, vary, seeds=3, episodes=1, scenario=TINY, first_seed=9))
    results = found.rows
    assert results["seed"].tolist() == 6 * [9, 10, 11]
    own = results["hidden"].astype(float) + results["discount"].astype(float)
    np.testing.assert_allclose(results["makespan_mean_s"], own * (1 + results["seed"]))
    reference = np.tile([10.0, 11.0, 12.0], 6)
    np.testing.assert_allclose(results["gap"], results["makespan_mean_s"] / reference - 1)
    assert found.summary["hidden"].tolist() == ["12", "12", "3", "3", "7", "7"]


def evaluate_one(**changes: Any) -> np.ndarray:
    """Makespans of one combination by itself."""
    method = METHOD.with_settings(**changes)
    found = run_study(
        Sweep("deadline", values=[1.0], methods=[method], seeds=SEEDS, scenario=TINY, episodes=EPISODES)
    ).rows
    return np.asarray(found["makespan_mean_s"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "local"}, "method: local is a rule"),
        ({"settings": {"nonsense": [1]}}, "settings: unknown field 'nonsense'"),
        ({"settings": {"discount": [2]}}, "discount: 2; legal: a number from 0 to 1"),
        ({"settings": {"discount": []}}, "discount"),
        ({"reference": "amcoedge"}, "reference: amcoedge is trained; legal: a rule"),
        ({"seeds": 0}, "seeds: 0"),
        ({"episodes": 0}, "episodes: 0"),
    ],
)
def test_bad_tunings_are_refused(changes: dict[str, Any], words: str):
    options: dict[str, Any] = {
        "method": METHOD,
        "settings": {"discount": [0]},
        "reference": "local",
    } | changes
    with pytest.raises(InputError) as error:
        carry_out(Tuning, **({"seeds": 2, "episodes": 3, "scenario": TINY} | options))
    assert words in str(error.value)
