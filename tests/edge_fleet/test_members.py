"""A worker as the scheduler sees it: its end, and what its reports tell of its speed."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from edge_fleet.client import CallError
from edge_fleet.configuration import FleetSettings
from edge_fleet.members import Member
from edge_fleet.wire import Message

SETTINGS = FleetSettings(heartbeat=0.05, patience=1.0)


def report(**fields: Any) -> Message:
    known = {"session": "s", "incarnation": "a", "done": 0, "computed_s": 0.0, **SETTINGS.labels}
    return Message(known | fields, {})


class Dying:
    """The client of a worker that is lost once, at a chosen moment."""

    address = "fake"

    def __init__(self):
        self.beating, self.dies = asyncio.Event(), asyncio.Event()

    async def call(self, method: str, *_: Any, **__: Any) -> Message:
        if method == "Beat":
            self.beating.set()
            await self.dies.wait()
            self.dies.clear()
            raise CallError(grpc.StatusCode.UNAVAILABLE, "gone")
        return report()


def test_a_run_can_end_at_the_moment_at_which_a_worker_is_lost():
    async def do(*_: Any) -> None: ...

    async def run() -> None:
        client: Any = Dying()
        member = Member(0, client, "run", SETTINGS)
        running = asyncio.ensure_future(member.run(lambda _: None, lambda _: None, do))
        await client.beating.wait()
        client.dies.set()
        running.cancel()
        await asyncio.wait([running], timeout=2)
        assert running.cancelled()

    asyncio.run(run())


def test_the_speed_of_a_worker_is_that_of_its_own_items_in_this_run():
    client: Any = None
    member = Member(0, client, "run", SETTINGS)
    member._hear(report(done=10, computed_s=100.0))
    assert member.seconds_per_item is None
    member._hear(report(done=12, computed_s=106.0))
    assert member.seconds_per_item == pytest.approx(3.0)
    member._hear(report(incarnation="b"))
    assert member.seconds_per_item is None
    member._hear(report(incarnation="b", done=1, computed_s=2.0))
    assert member.seconds_per_item == pytest.approx(2.0)
    for damaged in ({"done": -1}, {"done": "many"}, {"computed_s": None}):
        with pytest.raises(CallError, match="report: "):
            member._hear(report(**damaged))
