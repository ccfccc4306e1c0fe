"""The whole paper in one command: its studies, going on after an interruption, and the verdicts on claims."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from amco_jax.errors import InputError
from amco_jax.metrics import METRICS
from amco_jax.report import warnings
from amco_jax.report.claims import CLAIMS, claims_table
from amco_jax.report.studies import SavedStudy
from amco_jax.scenario import Scenario
from amco_jax.study import reproduce as module
from amco_jax.study.engines import Execution
from amco_jax.study.reproduce import FULL, QUICK, reproduce, studies_of
from amco_jax.study.run import run_studies
from amco_jax.study.sweep import Sweep
from amco_jax.study.units import Unit, run_unit

FLEET = Scenario(num_servers=3, num_tasks=4, num_slots=10)
TINY = dataclasses.replace(QUICK, seeds=3, convergence_episodes=6, sweep_episodes=2, points=1)


def test_the_full_run_has_every_study_of_the_paper():
    names = set(studies_of(FULL))
    parameters = ("deadline", "arrival_prob", "num_tasks", "capacity")
    swept = {f"{p}-{v}" for p in parameters for v in ("published", "unified")}
    assert names == swept | {"convergence", "convergence-stable", "allocators", "set-sizes"}


def test_it_goes_on_where_it_stopped_and_ends_in_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Two of its studies, with fewer methods, of a smaller fleet.
    every, names = studies_of(TINY), ("fastest-1", "smcoedge-stable-2")
    compared = ("amcoedge-stable", "randcoedge", "optimal")
    learning = dataclasses.replace(every["convergence-stable"], methods=compared, scenario=FLEET)
    sizes = dataclasses.replace(every["set-sizes"], methods=names, scenario=FLEET)
    chosen = {"convergence-stable": learning, "set-sizes": sizes}
    monkeypatch.setattr(module, "QUICK", TINY)
    monkeypatch.setattr(module, "studies_of", lambda effort, metrics: chosen)
    first = reproduce(tmp_path / "out", quick=True)
    before = os.stat(tmp_path / "out" / "set-sizes" / "manifest.json").st_mtime_ns
    again = reproduce(tmp_path / "out", quick=True)
    assert first is not None
    assert again is not None
    assert os.stat(tmp_path / "out" / "set-sizes" / "manifest.json").st_mtime_ns == before
    pd.testing.assert_frame_equal(first.compared, again.compared)
    assert first.claims is not None
    claims = {row[0].text for row in first.claims.rows}
    assert claims == {
        c.text for c in CLAIMS if c.metric.name == "makespan_mean_s" and {*c.baselines} & {*compared}
    }
    used = pd.read_parquet(tmp_path / "out" / "set-sizes" / "results.parquet")
    for name in names:
        assert set(used.loc[used["method"] == name, "mean_servers_used"]) == {int(name[-1])}
    monkeypatch.setattr(module, "studies_of", studies_of)
    with pytest.raises(InputError, match="made for something else: episodes = 6, not 300, last = 1"):
        reproduce(tmp_path / "out")
    with pytest.raises(InputError, match="is not empty"):
        reproduce(tmp_path)


def test_studies_of_one_job_have_their_own_wall_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only units advance the clock."""
    seconds = {"fastest-1": 100.0, "local": 7.0}
    clock = [0.0]

    def spend(unit: Unit, *rest: Any) -> pd.DataFrame:
        clock[0] += seconds[unit.method]
        return run_unit(unit, *rest)

    monkeypatch.setattr("amco_jax.study.engines.run_unit", spend)
    monkeypatch.setattr(time, "time", lambda: clock[0])
    studies = {name: Sweep("deadline", [0.5], methods=[name], seeds=2, scenario=FLEET) for name in seconds}
    results = run_studies(studies, tmp_path, Execution())
    assert {name: result.manifest["wall_time_s"] for name, result in results.items()} == seconds


