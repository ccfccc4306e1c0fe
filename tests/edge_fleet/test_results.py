"""Tables of results: results that are taken back, requests without a prediction, and what is printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amco_jax.stats import mean_interval
from edge_fleet.columns import PREDICTIONS
from edge_fleet.display import print_results
from edge_fleet.journal import Journal
from edge_fleet.results import summary_table
from edge_fleet.run import intact
from sd_repair.images import save_image

REQUESTS = pd.DataFrame({
    "episode": [0, 0, 1, 1], "measured_s": [2.0, 3.0, 4.0, 5.0], "rejected": False, "disturbed": False,
    "missed": False,
} | {f"{name}_s": [2.0, 3.0, 4.0, 4.0] for name in PREDICTIONS})  # fmt: skip


def test_a_result_whose_image_is_lost_is_taken_back(tmp_path: Path):
    journal = Journal(tmp_path)
    results = [
        {"kind": "result", "episode": 0, "request": 7, "image": k, "file": f"{k}.png", "ended": 1.0 + k}
        for k in range(3)
    ]
    for record in results:
        journal.write(record)
    save_image(tmp_path / "0.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "1.png").write_bytes(b"")
    assert intact(journal, tmp_path).images(0, 7) == {0}
    # It is repaired again, once.
    for k in (1, 2):
        save_image(tmp_path / f"{k}.png", np.zeros((64, 64, 3), np.uint8))
        journal.write(results[k] | {"ended": 9.0})
    again = intact(journal, tmp_path)
    journal.close()
    assert again.images(0, 7) == {0, 1, 2}
    assert again.results[0, 7, 2]["ended"] == 9.0
    assert again.repeated == 0


def test_requests_without_a_prediction_are_left_out_of_its_errors():
    requests = REQUESTS.assign(simulated_s=[0.0, 2.0, 4.0, 4.0])  # the simulator rejects the first one
    table = summary_table(requests).set_index(["prediction", "measure"])
    found = table.loc[PREDICTIONS["simulated"]]
    assert found["estimate"].tolist() == pytest.approx(
        [(1.5 + 9 / 8) / 2, (0.5 + 0.125) / 2, (0.5 + 0.2375) / 2]
    )
    assert set(found["requests"]) == {3}
    assert set(table.loc[PREDICTIONS["predicted"], "requests"]) == {4}
    nothing = summary_table(requests.assign(simulated_s=0.0)).set_index("prediction")
    assert np.isnan(nothing.loc[PREDICTIONS["simulated"], "estimate"]).all()
    assert np.isfinite(nothing.loc[PREDICTIONS["predicted"], "estimate"]).all()


def test_intervals_of_errors_are_those_of_means_and_end_at_zero():
    # One of five episodes has a large error, so that the interval of the mean error begins below 0.
    measured = np.array([1.01, 1.01, 1.02, 1.02, 1.8])
    requests = pd.DataFrame({
        "episode": range(5), "measured_s": measured, "rejected": False, "disturbed": False,
    } | {f"{name}_s": 1.0 for name in PREDICTIONS})  # fmt: skip
    table = summary_table(requests).set_index(["prediction", "measure"]).loc[PREDICTIONS["predicted"]]
    of_mean = mean_interval(measured)
    assert table.loc["mean_ratio", ["low", "high"]].tolist() == pytest.approx([of_mean.low, of_mean.high])
    assert mean_interval(measured - 1).low < 0
    for measure in ("median_error", "p95_error"):
        assert table.loc[measure, ["low", "high"]].tolist() == pytest.approx([0.0, of_mean.high - 1])
    one = summary_table(requests.loc[requests["episode"] == 0])
    assert np.isfinite(one["estimate"]).all()
    assert np.isnan(np.asarray(one[["low", "high"]], float)).all()


def printed(requests: pd.DataFrame, images: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> str:
    facts = {"overruns": 0, "disturbed": 0, "losses": 3}
    print_results(requests, images, summary_table(requests), facts)
    return capsys.readouterr().out


def test_times_are_of_requests_that_the_simulator_serves_too(capsys: pytest.CaptureFixture[str]):
    requests = REQUESTS.assign(measured_s=10.0, simulated_s=[10.0, 0.0, 0.0, 10.0])
    requests = pd.concat([requests, requests.iloc[:1].assign(measured_s=np.nan, rejected=True, missed=True)])
    shown = printed(requests, pd.DataFrame({"psnr_db": [20.0], "ssim": 0.9}), capsys)
    assert "5 requests, 1 of them rejected and 0 too late" in shown
    assert "0 requests disturbed, workers lost 3 times" in shown  # perhaps all of the same one
    assert "2 undisturbed ones that the simulator serves too took 10 s, 10 s as simulated" in shown


def test_a_run_in_which_everything_is_rejected_is_printed(capsys: pytest.CaptureFixture[str]):
    rejected = REQUESTS.assign(measured_s=np.nan, rejected=True, missed=True)
    shown = printed(rejected, pd.DataFrame({"psnr_db": [], "ssim": []}), capsys)
    assert "4 requests, 4 of them rejected and 0 too late; none was served undisturbed" in shown
    assert "nan" not in shown


def test_a_run_with_overruns_is_called_invalid(capsys: pytest.CaptureFixture[str]):
    images = pd.DataFrame({"psnr_db": [20.0, 21.0, 22.0], "ssim": 0.9})
    for overruns in (0, 2):
        facts = {"overruns": overruns, "disturbed": 0, "losses": 0}
        print_results(REQUESTS, images, summary_table(REQUESTS), facts)
        shown = capsys.readouterr().out
        assert ("invalid: 2 of 3 images" in shown) == (overruns > 0)
