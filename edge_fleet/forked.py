"""Several workers on this machine, as processes that are forked after their engine has been loaded once.

    python -m edge_fleet.forked

It reads one line of JSON on stdin: `engine`, the fields of `EngineSettings`; `names`, one for each worker;
`host` and `keys`, where they listen and whom they admit; and `restart`, whether workers that die are started
again. It prints one line of JSON, with the `ports` of the workers or the `error` that kept one of them from
starting, and ends all workers when its stdin is closed, so that none outlives its scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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

ALONE = "start one alone with `fleet.py worker` to see why"
"""What to do if workers do not start"""
_RESTART_AFTER, _LONGEST_WAIT = 0.5, 30.0
_YOUNG = 60.0
"""After a worker has died at this age, s, or before, the next wait is twice as long"""


@dataclasses.dataclass(eq=False)
class _Child:
    """A worker, which is another process after each restart."""

    name: str
    port: int = 0
    pid: int | None = None
    """None while it is dead"""
    born: float = 0.0
    wait: float = _RESTART_AFTER
    due: float = float("inf")
    """When it is started again, if it is dead"""


def main() -> None:
    """Load the engine, start the workers, and watch over them until stdin is closed."""
    order = json.loads(sys.stdin.readline())
    lifeline, place = os.pipe(), (order["host"], order["keys"])
    children = [_Child(name) for name in order["names"]]
    try:
        settings = EngineSettings(**order["engine"])
        engine = load_engine(settings) if settings.shareable else None
        for child in children:
            child.port = _port(child, _fork(child, engine, settings, place, lifeline))
        _tell(1, {"ports": [child.port for child in children]})
        while not _closed():
            _bury(children, order["restart"])
            for child in children:
                if child.due <= time.monotonic():
                    child.due = float("inf")
                    # Its port is known, and if it cannot start, it dies again.
                    os.close(_fork(child, engine, settings, place, lifeline))
    except InputError as error:
        _tell(1, {"error": str(error)})
        sys.exit(2)
    finally:
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)


def _closed() -> bool:
    """Wait a moment, and tell whether stdin has been closed."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.1)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _bury(children: list[_Child], restart: bool) -> None:
    """Note which workers have died, and when they are to be started again."""
    for child in children:
        if child.pid is not None and os.waitpid(child.pid, os.WNOHANG)[0]:
            child.pid, now = None, time.monotonic()
            if now - child.born > _YOUNG:
                child.wait = _RESTART_AFTER
            if restart:
                child.due = now + child.wait
            child.wait = min(2 * child.wait, _LONGEST_WAIT)


def _fork(
    child: _Child,
    engine: Engine | None,
    settings: EngineSettings,
    place: tuple[str, list[str | None]],
    lifeline: tuple[int, int],
) -> int:
    """Start a worker, and return the pipe for its `port` or an `error`, in one line of JSON."""
    answer = os.pipe()
    child.born, child.pid = time.monotonic(), os.fork()
    if child.pid == 0:
        try:
            os.close(lifeline[1])
            os.close(answer[0])
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            _work(child, engine, settings, place, lifeline[0], answer[1])
        except InputError as error:
            _tell(answer[1], {"error": str(error)})
        except Exception as error:  # of a library; the user must hear of it, whatever it is
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            _tell(answer[1], {"error": f"worker {child.name}: {reason}; {ALONE}"})
        finally:
            os._exit(1)
    os.close(answer[1])
    return answer[0]


def _tell(pipe: int, line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads it after a restart, or without a scheduler
        os.write(pipe, json.dumps(line).encode() + b"\n")


def _port(child: _Child, answer: int) -> int:
    """The port that a worker reports; InputError if it has not started."""
    with os.fdopen(answer) as lines:
        line = lines.readline()
    if not line:
        assert child.pid is not None
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        child.pid = None
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        raise InputError(f"worker {child.name}: died at its start ({how}); {ALONE}")
    told = json.loads(line)
    if "error" in told:
        raise InputError(told["error"])
    return told["port"]


def _work(
    child: _Child,
    engine: Engine | None,
    settings: EngineSettings,
    place: tuple[str, list[str | None]],
    lifeline: int,
    answer: int,
) -> None:
    # gRPC must not be started before the fork.
    from edge_fleet.security import Address, Keys
    from edge_fleet.worker import Worker, serve

    def watch() -> None:
        os.read(lifeline, 1)  # ends when the parent does
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()

    async def run() -> None:
        worker = Worker(engine or load_engine(settings), child.name, settings)
        host, (token, *pem) = place
        certificate, key = (part.encode() if part else None for part in pem)
        keys = Keys(token or "", certificate, key)
        await serve(worker, Address(host, child.port), keys, lambda port: _tell(answer, {"port": port}))

    asyncio.run(run())


if __name__ == "__main__":
    main()
