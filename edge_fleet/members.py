"""The workers as a scheduler sees them: sessions, signs of life, and the items that wait to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np

from amco_jax.errors import InputError
from edge_fleet.client import CallError, Client, beat
from edge_fleet.configuration import FleetSettings
from edge_fleet.links import Transfer
from edge_fleet.security import Address
from edge_fleet.wire import Message

ITEMS_IN_FLIGHT = 2
"""How many items a worker has at a time: one that it does, and one that it can go on with"""


@dataclasses.dataclass(eq=False)
class Item:
    """Image batches of a request for one worker."""

    name: str
    """Which images of which request, so that sending it again repeats no work"""
    episode: int
    request: int
    images: tuple[int, ...]
    station: int
    server: int
    work: float
    """Denoising steps with overheads"""
    seconds: float
    """The time that the work takes the server by its latency table, in seconds of the scenario"""
    attempt: int
    ticket: int = 0
    """Its place in the order of decisions"""
    there: Transfer | None = None
    """When it takes the link of its base station on the way to the server; None if it needs none"""
    sent: float = 0.0

    def __lt__(self, other: Item) -> bool:
        return self.ticket < other.ticket


class Member:
    """A worker, from the scheduler's side.

    `run` keeps a session with it for as long as it lives, and opens a new one when it comes back.
    """

    def __init__(
        self, index: int, client: Client, run: str, settings: FleetSettings,
        routes: Mapping[int, Client] | None = None,
    ):  # fmt: skip
        """A worker that has not been seen yet.

        Args:
          index: of its edge server.
          routes: connections for the images of some base stations, by station.
          run: the name of the run.
        """
        self.index, self._client, self._run = index, client, run
        self._settings, self._routes = settings, routes or {}
        self._session, self._numbers = "", itertools.count()
        self._queue: list[Item] = []
        self._news = asyncio.Event()
        self._process, self._before = "", (0, 0.0)
        self.report: dict[str, Any] = {}
        self.seconds_per_item: float | None = None
        """How long it has computed for an item of this run, s on average; None before the first one"""
        self.trouble = "not seen yet"
        """Why it is not alive"""

    @property
    def alive(self) -> bool:
        """Whether it has a session."""
        return bool(self._session)

    @property
    def address(self) -> Address:
        """Where it is."""
        return self._client.address

    @property
    def name(self) -> str:
        """Its own name, or its address."""
        return str(self.report.get("name") or self.address)

    @property
    def process(self) -> str:
        """The name of its process, which no other worker has; empty before its first report."""
        return self._process

    def push(self, item: Item) -> None:
        """Give it an item, which is sent after those that wait and were decided before."""
        heapq.heappush(self._queue, item)
        self._news.set()

    async def run(
        self,
        came: Callable[[Member], None],
        lost: Callable[[Member], None],
        do: Callable[[Member, Item], Awaitable[None]],
    ) -> None:
        """Keep a session, and call `do` with its items, oldest first, forever.

        Args:
          came: called when a session has been opened.
          lost: called when it has been lost; what waits to be sent is dropped.
          do: sends an item; a `CallError` ends the session.

        Raises:
          InputError: the worker refuses this run for good, or has another engine than the settings say.
        """
        while True:
            await self._open()
            came(self)
            try:
                # In a task of its own, since a group in which a call fails may leave its task as cancelled.
                await asyncio.create_task(self._keep(do))
            except* CallError as errors:
                self.trouble = str(errors.exceptions[0])
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # Of a cancellation and an error at the same time, a group raises the error alone.
                raise asyncio.CancelledError
            self._session = ""
            self._queue.clear()
            lost(self)

    async def repair(
        self, item: Item, steps: int, pace: float, expected: float, seeds: list[int],
        images: np.ndarray, masks: np.ndarray,
    ) -> Message:  # fmt: skip
        """Send an item, and wait for its result.

        Args:
          pace, expected: s of the run that it is to take, and within which the result is expected, apart from
            the patience of the run.

        Raises:
          CallError: the worker has not returned it.
        """
        fields = {
            "session": self._session, "number": next(self._numbers), "item": item.name, "steps": steps,
            "seconds": pace, "seeds": seeds,
        }  # fmt: skip
        arrays = {"images": images, "masks": masks}
        timeout = expected + self._settings.patience
        client = self._routes.get(item.station, self._client)
        answer = await client.call("Repair", fields, arrays, timeout=timeout)
        try:
            if answer.text("item") != item.name:
                raise InputError("item: another one")
            if answer.array("repaired", "uint8", 4).shape != images.shape:
                raise InputError("repaired: another shape")
        except InputError as error:
            raise CallError(grpc.StatusCode.DATA_LOSS, f"result: {error}") from error
        return answer

    async def leave(self) -> None:
        """End the session, so that another run can have the worker at once."""
        if self._session:
            session, self._session = self._session, ""
            with contextlib.suppress(CallError):  # the lease ends by itself
                await self._client.call("Bye", {"session": session}, timeout=self._settings.patience)
        for client in (self._client, *self._routes.values()):
            await client.close()

    async def _open(self) -> None:
        while True:
            try:
                answer = await self._client.call("Hello", {"run": self._run}, timeout=self._settings.patience)
                self._hear(answer)
                session = answer.text("session")
            except InputError as error:
                self.trouble = str(error)
            except CallError as error:
                self.trouble = error.reason
                if error.is_final and not self.report:
                    raise InputError(f"worker {self.address}: {error.reason}") from error
            else:
                self._session, self._numbers = session, itertools.count()
                self._settings.check_worker(str(self.address), answer.fields)
                return
            await asyncio.sleep(self._settings.heartbeat)

    async def _keep(self, do: Callable[[Member, Item], Awaitable[None]]) -> None:
        """Show signs of life and send items, until a call fails."""
        async with asyncio.TaskGroup() as group:
            settings = self._settings
            group.create_task(
                beat(self._client, self._session, settings.heartbeat, settings.patience, self._hear)
            )
            for _ in range(ITEMS_IN_FLIGHT):
                group.create_task(self._send(do))

    def _hear(self, answer: Message) -> None:
        """Keep the worker's report; CallError if it is none."""
        try:
            process = answer.text("incarnation")
            done, computed = answer.whole("done", 0, 2**53), answer.number("computed_s", 0, 1e12)
        except InputError as error:
            raise CallError(grpc.StatusCode.DATA_LOSS, f"report: {error}") from error
        if process != self._process:  # another one, which may have worked for other runs before
            self._process, self._before = process, (done, computed)
            self.seconds_per_item = None
        if (items := done - self._before[0]) > 0:
            self.seconds_per_item = (computed - self._before[1]) / items
        self.report = dict(answer.fields)

    async def _send(self, do: Callable[[Member, Item], Awaitable[None]]) -> None:
        while True:
            while not self._queue:
                self._news.clear()
                await self._news.wait()
            await do(self, heapq.heappop(self._queue))
