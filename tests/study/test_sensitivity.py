"""Sensitivities as a study: estimates, files, shards, reports, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.studies import carry_out

from amco_jax import Execution, Scenario, Sensitivity, StudyResult, run_study
from amco_jax.agents.methods import METHODS
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.report.page import make_report, write_report
from amco_jax.report.studies import load_studies
from amco_jax.report.terminal import print_sensitivity
from amco_jax.stats import ratio_interval
from amco_jax.study.differentiate import differentiate

# So little work that no slot leaves any to the next one, and no task is late.
QUIET = Scenario(
    num_servers=2, num_tasks=3, num_slots=4, arrival_prob=0.6, density_min=0.1, density_max=0.4,
    capacity=(10, 20), deadline=5,
)  # fmt: skip
SEEDS = 128  # a unit has a multiple of so many
STUDY = Sensitivity(["local"], of=["task_size_min", "deadline"], seeds=SEEDS, scenario=QUIET)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    out = tmp_path_factory.mktemp("sensitivity") / "out"
    return out, run_study(STUDY, out)


def of_tasks(result: StudyResult) -> dict[str, float]:
    """The estimates per task by metric."""
    rows = result.summary.loc[result.summary["per"] == "task"]
    return dict(zip(rows["metric"].tolist(), rows["estimate"].tolist(), strict=True))


def test_estimates_are_ratios_of_sums_over_seeds(finished: tuple[Path, StudyResult]):
    _, result = finished
    (batch,) = differentiate([QUIET], METHODS["local"], UNIFIED, 0, SEEDS)
    tasks = np.asarray(batch.gradients.weight, np.float64)
    summary = result.summary.set_index(["metric", "per"])
    for name, sums in (
        ("makespan_mean_s", batch.gradients.total),
        ("makespan_mean_s_per_capacity_1", batch.gradients.params.capacity[:, 1]),
        ("makespan_mean_s_per_task_size_min", batch.gradients.params.task_size_min),
    ):
        row = summary.loc[(name, "task")]
        expected = ratio_interval(np.asarray(sums, np.float64), tasks)
        np.testing.assert_allclose(row[["estimate", "ci_low", "ci_high"]].astype(float), expected, rtol=1e-6)
    # Local makespans are in inverse proportion to capacity, and in proportion to the sizes of tasks.
    means = of_tasks(result)
    by_capacity = 10 * means["makespan_mean_s_per_capacity_0"] + 20 * means["makespan_mean_s_per_capacity_1"]
    assert by_capacity == pytest.approx(-means["makespan_mean_s"], rel=1e-5)
    assert means["makespan_mean_s_per_task_size_min"] > 0
    assert means["makespan_mean_s_per_link_rate_0_1"] == means["makespan_mean_s_per_deadline"] == 0
    assert "makespan_mean_s_per_link_rate_0_0" not in means


def test_files_are_those_of_other_studies(finished: tuple[Path, StudyResult]):
    out, result = finished
    names = {"results.parquet", "summary.csv", "manifest.json", "SHA256SUMS", "units"}
    assert {path.name for path in out.iterdir()} == names
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), result.rows)
    assert result.rows["seed"].tolist() == list(range(SEEDS))
    assert result.manifest["kind"] == "sensitivity"
    assert [*result.manifest["derivatives"]] == ["capacity", "link_rate", "task_size_min", "deadline"]
    written = (out / "manifest.json").stat().st_mtime_ns
    again = run_study(STUDY, out, execution=Execution(resume=True))
    assert (out / "manifest.json").stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(again.rows, result.rows)


def test_shards_of_units_give_the_same_rows(finished: tuple[Path, StudyResult], tmp_path: Path):
    _, result = finished
    study = Sensitivity(["local"], of=STUDY.of, seeds=2 * SEEDS, scenario=QUIET)
    parts = [
        run_study(study, tmp_path, execution=Execution(shard=f"{part}/2", unit_seconds=1e-3))
        for part in (0, 1)
    ]
    assert [part.missing for part in parts] == [1, 0]
    rows = parts[1].rows
    assert rows["seed"].tolist() == list(range(2 * SEEDS))
    pd.testing.assert_frame_equal(rows.iloc[:SEEDS], result.rows)


def test_reports_say_which_server_shortens_the_makespan_most(
    finished: tuple[Path, StudyResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, result = finished
    (page,) = write_report(make_report(load_studies([out])), tmp_path, ["md"])
    text = page.read_text("utf-8")
    assert "which server or link shortens the makespan most?" in text
    means = of_tasks(result)
    steepest = 1e3 * means["makespan_mean_s_per_capacity_0"]
    assert steepest < 1e3 * means["makespan_mean_s_per_capacity_1"]
    shown = f"−{-steepest:.4f}"
    assert f"most steeply in the capacity of server 0 ({shown}" in text
    assert "rises most steeply in the least task size (" in text
    assert f"capacity of server 0 | ms per Gcycles/s | {shown}" in text
    assert "derivatives hold the sets of servers fixed" in text
    print_sensitivity(result.summary, result.manifest)
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["optimal", "amcoedge"]}, "method: amcoedge is trained"),
        ({"methods": ["bound"]}, "method: bound is a lower bound and decides nothing; legal: in a sweep"),
        ({"methods": ["planner"]}, "method: planner knows all arrivals in advance; legal: in a sweep"),
        ({"of": ["arrival_prob"]}, "of: 'arrival_prob'; legal: capacity, link_rate, slot_duration"),
        ({"metrics": ["miss_rate"]}, "metric: miss_rate; legal for gradients"),
        ({"metrics": ["goodput_gcycles_per_s"]}, "metrics: goodput_gcycles_per_s; legal for sensitivities"),
        ({"scenario": QUIET.replace(warmup="auto")}, "warmup: auto"),
        ({"physics": "newtonian"}, "physics: 'newtonian'"),
        ({"seeds": 0}, "seeds: 0"),
    ],
)
def test_bad_studies_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        carry_out(Sensitivity, **changes)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)
