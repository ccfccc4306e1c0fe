"""The comparison with other simulators: what it computes from measurements, without any of them."""

from __future__ import annotations

import json
import runpy
import sys
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest
from helpers.paths import ROOT

from amco_jax.errors import InputError

PEERS = runpy.run_path(str(ROOT / "benchmarks" / "peers.py"))
DRIVERS = runpy.run_path(str(ROOT / "benchmarks" / "peer_drivers.py"))


def test_speeds_are_compared_with_ours_of_the_same_round():
    rows = []
    for number, speed in enumerate((1.0, 2.0, 0.5)):  # of a machine whose speed drifts

        def measured(unit: str, simulator: str, setting: str, parallel: int, count: float, number=number):
            named = {"round": number, "unit": unit, "simulator": simulator, "setting": setting}
            return named | {"parallel": parallel, "count": count, "wall_s": 4.0, "processor_s": 2.0}

        rows += [
            measured("decisions", "AMCo-JAX", "randcoedge, kernel", 1, 1000 * speed),
            measured("decisions", "AMCo-JAX", "randcoedge, kernel", 64, 8000 * speed),
            measured("decisions", "other", "sample", 1, 10 * speed),
            measured("steps", "AMCo-JAX", "GymnaxEnv", 1, 100 * speed),
            measured("steps", "AMCo-JAX", "GymnaxEnv", 32, 400 * speed),
            measured("steps", "gymnax", "CartPole", 32, 1200 * speed),
        ]
    table = PEERS["speeds_table"](pd.DataFrame(rows)).set_index(["simulator", "setting", "parallel"])
    assert table.loc[("other", "sample", 1), "wall"] == pytest.approx((2.5, 1.25, 5))
    assert table.loc[("other", "sample", 1), "processor"] == pytest.approx((5, 2.5, 10))
    for key, ratio in (
        (("AMCo-JAX", "randcoedge, kernel", 1), 1),
        (("AMCo-JAX", "randcoedge, kernel", 64), 8),
        (("other", "sample", 1), 0.01),
        (("AMCo-JAX", "GymnaxEnv", 32), 1),
        (("gymnax", "CartPole", 32), 3),
    ):
        assert table.loc[key, "ratio"] == pytest.approx((ratio, ratio, ratio))


def test_only_simulators_that_are_given_are_measured():
    arguments = PEERS["Arguments"]
    names = [line[1] for line in PEERS["command_lines"](arguments())]
    assert names == ["amco", "amco_environment", "gymnax"]
    lines = PEERS["command_lines"](arguments(edgecloudsim=("java", "there"), xlron=("python3.12", "here")))
    assert ["python3.12", "xlron", "here", "1", "1024"] in lines
    assert [sys.executable, "edgecloudsim", "java", "there"] in lines
    assert {line[1] for line in lines} <= DRIVERS["DRIVERS"].keys()


def test_a_single_one_is_measured_once(monkeypatch: pytest.MonkeyPatch):
    lines = PEERS["command_lines"](PEERS["Arguments"](environments=1, seeds=1))
    assert {line[1]: line[2:] for line in lines}["amco_environment"] == ["1"]
    settings: list[tuple[Any, ...]] = []
    amco = DRIVERS["amco"]
    monkeypatch.setattr("amco_jax.study.measure.rollout_program", lambda *arguments: (MagicMock(), ()))
    monkeypatch.setitem(amco.__globals__, "timed", lambda run: (1, 1.0, 1.0))
    monkeypatch.setitem(amco.__globals__, "report", lambda *row: settings.append(row[2:4]))
    amco("1")
    assert len(settings) == len(set(settings)) == 6


def test_a_driver_that_fails_is_named():
    with pytest.raises(InputError, match=r"^raycloudsim: "):
        PEERS["measured"]([sys.executable, "raycloudsim", "nowhere"])
    with pytest.raises(InputError, match=r"^xlron: "):
        PEERS["measured"](["nowhere", "xlron"])


def test_timing_leaves_out_the_first_run_and_what_prepares_it(capsys: pytest.CaptureFixture[str]):
    runs: list[int] = []

    def run(given: Any) -> int:
        runs.append(given)
        return 10

    spent = DRIVERS["timed"](run, lambda: len(runs), seconds=0.001)
    assert runs == list(range(len(runs)))
    assert spent[0] == 10 * (len(runs) - 1) > 0
    assert spent[1] >= 0.001
    DRIVERS["report"]("steps", "mine", "small", 2, spent)
    assert json.loads(capsys.readouterr().out)["count"] == spent[0]
