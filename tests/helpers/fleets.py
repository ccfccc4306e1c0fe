"""Small fleets of workers, and schedulers that need no compiled program."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amco_jax.env import Backlog
from amco_jax.scenario import Scenario
from edge_fleet.configuration import FleetSettings, in_fleet
from edge_fleet.decisions import Arrival, Choice, Situation
from edge_fleet.engines import EngineSettings
from edge_fleet.journal import Journal
from edge_fleet.launching import Crew
from edge_fleet.pictures import Pictures
from edge_fleet.results import Committed
from edge_fleet.run import intact
from edge_fleet.scheduler import IMAGES, Request, Scheduler
from edge_fleet.security import Address, Keys
from edge_fleet.worker import Worker, start_server

ROUNDS = int(os.environ.get("AMCO_JAX_FLEET_ROUNDS", "1"))
"""Rounds of each test that kills at a random moment"""

_SERVICE: Any = {"devices": ["NVIDIA Jetson AGX Orin"] * 2 + ["NVIDIA Jetson Xavier NX"]}
SCENARIO = in_fleet(Scenario(
    service=_SERVICE,
    num_tasks=4, num_slots=1, slot_duration=60, deadline=60, task_size_min=1, task_size_max=4,
    density_min=20, density_max=20,
))  # fmt: skip
TWO = """
preset = "jetson-sd15"
num_slots = 1
num_tasks = 6
arrival_prob = 0.7
[service]
devices = ["NVIDIA Jetson AGX Orin", "NVIDIA Jetson AGX Orin"]
"""
"""The file of a small scenario for the command"""
QUICK = FleetSettings(size=64, speed=40, heartbeat=0.1, patience=1.5, links=False)


def arrivals(count: int = 10, seconds: float = 40.0, images: int = 3) -> list[Arrival]:
    """Requests at equal distances, at the three base stations in turn."""
    return [Arrival(k, 0, k % 3, k // 3, k * seconds / count, images, 20.0 * images) for k in range(count)]


class EvenDecider:
    """Decisions that spread the images evenly over the workers that are alive."""

    def __init__(self, scenario: Scenario = SCENARIO):
        self.scenario = scenario

    def decide(self, seed: int, episode: int, situation: Situation) -> Choice:
        del seed, episode
        alive = np.flatnonzero(situation.available)
        counts = np.zeros(len(situation.available), int)
        for k in range(round(float(situation.size))):
            counts[alive[(k + int(situation.station)) % len(alive)]] += 1
        placed = counts * float(situation.work / situation.size)
        waits = (situation.backlog.servers + placed) / self.scenario.capacities
        after = Backlog(situation.backlog.servers + placed, situation.backlog.links)  # pyright: ignore
        finish = float(np.max(waits[counts > 0]))
        return Choice(counts, placed, finish, finish, after)


class Counting:
    """An engine that inverts images, takes some time, and counts what it did."""

    def __init__(self, seconds: float = 0.0):
        self.calls: list[int] = []
        self.seconds = seconds

    def __call__(self, images: Any, masks: Any, seeds: Sequence[int], steps: int) -> Any:
        import time

        del masks, seeds
        self.calls.append(steps)
        time.sleep(self.seconds)
        return 255 - images


class Served(NamedTuple):
    """A worker in this process."""

    worker: Worker
    engine: Counting
    address: Address


@contextlib.asynccontextmanager
async def served(
    keys: Keys | None = None, seconds: float = 0.0, name: str = "w", port: int = 0
) -> AsyncIterator[Served]:
    """A worker that serves until the block ends, on a free port unless one is given."""
    engine = Counting(seconds)
    worker = Worker(engine, name, EngineSettings())
    server, port = await start_server(worker, Address("127.0.0.1", port), keys)
    working = asyncio.create_task(worker.work())
    try:
        yield Served(worker, engine, Address("127.0.0.1", port))
    finally:
        working.cancel()
        await server.stop(None)


async def play(
    crew: Crew, out: Path, came: list[Arrival], settings: FleetSettings = QUICK, name: str = "run",
    decider: Any = None,
) -> None:  # fmt: skip
    """Serve requests, continuing from the journal in a directory, and write to it."""
    (out / IMAGES).mkdir(exist_ok=True)
    journal = Journal(out)
    committed = intact(journal, out)
    requests = [
        Request.of(
            a, a.size, committed.images(0, a.request), len(committed.decisions.get((0, a.request), []))
        )
        for a in came
    ]
    decider = decider or EvenDecider()
    pictures = Pictures(settings, settings.size, 0)
    scheduler = Scheduler(decider, settings, crew, pictures, out, journal, name, 0)
    try:
        await scheduler.run([(0, requests, committed.ended.get(0, 0.0))], patience=30.0)
    finally:
        journal.close()


def assert_each_image_once(out: Path, came: list[Arrival]) -> Committed:
    """Assert that every image of every request has one result, in the journal and as a file."""
    records = list(Journal(out).records())
    committed = Committed(records)
    wanted = {(0, a.request, image) for a in came for image in range(a.size)}
    assert committed.results.keys() == wanted
    assert committed.repeated == 0
    files = {path.name for path in (out / IMAGES).glob("*.png")}
    assert files == {Path(record["file"]).name for record in committed.results.values()}
    assert len(files) == len(wanted)
    return committed
