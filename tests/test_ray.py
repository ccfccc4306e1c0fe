"""Sweeps on Ray: a real cluster of two nodes on this machine, whose workers, nodes and drivers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [
    "--param", "arrival_prob", "--values", "0.2", "0.5", "0.8", "--methods", "local", "optimal",
    "--seeds", "640", "--unit-seconds", "0.02", "--set", "num_slots=40", "--quiet",
]  # fmt: skip
TABLES = ("results.parquet", "summary.csv")


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    line = [sys.executable, str(ROOT / "scripts" / "sweep.py"), *OPTIONS, "--out", str(out), *more]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    pipe: Any = subprocess.PIPE
    return subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=out.parent)


def ended_well(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep in one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended_well(start(out))
    return out


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each; the head has none."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def log(out: Path) -> list[list[str]]:
    path = out / "units" / "log.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def in_progress(out: Path) -> dict[int, str]:
    """Units that have started and not ended, by the process that computes them."""
    running = {}
    for _, _, pid, event, unit in log(out):
        running[int(pid)] = unit if event == "started" else ""
    return {pid: unit for pid, unit in running.items() if unit}


def wait_for_a_unit(out: Path, driver: subprocess.Popen[str]) -> tuple[int, str]:
    """A process in the middle of a unit, after some others were committed."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()
        if sum(event == "committed" for *_, event, _ in log(out)) >= 3 and (found := in_progress(out)):
            return next(iter(found.items()))
        time.sleep(0.002)
    raise AssertionError("no unit was seen in progress")


def was_cut_short(out: Path, pid: int, unit: str) -> bool:
    """Whether the process had started the unit and never committed it."""
    events = [event for _, _, who, event, what in log(out) if (int(who), what) == (pid, unit)]
    return events == ["started"]


def assert_complete(out: Path, whole: Path) -> None:
    for name in TABLES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    commits = {p.name for p in (out / "units").glob("*.sha256")}
    assert commits == {p.name for p in (whole / "units").glob("*.sha256")}
    assert len(list((out / "units").glob("*.parquet"))) == len(commits)


@pytest.mark.parametrize("victim", ["worker", "node"])
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
        if was_cut_short(out, pid, unit):
            return
        if victim == "node":
            cluster.add_node(num_cpus=1)
    raise AssertionError("no kill met a unit in progress")


def test_a_killed_driver_can_be_started_again(cluster: Any, whole: Path, tmp_path: Path):
    out = tmp_path / "out"
    driver = start(out, "--engine", "ray", "--address", cluster.address)
    wait_for_a_unit(out, driver)
    driver.kill()
    driver.communicate()
    assert not (out / "manifest.json").exists()
    ended_well(start(out, "--engine", "ray", "--address", cluster.address, "--resume"))
    assert_complete(out, whole)


def test_no_cluster_is_refused_in_one_line(tmp_path: Path):
    driver = start(tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 2
    assert errors.startswith("error: address: '127.0.0.1:1' gives no Ray cluster")
    assert errors.count("\n") == 1