def claims_of(
    bounds: dict[Any, tuple[float, float]], episodes: int | dict[str, int] = 300, miss_rate: float = 0.0
) -> dict[str, dict[str, str]]:
    """The rows of the table by claim, where AMCoEdge's reductions have these bounds."""
    names = ("amcoedge", *bounds)
    rows = [("unified", m, s, 50, 0.2, miss_rate) for m in names for s in range(3)]
    columns = ["condition", "method", "seed", "num_tasks", "makespan_mean_s", "miss_rate"]
    settings = {m: {} for m in names if m != "randcoedge"}
    manifest = {"settings": settings, "episodes": episodes}
    measured = METRICS["makespan_mean_s"], METRICS["miss_rate"]
    study = SavedStudy(
        "convergence", "compare", manifest, "physics", measured, pd.DataFrame(rows, columns=columns)
    )
    records = [
        {"study": "convergence", "condition": "unified", "metric": metric, "method": "amcoedge",
         "baseline": b, "reduction": (low + high) / 2, "reduction_low": low, "reduction_high": high}
        for b, (low, high) in bounds.items() for metric in ("makespan_mean_s", "miss_rate")
    ]  # fmt: skip
    table = claims_table([study], pd.DataFrame(records))
    return {row[0].text: dict(zip(table.columns, (c.text for c in row), strict=True)) for row in table.rows}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.13, 0.2, "holds"), (0.1, 0.2, "open"), (-0.1, 0.119, "fails")]
)
def test_verdicts_follow_the_interval(low: float, high: float, verdict: str):
    assert claims_of({"smcoedge": (low, high)})["12 % less makespan than SMCoEdge"]["verdict"] == verdict


ALL = "at least 11.04 % less makespan"


@pytest.mark.parametrize(
    ("others", "verdict", "decisive"),
    [
        # The baseline of the smallest estimate passes, another may still fall short.
        ({"drlcoedge": (0.12, 0.14), "smcoedge": (0.014, 0.5)}, "open", "smcoedge"),
        ({"drlcoedge": (0.12, 0.14), "smcoedge": (0.12, 0.5)}, "holds", "drlcoedge"),
        ({"drlcoedge": (0.12, 0.14), "smcoedge": (0.01, 0.11)}, "fails", "smcoedge"),
        ({"drlcoedge": (-0.5, 0.4), "smcoedge": (0.09, 0.11)}, "fails", "smcoedge"),
        ({"drlcoedge": (0.12, 0.14)}, "open", "drlcoedge"),  # a baseline of the claim is missing
        ({"drlcoedge": (np.nan, np.nan), "smcoedge": (0.2, 0.3)}, "open", "drlcoedge"),
    ],
)
def test_a_claim_over_baselines_needs_every_one(others: dict[str, Any], verdict: str, decisive: str):
    row = claims_of({"randcoedge": (0.15, 0.2)} | others)[ALL]
    assert (row["verdict"], row["decisive baseline"]) == (verdict, decisive)


def test_claims_say_which_published_runs_were_longer_or_shorter():
    bounds = dict.fromkeys(("randcoedge", "drlcoedge", "smcoedge"), (0.2, 0.3))
    assert claims_of(bounds)[ALL]["episodes of training"] == "300 (published: amcoedge 500, drlcoedge 400)"
    one = claims_of({"randcoedge": (0.2, 0.3)}, episodes=500)["28 % less makespan than RandCoEdge"]
    assert one["episodes of training"] == "500"
    own = {"amcoedge": 500, "smcoedge": 50, "drlcoedge": 400}
    each = "amcoedge 500, smcoedge 50, drlcoedge 400 (published: smcoedge 300)"
    assert claims_of(bounds, episodes=own)[ALL]["episodes of training"] == each


def test_reports_warn_of_trainings_that_are_shorter_than_the_published_ones():
    own = {"amcoedge": 50, "drlcoedge": 400, "drlcoedge-regret": 1}
    manifest = {"training": {"episodes": own, "settings": {name: {} for name in own}, "num_seeds": 2}}
    measured = (METRICS["makespan_mean_s"],)
    study = SavedStudy("load", "sweep", manifest, "deadline", measured, pd.DataFrame())
    _, short = warnings._training_warnings(study)
    assert short.startswith(
        "fewer episodes of training than in the published runs (amcoedge 50 in place of 500):"
    )


def test_failure_rates_are_judged_where_all_baselines_fail_at_times():
    bounds = dict.fromkeys(("randcoedge", "drlcoedge", "smcoedge"), (0.5, 0.6))
    claim = "at least 44.86 % lower failure rate"
    assert claim not in claims_of(bounds, miss_rate=0.009)
    assert claims_of(bounds, miss_rate=0.011)[claim]["verdict"] == "holds"
