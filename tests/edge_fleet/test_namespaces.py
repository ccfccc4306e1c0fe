"""Links of the kernel: their rates, a fleet behind them, and machines that do not allow them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.fleets import QUICK, SCENARIO, arrivals, assert_each_image_once, play
from helpers.refusals import refused

from amco_jax.errors import InputError
from edge_fleet import launching, namespaces
from edge_fleet.configuration import FleetSettings, kernel_rates
from edge_fleet.engines import EngineSettings


def reason() -> str:
    """Why this machine has no links of the kernel; empty if it has them."""
    try:
        with namespaces.cables([1.0]):
            return ""
    except InputError as error:
        return str(error)


WHY_NOT = reason()
allowed = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SINK = """
import socket
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
while True:
    there, _ = server.accept()
    with there:
        while there.recv(65536):
            pass
        there.sendall(b"x")
"""


HOLD = """
import sys
from edge_fleet.namespaces import cables
with cables([1.0]) as reached:
    print(reached.namespace, flush=True)
    sys.stdin.read()
"""


def names() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


def cables() -> set[str]:
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in listed.splitlines()}


def send(host: str, port: int, count: int) -> float:
    """How long it takes until so many bytes have arrived, s."""
    import socket

    started = time.monotonic()
    with socket.create_connection((host, port), timeout=60) as to:
        to.sendall(bytes(count))
        to.shutdown(socket.SHUT_WR)
        assert to.recv(1) == b"x"
    return time.monotonic() - started


@allowed
def test_images_take_the_time_of_their_link():
    with namespaces.cables([8.0, 80.0]) as reached:
        inside = ["ip", "netns", "exec", reached.namespace, sys.executable, "-c", SINK]
        with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as sink:
            assert sink.stdout is not None
            try:
                port = int(sink.stdout.readline())
                slow, fast = (send(host, port, 1_000_000) for host in reached.stations)
                send(reached.direct, port, 1_000_000)
            finally:
                sink.kill()
    # 8 Mbit; a bucket lets its burst pass at once, and nothing else can make it faster.
    assert slow >= 0.95
    assert fast >= 0.095
    assert not any(name.endswith(str(os.getpid())) for name in names())


@allowed
def test_a_fleet_behind_links_of_the_kernel(tmp_path: Path):
    came, settings = arrivals(6), dataclasses.replace(QUICK, links=True, netns=True, patience=5.0)
    rates = kernel_rates(SCENARIO.replace(link_rate=100), settings)
    with launching.workers_in_namespace(EngineSettings(), ["one", "two", "three"], False, rates) as crew:
        assert len(crew.stations) == 3
        assert crew.keys is not None
        assert crew.keys.certificate is not None
        asyncio.run(asyncio.wait_for(play(crew, tmp_path, came, settings), 120))
    away = 0
    for record in assert_each_image_once(tmp_path, came).results.values():
        if record["server"] == record["station"]:
            assert record["there"] is record["back"] is None
            continue
        away += 1
        (sent, arrived), (answered, received) = record["there"], record["back"]
        assert record["sent"] == sent < arrived < answered < received == record["received"]
        assert answered - arrived >= record["took_s"] * settings.speed - 1e-6
    assert away


@allowed
def test_nothing_is_left_after_a_failure():
    before = names()
    with contextlib.suppress(ZeroDivisionError), namespaces.cables([1.0]):
        assert names() > before
        _ = 1 / 0
    assert names() == before
    for _ in range(5):  # at once, with the same names
        with namespaces.cables([1.0]):
            pass
    refused(lambda: namespaces.cables([1e-9]).__enter__(), "netns", "--netns")
    assert names() == before


@allowed
def test_what_killed_processes_have_left_is_removed():
    def hold() -> tuple[subprocess.Popen[str], str]:
        line = [sys.executable, "-c", HOLD]
        holding = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holding.stdout is not None
        return holding, holding.stdout.readline().strip()

    before, cables_before = names(), cables()
    processes = [hold(), hold()]
    (killed, left), (alive, kept) = processes
    try:
        killed.kill()
        killed.wait()
        assert {left, kept} == names() - before
        assert len(cables() - cables_before) == 4
        with namespaces.cables([1.0]) as reached:
            assert {kept, reached.namespace} == names() - before
            assert len(cables() - cables_before) == 4
        assert {kept} == names() - before
        alive.communicate("")
        assert (names(), cables()) == (before, cables_before)
    finally:
        for process, _ in processes:
            process.kill()
            process.communicate()


def test_the_rates_of_the_kernel_are_those_of_the_scenario():
    # Images of 64 instead of 512 pixels have a 64th of the bits, and time passes 40 times as fast.
    rates = kernel_rates(SCENARIO.replace(link_rate=100), QUICK)
    assert rates == pytest.approx([100 / 64 * 40] * 3)
    assert kernel_rates(SCENARIO.replace(link_rate=100), FleetSettings()) == pytest.approx([100] * 3)
    different = SCENARIO.replace(link_rate=(100, 200, 300))
    refused(lambda: kernel_rates(different, QUICK), "200 to 300 from base station 0", "one rate")


def test_a_machine_that_does_not_allow_them_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch):
    def start() -> None:
        with launching.workers_in_namespace(EngineSettings(), ["one"], False, [1.0]):
            pass

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused(start, "netns: network namespaces need root", "run as root, or leave out --netns")
    monkeypatch.setenv("PATH", "")
    refused(start, "netns: the command ip is not installed", "install iproute2")
