"""Profiles of workers in this process, which are free for others in the end, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from helpers.fleets import QUICK, SCENARIO, Served, served

from amco_jax.errors import InputError
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
