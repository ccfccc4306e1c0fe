"""What a scheduler knows of the queues of its workers: the items that they have not acknowledged yet."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Entry:
    """An item that a worker has to do."""

    item: str
    work: float
    """In the unit of the scenario's work, denoising steps, with overheads"""
    sent: float = np.inf
    """When it was handed to the worker, s; infinite while it is on its way, or waits to be sent"""


class Ledger:
    """A first-in-first-out queue for each worker.

    A worker does its items in the order in which they have been handed to it, each from then on or from when
    it acknowledged the one before. All times are those of the scheduler's clock.
    """

    def __init__(self, capacity: np.ndarray):
        """Start with empty queues.

        Args:
          capacity: `[num_servers]`, steps/s.
        """
        self._capacity = capacity
        self._queues: list[dict[str, Entry]] = [{} for _ in capacity]
        self._freed = np.full(len(capacity), -np.inf)

    def add(self, server: int, item: str, work: float) -> None:
        """Assign an item to a worker."""
        self._queues[server][item] = Entry(item, work)

    def sent(self, server: int, item: str, now: float) -> None:
        """The item has been handed to the worker."""
        if item in self._queues[server]:
            self._queues[server][item].sent = now

    def done(self, server: int, item: str, now: float) -> None:
        """The worker has acknowledged the item."""
        if self._queues[server].pop(item, None) is not None:
            self._freed[server] = now

    def drop(self, server: int) -> list[str]:
        """Take all items away from a worker, and return them, the oldest first."""
        lost = list(self._queues[server])
        self._queues[server].clear()
        self._freed[server] = -np.inf
        return lost

    def handed(self, server: int) -> int:
        """The number of items that a worker has been handed and has not acknowledged."""
        return sum(entry.sent < np.inf for entry in self._queues[server].values())

    def running(self, server: int) -> tuple[str, float] | None:
        """The item that a worker does now, and since when, s; None if it has none."""
        first = min(self._queues[server].values(), key=lambda entry: entry.sent, default=None)
        if first is None or first.sent == np.inf:
            return None
        return first.item, max(first.sent, float(self._freed[server]))

    def backlog(self, now: float) -> np.ndarray:
        """`[num_servers]`, unacknowledged work, less what the running items have had done so far."""
        left = np.array([sum(entry.work for entry in queue.values()) for queue in self._queues])
        for server, queue in enumerate(self._queues):
            if (running := self.running(server)) is not None:
                item, since = running
                progress = max(now - since, 0) * self._capacity[server]
                left[server] -= min(progress, queue[item].work)
        return np.maximum(left, 0)
