"""The page of a run: its tables, and how `report` finds it; the command's test writes a whole page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from amco_jax.commands import report
from amco_jax.errors import InputError
from amco_jax.report.others import page_writer
from edge_fleet.columns import PREDICTIONS
from edge_fleet.page import answer, errors_table, failures_table, gantt_figure, workers_table

REQUESTS = pd.DataFrame({
    "episode": 0, "measured_s": [2.0, 3.0, 5.0, 30.0], "simulated_s": [1.0, 3.0, 4.0, 5.0],
    "predicted_s": [2.0, 3.0, 4.0, 5.0], "rejected": False, "disturbed": [False, False, False, True],
    "attempts": [1, 1, 1, 3],
} | {f"{name}_s": 1.0 for name in PREDICTIONS if name.endswith("published")})  # fmt: skip
COUNTED = REQUESTS.loc[~REQUESTS["disturbed"]]


def test_errors_are_relative_to_the_prediction():
    (alone, decided) = errors_table(COUNTED).rows
    # Of 2/1, 3/3 and 5/4, and of 2/2, 3/3 and 5/4.
    assert [cell.text for cell in alone[1:]] == ["25.0 %", "62.5 %", "85.0 %", "92.5 %", "100.0 %"]
    assert [cell.value for cell in decided[1:]] == pytest.approx([0, 0.125, 0.2, 0.225, 0.25])
    words = answer(REQUESTS)
    assert (
        "Of 4 requests, the 3 undisturbed ones that the simulator serves too took 3.33 s, 2.67 s as" in words
    )
    assert "simulator alone 1.250 (median error 25.0 %)" in words
    assert "from the ledger 1.111 (median error 0.0 %)" in words


def test_requests_that_the_simulator_rejects_have_no_error():
    rejected = COUNTED.assign(simulated_s=[0.0, 3.0, 4.0])
    (alone, decided) = errors_table(rejected).rows
    assert alone[1].value == pytest.approx(0.125)  # of 3/3 and 5/4
    assert decided[1].value == pytest.approx(0.0)
    words = answer(rejected)
    assert "the 2 undisturbed ones that the simulator serves too took 4 s, 3.5 s as simulated" in words
    assert "simulator alone 1.143 (median error 12.5 %)" in words
    words = answer(COUNTED.assign(simulated_s=0.0))
    assert words.startswith("Of 3 requests, none was served undisturbed that the simulator serves too. ")
    assert words.endswith("Measured over predicted: at decision, from the ledger 1.111 (median error 0.0 %).")


def test_the_answer_has_the_numbers_of_the_summary():
    requests = COUNTED.assign(episode=[0, 0, 1], measured_s=[2.0, 3.0, 8.0])
    words = answer(requests)
    # The means of 5/4 and 8/4, and of the medians 0.5 and 1, over two episodes of different sizes.
    assert "simulator alone 1.625 (median error 75.0 %)" in words
    assert errors_table(requests).rows[0][1].text == "75.0 %"
    assert "took 5.25 s, 3 s as simulated (means over episodes)" in words
    nothing = requests.assign(rejected=True)
    assert answer(nothing) == "Of 3 requests, none was served undisturbed that the simulator serves too."
    assert errors_table(nothing.iloc[:0]).rows[0][1].text == "–"


def test_failures_are_told_apart():
    requests = pd.concat([REQUESTS, REQUESTS.iloc[:1].assign(disturbed=True, measured_s=4.0)])
    assert [[cell.text for cell in row] for row in failures_table(requests).rows] == [
        ["undisturbed", "3", "3.33", "1.111", "0"],
        ["disturbed, decided once", "1", "4", "2.000", "0"],
        ["decided again", "1", "30", "6.000", "2"],
    ]
    assert [cell.text for cell in failures_table(COUNTED).rows[2]] == ["decided again", "0", "–", "–", "0"]


def test_a_batch_keeps_its_worker_busy_once():
    images = pd.DataFrame({
        "episode": 0, "server": [0, 0, 1], "worker": ["a", "a", "b"], "received": [10.0, 10.0, 20.0],
        "ended": [10.0, 10.0, 20.0], "took_s": [0.5, 0.5, 0.2], "target_s": [5.0, 5.0, 2.0],
        "overrun_s": [0.0, 0.0, 0.1],
    })  # fmt: skip
    rows = workers_table(images, {"settings": {"speed": 10.0}}).rows
    assert [[cell.text for cell in row] for row in rows] == [
        ["0", "a", "2", "5", "5", "2.5", "0", "25 %"], ["1", "b", "1", "2", "2", "2", "1", "10 %"]
    ]  # fmt: skip


def test_the_chart_has_items_and_both_ways_of_the_links():
    nothing = {f"{way}_{end}": np.nan for way in ("there", "back") for end in ("began", "ended")}
    rows = [
        # One item of two images, which goes over the link of base station 1, and one that needs no link.
        {"episode": 0, "station": 1, "server": 0, "received": 20.0, "took_s": 1.0}
        | {"there_began": 2.0, "there_ended": 5.0, "back_began": 20.0, "back_ended": 22.0},
        {"episode": 0, "station": 0, "server": 0, "received": 30.0, "took_s": 0.5} | nothing,
        {"episode": 1, "station": 0, "server": 0, "received": 30.0, "took_s": 0.5} | nothing,
    ]
    images = pd.DataFrame([rows[0], *rows])
    figure = gantt_figure(images, {"settings": {"speed": 10.0}, "scenario": {"num_servers": 2}})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "worker 0", "worker 1", "link 0", "link 1"
    ]  # fmt: skip
    bars: list[Any] = list(axes.patches)
    found = [(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in bars]
    # Results are below the images of their link, and times of workers are in seconds of the run.
    np.testing.assert_allclose(found, [(0, 10, 10), (2.82, 2, 3), (3.18, 20, 2), (0, 25, 5)], atol=1e-9)


def test_report_finds_the_page_of_a_run_by_its_kind(tmp_path: Path):
    contents = {"fleet": '{"kind": "fleet"}', "sweep": '{"kind": "sweep"}', "repair": '{"kind": "repair"}'}
    contents |= {"list": '{"kind": []}', "cut": "{"}
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    found = [name for name in (*contents, "missing") if page_writer(tmp_path / name) is not None]
    assert found == ["fleet"]
    with pytest.raises(InputError, match="run: 2 runs with a page of their own; legal: one of them"):
        report.main(report.Arguments((tmp_path / "fleet", tmp_path / "fleet")))


def test_a_page_needs_no_grpc():
    program = (
        "import edge_fleet.commands.fleet, edge_fleet.page, json, sys; print(json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"grpc", "torch"} & set(json.loads(done.stdout))
