"""Workers that a Ray cluster starts, on a real cluster on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers.fleets import QUICK, arrivals, assert_each_image_once, play
from helpers.refusals import refused

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


def test_a_worker_that_cannot_start_is_told(cluster: Any, keys: Keys):
    def start() -> None:
        settings = EngineSettings(engine="sd15", model="nowhere.safetensors")
        with launching.ray_workers(settings, ["one"], cluster.address, keys):
            pass

    refused(start, "ray: a worker has not started", "legal: ")
