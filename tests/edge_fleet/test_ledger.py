"""The ledger of a scheduler, its journal, its links and the pace of workers."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st

from edge_fleet.clock import Clock
from edge_fleet.journal import FILE, Journal, read_journal
from edge_fleet.ledger import Ledger
from edge_fleet.links import Links
from edge_fleet.pace import Pace

CAPACITY = np.array([10.0, 5.0])


def test_the_backlog_is_what_is_not_acknowledged_less_what_runs():
    ledger = Ledger(CAPACITY)
    ledger.add(0, "a", 20)
    ledger.add(0, "b", 30)
    ledger.add(1, "c", 10)
    assert ledger.backlog(0).tolist() == [50, 10]
    ledger.sent(0, "a", 1.0)
    ledger.sent(0, "b", 1.0)
    assert ledger.backlog(1.5).tolist() == [45, 10]  # 0.5 s at 10 steps per second
    assert ledger.backlog(9.0).tolist() == [30, 10]  # a late item has nothing left, and b has not begun
    ledger.done(0, "a", 4.0)
    assert ledger.running(0) == ("b", 4.0)
    assert ledger.backlog(5.0).tolist() == [20, 10]
    assert ledger.drop(0) == ["b"]
    assert ledger.backlog(5.0).tolist() == [0, 10]
    ledger.done(0, "b", 6.0)  # too late, which changes nothing
    assert ledger.backlog(6.0).tolist() == [0, 10]


def test_a_worker_does_items_in_the_order_in_which_they_were_sent():
    ledger = Ledger(CAPACITY)
    ledger.add(0, "a", 20)
    ledger.add(0, "b", 30)
    assert (ledger.running(0), ledger.handed(0)) == (None, 0)
    ledger.sent(0, "b", 1.0)  # as a's link was slower
    ledger.sent(0, "a", 2.0)
    assert (ledger.running(0), ledger.handed(0)) == (("b", 1.0), 2)
    ledger.done(0, "b", 4.0)
    assert (ledger.running(0), ledger.handed(0)) == (("a", 4.0), 1)


@given(st.lists(st.tuples(st.sampled_from(["add", "sent", "done", "drop"]), st.integers(0, 1),
                          st.integers(0, 5), st.floats(0, 2)), max_size=40))  # fmt: skip
def test_the_ledger_keeps_its_books(events: list[tuple[str, int, int, float]]):
    ledger, now, books = Ledger(CAPACITY), 0.0, [dict[str, float](), dict[str, float]()]
    for event, server, number, passed in events:
        item, now = str(number), now + passed
        if event == "add" and item not in books[server]:
            ledger.add(server, item, number + 1)
            books[server][item] = number + 1
        elif event == "sent":
            ledger.sent(server, item, now)
        elif event == "done":
            ledger.done(server, item, now)
            books[server].pop(item, None)
        elif event == "drop":
            assert ledger.drop(server) == list(books[server])
            books[server].clear()
        for k in range(2):
            most = sum(books[k].values())
            head = max(books[k].values(), default=0)
            assert most - head <= ledger.backlog(now)[k] <= most
            # Time alone never adds work.
            assert ledger.backlog(now + 1)[k] <= ledger.backlog(now)[k]


def test_a_journal_forgets_a_line_that_was_cut_short(tmp_path: Path):
    journal = Journal(tmp_path)
    for number in range(3):
        journal.write({"kind": "result", "number": number})
    journal.close()
    whole = (tmp_path / FILE).read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / FILE).write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        assert [record["number"] for record in read_journal(tmp_path)] == list(range(lines))
        again = Journal(tmp_path)
        again.write({"kind": "result", "number": 9})
        again.close()
        assert [record["number"] for record in read_journal(tmp_path)] == [*range(lines), 9]


def test_a_damaged_journal_is_refused(tmp_path: Path):
    (tmp_path / FILE).write_bytes(json.dumps({"kind": "run"}).encode() + b"\nxyz\n")
    refused(lambda: list(read_journal(tmp_path)), "line 2", "--overwrite")


def test_links_send_one_thing_after_another():
    async def run() -> None:
        clock = Clock(speed=100)
        links = Links(clock, np.array([[1.0, 2.0], [4.0, 1.0]]))
        start = clock.now()
        first, second = links.reserve(0, 1, 20), links.reserve(0, 1, 10)  # 10 s and 5 s
        own, other = links.reserve(0, 0, 20), links.reserve(1, 0, 20)
        assert links.backlog(start)[0] == pytest.approx(15, abs=1)
        third = await links.transfer(0, 1, 10)
        assert clock.now() >= third.ended
        for each, began, seconds in ((first, 0, 10), (second, 10, 5), (third, 15, 5), (other, 0, 5)):
            assert each.began - start == pytest.approx(began, abs=1)
            assert each.ended - each.began == pytest.approx(seconds)
        assert own.began == own.ended

    asyncio.run(run())


def test_a_pace_ends_on_time_and_reports_what_took_longer():
    async def run() -> None:
        pace, received = Pace(), time.monotonic()
        started = pace.start(received)
        paced = await pace.finish(started, time.monotonic(), 0.1)
        assert (paced.took >= 0.1, paced.overrun) == (True, 0)
        # An item that was waiting starts at the exact end of the one before it.
        following = pace.start(received)
        assert following == started + 0.1
        await asyncio.sleep(0.15)
        late = await pace.finish(following, following, 0.1)
        assert late.overrun > 0
        assert late.took == pytest.approx(0.1 + late.overrun, abs=0.01)
        alone = await pace.finish(pace.start(time.monotonic()), time.monotonic(), 0)
        assert alone.overrun == 0

    asyncio.run(run())
