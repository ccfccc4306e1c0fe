"""A worker: a gRPC server that repairs the images of one scheduler at a time, one item after another.

A scheduler opens a session with `Hello`, sends numbered items with `Repair`, each of which returns when it is
done, shows that it is alive with `Beat`, and leaves with `Bye`. `Status` answers anyone who is admitted.

Items are done in the order of their numbers. An item is known by its run and name, so that sending it again
repeats no work: it joins the one that is running, or gets the result that is kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from amco_jax.errors import InputError, first_line
from edge_fleet.engines import Engine, EngineSettings, Images, Masks, check_batch
from edge_fleet.pace import Pace
from edge_fleet.security import Address, Keys, check_exposure
from edge_fleet.wire import LEASE, MAX_BYTES, Message, decode, encode

SERVICE = "edge_fleet.Worker"
MAX_SECONDS = 3600.0
"""The longest pace of an item, s"""
_KEPT_BYTES = 256 * 2**20
_MAX_QUEUE = 64


@dataclasses.dataclass(eq=False)
class _Item:
    """An item, from when it was received until its result is sent."""

    key: tuple[str, str]
    """Run and name"""
    images: Images
    masks: Masks
    seeds: list[int]
    steps: int
    seconds: float
    received: float
    answer: asyncio.Future[bytes]


@dataclasses.dataclass(eq=False)
class _Session:
    """The session of the scheduler that has the worker."""

    run: str
    name: str
    seen: float
    next: int = 0
    """The number of the item that is due"""
    waiting: dict[int, _Item | None] = dataclasses.field(default_factory=dict)
    """Items by number; None for one whose result is known or whose call has ended"""


class Refusal(Exception):
    """A call that is answered by a status other than OK."""

    def __init__(self, code: grpc.StatusCode, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason


class Worker:
    """The state of a worker, without the network."""

    def __init__(self, engine: Engine, name: str, settings: EngineSettings):
        """Create an idle worker.

        Args:
          settings: those of the engine, for reports.
        """
        self._engine, self.name, self._settings = engine, name, settings
        self.incarnation = uuid.uuid4().hex
        self._session: _Session | None = None
        self._running: _Item | None = None
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._due = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pace = Pace()
        self._done, self._computed, self._overruns = 0, 0.0, 0

    async def work(self) -> None:
        """Repair the items that arrive, without end."""
        while True:
            item = self._take()
            if item is None:
                self._due.clear()
                await self._due.wait()
            else:
                await self._repair(item)

    async def hello(self, message: Message) -> bytes:
        """Open a session, which ends that of an earlier scheduler of the same run."""
        run = message.text("run")
        held = self._session
        if held is not None and held.run != run and time.monotonic() - held.seen < LEASE:
            reason = f"worker: {self.name} is used by another run; use another worker, or wait for its end"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, reason)
        self._end()
        self._session = _Session(run, uuid.uuid4().hex, time.monotonic())
        return encode(self._report() | {"session": self._session.name})

    async def repair(self, message: Message) -> bytes:
        """Repair the images of an item, and return them."""
        session, received = self._check_session(message), time.monotonic()
        number = message.whole("number", session.next, session.next + _MAX_QUEUE)
        images, masks = message.array("images", "uint8", 4), message.array("masks", "bool", 3)
        check_batch(images, masks)
        key = session.run, message.text("item")
        seeds = message.wholes("seeds", len(images), 2**63 - 1)
        steps, seconds = message.whole("steps", 1, 999), message.number("seconds", 0, MAX_SECONDS)
        known = self._known(key)
        if known is not None:
            self._pass(session, number, None)
            return await asyncio.shield(known) if isinstance(known, asyncio.Future) else known
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        item = _Item(key, images, masks, seeds, steps, seconds, received, answer)
        self._pass(session, number, item)
        try:
            return await asyncio.shield(item.answer)
        finally:
            # If the call has ended before its turn, later items must not wait for it.
            if session.waiting.get(number) is item:
                self._pass(session, number, None)

    async def beat(self, message: Message) -> bytes:
        """A sign of life of the scheduler, answered by one of the worker."""
        self._check_session(message)
        return encode(self._report())

    async def bye(self, message: Message) -> bytes:
        """End the session."""
        self._check_session(message)
        self._end()
        return encode({})

    async def status(self, message: Message) -> bytes:
        """What the worker is doing."""
        del message
        return encode(self._report())

    def _check_session(self, message: Message) -> _Session:
        found = self._session
        if found is None or message.text("session") != found.name:
            raise Refusal(grpc.StatusCode.ABORTED, "session: not the current one; call Hello first")
        found.seen = time.monotonic()
        return found

    def _report(self) -> dict[str, Any]:
        session = self._session
        held = session is not None and time.monotonic() - session.seen < LEASE
        return {
            "name": self.name,
            "engine": self._settings.words,
            **self._settings.labels,
            "incarnation": self.incarnation,
            "pid": os.getpid(),
            "held": held,
            "queue": sum(item is not None for item in session.waiting.values()) if session else 0,
            "running": "" if self._running is None else self._running.key[1],
            "done": self._done,
            "computed_s": self._computed,
            "overruns": self._overruns,
        }

    def _end(self) -> None:
        """Drop what has not been started for the session that ends."""
        if self._session is not None:
            for item in self._session.waiting.values():
                if item is not None:
                    item.answer.cancel()
        self._session = None

    def _pass(self, session: _Session, number: int, item: _Item | None) -> None:
        """Note the item of a number, or that there is nothing to do for it."""
        session.waiting[number] = item
        self._due.set()

    def _take(self) -> _Item | None:
        """The item that is due, if it is there."""
        session = self._session
        while session is not None and session.next in session.waiting:
            item = session.waiting.pop(session.next)
            session.next += 1
            if item is not None:
                return item
        return None

    def _known(self, key: tuple[str, str]) -> bytes | asyncio.Future[bytes] | None:
        """The kept result of an item, or that of the running one, or None."""
        if self._running is not None and self._running.key == key:
            return self._running.answer
        return self._kept.get(key)

    async def _repair(self, item: _Item) -> None:
        self._running = item
        started = self._pace.start(item.received)
        began = time.monotonic()
        arguments = item.images, item.masks, item.seeds, item.steps
        try:
            repaired = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._engine, *arguments
            )
            paced = await self._pace.finish(started, began, item.seconds)
            self._done += 1
            self._computed += paced.computed
            self._overruns += paced.overrun > 0
            fields = {
                "item": item.key[1], "waited_s": max(started - item.received, 0.0), "took_s": paced.took,
                "computed_s": paced.computed, "overrun_s": paced.overrun,
                # By the clock that all processes of a machine share, which no other machine can read.
                "arrived": item.received, "answered": time.monotonic(),
            }  # fmt: skip
            answer = encode(fields, {"repaired": repaired})
            self._keep(item.key, answer)
            if not item.answer.done():
                item.answer.set_result(answer)
        except Exception as error:  # of the engine; the scheduler must hear of it, whatever it is
            if not item.answer.done():
                reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                item.answer.set_exception(Refusal(grpc.StatusCode.INTERNAL, f"engine: {reason[:500]}"))
                item.answer.exception()  # nobody may be waiting for it any more
        finally:
            self._running = None

    def _keep(self, key: tuple[str, str], answer: bytes) -> None:
        self._kept[key] = answer
        self._kept_bytes += len(answer)
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= len(old)


Handler = Callable[[Message], Coroutine[Any, Any, bytes]]


def _answering(handler: Handler) -> Any:
    """A handler of gRPC, which answers bad messages with a status and one line."""

    async def answer(request: bytes, context: Any) -> bytes:
        try:
            return await handler(decode(request))
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:500])
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.reason)
        except asyncio.CancelledError:
            if context.cancelled():
                raise
            await context.abort(grpc.StatusCode.ABORTED, "session: ended; call Hello again")
        raise AssertionError("unreachable")

    return grpc.unary_unary_rpc_method_handler(answer)


class _Door(grpc.aio.ServerInterceptor):
    """Refuses calls without the token before any of their content is read."""

    def __init__(self, keys: Keys):
        self._keys = keys

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if self._keys.admits(handler_call_details.invocation_metadata):
            return await continuation(handler_call_details)

        async def refuse(messages: Any, context: Any) -> None:
            del messages
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "token: missing or wrong")

        # A handler of a stream is called before a message is read; other handlers get it whole.
        return grpc.stream_unary_rpc_method_handler(refuse)


def check_listening(address: Address, keys: Keys | None) -> None:
    """Raise InputError if the address needs keys, or this process cannot listen on it."""
    check_exposure(address, keys)
    try:
        family, *_, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except (OSError, UnicodeError) as error:  # the latter for what no name of a host looks like
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"address: {address}: {reason}; legal: a free port of this machine") from error


async def start_server(worker: Worker, address: Address, keys: Keys | None) -> tuple[Any, int]:
    """Start to listen, and return the server and its port, which is chosen if that of the address is 0.

    Raises:
      InputError: the address needs keys, or cannot be listened on.
    """
    check_listening(address, keys)
    options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]
    server = grpc.aio.server(
        interceptors=[] if keys is None else [_Door(keys)],
        options=[*options, ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=2 * _MAX_QUEUE,
    )
    methods = {
        name: _answering(getattr(worker, name.lower()))
        for name in ("Hello", "Repair", "Beat", "Bye", "Status")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    try:
        if keys is None or keys.certificate is None or keys.key is None:
            port = server.add_insecure_port(str(address))
        else:
            pair = [(keys.key, keys.certificate)]
            port = server.add_secure_port(str(address), grpc.ssl_server_credentials(pair))
    except RuntimeError as error:
        raise InputError(f"address: {address}: {first_line(error)}; legal: a free port") from error
    await server.start()
    return server, port


async def serve(
    worker: Worker, address: Address, keys: Keys | None, listening: Callable[[int], None]
) -> None:
    """Serve until cancelled.

    Args:
      listening: called with the port once the server listens.
    """
    server, port = await start_server(worker, address, keys)
    listening(port)
    try:
        await worker.work()
    finally:
        await server.stop(None)
