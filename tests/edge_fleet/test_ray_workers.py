"""Workers that a Ray cluster starts, on a real cluster on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.fleets import QUICK, TWO, arrivals, assert_each_image_once, play
from helpers.refusals import refused
from helpers.request_logs import HEADER, small_rows, write

from amco_jax.commands import start
from amco_jax.results.saved import open_run
from edge_fleet import launching
from edge_fleet.engines import EngineSettings
from edge_fleet.security import Keys, make_keys, read_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory = tmp_path_factory.mktemp("ray") / "keys"
    make_keys(directory)
    return read_keys(directory, server=True)


def test_a_cluster_starts_the_workers(cluster: Any, keys: Keys, tmp_path: Path):
    came, names = arrivals(6), ["one", "two", "three"]
    patient = dataclasses.replace(QUICK, patience=20.0)  # a cluster on this machine takes its cores
    with launching.ray_workers(EngineSettings(), names, cluster.address, keys) as crew:
        assert len(set(crew.addresses)) == 3
        asyncio.run(asyncio.wait_for(play(crew, tmp_path, came, patient), 120))
    results = assert_each_image_once(tmp_path, came).results.values()
    assert {record["worker"] for record in results} == set(names)
    for record in results:  # the order of the names is that of the servers
        assert record["worker"] == names[record["server"]]


def test_the_command_replays_a_request_log_on_a_cluster(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    make_keys(tmp_path / "keys")
    scenario, out = tmp_path / "two.toml", tmp_path / "run"
    scenario.write_text(TWO)
    rows = [f"{row},{10 + number % 2 * 10}" for number, row in enumerate(small_rows(60))]
    log = write(tmp_path / "log.csv", rows, f"{HEADER},num_inference_steps")
    words = ["run", "--scenario", scenario, "--trace", log, "--out", out]
    words += ["--ray", cluster.address, "--keys", tmp_path / "keys", "--set", "time_scale=2"]
    words += ["--fleet", "size=64", "speed=100", "patience=20"]
    monkeypatch.setattr(sys, "argv", ["fleet.py", *map(str, words)])
    start("edge_fleet.commands.fleet")
    assert "simulator alone" in capsys.readouterr().out
    saved = open_run(out, ["fleet"])
    requests, images = saved.table("requests.parquet"), saved.table("images.parquet")
    assert len(requests) > 3
    assert len(images) == requests["images"].sum()
    assert set(requests["images"]) <= {1, 4, 8}  # as in the log
    assert saved.manifest["facts"]["losses"] == 0


def test_a_worker_that_cannot_start_is_told(cluster: Any, keys: Keys):
    def start() -> None:
        settings = EngineSettings(engine="sd15", model="nowhere.safetensors")
        with launching.ray_workers(settings, ["one"], cluster.address, keys):
            pass

    refused(start, "ray: a worker has not started", "`ray logs`")
