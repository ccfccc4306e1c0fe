"""Comparisons of trained methods and rules."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.studies import carry_out
from helpers.tiny_training import EPISODES, LEARN, METHOD, SEEDS, TINY, local_metrics

from amco_jax.agents.methods import get_method
from amco_jax.errors import InputError
from amco_jax.study.base import StudyResult
from amco_jax.study.compare import Comparison
from amco_jax.study.run import run_study
from amco_jax.study.trainer import Trainer

NAMES = ("makespan_mean_s", "miss_rate", "mean_servers_used")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("compare")
    methods = [METHOD, "local", "all-servers"]
    return run_study(Comparison(methods, seeds=SEEDS, episodes=EPISODES, last=2, scenario=TINY), out)


def test_a_comparison_covers_both_physics_and_all_methods(comparison: Any):
    curves, final = comparison.rows, comparison.summary
    for table in (curves, final):
        assert list(dict.fromkeys(table["physics"])) == ["published", "unified"]
        assert list(dict.fromkeys(table["method"])) == ["drlcoedge", "local", "all-servers"]
    assert len(curves) == 2 * 3 * SEEDS * EPISODES
    assert not curves.duplicated(["physics", "method", "seed", "episode"]).any()
    assert np.isfinite(curves[list(NAMES)]).all(axis=None)
    own = curves.query("method == 'drlcoedge'").pivot(index=["seed", "episode"], columns="physics")
    assert np.any(own["makespan_mean_s", "published"] != own["makespan_mean_s", "unified"])
    names = {"curves.parquet", "final.csv", "manifest.json", "SHA256SUMS", "units", "agents"}
    figures = {f"convergence-{p}.{s}" for p in ("published", "unified") for s in ("png", "pdf")}
    assert {p.name for p in comparison.out.iterdir()} == names | figures
    pd.testing.assert_frame_equal(pd.read_csv(comparison.out / "final.csv"), final)


def test_equal_physics_have_the_same_agents_and_warnings_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """The published physics of this method are the unified ones."""
    blocks, advance = [], Trainer.advance
    monkeypatch.setattr(
        Trainer, "advance", lambda self, n: blocks.append(len(self._chunk)) or advance(self, n)
    )
    method = get_method("amcoedge").with_settings(**LEARN | {"learn_after": 1000})
    found = run_study(Comparison([method], seeds=SEEDS, episodes=2, last=1, scenario=TINY))
    assert blocks == [1]
    published, unified = (rows.drop(columns="physics") for _, rows in found.rows.groupby("physics"))
    pd.testing.assert_frame_equal(published.reset_index(drop=True), unified.reset_index(drop=True))
    for physics in ("published", "unified"):
        warning = f"physics = {physics}: amcoedge made no learning step in {SEEDS} of {SEEDS} seeds."
        assert warning in found.manifest["warnings"]


def test_rules_run_through_the_arrivals_of_the_training(comparison: Any, result: StudyResult):
    unified = comparison.rows.query("physics == 'unified'").set_index(["method", "episode", "seed"])
    unified = unified.sort_index()
    for episode in range(EPISODES):
        metrics = local_metrics(TINY, 1 + episode)
        for name in NAMES:
            np.testing.assert_array_equal(unified.loc["local", episode][name], metrics[name])
    own = unified.loc["drlcoedge"].reset_index().sort_values(["seed", "episode"])
    for name in (*NAMES, "loss", "epsilon"):
        np.testing.assert_array_equal(own[name], result.rows[name])


def test_reductions_are_those_of_the_means(comparison: Any):
    final = comparison.summary.set_index(["physics", "method", "per"])
    curves = comparison.rows.assign(sum=lambda c: c["makespan_mean_s"] * c["num_tasks"])
    for variant, per in itertools.product(("published", "unified"), ("task", "episode")):
        tail = curves.query(f"physics == '{variant}' and episode >= {EPISODES - 2}")
        sums = tail.groupby("method")[["sum", "num_tasks"]].sum()
        makespan = {
            "task": sums["sum"] / sums["num_tasks"],
            "episode": tail.groupby("method")["makespan_mean_s"].mean(),
        }[per]
        own = final.loc[variant, "drlcoedge", per]
        assert (own["reduction"], own["reduction_low"], own["reduction_high"]) == (0, 0, 0)
        for method in ("local", "all-servers"):
            row = final.loc[variant, method, per]
            gain = 1 - makespan["drlcoedge"] / makespan[method]
            np.testing.assert_allclose(row["estimate"], makespan[method])
            assert row["n_tasks"] == sums.loc[method, "num_tasks"]
            np.testing.assert_allclose(row["reduction"], gain)
            assert row["reduction_low"] <= row["reduction"] <= row["reduction_high"]
            assert row["n_seeds"] == SEEDS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": []}, "methods: "),
        ({"methods": ["local", "local"]}, "methods: local, local; legal: each method once"),
        ({"methods": ["local", "bound"]}, "method: bound is a lower bound and decides nothing"),
        ({"physics": []}, "physics: []"),
        ({"physics": ["newtonian"]}, "physics: 'newtonian'"),
        ({"physics": ["unified"] * 2}, "physics: unified, unified; legal: each variant once"),
        ({"last": 0}, "last: 0"),
        ({"last": EPISODES + 1}, f"last: {EPISODES + 1}; legal: a whole number from 1 to {EPISODES}"),
        ({"episodes": 0}, "episodes: 0"),
        ({"seeds": 0}, "seeds: 0"),
    ],
)
def test_bad_comparisons_are_refused(changes: dict[str, Any], words: str):
    options: dict[str, Any] = {"methods": ["local"], "seeds": 2, "episodes": EPISODES, "last": 1} | changes
    with pytest.raises(InputError) as error:
        carry_out(Comparison, scenario=TINY, **options)
    assert str(error.value).startswith(words)
