"""Measuring all workers of a fleet at once, as a latency table with a device for each worker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import platform
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import numpy as np

from amco_jax.errors import InputError, check_whole
from amco_jax.scenario import Scenario
from amco_jax.service.latency import VERSION
from edge_fleet.client import CallError, Client, beat, check_item
from edge_fleet.configuration import FleetSettings
from edge_fleet.decisions import seconds_alone
from edge_fleet.launching import Crew
from edge_fleet.pictures import Pictures
from edge_fleet.wire import LEASE, Message
from sd_repair.profile import rows_of

_PATIENCE = 600.0


def check_profile(
    scenario: Scenario, settings: FleetSettings, *, steps: Sequence[int], repeats: int, side: int
) -> None:
    """Raise InputError unless a profile can be measured, and has rows for each number of steps."""
    check_whole("repeats", repeats, 1, 10_000)
    for each in steps:
        check_whole("steps", each, 1, 999)
    given = " ".join(map(str, steps)) or "none"
    if not steps or len(set(steps)) < len(steps):
        raise InputError(f"steps: {given}; legal: at least one number, each once")
    if len(steps) > 1 and not settings.pace and (settings.engine == "classical" or settings.steps):
        raise InputError(
            f"steps: {given}, on which times do not depend with pace=false and engine=classical or steps=; "
            "legal: one number"
        )
    for batch, each in itertools.product(_batches(scenario), steps):
        check_item(batch, side, float(_pace(scenario, settings, batch, each).max()))


def profile_fleet(
    scenario: Scenario, settings: FleetSettings, crew: Crew, *, steps: Sequence[int], repeats: int, side: int
) -> list[dict[str, Any]]:
    """The rows of a latency table, measured on all workers at the same time.

    The time of an item is that between two results of a worker that always has another item to go on with, by
    the clock of this process.

    Raises:
      InputError: a worker does not answer, cannot repair, or has another engine than the settings say.
    """
    pictures = Pictures(settings, side, 0)
    return asyncio.run(_measure(scenario, settings, crew, pictures, steps, repeats))


async def _measure(
    scenario: Scenario,
    settings: FleetSettings,
    crew: Crew,
    pictures: Pictures,
    steps: Sequence[int],
    repeats: int,
) -> list[dict[str, Any]]:
    try:
        async with contextlib.AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(_session(Client(address, crew.keys), settings.heartbeat))
                for address in crew.addresses
            ]
            for client, hello in opened:
                settings.check_worker(str(client.address), hello.fields)
            names = [hello.text("name") for _, hello in opened]
            if len(set(names)) < len(names):
                raise InputError(f"workers: named {', '.join(names)}; legal: a name of its own for each")
            measuring = [
                asyncio.ensure_future(_of_worker(i, *each, scenario, settings, pictures, steps, repeats))
                for i, each in enumerate(opened)
            ]
            try:
                found = await asyncio.gather(*measuring)
            finally:
                _cancel(measuring)
    except CallError as error:
        raise InputError(f"workers: {error.reason}; mend the workers, and profile them again") from error
    return [row for rows in found for row in rows]


def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()


@contextlib.asynccontextmanager
async def _session(client: Client, heartbeat: float) -> AsyncIterator[tuple[Client, Message]]:
    """A session with a worker, which ends with the block, and the worker's first answer."""
    try:
        hello = await client.call("Hello", {"run": uuid.uuid4().hex}, timeout=_PATIENCE)
        session = hello.text("session")
        # An item may take longer than the lease, after which another run would get the worker.
        beating = asyncio.ensure_future(beat(client, session, heartbeat, _PATIENCE))
        try:
            yield client, hello
        finally:
            _cancel([beating])
            await asyncio.gather(beating, return_exceptions=True)
            with contextlib.suppress(CallError):  # the lease ends by itself
                await client.call("Bye", {"session": session}, timeout=LEASE)
    finally:
        await client.close()


def _batches(scenario: Scenario) -> list[int]:
    """The numbers of images of an item that are measured."""
    assert scenario.service is not None
    return [scenario.service.batch] if isinstance(scenario.service.batch, int) else [1, 2]


def _pace(scenario: Scenario, settings: FleetSettings, images: int, steps: int) -> np.ndarray:
    """`[num_servers]`, the pace of an item, s; 0 without pace."""
    assert scenario.service is not None
    size = 1 if isinstance(scenario.service.batch, int) else images
    return seconds_alone(scenario, size, steps) / settings.speed * settings.pace


async def _of_worker(
    index: int, client: Client, hello: Message, scenario: Scenario, settings: FleetSettings,
    pictures: Pictures, steps: Sequence[int], repeats: int,
) -> list[dict[str, Any]]:  # fmt: skip
    service = scenario.service
    assert service is not None
    session, numbers = hello.text("session"), itertools.count()
    rows = []
    for batch, each in itertools.product(_batches(scenario), steps):
        pace = float(_pace(scenario, settings, batch, each)[index])
        chosen = [pictures.of(0, index, image) for image in range(batch)]
        images, masks = (np.stack([getattr(p, name) for p in chosen]) for name in ("damaged", "mask"))

        async def item(number: int) -> float:
            fields = {
                "session": session, "number": number, "item": f"{number}", "seeds": list(range(batch)),  # noqa: B023
                "steps": settings.steps or each, "seconds": pace,  # noqa: B023
            }  # fmt: skip
            arrays = {"images": images, "masks": masks}  # noqa: B023
            await client.call("Repair", fields, arrays, timeout=_PATIENCE)
            return time.monotonic()

        # Two at a time, as in a run; the first one, which has not waited for another, is left out.
        pending, ends = [], []
        try:
            for _ in range(repeats + 1):
                pending.append(asyncio.ensure_future(item(next(numbers))))
                if len(pending) == 2:
                    ends.append(await pending.pop(0))
            ends.append(await pending[0])
        finally:
            _cancel(pending)
        seconds = [(after - before) * settings.speed for before, after in itertools.pairwise(ends)]
        shared = _shared(hello, settings, images.shape[1])
        shared |= {"resolution": service.resolution, "batch": batch}
        rows += rows_of(shared, "total", "wall", seconds, each)
    return rows


def _shared(hello: Message, settings: FleetSettings, side: int) -> dict[str, Any]:
    """What the rows of a worker have in common, in the format of latency tables."""
    software = f"{hello.text('engine')}; python {platform.python_version()}; {platform.system().lower()}"
    source = f"scripts/fleet.py profile, all workers at once, {'' if settings.pace else 'not '}paced"
    taken = f", {settings.steps} steps each" if settings.steps and settings.engine != "classical" else ""
    return {
        "format_version": VERSION, "row_kind": "measured", "device": hello.text("name"),
        **settings.labels, "guided": "unstated", "software": software,
        "source": f"{source}, images of {side} x {side} pixels{taken}",
    }  # fmt: skip
