"""Links of base stations as links of the kernel: a network namespace, virtual cables, and token buckets.

The workers live in a namespace of their own. Each base station has a cable (veth) into it, and a token bucket
(`tc tbf`) at both ends, through which the images and results of its requests go. One more cable without a
bucket carries signs of life, and what a station sends to its own server. It needs Linux, root and iproute2.

A namespace outlives a process that is killed. Each process therefore holds a lock on its own one, which ends
with the process however that ends, and the next process removes namespaces that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from amco_jax.errors import InputError

_BURST_BYTES = 16_000
"""What a bucket lets pass at once: ten packets, as little as keeps up with the rates of such links"""
_LATENCY = "10s"
"""How long a bucket may keep packets; beyond that it drops them, and TCP sends more slowly"""
_BLOCK = ipaddress.ip_network("198.18.0.0/15")
"""Addresses for benchmarks (RFC 2544), which no network uses"""
_NAMED = Path("/var/run/netns")
"""Where iproute2 keeps namespaces by name, see ip-netns(8)"""
_LOCK = Path("/var/run/amco-jax-netns.lock")
"""Held while a namespace begins; iproute2 itself locks the directory of the namespaces"""


class Cables(NamedTuple):
    """What reaches the workers from outside of their namespace."""

    namespace: str
    direct: str
    """Their host without a bucket"""
    stations: list[str]
    """Their host through the link of each base station"""


def check_tools() -> None:
    """Raise InputError unless this is root, and the commands for namespaces with token buckets are there."""
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise InputError(
                f"netns: the command {tool} is not installed; install iproute2, or leave out --netns"
            )
    if os.geteuid() != 0:
        raise InputError("netns: network namespaces need root; run as root, or leave out --netns")


@contextlib.contextmanager
def cables(rates: Sequence[float]) -> Iterator[Cables]:
    """A namespace with a link for each base station, which ends with the block.

    Args:
      rates: of the links, Mbit/s.

    Raises:
      InputError: the machine does not allow it.
    """
    check_tools()
    name = f"amco-{os.getpid()}"
    first = random.SystemRandom().randrange(_BLOCK.num_addresses // 4 - len(rates) - 1) * 4
    hosts = [str(_BLOCK[first + 4 * number + 2]) for number in range(len(rates) + 1)]
    with contextlib.ExitStack() as stack:
        # No other process may find the namespace before it is held.
        with _begin():
            _remove_abandoned()
            _run("ip", "netns", "add", name)
            stack.enter_context(_held(_NAMED / name))
        stack.callback(_remove, name)
        inside = "ip", "netns", "exec", name
        _run(*inside, "ip", "link", "set", "lo", "up")
        for number, rate in enumerate([None, *rates]):
            here, there = f"{_prefix(name)}{number}", f"station{number}"
            _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            for words, link, offset in (((), here, 1), (inside, there, 2)):
                address = f"{_BLOCK[first + 4 * number + offset]}/30"
                _run(*words, "ip", "address", "add", address, "dev", link)
                _run(*words, "ip", "link", "set", link, "up")
                if rate is not None:
                    _run(*words, "tc", "qdisc", "add", "dev", link, "root", *_bucket(rate))
        yield Cables(name, hosts[0], hosts[1:])


@contextlib.contextmanager
def _begin() -> Iterator[None]:
    """A block during which no other process begins or removes namespaces.

    Raises:
      InputError: there is no place for a lock.
    """
    try:
        _LOCK.touch()
    except OSError as error:
        reason = f"{_LOCK} cannot be written: {error.strerror or error}"
        raise InputError(f"netns: {reason}; run as root, or leave out --netns") from error
    with _held(_LOCK, wait=True):
        yield


@contextlib.contextmanager
def _held(path: Path, wait: bool = False) -> Iterator[None]:
    """A lock on a file, which ends with the block or the process; BlockingIOError if another has it."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(file)


def _remove_abandoned() -> None:
    """Remove what killed processes have left behind."""
    for path in sorted(_NAMED.glob("amco-*")):
        if re.fullmatch(r"amco-\d+", path.name):
            with contextlib.suppress(OSError), _held(path):  # else its process lives, or has just ended
                _remove(path.name)


def _remove(name: str) -> None:
    """Remove a namespace with its cables."""
    # The cables would end with the namespace, but at some later time, and their names are used again.
    listed = _run("ip", "-oneline", "link", "show", "type", "veth")
    cables = re.findall(rf"^\d+: ({re.escape(_prefix(name))}\d+)[@:]", listed, re.MULTILINE)
    for words in (*(("link", "delete", cable) for cable in cables), ("netns", "delete", name)):
        with contextlib.suppress(InputError):
            _run("ip", *words)


def _prefix(name: str) -> str:
    """What the names of the cables of a namespace begin with."""
    return f"{name.replace('-', '')}."


def _bucket(rate: float) -> tuple[str, ...]:
    return "tbf", "rate", f"{round(rate * 1e6)}bit", "burst", f"{_BURST_BYTES}", "latency", _LATENCY


def _run(*words: str) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise InputError(
            f"netns: this machine does not allow network namespaces with token buckets "
            f"({' '.join(words[:5])}: {reason}); run as root with the capability NET_ADMIN, or leave out "
            "--netns"
        )
    return done.stdout
