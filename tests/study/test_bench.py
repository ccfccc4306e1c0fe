"""The benchmark: what it measures, and on what; never how fast."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.command_lines import command
from helpers.episodes import SMALL, run
from helpers.paths import ROOT

from amco_jax.agents.methods import METHODS
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.kernel.reference import best_sets, cwa_by_solve
from amco_jax.kernel.reference import simulate as simulate_plainly
from amco_jax.machine import peak_memory
from amco_jax.report.figures import growth_figure
from amco_jax.scenario import Scenario
from amco_jax.study.base import StudyResult
from amco_jax.study.bench import alone, exponents, growth_rows
from amco_jax.study.measure import Job, arrivals, can_play
from amco_jax.study.simulate import simulate

TINY = [
    "--set",
    "num_servers=3",
    "num_tasks=5",
    "num_slots=4",
    "--seeds",
    64,
    "--trained-seeds",
    2,
    "--repeats",
    2,
]


def test_the_plain_loop_plays_optimal_on_the_arrivals_of_the_kernel():
    (batch,) = simulate([SMALL], METHODS["optimal"], UNIFIED, first_seed=3, num_seeds=1)
    played = simulate_plainly(
        arrivals(SMALL, 3), "unified", cwa_by_solve, best_sets(SMALL.num_servers, cwa_by_solve)
    )
    here = played["makespan_s"] > 0
    assert here.sum() == batch.metrics["num_tasks"][0] > 10
    for name, values in (("makespan_mean_s", "makespan_s"), ("miss_rate", "missed")):
        np.testing.assert_allclose(batch.metrics[name][0], played[values][here].mean(), rtol=1e-5)
    assert played["missed"].any()


def test_the_plain_loop_plays_randcoedge_as_the_kernel_does():
    kernel = run(METHODS["randcoedge"], seed=3)
    played = simulate_plainly(
        arrivals(SMALL, 3) | {"selected": kernel.decisions.selected}, "unified", cwa_by_solve
    )
    here = played["makespan_s"] > 0
    np.testing.assert_array_equal(here, kernel.decisions.present)
    np.testing.assert_allclose(played["makespan_s"][here], kernel.decisions.makespan[here], rtol=1e-4)
    np.testing.assert_allclose(played["backlog_gcycles"], kernel.backlog, rtol=1e-4, atol=1e-4)


def test_where_there_is_a_plain_loop():
    assert can_play("optimal", SMALL)
    assert not can_play("least-wait", SMALL)
    assert not can_play("optimal", Scenario(num_servers=20))
    assert not can_play("randcoedge", SMALL.replace(arrivals="poisson"))
    assert not can_play("optimal", SMALL.replace(order="turns"))
    assert not can_play("optimal", SMALL.replace(timing="continuous"))


def hog(job: Job, megabytes: int) -> float:
    """Peak memory after so much has been held for a moment, MiB."""
    np.ones(megabytes * 2**17).sum()
    return peak_memory() / 2**20


def test_each_measurement_has_its_own_peak_memory():
    job = Job("local", SMALL, 1, 1)
    first, second = alone(hog, job, 300), alone(hog, job, 0)
    assert 250 < first - second < 350


def growth(seconds: float, megabytes: float, **row: object) -> dict:
    return {
        "method": "local", "num_servers": 5, "seeds": 64, "decisions": 100, "compile_s": 1.0,
        "rollout_s": [0.9 * seconds, seconds, 1.2 * seconds], "peak_memory_mb": megabytes,
    } | row  # fmt: skip


def points() -> pd.DataFrame:
    rows = [growth(n**1.5, n, axis="seeds", value=n - 1, seeds=n) for n in (64, 640, 6400)]
    rows += [
        growth(b**2, 300, axis="num_servers", value=b, num_servers=b, decisions=7 * b) for b in (5, 10, 40)
    ]
    rows.append(growth(2, 300, axis="seeds", value=1, method="optimal"))
    return growth_rows(rows)


def test_growth_is_the_slope_of_the_logarithms():
    found = exponents(points())
    assert found["method"].tolist() == ["local", "local", "optimal"]
    np.testing.assert_allclose(found["time"], [1.5, 1, np.nan])  # over servers, of one decision
    np.testing.assert_allclose(found["memory"], [1, 0, np.nan], atol=1e-12)
    assert exponents(growth_rows([])).empty


def test_the_figure_of_growth():
    rows = points()
    figure = growth_figure(rows)
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    time_over_seeds, time_over_servers, memory_over_seeds, _ = figure.axes
    assert time_over_seeds.get_ylabel() == "time for all seeds [s]"
    assert time_over_servers.get_ylabel() == "time per decision [µs]"
    for axes, x, y in (
        (time_over_servers, (5, 10, 40), (5e6 / 7, 10e6 / 7, 40e6 / 7)),
        (memory_over_seeds, (63, 639, 6399), (64, 640, 6400)),
    ):
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_data(), float), np.asarray([x, y]))
    assert len(growth_figure(rows.loc[rows["axis"] == "seeds"]).axes) == 2


def test_bench_writes_everything_that_it_measures(script, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "mine.py").write_text(
        "from amco_jax import Method, per_task\nMETHOD = Method('mine', per_task(lambda view: view.local))\n"
    )
    run = command(
        "bench", "--methods", "optimal", "mine:METHOD", "drlcoedge", *TINY, "--out", out,
        "--growth", "mine:METHOD", "--growth-seeds", 1, 200, "--growth-servers", 2, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "plain loop" in run.stdout
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["device"]["count"] >= 1
    optimal, mine = manifest["methods"]
    (plain,), (trained,) = manifest["plain"], manifest["training"]
    for row, kind in ((optimal, "rollout_s"), (mine, "sweep_s"), (trained, "train_s"), (plain, "seconds")):
        assert len(row[kind]) == 2
        assert min(row[kind]) > 0
    assert min(row["peak_memory_mb"] for row in (optimal, mine, trained)) > 50
    assert min(optimal["compile_s"], optimal["operations"], trained["first_s"]) > 0
    ratio = optimal["rollout_decisions_per_s"] / plain["decisions_per_s"]
    assert optimal["ratio_to_plain"] == pytest.approx(ratio)
    assert mine["ratio_to_plain"] is None
    assert f"| {ratio:,.0f} | {optimal['compile_s']:.1f} |" in (out / "summary.md").read_text()
    rows = pd.read_csv(out / "growth.csv")
    assert rows[["method", "axis", "value"]].to_numpy().tolist() == [
        ["mine", "seeds", 1], ["mine", "seeds", 200], ["mine", "num_servers", 2],
    ]  # fmt: skip
    assert np.all(np.asarray(rows["decisions"]) > 0)
    assert {file.name for file in out.iterdir()} == {
        "summary.md", "manifest.json", "growth.csv", "growth.png", "growth.pdf", "SHA256SUMS",
    }  # fmt: skip
    script.assert_refused(["holds results"], "bench", "--methods", "local", "--out", out)


def test_bench_refuses_bad_input_before_it_measures(script, tmp_path):
    for arguments, words in (
        (["--growth", "nowhere"], ["method: 'nowhere'"]),
        (["--growth", "local", "--growth-seeds", 0], ["growth_seeds: 0"]),
        (["--growth", "local", "--growth-servers", 0], ["num_servers: 0"]),
        (["--growth", "local", "--set", "capacity=1-2-3-4-5"], ["capacity"]),
        (["--repeats", 0], ["repeats: 0"]),
        (["--warmup", 2], ["Unrecognized options", "--warmup"]),
        (["--set", "warmup=2"], ["warmup: 2; legal in a benchmark: none"]),
        (["--set", "warmup=auto"], ["warmup: auto"]),
    ):
        script.assert_refused(words, "bench", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_overhead_of_unknown_engines_is_not_measured():
    overhead = runpy.run_path(str(ROOT / "benchmarks" / "overhead.py"))
    with pytest.raises(InputError, match=r"^engine: 'slurm'; legal: local, ray"):
        overhead["main"](overhead["Arguments"](engine="slurm"))


def test_rows_of_a_device_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The comparison of devices takes a file for all rows of its case."""
    worker = runpy.run_path(str(ROOT / "benchmarks" / "devices.py"))["_worker"]
    rows, out = pd.DataFrame({"seed": [0]}), tmp_path / "default-cpu.parquet"

    def interrupted(self: pd.DataFrame, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("amco_jax.compile.runtime.configure", lambda **options: None)
    monkeypatch.setattr("amco_jax.run_study", lambda study: StudyResult({}, rows, kept=rows))
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker("default", out, tmp_path / "log.csv")
    assert not any(tmp_path.iterdir())
    worker("default", out, tmp_path / "log.csv")
    assert pd.read_parquet(out).attrs == {"warnings": []}


def test_speeds_of_two_commits_are_compared_pair_by_pair():
    paired = runpy.run_path(str(ROOT / "benchmarks" / "paired.py"))

    def pairs(ratio: float) -> list[Any]:
        speeds = [(100.0, 1.0), (60.0, 1.01), (140.0, 0.99)]  # of a machine whose speed drifts
        return [
            ({("m", "kernel"): old * ratio * noise, ("m", "operations"): 7.0}, {("m", "kernel"): old})
            for old, noise in speeds
        ]

    table = paired["ratios_table"](pairs(0.9))
    (row,) = table.to_dict("records")  # the other commit has not counted operations
    assert row["ratio"] == pytest.approx(0.9, rel=1e-3)
    assert 0.87 < row["low"] < 0.9 < row["high"] < 0.93
    assert paired["slower"](table, 0.05)["method"].tolist() == ["m"]
    assert paired["slower"](table, 0.1).empty
    assert paired["slower"](paired["ratios_table"](pairs(1.0)), 0.05).empty
