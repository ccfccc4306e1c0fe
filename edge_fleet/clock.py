"""The only clock of a run, that of its scheduler, in seconds of the scenario."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Seconds of the scenario since the start of an episode.

    With a speed of 20, twenty of them pass in a second: paces, links and arrivals are twenty times faster,
    and messages seem to take twenty times longer.
    """

    def __init__(self, speed: float = 1.0, offset: float = 0.0):
        """Start the clock at `offset`."""
        self.speed = speed
        self._origin = time.monotonic() - offset / speed

    def now(self) -> float:
        """The time, s of the scenario."""
        return self.at(time.monotonic())

    def at(self, monotonic: float) -> float:
        """The time at which `time.monotonic()` had a value, s of the scenario."""
        return (monotonic - self._origin) * self.speed

    async def sleep_until(self, then: float) -> None:
        """Wait until a time, s of the scenario."""
        if (left := (then - self.now()) / self.speed) > 0:
            await asyncio.sleep(left)
