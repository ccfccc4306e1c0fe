"""Links of base stations: what a station sends to other servers, and receives from them, goes one by one."""

from __future__ import annotations

import numpy as np

from edge_fleet.clock import Clock


class Links:
    """A serial token bucket for each base station, with the rates r_{b,i} of the scenario.

    Each transfer takes the link from when it is free, in the order in which transfers are asked for, and for
    size / r_{b,i}. The server at the station itself needs no link.
    """

    def __init__(self, clock: Clock, rates: np.ndarray):
        """Start with idle links.

        Args:
          rates: `[num_servers, num_servers]`, Mbit/s, from base station (row) to server (column).
        """
        self._clock, self._rates = clock, rates
        self._free = np.zeros(len(rates))

    def backlog(self, now: float) -> np.ndarray:
        """`[num_servers]`, s for which the link of each base station still has to send."""
        return np.maximum(self._free - now, 0)

    def reserve(self, station: int, server: int, mbit: float) -> float:
        """Take the link for a transfer, and return the time at which it ends."""
        now = self._clock.now()
        if station == server:
            return now
        self._free[station] = max(self._free[station], now) + mbit / self._rates[station, server]
        return float(self._free[station])

    async def transfer(self, station: int, server: int, mbit: float) -> float:
        """Wait for a transfer, and return the time at which it ended."""
        end = self.reserve(station, server, mbit)
        await self._clock.sleep_until(end)
        return end
