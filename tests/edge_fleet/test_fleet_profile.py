"""Profiles of workers in this process, which are free for others in the end, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from helpers.fleets import QUICK, SCENARIO, Served, served

from amco_jax.errors import InputError
from edge_fleet import worker
from edge_fleet.client import CallError, Client
from edge_fleet.launching import Crew
from edge_fleet.pictures import Pictures
from edge_fleet.profile import _measure


async def refused_profile(names: Sequence[str], reason: str, broken: bool = False) -> list[Served]:
    async with contextlib.AsyncExitStack() as stack:
        there = [await stack.enter_async_context(served(name=name)) for name in names]
        if broken:
            there[-1].worker._engine = lambda *_: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
        crew = Crew([each.address for each in there], None)
        with pytest.raises(InputError, match=reason):
            await _measure(SCENARIO, QUICK, crew, Pictures(QUICK, 64, 0), [1], 2)
        assert all(each.worker._session is None for each in there)
    return there


def test_workers_need_names_of_their_own():
    there = asyncio.run(refused_profile(["one", "two", "one"], "named one, two, one; legal: "))
    assert not any(each.engine.calls for each in there)


def test_workers_are_free_after_a_failure():
    asyncio.run(refused_profile(["one", "two", "three"], "ZeroDivisionError", broken=True))


def test_a_worker_stays_held_while_an_item_takes_longer_than_the_lease(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "LEASE", 0.5)

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            there = [await stack.enter_async_context(served(name=name)) for name in ("one", "two", "three")]
            there[0].engine.seconds = 1.0
            crew, other = Crew([each.address for each in there], None), Client(there[0].address, None)
            stack.push_async_callback(other.close)
            measuring = asyncio.create_task(
                _measure(SCENARIO, QUICK, crew, Pictures(QUICK, 64, 0), [1], 1)
            )  # fmt: skip
            while not there[0].engine.calls:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.8)
            with pytest.raises(CallError, match="used by another run"):
                await other.call("Hello", {"run": "other"}, timeout=5)
            assert {row["device"] for row in await measuring} == {"one", "two", "three"}

    asyncio.run(run())
