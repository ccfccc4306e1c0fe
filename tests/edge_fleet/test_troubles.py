"""Which requests a failure can have touched, and what a journal tells of failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge_fleet.results import Committed
from edge_fleet.troubles import Trouble, disturbed

# They come every ten seconds and take 4 s, but the fourth one 14 s, so that the fifth finds it there.
REQUESTS = pd.DataFrame({
    "arrival_s": 10.0 * np.arange(8), "measured_s": [4.0, 4, 4, 14, 9, 4, 4, 4], "simulated_s": 4.0,
    "simulated_published_s": 4.0,
})  # fmt: skip


@pytest.mark.parametrize(
    ("troubles", "wanted"),
    [
        ([], []),
        ([(31.0, 33.0)], [3, 4]),  # until the fleet is idle
        ([(45.0, 46.0)], [4]),  # the fourth one ended before
        ([(5.0, 7.0)], []),  # while nothing was to do
        ([(5.0, 21.0)], [1, 2]),
        ([(24.0, 24.0)], [2]),
        ([(24.5, 26.0), (55.0, np.inf)], [6, 7]),
        ([(31.0, 33.0), (53.0, 53.0)], [3, 4, 5]),
    ],
)
def test_a_failure_touches_requests_until_nothing_is_left_of_it(troubles: list[Any], wanted: list[int]):
    found = disturbed(REQUESTS, [Trouble(*each) for each in troubles])
    assert np.flatnonzero(found).tolist() == wanted


def test_simulations_must_have_been_idle_too():
    for name in ("simulated_s", "simulated_published_s"):
        busy = REQUESTS.assign(**{name: [4.0, 4, 17, 4, 4, 4, 4, 4]})
        assert np.flatnonzero(disturbed(busy, [Trouble(23, 23)])).tolist() == [2, 3, 4]
    rejected = REQUESTS.assign(measured_s=np.nan)
    assert np.flatnonzero(disturbed(rejected, [Trouble(22.0, 31.0)])).tolist() == [3]


def test_a_failure_touches_the_rest_of_what_is_planned_at_once():
    assert np.flatnonzero(disturbed(REQUESTS, [Trouble(52, 53)])).tolist() == [5]
    assert np.flatnonzero(disturbed(REQUESTS, [Trouble(52, 53)], planned=35.0)).tolist() == [5, 6, 7]


def record(kind: str, time: float, episode: int = 0, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "time": time, "episode": episode, **more}


def test_a_journal_tells_when_workers_were_missing():
    down, up = ({"kind": "worker", "event": event} for event in ("down", "up"))
    committed = Committed([
        record("worker", 3.0, -1, server=0, event="up"), record("start", 0.0),
        record("start", 20.0),  # after an interruption
        record("worker", 30.0, server=0, since=25.0) | down,
        record("worker", 31.0, server=1, since=31.0) | down,
        record("worker", 40.0, server=0) | up,
        record("start", 0.0, 1), record("worker", 2.0, 1, server=1) | up,
        record("worker", 9.0, 1, server=0, since=8.0) | down,
        # The run is killed, and all workers are there when it goes on.
        record("worker", 1.0, -1, server=0) | up, record("start", 9.0, 1),
    ])  # fmt: skip
    assert committed.troubles == {
        0: [(20, 20), (25, 40), (31, np.inf)],
        1: [(0, 2), (8, np.inf), (9, 9)],
    }
    assert len(committed.losses) == 3
