"""Runs of a scheduler: every image exactly once in the results, whatever happens to workers and scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fleets import QUICK, ROUNDS, arrivals, assert_each_image_once, play, served

from amco_jax.errors import InputError
from edge_fleet.client import Client
from edge_fleet.engines import EngineSettings
from edge_fleet.journal import read_journal
from edge_fleet.launching import Crew, local_workers
from edge_fleet.security import Keys
from sd_repair.images import Image
from sd_repair.reading import load_image

NAMES = ["one", "two", "three"]


@contextlib.asynccontextmanager
async def crew_here(seconds: float = 0.0) -> AsyncIterator[tuple[Crew, list[Any]]]:
    """Three workers in this process."""
    async with served(seconds=seconds) as a, served(seconds=seconds) as b, served(seconds=seconds) as c:
        yield Crew([each.address for each in (a, b, c)], None), [a, b, c]


def test_every_request_is_served(tmp_path: Path):
    came = arrivals()

    async def run() -> None:
        async with crew_here() as (crew, there):
            await play(crew, tmp_path, came)
            assert sum(len(each.engine.calls) for each in there) == sum(a.size for a in came)
            # Its workers are free for another run at once.
            (tmp_path / "other").mkdir()
            await play(crew, tmp_path / "other", arrivals(1), name="other")

    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came)
    for record in committed.results.values():
        decision = committed.decisions[0, record["request"]][0]
        assert decision["counts"][record["server"]] > 0
        # 20 steps take an AGX Orin 3 s and a Xavier NX 20 s; the pace is by the run's speed.
        assert record["target_s"] == pytest.approx(3 if record["server"] < 2 else 20)
        assert record["took_s"] * QUICK.speed >= record["target_s"] - 1e-6 or record["waited_s"] > 0
        assert decision["arrival"] <= record["sent"] <= record["received"] <= record["ended"]
    repaired: Image = load_image(tmp_path / committed.results[0, 0, 0]["file"]).pixels
    assert repaired.shape == (64, 64, 3)


def test_links_carry_what_goes_to_other_servers(tmp_path: Path):
    came = arrivals(3)

    async def run() -> None:
        async with crew_here() as (crew, _):
            await play(crew, tmp_path, came, dataclasses.replace(QUICK, links=True))

    asyncio.run(run())
    for record in assert_each_image_once(tmp_path, came).results.values():
        station = record["request"] % 3
        sent, back = 512**2 * 32e-6 / 400, 512**2 * 24e-6 / 400  # Mbit over at least 400 Mbit/s
        if record["server"] == station:
            assert record["ended"] - record["received"] < 0.5
        else:
            assert record["ended"] - record["received"] >= back * 0.8
            assert record["sent"] >= came[record["request"]].time + sent * 0.8


@pytest.fixture(scope="module")
def trouble() -> random.Random:
    return random.Random(os.environ.get("AMCO_JAX_FLEET_SEED", "0"))


def stop_and_go(pid: int, seconds: float) -> Callable[[], Any]:
    async def act() -> None:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    return act


def kill(pid: int) -> Callable[[], Any]:
    async def act() -> None:
        os.kill(pid, signal.SIGKILL)

    return act


@pytest.mark.parametrize(("case", "restart"), [("killed", False), ("killed", True), ("stopped", False)])
def test_lost_workers_lose_no_image(case: str, restart: bool, tmp_path: Path, trouble: random.Random):
    comes_back = restart or case == "stopped"
    came = arrivals(12, 160.0) if comes_back else arrivals()  # longer than the worker is away
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        out.mkdir()

        async def run(crew: Crew, victim: int, out: Path = out) -> None:
            pid = await pid_of(crew, victim)
            playing = asyncio.create_task(play(crew, out, came))
            await first_result(out)
            await asyncio.sleep(trouble.uniform(0, 0.8))
            await (kill(pid) if case == "killed" else stop_and_go(pid, 2.5))()
            await asyncio.wait_for(playing, 60)

        victim = trouble.randrange(3)
        with local_workers(EngineSettings(), NAMES, restart) as crew:
            asyncio.run(run(crew, victim))
        assert_each_image_once(out, came)
        records = [r for r in read_journal(out) if r["kind"] == "worker" and r["server"] == victim]
        events = [record["event"] for record in records]
        assert events[:3] == (["up", "down", "up"] if comes_back else ["up", "down"])


def test_workers_share_a_diffusion_model(tmp_path: Path):
    came, unpaced = arrivals(3), dataclasses.replace(QUICK, engine="tiny", steps=1, pace=False, patience=20)
    with local_workers(unpaced.engine_settings, NAMES, False) as crew:
        asyncio.run(play(crew, tmp_path, came, unpaced))
    for record in assert_each_image_once(tmp_path, came).results.values():
        assert record["computed_s"] > 0
        assert record["overrun_s"] == 0


def test_a_scheduler_that_starts_again_goes_on(tmp_path: Path, trouble: random.Random):
    came = arrivals()

    async def run() -> None:
        async with crew_here(0.05) as (crew, there):
            playing = asyncio.create_task(play(crew, tmp_path, came))
            await first_result(tmp_path)
            await asyncio.sleep(trouble.uniform(0, 0.5))
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
            before = (tmp_path / "journal.jsonl").read_text().count('"kind":"result"')
            assert 0 < before < sum(a.size for a in came)
            await play(crew, tmp_path, came)
            # What was committed is not repaired again; what was under way may be.
            assert sum(len(each.engine.calls) for each in there) <= sum(a.size for a in came) + 3 * 2 + 3

    asyncio.run(run())
    assert assert_each_image_once(tmp_path, came).resumed


def test_a_worker_that_is_slow_beyond_its_table_does_not_hold_up_a_run(tmp_path: Path):
    came = arrivals(4)

    async def run() -> None:
        async with served() as a, served() as b, served(seconds=3.0) as c:
            hasty = dataclasses.replace(QUICK, patience=0.5, late=1.0)
            await asyncio.wait_for(
                play(Crew([s.address for s in (a, b, c)], None), tmp_path, came, hasty), 60
            )

    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came)
    assert any(len(decisions) > 1 for decisions in committed.decisions.values())
    assert committed.losses


def test_workers_that_do_not_answer_are_named(tmp_path: Path):
    async def run() -> None:
        async with crew_here() as (crew, _), served(Keys("token")) as closed:
            with pytest.raises(InputError, match="token"):
                await play(Crew([*crew.addresses[:2], closed.address], None), tmp_path, arrivals(1))

    asyncio.run(run())


def test_an_engine_that_always_fails_ends_the_run(tmp_path: Path):
    async def run() -> None:
        async with crew_here() as (crew, there):
            for each in there:
                each.worker._engine = lambda *_: [][0]
            with pytest.raises(InputError, match=r"request 0: .*engine: IndexError: list index out of range"):
                await asyncio.wait_for(play(crew, tmp_path, arrivals(1)), 60)

    asyncio.run(run())


async def pid_of(crew: Crew, index: int) -> int:
    client = Client(crew.addresses[index], crew.keys)
    try:
        return (await client.call("Status", {}, timeout=10)).whole("pid", 1, 2**31)
    finally:
        await client.close()


async def first_result(out: Path) -> None:
    """Wait until a result is on disk."""
    while (
        not (out / "journal.jsonl").exists() or '"kind":"result"' not in (out / "journal.jsonl").read_text()
    ):
        await asyncio.sleep(0.02)
