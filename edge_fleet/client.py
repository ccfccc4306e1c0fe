"""The scheduler's side of a worker's calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np

from amco_jax.errors import InputError
from edge_fleet.security import NAME, Address, Keys, check_exposure
from edge_fleet.wire import MAX_BYTES, Message, decode, encode
from edge_fleet.worker import SERVICE

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
          timeout: s.

        Raises:
          CallError: the call failed, or did not end in time.
        """
        run = self._channel.unary_unary(f"/{SERVICE}/{method}")
        metadata = None if self._keys is None else self._keys.metadata
        try:
            return decode(await run(encode(fields, arrays), timeout=timeout, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            details = next(iter((error.details() or error.code().name).splitlines()), "")
            raise CallError(error.code(), details) from error
        except InputError as error:
            raise CallError(grpc.StatusCode.DATA_LOSS, str(error)) from error

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)
