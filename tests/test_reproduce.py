"""The whole paper in one command: its studies, going on after an interruption, and the verdicts on claims."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pandas as pd
import pytest

from amco_jax.errors import InputError
from amco_jax.experiment import reproduce as module
from amco_jax.experiment.reproduce import FULL, QUICK, reproduce, studies_of
from amco_jax.report.claims import CLAIMS, claims_table
from amco_jax.report.studies import Study

TINY = dataclasses.replace(QUICK, seeds=3, convergence_episodes=6, sweep_episodes=2, points=1)


def test_the_full_run_has_every_study_of_the_paper():
    names = set(studies_of(FULL))
    swept = {
        f"{p}-{v}" for p in ("deadline", "arrival_prob", "num_tasks", "capacity") for v in module.PHYSICS
    }
    assert names == swept | {"convergence", "convergence-stable", "allocators", "set-sizes"}


def test_it_goes_on_where_it_stopped_and_ends_in_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Few studies, real ones: the others differ from them in their parameter alone.
    every = studies_of(TINY)
    chosen = {name: every[name] for name in ("convergence-stable", "set-sizes")}
    monkeypatch.setattr(module, "QUICK", TINY)
    monkeypatch.setattr(module, "studies_of", lambda effort: chosen)
    first = reproduce(tmp_path / "out", quick=True)
    before = os.stat(tmp_path / "out" / "set-sizes" / "manifest.json").st_mtime_ns
    again = reproduce(tmp_path / "out", quick=True)
    assert first is not None
    assert again is not None
    assert os.stat(tmp_path / "out" / "set-sizes" / "manifest.json").st_mtime_ns == before
    pd.testing.assert_frame_equal(first.compared, again.compared)
    assert first.claims is not None
    claims = {row[0].text for row in first.claims.rows}
    assert claims == {c.text for c in CLAIMS if c.metric == "makespan_mean_s"}
    used = pd.read_parquet(tmp_path / "out" / "set-sizes" / "results.parquet")
    for k in range(1, 6):
        assert set(used.loc[used["method"] == f"smcoedge-stable-{k}", "mean_servers_used"]) == {k}
    monkeypatch.setattr(module, "studies_of", studies_of)
    with pytest.raises(InputError, match="made for something else: episodes = 6, not 300, last = 1"):
        reproduce(tmp_path / "out")
    with pytest.raises(InputError, match="is not empty"):
        reproduce(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.13, 0.2, "holds"), (0.1, 0.2, "possible"), (-0.1, 0.119, "fails")]
)
def test_verdicts_follow_the_interval(low: float, high: float, verdict: str):
    rows = [("unified", m, s, 0.2, 0.0) for m in ("amcoedge", "smcoedge") for s in range(3)]
    results = pd.DataFrame(rows, columns=["condition", "method", "seed", "makespan_mean_s", "miss_rate"])
    study = Study("convergence", "compare", {}, "physics", results)
    record = {
        "study": "convergence", "condition": "unified", "metric": "makespan_mean_s", "method": "amcoedge",
        "baseline": "smcoedge", "reduction": (low + high) / 2, "reduction_low": low, "reduction_high": high,
    }  # fmt: skip
    table = claims_table([study], pd.DataFrame([record]))
    (found,) = [row for row in table.rows if re.match("12 % less", row[0].text)]
    assert found[table.columns.index("verdict")].text == verdict
