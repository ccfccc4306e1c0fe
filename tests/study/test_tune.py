"""Searches for settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.refusals import refused
from helpers.studies import carry_out
from helpers.tiny_training import EPISODES, METHOD, SEEDS, TINY, local_metrics

from amco_jax.agents.methods import Method
from amco_jax.agents.pricing import PriceLearner, PriceSettings
from amco_jax.agents.settings import setting
from amco_jax.errors import InputError
from amco_jax.metrics import METRICS, Metric
from amco_jax.scenario import Scenario
from amco_jax.study.agents import AgentStore
from amco_jax.study.compare import Comparison
from amco_jax.study.grid import Cell
from amco_jax.study.run import run_study
from amco_jax.study.sensitivity import Sensitivity
from amco_jax.study.simulate import Batch
from amco_jax.study.sweep import Sweep
from amco_jax.study.train import Training
from amco_jax.study.tune import Tuning
from amco_jax.study.units import Unit, run_unit


def test_tuning_ranks_every_combination_on_an_unseen_episode(tmp_path: Path):
    vary = {"discount": [0.0, 0.9], "learning_rate": [0.01]}
    found = run_study(
        Tuning(METHOD, vary, seeds=SEEDS, episodes=EPISODES, within=0.1, scenario=TINY, reference="local"),
        tmp_path,
    )
    summary, results = found.summary, found.rows
    assert summary[["discount", "learning_rate"]].to_numpy().tolist() == [["0.0", "0.01"], ["0.9", "0.01"]]
    assert results["seed"].tolist() == 2 * list(range(2**31, 2**31 + SEEDS))
    local = local_metrics(TINY, 1 + EPISODES, 2**31)["makespan_mean_s"]
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
    own = evaluate_one(tmp_path / "alone", discount=0.9, learning_rate=0.01)
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
                        "makespan_mean_s": value * reference_of(seeds),
                        "miss_rate": 0.0 * seeds,
                    },
                )

    monkeypatch.setattr("amco_jax.study.units.simulate", simulated)
    monkeypatch.setattr("amco_jax.study.units.train_missing", lambda *arguments: None)
    vary = {"hidden": [12, 3, 7], "discount": [0.5, 0.25]}
    found = run_study(Tuning(METHOD, vary, seeds=3, episodes=1, scenario=TINY, first_seed=9))
    results = found.rows
    seeds = np.tile(2**31 + np.array([9.0, 10.0, 11.0]), 6)
    np.testing.assert_array_equal(results["seed"], seeds)
    own = results["hidden"].astype(float) + results["discount"].astype(float)
    np.testing.assert_allclose(results["makespan_mean_s"], own * reference_of(seeds))
    reference = reference_of(seeds)
    np.testing.assert_allclose(results["gap"], results["makespan_mean_s"] / reference - 1)
    assert found.summary["hidden"].tolist() == ["12", "12", "3", "3", "7", "7"]


def reference_of(seeds: np.ndarray) -> np.ndarray:
    """Made-up makespans of the reference, which differ by seed."""
    return seeds - 2.0**31 + 1.0


def evaluate_one(home: Path, **changes: Any) -> np.ndarray:
    """Makespans of one combination by itself, in the episode after those that it was trained on."""
    cell = Cell(
        scenario=TINY, method=METHOD.with_settings(**changes), first_seed=2**31, num_seeds=SEEDS,
        columns=("makespan_mean_s",), plays=(1 + EPISODES,), train_episodes=EPISODES,
    )  # fmt: skip
    return np.asarray(run_unit(Unit("alone", (cell,)), AgentStore(home), home)["makespan_mean_s"])


def test_no_other_study_may_use_tuning_seeds():
    size: dict[str, Any] = {"seeds": 2, "scenario": TINY}
    tuning = Tuning(METHOD, {"discount": [0]}, first_seed=5, reference="local", **size)
    assert {cell.first_seed for cell in tuning.cells()} == {2**31 + 5}
    studies: list[tuple[Any, list[Any]]] = [
        (Sweep, ["deadline"]), (Training, [METHOD]), (Comparison, []), (Sensitivity, []),
        (Tuning, [METHOD, {"discount": [0]}]),
    ]  # fmt: skip
    for kind, arguments in studies:
        kind(*arguments, first_seed=2**31 - 2, **size)
        for first, words in (
            (2**31 - 1, "seeds: 2; legal: a whole number from 1 to 1"),
            (2**31, "first_seed: 2147483648; legal: a whole number from 0 to 2147483647"),
        ):
            with pytest.raises(InputError, match=words):
                kind(*arguments, first_seed=first, **size)


def test_trials_are_drawn_from_all_combinations():
    vary = {"discount": [0, 0.3, 0.6], "learning_rate": [0.01, 0.02, 0.03, 0.04]}

    def drawn(method: Any = METHOD, **options: Any) -> list[tuple[float, ...]]:
        return [tuple(each.values()) for each in Tuning(method, vary, **options).grid]

    every = drawn()
    assert every == [(d, rate) for d in vary["discount"] for rate in vary["learning_rate"]]
    some = drawn(trials=5)
    assert some == sorted({*some} & {*every})
    assert len(some) == 5
    assert some == drawn("amcoedge", trials=5, seeds=7, first_seed=3)
    others = [tuple(drawn(trials=5, trials_seed=seed)) for seed in range(1, 21)]
    assert len({*others}) > 15
    assert {each for found in others for each in found} == {*every}
    assert drawn(trials=12) == every


def named(name: str) -> Metric:
    """A metric of that name."""
    return dataclasses.replace(METRICS["mean_servers_used"], name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(PriceSettings):
    method: float = setting(0.1, 0, 1)
    seed: float = setting(0.1, 0, 1)
    gap: float = setting(0.1, 0, 1)
    n_seeds: float = setting(0.1, 0, 1)
    gap_p99: float = setting(0.1, 0, 1)
    within_1: float = setting(0.1, 0, 1)


@pytest.mark.parametrize("name", ["method", "seed", "gap", "n_seeds", "gap_p99", "within_1"])
def test_settings_with_the_names_of_other_columns_are_refused(name: str):
    method = Method("mine", training=PriceLearner(settings=Named()))
    words = f"settings: {name}; legal: names that no other column has"
    refused(lambda: Tuning(method, {name: [0.2]}, within=1, scenario=TINY), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "local"}, "method: local is a rule"),
        ({"settings": {"nonsense": [1]}}, "settings: unknown field 'nonsense'"),
        ({"settings": {"discount": [2]}}, "discount: 2; legal: a number from 0 to 1"),
        ({"settings": {"discount": []}}, "discount: []; legal: a list of at least one entry"),
        ({"settings": {}}, "settings: {}; legal: a list of at least one entry"),
        ({"settings": {"discount": [0, 0.9, 0.0]}}, "discount: 0, 0.9, 0.0; legal: each value once"),
        ({"settings": {"hidden": [8, (8,)]}}, "hidden: 8, (8,); legal: each value once"),
        (
            {"reference": "optimal-enumeration", "scenario": Scenario(num_servers=11)},
            "num_servers: 11; legal for the method optimal-enumeration: at most 10",
        ),
        ({"reference": "amcoedge"}, "reference: amcoedge is trained; legal: a rule"),
        ({"reference": "bound"}, "method: bound is a lower bound and decides nothing; legal: in a sweep"),
        *(
            ({"within": each}, f"within: {each!r}; legal: a number from 0 to")
            for each in (-0.5, float("nan"), "x")
        ),
        ({"metrics": [named("gap_mean")]}, "metrics: gap_mean; legal: names that no other column has"),
        ({"metrics": [named("within_1")], "within": 1}, "metrics: within_1; legal: "),
        ({"metrics": [named("discount")]}, "metrics: discount; legal: "),
        ({"trials": 0}, "trials: 0; legal: a whole number from 1 to 1"),
        ({"trials": 2}, "trials: 2; legal: a whole number from 1 to 1"),
        ({"trials_seed": -1}, "trials_seed: -1"),
        ({"settings": {"batch_size": range(9), "leak": range(2**17)}}, "combinations: 1179648; legal"),
        ({"seeds": 0}, "seeds: 0"),
        ({"episodes": 0}, "episodes: 0"),
    ],
)
def test_bad_tunings_are_refused(unchecked: None, changes: dict[str, Any], words: str):
    options: dict[str, Any] = {
        "method": METHOD,
        "settings": {"discount": [0]},
        "reference": "local",
    } | changes
    with pytest.raises(InputError) as error:
        carry_out(Tuning, **({"seeds": 2, "episodes": 3, "scenario": TINY} | options))
    assert words in str(error.value)
