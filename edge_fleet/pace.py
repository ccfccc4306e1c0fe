"""The pace of a worker: it repairs as fast as it can, and then waits until the time of its device is over."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple


class Paced(NamedTuple):
    """The times of a paced item, s."""

    took: float
    """The time from the start of the item to the end of the wait"""
    computed: float
    overrun: float
    """By how much the work exceeded its target; 0 if it did not, or there was none"""


class Pace:
    """The pace of a worker, item after item.

    If an item was waiting when the one before it ended, it starts at the exact end of that, and not when this
    process was woken up, so that delays of some ms do not add up over a queue.
    """

    def __init__(self):
        self._ended = -float("inf")

    def start(self, received: float) -> float:
        """The start of an item that came at a time, `time.monotonic()`."""
        return self._ended if received <= self._ended else time.monotonic()

    async def finish(self, started: float, began: float, seconds: float) -> Paced:
        """Wait until `seconds` after the start have passed.

        Args:
          started: from `start`.
          began: when the work on it actually began.
          seconds: the target; 0 for no pace.
        """
        computed, target = time.monotonic() - began, started + seconds
        if seconds and (left := target - time.monotonic()) > 0:
            await asyncio.sleep(left)
        ended = time.monotonic()
        overrun = max(began + computed - target, 0.0) if seconds else 0.0
        self._ended = target if seconds and not overrun else ended
        return Paced(ended - started, computed, overrun)
