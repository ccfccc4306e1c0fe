"""Profiles of workers in this process, which are free for others in the end, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from helpers.fleets import QUICK, SCENARIO, Served, served

from amco_jax import load_scenario
from amco_jax.errors import InputError
from amco_jax.service.latency import check_rows
from edge_fleet import worker
from edge_fleet.client import CallError, Client
from edge_fleet.configuration import FleetSettings, in_fleet
from edge_fleet.launching import Crew
from edge_fleet.pictures import Pictures
from edge_fleet.profile import _measure, _pace


async def refused_profile(
    names: Sequence[str], reason: str, broken: bool = False, settings: FleetSettings = QUICK
) -> list[Served]:
    async with contextlib.AsyncExitStack() as stack:
        there = [await stack.enter_async_context(served(name=name)) for name in names]
        if broken:
            there[-1].worker._engine = lambda *_: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
        crew = Crew([each.address for each in there], None)
        with pytest.raises(InputError, match=reason):
            await _measure(SCENARIO, settings, crew, Pictures(QUICK, 64, 0), [1], 2)
        assert all(each.worker._session is None for each in there)
    return there


def test_workers_need_names_of_their_own():
    there = asyncio.run(refused_profile(["one", "two", "one"], "named one, two, one; legal: "))
    assert not any(each.engine.calls for each in there)


def test_workers_need_the_engine_of_the_settings():
    settings = dataclasses.replace(QUICK, engine="tiny")
    reason = "classical-telea, unstated, unstated; legal: tiny, random, float32, "
    asyncio.run(refused_profile(["one", "two", "three"], reason, settings=settings))


def test_rows_say_what_was_measured():
    settings = dataclasses.replace(QUICK, pace=False)

    async def run() -> list[dict[str, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            there = [await stack.enter_async_context(served(name=name)) for name in ("one", "two", "three")]
            crew = Crew([each.address for each in there], None)
            return await _measure(SCENARIO, settings, crew, Pictures(QUICK, 64, 0), [1], 20)

    rows = asyncio.run(run())
    assert len(check_rows(rows)) == 3 * 4
    assert {row["statistic"] for row in rows} == {"p50", "min", "max", "p95"}
    assert {(row["model"], row["dtype"], row["resolution"]) for row in rows} == {
        ("classical-telea", "unstated", 512)
    }
    assert all(row["source"].endswith("not paced, images of 64 x 64 pixels") for row in rows)


def test_the_pace_of_a_batch_has_its_start():
    scenario = in_fleet(load_scenario("gpu-sd14"))
    lines = [_pace(scenario, FleetSettings(), images, 30)[0] for images in (1, 2)]
    assert lines == pytest.approx([1.083, 1.633], abs=5e-4)  # of the device's table
    assert not _pace(scenario, FleetSettings(pace=False), 1, 30).any()


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
