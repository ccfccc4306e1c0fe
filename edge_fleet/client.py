"""The scheduler's side of a worker's calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
import numpy as np

from amco_jax.errors import InputError, check_number
from edge_fleet.security import NAME, Address, Keys, check_exposure
from edge_fleet.wire import MAX_BYTES, MAX_HEADER, Message, decode, encode
from edge_fleet.worker import MAX_SECONDS, SERVICE

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.max_send_message_length", MAX_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This is also how long an attempt to connect may take, TLS included, on a busy machine or a slow network.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_PARTS = 10
"""Parts in which the time for an answer passes, see `_within`"""

_T = TypeVar("_T")


class CallError(Exception):
    """A call that did not succeed."""

    def __init__(self, code: grpc.StatusCode, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason

    @property
    def is_final(self) -> bool:
        """Whether the same call would fail again."""
        return self.code in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.UNIMPLEMENTED,
        )


class Client:
    """A connection to a worker."""

    def __init__(self, address: Address, keys: Keys | None):
        """Prepare the connection, which is made by the first call.

        Raises:
          InputError: the address needs keys.
        """
        check_exposure(address, keys)
        self.address, self._keys = address, keys
        if keys is None or keys.certificate is None:
            self._channel = grpc.aio.insecure_channel(str(address), _OPTIONS)
        else:
            trusted = grpc.ssl_channel_credentials(keys.certificate)
            options = [*_OPTIONS, ("grpc.ssl_target_name_override", NAME)]
            self._channel = grpc.aio.secure_channel(str(address), trusted, options)

    async def call(
        self,
        method: str,
        fields: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        timeout: float,
    ) -> Message:
        """Call a method of the worker.

        Args:
          timeout: s for which to wait for an answer, not counting a time in which this process is held up.

        Raises:
          InputError: the message cannot be sent, see `encode`.
          CallError: the call failed, or did not end in time.
        """
        message = encode(fields, arrays)
        run = self._channel.unary_unary(f"/{SERVICE}/{method}")
        metadata = None if self._keys is None else self._keys.metadata
        try:
            return decode(await _within(timeout, run(message, metadata=metadata)))
        except grpc.aio.AioRpcError as error:
            details = next(iter((error.details() or error.code().name).splitlines()), "")
            raise CallError(error.code(), details) from error
        except InputError as error:
            raise CallError(grpc.StatusCode.DATA_LOSS, str(error)) from error

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


def check_item(images: int, side: int, seconds: float) -> None:
    """Raise InputError unless workers take an item.

    Args:
      images, side: how many images it has, and their side in pixels.
      seconds: its pace, s.
    """
    room, pixels = MAX_BYTES - MAX_HEADER, images * side**2
    if (size := pixels * 3 + -(-pixels // 8)) > room:
        raise InputError(
            f"size: {side}, by which an item of {images} images has {size} bytes; legal: at most {room} bytes"
        )
    check_number("pace of an item, s of the run", seconds, 0, MAX_SECONDS)


async def beat(
    client: Client,
    session: str,
    every: float,
    timeout: float,
    hear: Callable[[Message], None] = lambda _: None,
) -> NoReturn:
    """Show the worker of a session that its scheduler is alive, without end.

    Args:
      every: s between two signs of life.
      timeout: s for which to wait for each answer.
      hear: called with each answer.

    Raises:
      CallError: there was no answer.
    """
    while True:
        await asyncio.sleep(every)
        hear(await client.call("Beat", {"session": session}, timeout=timeout))


async def _within(seconds: float, answer: Awaitable[_T]) -> _T:
    """Wait for an answer; CallError if it takes too long.

    The time passes in a few parts, each of which counts as what it should have taken. If this process is
    held up meanwhile, by a busy machine or a signal, its standstill is therefore not taken for the worker's
    silence, as it would be by a deadline that gRPC watches.
    """
    waiting = asyncio.ensure_future(answer)
    # An error that comes when nobody waits any more is no news.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        for _ in range(_PARTS):
            if (await asyncio.wait([waiting], timeout=seconds / _PARTS))[0]:
                return waiting.result()
    finally:
        waiting.cancel()
    raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {seconds:.3g} s")
