"""Runs in virtual time, and the benchmark that compares methods in it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.fleets import SCENARIO
from helpers.paths import ROOT

from amco_jax import InputError, Training, get_method, load_scenario
from amco_jax.results.saved import write_digests
from edge_fleet.configuration import FleetSettings, in_fleet
from edge_fleet.run import NO_LINKS, Plan
from edge_fleet.virtual import Absence, virtual_requests


def benchmark(*words: object) -> None:
    line = [sys.executable, str(ROOT / "benchmarks" / "fleet.py"), *map(str, words)]
    done = subprocess.run(
        line, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_without_links_both_models_are_exact():
    plan = Plan(
        scenario=SCENARIO.replace(num_slots=4, link_rate=5), settings=FleetSettings(links=False),
        method=get_method("optimal"), episodes=(0, 1),
    )  # fmt: skip
    assert plan.scenario.link_rates.min() == NO_LINKS  # in runs of real workers, too
    requests = virtual_requests(plan)
    assert len(requests) > 10
    for name in ("simulated", "predicted", "simulated_published", "predicted_published"):
        np.testing.assert_allclose(requests[f"{name}_s"], requests["measured_s"], rtol=1e-4, err_msg=name)


def test_every_request_that_a_lost_worker_touches_is_marked():
    plan = Plan(
        scenario=SCENARIO.replace(num_slots=12), settings=FleetSettings(links=False),
        method=get_method("least-wait"),
    )  # fmt: skip
    requests = virtual_requests(plan, [Absence(0, 100.0, 250.0), Absence(1, 400.0, 402.0)])
    came, measured, simulated, predicted = (
        np.asarray(requests[f"{name}_s"]) for name in ("arrival", "measured", "simulated", "predicted")
    )
    marked, touched = np.asarray(requests["disturbed"]), ~np.isclose(measured, simulated, rtol=1e-4)
    # Without links, all that is not touched takes exactly as long as in the simulation, and as predicted.
    assert not np.any(touched & ~marked)
    np.testing.assert_allclose(predicted[~marked], measured[~marked], rtol=1e-4)
    # The decisions of most of them were carried out; they have waited longer, or at another worker.
    carried_out = np.isclose(measured, predicted, rtol=1e-4)
    assert np.count_nonzero(touched & carried_out) >= 5
    # The episode is comparable before the first loss, and again after queues have been empty.
    assert not np.any(marked & (came + measured < 100))
    assert np.any(~marked & (came > 250) & (came < 400))
    assert np.any(~marked & (came > 402))


def test_agents_of_another_training_are_refused(tmp_path: Path):
    fleet = runpy.run_path(str(ROOT / "benchmarks" / "fleet.py"))
    name, home = "amcoedge-regret", tmp_path / "agents" / "amcoedge-regret"

    def source(**changes: Any) -> Any:
        scenario = in_fleet(load_scenario("jetson-sd15"))
        return fleet["Compare"](out=tmp_path, **changes)._source(name, scenario, FleetSettings())

    study = Training(
        name, seeds=5, first_seed=fleet["AGENT_SEED"], physics="serial",
        scenario=in_fleet(load_scenario("jetson-sd15")),
    )  # fmt: skip
    home.mkdir(parents=True)
    (home / "manifest.json").write_text(json.dumps(study.describe()))
    write_digests(home)
    for same in ({}, {"episodes": 50}, {"runs": 3}):
        assert callable(source(**same))
    for other in ({"episodes": 51}, {"scenario": "gpu-sd14"}):
        with pytest.raises(
            InputError, match=r"^out: .*amcoedge-regret holds another run; legal: another dir"
        ):
            source(**other)


def test_methods_are_compared_on_the_same_requests(tmp_path: Path):
    benchmark(
        "compare", "--virtual", "--slots", 3, "--runs", 2, "--methods", "optimal", "randcoedge", "local",
        "--out", tmp_path,
    )  # fmt: skip
    means, reductions = (pd.read_csv(tmp_path / f"{name}-virtual.csv") for name in ("compare", "reductions"))
    assert len(set(means["requests"])) == 1
    assert list(dict.fromkeys(means["method"])) == ["optimal", "randcoedge", "local"]
    keys = ["method", "measure", "source"]
    of: dict[Any, float] = means.set_index(keys)["estimate"].to_dict()
    assert of["optimal", "makespan_s", "measured"] < of["randcoedge", "makespan_s", "measured"]
    row: Any = reductions.set_index(["baseline", *keys[1:]]).loc["randcoedge", "makespan_s", "measured"]
    ratio = of["optimal", "makespan_s", "measured"] / of["randcoedge", "makespan_s", "measured"]
    # The ratio of sums over runs, each of which counts alike here and there.
    assert row["estimate"] == pytest.approx(1 - ratio, rel=1e-6)
    assert "11.04" in row["paper"]


def test_errors_of_both_link_models_are_kept(tmp_path: Path):
    benchmark(
        "errors", "--virtual", "--slots", 6, "--episodes", 2, "--methods", "least-wait", "--links", 10,
        "--out", tmp_path,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "errors-virtual.csv")
    found: dict[Any, float] = table.set_index("measure")["estimate"].to_dict()
    own, other = (
        found[f"median_error, at decision, {row}"] for row in ("from the ledger", "published links")
    )
    assert own < 1e-4 < 0.05 < other
