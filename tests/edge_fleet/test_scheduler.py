"""Runs of a scheduler: every image exactly once in the results, whatever happens to workers and scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fleets import (
    QUICK,
    ROUNDS,
    SCENARIO,
    EvenDecider,
    arrivals,
    assert_each_image_once,
    play,
    served,
)

from amco_jax.errors import InputError
from edge_fleet.client import Client
from edge_fleet.decisions import Arrival, Choice, Situation, seconds_alone
from edge_fleet.engines import EngineSettings
from edge_fleet.journal import Journal, read_journal
from edge_fleet.launching import Crew, local_workers
from edge_fleet.members import Item
from edge_fleet.pictures import Pictures
from edge_fleet.results import Committed
from edge_fleet.scheduler import IMAGES, Request, Scheduler
from edge_fleet.security import Address, Keys
from edge_fleet.wire import Message
from edge_fleet.worker import Worker
from sd_repair.images import Image
from sd_repair.reading import load_image

NAMES = ["one", "two", "three"]
TOGETHER: Any = {
    "devices": ["NVIDIA H100 PCIe", "NVIDIA A100 80GB PCIe", "Tesla V100-SXM2-16GB"],
    "tables": ["published", "estimated"],
    "batch": "all",
}
"""Devices that start a batch for a time before its images"""


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
        assert record["took_s"] * QUICK.speed >= record["target_s"] - 1e-6
        assert decision["arrival"] <= record["sent"] <= record["received"] <= record["ended"]
    repaired: Image = load_image(tmp_path / committed.results[0, 0, 0]["file"]).pixels
    assert repaired.shape == (64, 64, 3)


def test_links_carry_what_goes_to_other_servers(tmp_path: Path):
    came = arrivals(3)

    async def run() -> None:
        async with crew_here() as (crew, _):
            await play(crew, tmp_path, came, dataclasses.replace(QUICK, links=True))

    asyncio.run(run())
    carried: list[list[list[float]]] = [[], [], []]
    for record in assert_each_image_once(tmp_path, came).results.values():
        station = record["request"] % 3
        rate = SCENARIO.link_rates[station, record["server"]]
        if record["server"] == station:
            assert record["there"] is record["back"] is None
            assert record["ended"] - record["received"] < 0.5
        else:
            for way, bits in (("there", 32), ("back", 24)):  # of each pixel
                began, ended = record[way]
                assert ended - began == pytest.approx(512**2 * bits * 1e-6 / rate)
                carried[station].append([began, ended])
            assert came[record["request"]].time <= record["there"][0]
            assert record["there"][1] <= record["sent"]
            assert record["received"] <= record["back"][0]
            assert record["back"][1] <= record["ended"]
    for transfers in carried:  # one after another, both ways together
        assert transfers
        for (_, ended), (began, _) in itertools.pairwise(sorted(transfers)):
            assert ended <= began + 1e-9


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


def test_a_run_goes_on_when_one_worker_returns_after_all_were_lost(tmp_path: Path):
    came = arrivals(6)

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            there = [await stack.enter_async_context(served()) for _ in NAMES]
            addresses = [each.address for each in there]
            playing = asyncio.create_task(play(Crew(addresses, None), tmp_path, came))
            await first_result(tmp_path)
            await stack.aclose()
            while len(Committed(read_journal(tmp_path)).losses) < 3:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)  # requests go on to arrive
            assert not playing.done()
            async with served(name="back", port=addresses[1].port):
                await asyncio.wait_for(playing, 60)

    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came)
    lost = max(record["time"] for record in committed.losses)
    afterwards = [r for r in committed.results.values() if r["sent"] > lost]
    assert {(record["server"], record["worker"]) for record in afterwards} == {(1, "back")}
    assert len(afterwards) > sum(a.size for a in came) / 2
    # Of the three, one came back.
    assert sorted(np.isfinite(ended) for _, ended in committed.troubles[0]) == [False, False, True]


def test_workers_share_a_diffusion_model(tmp_path: Path):
    came = arrivals(3, images=7)
    unpaced = dataclasses.replace(QUICK, engine="tiny", steps=1, pace=False, patience=20, max_batch=2)
    decider = EvenDecider(SCENARIO.replace(service=TOGETHER))
    with local_workers(unpaced.engine_settings, NAMES, False) as crew:
        asyncio.run(play(crew, tmp_path, came, unpaced, decider=decider))
    for record in assert_each_image_once(tmp_path, came).results.values():
        assert record["item_images"] == (3 if record["server"] == record["station"] else 2)
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
            before = [record for record in read_journal(tmp_path) if record["kind"] == "result"]
            assert 0 < len(before) < sum(a.size for a in came)
            (tmp_path / before[0]["file"]).unlink()
            await play(crew, tmp_path, came)
            # What was committed is not repaired again, unless it is lost; what was under way may be.
            assert sum(len(each.engine.calls) for each in there) <= sum(a.size for a in came) + 3 * 2 + 3 + 1

    asyncio.run(run())
    (trouble_of_the_run,) = assert_each_image_once(tmp_path, came).troubles[0]
    assert trouble_of_the_run.began == trouble_of_the_run.ended > 0
    assert len([record for record in read_journal(tmp_path) if record["kind"] == "gone"]) == 1


@pytest.mark.parametrize(("service", "size"), [(SCENARIO.service, 1), (TOGETHER, 3)])
def test_what_was_accepted_is_served_after_an_interruption(service: Any, size: int, tmp_path: Path):
    scenario = SCENARIO.replace(service=service)

    class Rejecting(EvenDecider):
        def decide(self, seed: int, episode: int, situation: Situation) -> Choice:
            nothing = np.zeros(3, int)
            return Choice(nothing, nothing.astype(float), 0.0, 0.0, situation.backlog)

    came = arrivals(2)
    journal = Journal(tmp_path)
    journal.write({
        "kind": "decision", "episode": 0, "request": 0, "attempt": 0, "time": 0.1, "images": [0, 1, 2],
        "counts": [3, 0, 0],
    })  # fmt: skip
    journal.close()

    async def run() -> None:
        async with crew_here() as (crew, _):
            await play(crew, tmp_path, came, decider=Rejecting(scenario))

    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came[:1])
    assert [each["attempt"] for each in committed.decisions[0, 0]] == [0, 1]
    assert committed.rejected(0, 1)
    for record in committed.results.values():
        alone = seconds_alone(scenario, size, 20.0)[record["server"]]
        assert record["target_s"] == pytest.approx(alone)


def test_policies_know_of_requests_that_were_complete_before_an_interruption(tmp_path: Path):
    seen: list[Situation] = []

    class Seeing(EvenDecider):
        def decide(self, seed: int, episode: int, situation: Situation) -> Choice:
            seen.append(situation)
            return super().decide(seed, episode, situation)

    came = [Arrival(k, int(k > 0), k, 0, 60.0 * (k > 0) + k, 3, 60.0) for k in range(3)]

    async def run() -> None:
        async with crew_here() as (crew, _):
            scheduler = scheduler_of(tmp_path, crew, Seeing())
            (tmp_path / IMAGES).mkdir()
            done = [set(range(3)), set(range(3)), {0, 1}]
            requests = [Request.of(a, a.size, known) for a, known in zip(came, done, strict=True)]
            await scheduler.run([(0, requests, 62.0)], patience=30.0)

    asyncio.run(run())
    (situation,) = seen
    assert float(np.sum(situation.arrived.tasks)) > 0  # of the first slot
    assert situation.known.present.sum() == 2


def test_a_worker_that_becomes_slow_does_not_hold_up_a_run(tmp_path: Path):
    came = arrivals(6)

    async def run() -> None:
        async with crew_here() as (crew, there):
            hasty = dataclasses.replace(QUICK, patience=0.5, late=1.0)
            playing = asyncio.create_task(play(crew, tmp_path, came, hasty))
            slow = there[2]
            while slow.worker._done < 2:  # until it has shown how fast it is
                await asyncio.sleep(0.02)
            slow.engine.seconds = 3.0
            await asyncio.wait_for(playing, 60)

    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came)
    assert any(len(decisions) > 1 for decisions in committed.decisions.values())
    assert committed.losses


def test_workers_that_are_slower_than_their_tables_are_not_lost(tmp_path: Path):
    came, unpaced = arrivals(4), dataclasses.replace(QUICK, pace=False, patience=0.8, late=1.5)

    async def run() -> None:
        async with crew_here(1.0) as (crew, _):  # 13 times and twice as long as their tables say
            await asyncio.wait_for(play(crew, tmp_path, came, unpaced), 60)

    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came)
    assert not committed.losses
    assert all(len(decisions) == 1 for decisions in committed.decisions.values())


def test_a_scheduler_that_is_held_up_loses_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    came, beats, beat = arrivals(6), itertools.count(), Worker.beat

    async def holding(self: Worker, message: Message) -> bytes:
        if next(beats) in (5, 10, 15):
            time.sleep(1.5)  # while signs of life and items are under way
        return await beat(self, message)

    async def run() -> None:
        async with crew_here() as (crew, _):
            await play(crew, tmp_path, came, dataclasses.replace(QUICK, patience=0.5))

    monkeypatch.setattr(Worker, "beat", holding)
    asyncio.run(run())
    committed = assert_each_image_once(tmp_path, came)
    assert next(beats) > 15
    assert not committed.losses
    assert not committed.troubles
    assert all(len(decisions) == 1 for decisions in committed.decisions.values())


def test_a_second_run_on_the_same_workers_is_refused_in_one_line(tmp_path: Path):
    came = arrivals(6)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()

    async def run() -> None:
        async with crew_here() as (crew, _):
            first = asyncio.create_task(play(crew, tmp_path / "first", came))
            await first_result(tmp_path / "first")
            with pytest.raises(InputError, match=r"^[^\n]* is used by another run[^\n]*$"):
                await play(crew, tmp_path / "second", arrivals(1), name="other")
            await first

    asyncio.run(run())
    assert_each_image_once(tmp_path / "first", came)


def test_an_item_that_is_decided_again_is_sent_once(tmp_path: Path):
    async def run() -> None:
        scheduler = scheduler_of(tmp_path)
        old, new = (Item("e0-r0-0", 0, 0, (0,), 0, 0, 20.0, 3.0, attempt) for attempt in range(2))
        scheduler._items[new.name] = new
        scheduler._ledger.add(0, new.name, new.work)
        await scheduler._send_at(old, 0.0)
        assert not scheduler.members[0]._queue
        await scheduler._send_at(new, 0.0)
        assert scheduler.members[0]._queue == [new]

    asyncio.run(run())


def test_the_journal_is_in_the_order_of_the_events(tmp_path: Path):
    async def run() -> list[int]:
        scheduler, numbers = scheduler_of(tmp_path), list[int]()

        def write(record: dict[str, int]) -> None:
            time.sleep(0.1 if record["number"] == 0 else 0.0)
            numbers.append(record["number"])

        scheduler._journal.write = write  # pyright: ignore[reportAttributeAccessIssue]
        await asyncio.gather(*(scheduler._write({"number": number}) for number in range(5)))
        return numbers

    assert asyncio.run(run()) == list(range(5))


def test_workers_that_do_not_answer_are_named(tmp_path: Path):
    async def run() -> None:
        async with crew_here() as (crew, _), served(Keys("token")) as closed:
            with pytest.raises(InputError, match="token"):
                await play(Crew([*crew.addresses[:2], closed.address], None), tmp_path, arrivals(1))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("places", "changes", "reason"),
    [
        ([0, 1, 0], {}, r"workers: 127\.0\.0\.1:\d+ and 127\.0\.0\.1:\d+ are the same worker"),
        ([0, 1, 2], {"engine": "tiny"}, "dtype classical-telea, unstated, unstated; legal: tiny, "),
    ],
)
def test_workers_that_are_the_same_or_have_another_engine_are_refused(
    places: list[int], changes: Any, reason: str, tmp_path: Path
):
    async def run() -> None:
        async with crew_here() as (crew, there):
            same = Crew([crew.addresses[place] for place in places], None)
            with pytest.raises(InputError, match=reason):
                await play(same, tmp_path, arrivals(1), dataclasses.replace(QUICK, **changes))
            assert all(each.worker._session is None for each in there)

    asyncio.run(run())


def test_an_engine_that_always_fails_ends_the_run(tmp_path: Path):
    async def run() -> None:
        async with crew_here() as (crew, there):
            for each in there:
                each.worker._engine = lambda *_: [][0]
            with pytest.raises(InputError, match=r"request 0: .*engine: IndexError: list index out of range"):
                await asyncio.wait_for(play(crew, tmp_path, arrivals(1)), 60)

    asyncio.run(run())


def scheduler_of(out: Path, crew: Crew | None = None, decider: Any = None) -> Scheduler:
    """A scheduler, by default of workers that do not exist."""
    decider = decider or EvenDecider()
    crew = crew or Crew([Address("127.0.0.1", 1)] * 3, None)
    return Scheduler(decider, QUICK, crew, Pictures(QUICK, 64, 0), out, Journal(out), "run", 0)


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
