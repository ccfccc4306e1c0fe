"""Studies on Ray: a real cluster on this machine, whose workers, nodes and drivers are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.kills import (
    ALL_COMMANDS,
    PATIENCE,
    assert_complete,
    ended_well,
    log,
    some_commands,
    start,
    start_commands,
    wait_for_a_unit,
    was_cut_short,
    words_of,
)

from amco_jax import Execution


@pytest.mark.parametrize("victim", ["worker", "node"] if ALL_COMMANDS else ["node"])
def test_a_killed_worker_or_node_costs_nothing_but_time(
    victim: str, cluster: Any, whole: Path, tmp_path: Path
):
    for attempt in range(5):
        out = tmp_path / f"out-{attempt}"
        driver = start(out, "--engine", "ray", "--address", cluster.address)
        pid, unit = wait_for_a_unit(out, driver)
        if victim == "worker":
            os.kill(pid, signal.SIGKILL)
        else:
            raylet = psutil.Process(pid).parent()
            assert raylet is not None
            assert "raylet" in raylet.name()
            for process in [raylet, *raylet.children(recursive=True)]:
                process.send_signal(signal.SIGKILL)
        ended_well(driver)
        assert_complete(out, whole)
        if victim == "node":
            cluster.add_node(num_cpus=1)
        if was_cut_short(out, pid, unit):
            return
    raise AssertionError("no kill met a unit in progress")


def test_every_command_has_the_same_results_on_workers(cluster: Any, finished: Path, tmp_path: Path):
    """With two devices for each unit, as trainings round otherwise on a single one."""
    commands = some_commands("reproduce")
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    engines = {
        "here": [],
        "there": ["--engine", "ray", "--address", cluster.address, "--cpus-per-unit", "2"],
    }
    drivers = {}
    for place, words in engines.items():
        lines = [
            [name, *words_of(name, tmp_path / place / name, *([finished] * (name == "evaluate")), *words)]
            for name in commands
        ]
        drivers[place] = start_commands(*lines)
        ended_well(drivers[place])  # one after the other, as the second finds the programs of the first
    for node in nodes:
        cluster.remove_node(node)
    for name in commands:
        here, there = (tmp_path / place / name for place in engines)
        assert_complete(there, here)
        assert {pid for _, _, pid, *_ in log(here)} == {str(drivers["here"].pid)}
        assert str(drivers["there"].pid) not in {pid for _, _, pid, *_ in log(there)}


def test_a_killed_driver_can_be_started_again(cluster: Any, whole: Path, tmp_path: Path):
    out = tmp_path / "out"
    driver = start(out, "--engine", "ray", "--address", cluster.address)
    wait_for_a_unit(out, driver)
    driver.kill()
    driver.communicate()
    assert not (out / "manifest.json").exists()
    ended_well(start(out, "--engine", "ray", "--address", cluster.address, "--resume"))
    assert_complete(out, whole)


def test_a_unit_takes_a_whole_gpu_where_the_cluster_has_some(cluster: Any, whole: Path, tmp_path: Path):
    node, out = cluster.add_node(num_cpus=4, num_gpus=1), tmp_path / "out"
    ended_well(start(out, "--engine", "ray", "--address", cluster.address))
    cluster.remove_node(node)
    assert_complete(out, whole)
    events = [event for *_, event, _ in log(out)]
    assert events == ["started", "committed"] * (len(events) // 2)  # one after the other, on six cores
    assert len({pid for _, _, pid, *_ in log(out)}) == 1  # which has compiled everything once
    assert not list((out / "units").glob(".unfinished-*"))


@pytest.mark.parametrize(
    ("arguments", "joins"), [((), False), *[(("--address", "auto"), True)] * ALL_COMMANDS]
)
def test_a_sweep_has_a_cluster_of_its_own_unless_it_is_told_to_join(
    arguments: tuple[str, ...], joins: bool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    driver = start(tmp_path / "out", "--engine", "ray", *arguments)
    pid, _ = wait_for_a_unit(tmp_path / "out", driver, after=0)
    raylet = psutil.Process(pid).parent()
    assert raylet is not None
    assert (f"--gcs-address={cluster.address}" in raylet.cmdline()) == joins
    driver.terminate()
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 143
    # Among them, as Ray's own threads may write after the driver's last word.
    line = f"interrupted; to continue, run the same command with --out {tmp_path / 'out'} --resume"
    assert line in errors.splitlines(), errors


@pytest.mark.parametrize("connected", [False, True])
def test_an_engine_leaves_a_cluster_unless_it_was_connected_before(connected: bool, cluster: Any):
    import ray

    if connected:
        ray.init(address=cluster.address)
    try:
        Execution(engine="ray", address=cluster.address).start(lambda unit, done: None).run([])
        assert ray.is_initialized() == connected
    finally:
        ray.shutdown()


def test_no_cluster_is_refused_in_one_line(tmp_path: Path):
    driver = start(tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2
    assert errors.startswith("error: address: '127.0.0.1:1' gives no Ray cluster")
    assert errors.count("\n") == 1
