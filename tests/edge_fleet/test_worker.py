"""A worker on its port: sessions, repeated items, order, wrong tokens, TLS, and hostile bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from helpers.fleets import Served, served
from helpers.refusals import refused

from amco_jax.errors import InputError
from edge_fleet import worker as worker_module
from edge_fleet.client import CallError, Client
from edge_fleet.security import Address, Keys, check_exposure, make_keys, parse_address, read_keys
from edge_fleet.wire import MAX_HEADER, Message
from edge_fleet.worker import check_listening, start_server

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
MASKS = np.zeros((1, 64, 64), bool)
MASKS[0, 10:20, 10:20] = True
NOISE = np.random.default_rng(1).bytes(5000)


def hello(client: Client, run: str = "run") -> Coroutine[Any, Any, Message]:
    return client.call("Hello", {"run": run}, timeout=10)


def repair(client: Client, session: str, place: int, name: str, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "session": session, "number": place, "item": name, "steps": 2, "seconds": 0.0, "seeds": [0]
    }  # fmt: skip
    arrays = {"images": changes.pop("images", IMAGES), "masks": changes.pop("masks", MASKS)}
    return client.call("Repair", fields | changes, arrays, timeout=20)


async def refused_call(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(CallError) as caught:
        await call
    assert caught.value.code == code, caught.value.reason
    return caught.value.reason


@contextlib.asynccontextmanager
async def connected(there: Served, keys: Keys | None = None):
    client = Client(there.address, keys)
    try:
        yield client
    finally:
        await client.close()


def test_an_item_that_is_sent_again_is_not_repaired_again():
    async def run() -> None:
        async with served(seconds=0.2) as there, connected(there) as client:
            session = (await hello(client)).text("session")
            first = await repair(client, session, 0, "a")
            again = await repair(client, session, 1, "a")
            np.testing.assert_array_equal(first.array("repaired", "uint8", 4), 255 - IMAGES)
            np.testing.assert_array_equal(again.arrays["repaired"], first.arrays["repaired"])
            assert len(there.engine.calls) == 1
            # A scheduler that comes back while the item is running joins it, in its new session.
            lost = asyncio.ensure_future(repair(client, session, 2, "b"))
            await asyncio.sleep(0.1)
            session = (await hello(client)).text("session")
            joined = await repair(client, session, 0, "b")
            assert (joined.text("item"), len(there.engine.calls)) == ("b", 2)
            assert (await lost).text("item") == "b"

    asyncio.run(run())


def test_a_worker_may_be_slow_to_accept_a_connection():
    """As on a busy machine, or at the other end of a slow network."""

    async def run() -> None:
        async with served() as there:

            async def delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await asyncio.sleep(1.0)
                onward = await asyncio.open_connection(*there.address)

                async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                    while data := await source.read(65536):
                        sink.write(data)
                    sink.close()

                await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))

            async with await asyncio.start_server(delayed, "127.0.0.1", 0) as server:
                client = Client(Address(*server.sockets[0].getsockname()[:2]), None)
                answer = await client.call("Status", {}, timeout=20)
                assert answer.text("name") == "w"
                await client.close()

    asyncio.run(run())


def test_items_are_done_in_the_order_of_their_numbers():
    async def run() -> None:
        async with served() as there, connected(there) as client:
            session = (await hello(client)).text("session")
            later = [asyncio.ensure_future(repair(client, session, k, f"{k}", steps=k + 1)) for k in (2, 1)]
            await asyncio.sleep(0.2)
            assert there.engine.calls == []
            await repair(client, session, 0, "0", steps=1)
            await asyncio.gather(*later)
            assert there.engine.calls == [1, 2, 3]

    asyncio.run(run())


def test_a_worker_has_one_scheduler_at_a_time(monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with served() as there, connected(there) as first, connected(there) as second:
            session = (await hello(first)).text("session")
            reason = await refused_call(hello(second, "other"), grpc.StatusCode.FAILED_PRECONDITION)
            assert "another run" in reason
            await repair(first, session, 0, "a")  # which the attempt has not disturbed
            await refused_call(repair(second, "x", 0, "a"), grpc.StatusCode.ABORTED)
            await first.call("Bye", {"session": session}, timeout=10)
            await hello(second, "other")
            # If a scheduler gives no sign of life, its lease ends.
            monkeypatch.setattr(worker_module, "LEASE", 0.05)
            await asyncio.sleep(0.1)
            await hello(first)

    asyncio.run(run())


def test_bad_items_are_refused_in_one_line():
    async def run() -> None:
        async with served() as there, connected(there) as client:
            session = (await hello(client)).text("session")
            for changes in (
                {"masks": np.zeros((1, 64, 64), bool)}, {"masks": MASKS[:, :32]}, {"images": IMAGES[..., 0]},
                {"steps": 0}, {"steps": "x"}, {"seconds": 1e9}, {"seeds": []}, {"number": 10_000},
                {"item": "x\n"}, {"item": ["../../etc/passwd"]},
            ):  # fmt: skip
                call = repair(client, session, 0, "a", **changes)
                assert "\n" not in await refused_call(call, grpc.StatusCode.INVALID_ARGUMENT), changes
            assert there.engine.calls == []
            await repair(client, session, 0, "a")

    asyncio.run(run())


def test_a_wrong_token_does_no_work():
    async def run() -> None:
        async with served(Keys("right")) as there, connected(there, Keys("right")) as own:
            session = (await hello(own)).text("session")
            for keys in (None, Keys("wrong"), Keys(""), Keys("right ")):
                async with connected(there, keys) as client:
                    for call in (
                        hello(client),
                        repair(client, session, 0, "a"),
                        *(
                            client.call(name, {"session": session}, timeout=9)
                            for name in ("Beat", "Bye", "Status")
                        ),
                    ):
                        reason = await refused_call(call, grpc.StatusCode.UNAUTHENTICATED)
                        assert reason == "token: missing or wrong"
            assert there.engine.calls == []
            await repair(own, session, 0, "a")

    asyncio.run(run())


def test_a_wrong_token_is_refused_before_a_message_is_read():
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def run() -> None:
        images, masks = np.zeros((1, 4096, 4096, 3), np.uint8), np.zeros((1, 4096, 4096), bool)
        async with served(Keys("right")) as there:
            async with connected(there, Keys("wrong")) as client:
                call = repair(client, "x", 0, "a", images=images, masks=masks)
                await refused_call(call, grpc.StatusCode.UNAUTHENTICATED)
            async with grpc.aio.insecure_channel(str(there.address)) as channel:
                for method in ("Hello", "Repair"):
                    call = channel.stream_unary(f"/edge_fleet.Worker/{method}")
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call(nothing(), timeout=10, metadata=Keys("wrong").metadata)
                    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(run())


def test_keys_make_an_encrypted_connection(tmp_path: Path):
    make_keys(tmp_path / "keys")
    make_keys(tmp_path / "others")
    refused(lambda: make_keys(tmp_path / "keys"), "holds keys already")
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    (tmp_path / "mixed").mkdir()
    for name, source in (("token", "keys"), ("certificate.pem", "keys"), ("key.pem", "others")):
        shutil.copy(tmp_path / source / name, tmp_path / "mixed" / name)
    read_keys(tmp_path / "mixed", server=False)
    refused(lambda: read_keys(tmp_path / "mixed", server=True), "mixed cannot be read: ", "mismatch")
    (tmp_path / "mixed" / "certificate.pem").write_text("garbage")
    refused(lambda: read_keys(tmp_path / "mixed", server=False), "mixed cannot be read: ")
    keys, others = (read_keys(tmp_path / name, server=False) for name in ("keys", "others"))

    async def run() -> None:
        async with served(read_keys(tmp_path / "keys", server=True)) as there:
            async with connected(there, keys) as client:
                assert (await hello(client)).text("name") == "w"
            # Neither without encryption, nor with trust in another certificate.
            for wrong in (Keys(keys.token), others):
                async with connected(there, wrong) as client:
                    await refused_call(hello(client), grpc.StatusCode.UNAVAILABLE)

    asyncio.run(run())


def test_keys_that_cannot_be_made_leave_nothing_behind(tmp_path: Path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "certificate.pem").touch()
    refused(lambda: make_keys(tmp_path / "some"), "some holds keys already")
    assert len(list((tmp_path / "some").iterdir())) == 1
    (tmp_path / "file").touch()
    refused(lambda: make_keys(tmp_path / "file"), "file cannot be written")


def test_an_address_that_cannot_be_listened_on_is_told_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as used:
        address = Address(*used.getsockname())
        refused(lambda: check_listening(address, None), f"address: {address}: ", "in use; legal: ")
    keys = Keys("token", b"", b"")
    refused(lambda: check_listening(Address("a..b", 0), keys), "address: a..b:0: ")


def test_other_addresses_than_the_loopback_need_keys():
    for text in ("127.0.0.1:7000", "localhost:1", "[::1]:0"):
        check_exposure(parse_address(text), None)
    for text in ("0.0.0.0:7000", "10.0.0.7:7000", "[::]:7000", "example.org:7000"):
        for keys in (None, Keys("token")):
            refused(lambda: check_exposure(parse_address(text), keys), text, "keys", "legal: ")  # noqa: B023
    for text in ("127.0.0.1", "host:70000", "host:x", "", "a b:1", "[zz]:1"):
        refused(lambda: parse_address(text), "host:port")  # noqa: B023

    async def run() -> None:
        with pytest.raises(InputError, match="keys"):
            await start_server(None, Address("0.0.0.0", 0), None)  # pyright: ignore[reportArgumentType]

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 5000, NOISE, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NOISE],
    ids=["HTTP/1.1", "zeros", "noise", "HTTP/2"],
)
def test_hostile_bytes_change_nothing(data: bytes):
    async def run() -> None:
        async with served() as there, connected(there) as client:
            _, writer = await asyncio.open_connection(*there.address)
            writer.write(data)
            await writer.drain()
            writer.close()
            session = (await hello(client)).text("session")
            await repair(client, session, 0, "a")

    asyncio.run(run())


def test_bytes_that_are_no_message_are_refused():
    async def run() -> None:
        async with served() as there, grpc.aio.insecure_channel(str(there.address)) as channel:
            for method in ("Hello", "Repair", "Beat", "Bye", "Status"):
                call = channel.unary_unary(f"/edge_fleet.Worker/{method}")
                for data in (b"", b"x", NOISE):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call(data, timeout=10)
                    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(run())


def test_a_message_that_is_too_large_is_no_fault_of_the_worker():
    async def run() -> None:
        async with served() as there, connected(there) as client:
            with pytest.raises(InputError, match="message: a header of "):
                await repair(client, "x", 0, "a" * MAX_HEADER)

    asyncio.run(run())


def test_a_failing_engine_is_told():
    async def run() -> None:
        async with served() as there, connected(there) as client:
            there.worker._engine = lambda *_: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
            session = (await hello(client)).text("session")
            reason = await refused_call(repair(client, session, 0, "a"), grpc.StatusCode.INTERNAL)
            assert reason == "engine: ZeroDivisionError: division by zero"
            there.worker._engine = there.engine
            await repair(client, session, 1, "a")

    asyncio.run(run())
