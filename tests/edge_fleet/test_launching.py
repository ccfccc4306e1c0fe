"""Starting workers on this machine: engines that cannot be loaded, processes that die, and restarts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest
from helpers.refusals import refused

from edge_fleet import forked
from edge_fleet.engines import EngineSettings
from edge_fleet.launching import local_workers


def test_an_engine_that_a_worker_cannot_load_is_told_at_once():
    settings = EngineSettings(engine="sd15", device="nonsense")
    assert not settings.shareable  # so that it is loaded after the fork
    refused(lambda: local_workers(settings, ["one"], True).__enter__(), "device: 'nonsense' cannot be used")


@pytest.mark.parametrize("program", ["false", "echo"])
def test_a_process_that_dies_or_says_something_else_is_told_in_one_line(
    program: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "executable", shutil.which(program))
    words = "none has started, as their process has ended", "`fleet.py worker`"
    refused(lambda: local_workers(EngineSettings(), ["one"], True).__enter__(), *words)


@pytest.mark.parametrize(("program", "how"), [("exit 3", "exit code 3"), ("kill -9 $$", "Killed")])
def test_how_a_worker_died_at_its_start_is_told(program: str, how: str):
    process, (reading, writing) = subprocess.Popen(["sh", "-c", program]), os.pipe()
    os.close(writing)
    child = forked._Child("one", pid=process.pid)
    refused(
        lambda: forked._port(child, reading), f"worker one: died at its start ({how})", "`fleet.py worker`"
    )
    assert child.pid is None


def test_a_worker_that_keeps_dying_is_started_ever_more_slowly():
    child, waits = forked._Child("one", port=7000), []
    for _ in range(9):
        with subprocess.Popen(["true"]) as process:
            child.born, child.pid = time.monotonic(), process.pid
            while child.pid is not None:
                forked._bury([child], True)
                time.sleep(0.002)
        waits.append(child.due - time.monotonic())
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30], abs=0.3)
    assert child.port == 7000
