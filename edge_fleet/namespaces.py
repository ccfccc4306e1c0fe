"""Links of base stations as links of the kernel: a network namespace, virtual cables, and token buckets.

The workers live in a namespace of their own. Each base station has a cable (veth) into it, and a token bucket
(`tc tbf`) at both ends, through which go the images and results of its requests. One more cable without a
bucket carries signs of life, and what a station sends to its own server. It needs Linux, root and iproute2.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from amco_jax.errors import InputError

_BURST_BYTES = 16_000
"""What a bucket lets pass at once: ten packets, as little as keeps up with the rates of such links"""
_LATENCY = "10s"
"""How long a bucket may keep packets; beyond that it drops them, and TCP sends more slowly"""
_BLOCK = ipaddress.ip_network("198.18.0.0/15")
"""Addresses for benchmarks (RFC 2544), which no network uses"""


class Cables(NamedTuple):
    """What reaches the workers from outside of their namespace."""

    namespace: str
    direct: str
    """Their host without a bucket"""
    stations: list[str]
    """Their host through the link of each base station"""


def check_tools() -> None:
    """Raise InputError unless root has what namespaces with token buckets need."""
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise InputError(f"netns: the command {tool} is not installed; legal: iproute2, or no --netns")
    if os.geteuid() != 0:
        raise InputError("netns: network namespaces need root; legal: root, or no --netns")


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
    _run("ip", "netns", "add", name)
    made: list[str] = []
    try:
        inside = "ip", "netns", "exec", name
        _run(*inside, "ip", "link", "set", "lo", "up")
        for number, rate in enumerate([None, *rates]):
            here, there = f"amco{os.getpid()}.{number}", f"station{number}"
            _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            made.append(here)
            for words, link, offset in (((), here, 1), (inside, there, 2)):
                address = f"{_BLOCK[first + 4 * number + offset]}/30"
                _run(*words, "ip", "address", "add", address, "dev", link)
                _run(*words, "ip", "link", "set", link, "up")
                if rate is not None:
                    _run(*words, "tc", "qdisc", "add", "dev", link, "root", *_bucket(rate))
        yield Cables(name, hosts[0], hosts[1:])
    finally:
        # The cables would end with the namespace, but at some later time, and their names are used again.
        for words in (*(("link", "delete", here) for here in made), ("netns", "delete", name)):
            with contextlib.suppress(InputError):
                _run("ip", *words)


def _bucket(rate: float) -> tuple[str, ...]:
    return "tbf", "rate", f"{round(rate * 1e6)}bit", "burst", f"{_BURST_BYTES}", "latency", _LATENCY


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise InputError(
            f"netns: this machine does not allow network namespaces with token buckets "
            f"({' '.join(words[:5])}: {reason}); legal: root with the capability NET_ADMIN, or no --netns"
        )
