"""Where the workers of a run come from: this machine, addresses, or a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from amco_jax.errors import InputError, first_line
from amco_jax.study.engines import connect_to_ray
from edge_fleet.engines import EngineSettings
from edge_fleet.forked import ALONE
from edge_fleet.namespaces import Cables, cables
from edge_fleet.security import Address, Keys, check_exposure, new_keys, new_token, parse_address

START_SECONDS = 180.0
"""How long workers may take to load their model, s"""
_LOGS = "`ray logs` shows more"


class Crew(NamedTuple):
    """The workers of a run, in the order of the scenario's servers."""

    addresses: list[Address]
    keys: Keys | None
    stations: Sequence[str] = ()
    """The host of all workers through the link of each base station; empty if images take no other way"""


@contextlib.contextmanager
def local_workers(
    settings: EngineSettings, names: Sequence[str], restart: bool, reached: Cables | None = None
) -> Iterator[Crew]:
    """Workers on this machine, which end with the block.

    Args:
      reached: the namespace in which they live; None for none.

    Raises:
      InputError: the engine cannot be loaded, or the workers have not started.
    """
    keys = Keys(new_token()) if reached is None else new_keys()
    host, words = (
        ("127.0.0.1", []) if reached is None else ("0.0.0.0", ["ip", "netns", "exec", reached.namespace])
    )
    order = {
        "engine": dataclasses.asdict(settings), "names": list(names), "restart": restart, "host": host,
        "keys": [None if part is None else part if isinstance(part, str) else part.decode() for part in keys],
    }  # fmt: skip
    # In a group of its own, which Ctrl-C does not reach: this process decides when the workers end.
    process = subprocess.Popen(
        [*words, sys.executable, "-m", "edge_fleet.forked"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, process_group=0,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    ports: list[int] = []
    try:
        with contextlib.suppress(BrokenPipeError):  # it has died, and gives no answer
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        ports = _ports(process.stdout)
        at, stations = (host, []) if reached is None else (reached.direct, reached.stations)
        yield Crew([Address(at, port) for port in ports], keys, stations)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if not ports:  # it may be loading a model, and not see that its stdin is closed
            process.kill()
        process.wait()
        process.stdout.close()


def _ports(answer: IO[str]) -> list[int]:
    """Where the workers listen, from the one line that their process prints.

    Raises:
      InputError: none has started.
    """
    ready, _, _ = select.select([answer], [], [], START_SECONDS)
    found: Any = None
    with contextlib.suppress(ValueError):
        found = json.loads(answer.readline() if ready else "")
    if not isinstance(found, dict):
        why = "their process has ended" if ready else f"their engine has not loaded after {START_SECONDS:g} s"
        found = {"error": f"workers: none has started, as {why}; {ALONE}"}
    if "error" in found:
        raise InputError(found["error"])
    return found["ports"]


@contextlib.contextmanager
def workers_in_namespace(
    settings: EngineSettings, names: Sequence[str], restart: bool, rates: Sequence[float]
) -> Iterator[Crew]:
    """Workers on this machine behind links of the kernel, which end with the block.

    Args:
      rates: of the link of each base station, Mbit/s.

    Raises:
      InputError: the machine does not allow network namespaces, or the engine cannot be loaded.
    """
    with cables(rates) as reached, local_workers(settings, names, restart, reached) as crew:
        yield crew


def crew_at(addresses: Sequence[str], keys: Keys | None, num_servers: int) -> Crew:
    """Workers that have been started elsewhere.

    Raises:
      InputError: an address is malformed, given twice or needs keys, or there are more or fewer than servers.
    """
    found = [parse_address(text) for text in addresses]
    for address in found:
        check_exposure(address, keys)
    if len(set(found)) < len(found):
        raise InputError("workers: an address is given twice; legal: each once")
    if len(found) != num_servers:
        raise InputError(f"workers: {len(found)}; legal: {num_servers}, one for each server")
    return Crew(found, keys)


@contextlib.contextmanager
def ray_workers(
    settings: EngineSettings, names: Sequence[str], address: str | None, keys: Keys
) -> Iterator[Crew]:
    """Workers on a Ray cluster: actors that start the same server, and tell its address.

    Ray only launches them; images never pass through it.

    Raises:
      InputError: Ray is not installed, no cluster answers, or an actor cannot start its worker.
    """
    ray = connect_to_ray(address)
    try:
        # They mostly wait, and may be more than the cores; spread over the nodes.
        actor = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_Actor)
        actors = [actor.remote(settings, name, keys) for name in names]
        try:
            places = ray.get([each.address.remote() for each in actors], timeout=START_SECONDS)
        except ray.exceptions.RayError as error:
            raise InputError(f"ray: a worker has not started: {first_line(error)}; {_LOGS}") from error
        yield Crew([Address(*place) for place in places], keys)
    finally:
        ray.shutdown()


class _Actor:
    """A worker in a process of Ray."""

    def __init__(self, settings: EngineSettings, name: str, keys: Keys):
        import threading

        import ray.util

        from edge_fleet.engines import load_engine
        from edge_fleet.worker import Worker, serve

        engine, self._port = load_engine(settings), 0
        host = ray.util.get_node_ip_address()
        started = threading.Event()

        def listening(port: int) -> None:
            self._port = port
            started.set()

        async def run() -> None:
            await serve(Worker(engine, name, settings), Address(host, 0), keys, listening)

        self._host = host
        threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
        if not started.wait(60):
            raise InputError(f"worker {name}: does not listen on {host} after 60 s; {_LOGS}")

    def address(self) -> tuple[Any, int]:
        """Where the worker listens."""
        return self._host, self._port
