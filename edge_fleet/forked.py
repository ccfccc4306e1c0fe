"""Several workers on this machine, as processes that are forked after their engine has been loaded once.

    python -m edge_fleet.forked

It reads one line of JSON on stdin: `engine`, the fields of `EngineSettings`; `names`, one for each worker;
`host` and `keys`, where they listen and whom they admit; and `restart`, whether workers that die are started
again. It prints one line of JSON with the
ports and process ids, and ends all workers when its stdin is closed, so that none outlives its scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from amco_jax.errors import InputError
from edge_fleet.engines import Engine, EngineSettings, load_engine

_RESTART_AFTER = 0.5


def main() -> None:
    """Load the engine, start the workers, and watch over them until stdin is closed."""
    order = json.loads(sys.stdin.readline())
    try:
        settings = EngineSettings(**order["engine"])
        engine = load_engine(settings) if settings.shareable else None
    except InputError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(2)
    lifeline = os.pipe()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the scheduler decides
    names = order["names"]
    place = order["host"], order["keys"]
    workers = [_fork(engine, settings, name, 0, place, lifeline) for name in names]
    print(json.dumps({"workers": workers}), flush=True)
    try:
        while not _closed():
            with contextlib.suppress(ChildProcessError):
                while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                    number = next(i for i, (_, each) in enumerate(workers) if each == pid)
                    if order["restart"]:
                        time.sleep(_RESTART_AFTER)
                        port = workers[number][0]
                        workers[number] = _fork(engine, settings, names[number], port, place, lifeline)
    finally:
        for _, pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _closed() -> bool:
    """Wait a moment, and tell whether stdin has been closed."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.1)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _fork(
    engine: Engine | None,
    settings: EngineSettings,
    name: str,
    port: int,
    place: tuple[str, list[str | None]],
    lifeline: tuple[int, int],
) -> tuple[int, int]:
    """Start a worker, and return its port and process id."""
    listening = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(lifeline[1])
            os.close(listening[0])
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            _work(engine, settings, name, port, place, lifeline[0], listening[1])
        finally:
            os._exit(1)
    os.close(listening[1])
    with os.fdopen(listening[0]) as answer:
        return int(answer.readline() or port), pid


def _work(
    engine: Engine | None,
    settings: EngineSettings,
    name: str,
    port: int,
    place: tuple[str, list[str | None]],
    lifeline: int,
    answer: int,
) -> Any:
    # gRPC must not be started before the fork.
    from edge_fleet.security import Address, Keys
    from edge_fleet.worker import Worker, serve

    def watch() -> None:
        os.read(lifeline, 1)  # ends when the parent does
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()

    def listening(found: int) -> None:
        os.write(answer, f"{found}\n".encode())
        os.close(answer)

    async def run() -> None:
        worker = Worker(engine or load_engine(settings), name, settings.words)
        host, (token, *pem) = place
        certificate, key = (part.encode() if part else None for part in pem)
        keys = Keys(token or "", certificate, key)
        await serve(worker, Address(host, port), keys, listening)

    asyncio.run(run())


if __name__ == "__main__":
    main()
