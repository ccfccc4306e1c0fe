"""Reports of methods that are measured over different slots, reject tasks, or have asymmetric intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.studies import carry_out

from amco_jax import Scenario, Sweep
from amco_jax.report.answers import answer_of
from amco_jax.report.page import make_report, write_report
from amco_jax.report.rankings import ranked_by
from amco_jax.report.studies import SavedStudy, load_studies
from amco_jax.report.tables import interval_text
from amco_jax.report.warnings import Kind, by_kind

SCENARIO = Scenario(num_servers=2, num_tasks=4, num_slots=40, capacity=(1.0, 3.0), deadline=1.0)


def study_of(out: Path, **changes: Any) -> SavedStudy:
    options: dict[str, Any] = {
        "values": [0.3, 0.9], "methods": ["optimal", "local"], "seeds": 12, "scenario": SCENARIO,
    }  # fmt: skip
    carry_out(Sweep, "arrival_prob", out=out, **(options | changes))
    (study,) = load_studies([out])
    return study


def test_methods_measured_over_different_slots_have_no_ranks_by_sums(tmp_path: Path):
    asked = ["cost_usd", "num_in_time", "task_energy_mean_j"]
    study = study_of(
        tmp_path / "auto", values=[0.3, 0.5], scenario=SCENARIO.replace(warmup="auto"), metrics=asked
    )
    warmups = {pilot["warmup"] for pilot in study.manifest["pilots"] if pilot["value"] == 0.5}
    assert len(warmups) == 2
    names = {column.name for column in ranked_by(study)}
    assert "task_energy_mean_j" in names
    assert names.isdisjoint({"cost_usd", "num_in_time"})
    report = make_report([study])
    assert "cost" not in report.answer(0)
    (caveat,) = by_kind(report.warnings)[Kind.WARMUP]
    assert f"to {max(warmups)} slots are excluded" in str(caveat)
    text = write_report(report, tmp_path / "report", ["md"])[0].read_text("utf-8")
    assert f"to {max(warmups)} slots of warm-up excluded." in text

    same = study_of(tmp_path / "same", scenario=SCENARIO.replace(warmup=5), metrics=asked)
    assert {"cost_usd", "num_in_time"} < {column.name for column in ranked_by(same)}
    assert Kind.WARMUP not in by_kind(make_report([same]).warnings)


def test_the_rejected_share_is_shown_where_tasks_are_rejected(tmp_path: Path):
    def heads(study: SavedStudy) -> str:
        return " ".join(next(iter(make_report([study]).overview(0).values())).columns)

    assert "reject rate per task" not in heads(study_of(tmp_path / "none", methods=["local"]))
    some = study_of(tmp_path / "some", methods=["local", "optimal-admission"])
    assert "reject rate per task" in heads(some)
    # A rejected task counts as missed, so that methods that reject none are not better for it.
    assert "reject rate" not in answer_of(some, make_report([some]).estimated[0])


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, 0.4, 0.6), "0.5000 ± 0.1000"),
        ((0.7696, 0.4459, 0.9866), "0.7696 [0.4459, 0.9866]"),  # with ±, it would reach beyond 1
        ((0.5, 0.4, 0.62), "0.5000 [0.4000, 0.6200]"),
        ((40994.3578, 40502.5, 41486.1), "40994.4 ± 491.8"),
        ((40994.3578, 40994.3568, 40994.3588), "40994.358 ± 0.001"),
        ((104.66148, 104.2, 105.1), "104.661 ± 0.450"),
        ((-3.5, -3.6, -3.4), "−3.5000 ± 0.1000"),
        ((-0.00001, -0.01, 0.01), "0.0000 ± 0.0100"),
    ],
)
def test_intervals_are_written_with_both_bounds_unless_they_are_even(
    numbers: tuple[float, float, float], text: str
):
    assert interval_text(*numbers) == text
