"""Links of base stations: what a station sends to other servers, and receives from them, goes one by one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_fleet.clock import Clock


class Transfer(NamedTuple):
    """The time in which something takes a link, s."""

    began: float
    ended: float


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

    def reserve(self, station: int, server: int, mbit: float) -> Transfer:
        """Take the link for a transfer; what needs no link begins and ends now."""
        now = self._clock.now()
        if station == server:
            return Transfer(now, now)
        began = max(float(self._free[station]), now)
        ended = began + mbit / float(self._rates[station, server])
        self._free[station] = ended
        return Transfer(began, ended)

    async def transfer(self, station: int, server: int, mbit: float) -> Transfer:
        """Wait for a transfer."""
        found = self.reserve(station, server, mbit)
        await self._clock.sleep_until(found.ended)
        return found
