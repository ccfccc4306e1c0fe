"""Request logs: what is read, what is left out and why, and how the simulation plays them."""

from __future__ import annotations

import gzip
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.drawn import arrivals
from helpers.request_logs import HEADER, QUICK, cuts_of, played, scenario_of, small_rows, stretches_of, write
from helpers.studies import carry_out
from helpers.tiny_training import Script

from amco_jax import Execution, InputError, Scenario, Sweep, load_scenario, run_study
from amco_jax.random import Stream, bits, fold_in, stream
from amco_jax.traces import Trace
from amco_jax.workload import count_of, tables_of, workload_of

REAL = os.environ.get("AMCO_JAX_TRACE", "")
"""A request log in the form of GenTD26, which is too large to ship"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", small_rows())


def test_clean_log_is_used_whole(small: Path):
    log = Trace(str(small)).log
    assert log.report["rows"] == log.report["used"] == 400
    assert log.report["left_out"] == {}
    assert log.report["first"].startswith("2024-11-20T08:00")
    assert np.all(np.diff(log.seconds) >= 0)
    assert len(np.unique(log.user)) == log.report["users"] == 30


def test_the_times_of_the_log_order_its_requests_in_continuous_time_only(small: Path):
    def times(seed: int, **changes: Any) -> np.ndarray:
        """Of the requests in all slots of a stretch, as shares of their slots."""
        scenario = scenario_of(small, num_slots=4, **changes)
        shape, params = scenario.shape(), scenario.params()
        workload: Any = workload_of(
            shape, params, tables_of([scenario], shape).of(0), jnp.uint32(seed), training=False
        )
        slots = [jnp.int32(t) for t in range(scenario.num_slots)]
        found = [workload.times(params, t, jnp.int32(0))[: count_of(workload, t)] for t in slots]
        assert ("timing" in changes) == all(np.all(np.diff(of_slot) >= 0) for of_slot in found)
        return np.concatenate(found)

    log, drawn = times(0, timing="continuous"), times(0, order="random")
    assert log.size == drawn.size > 8
    assert np.array_equal(log, times(0, timing="continuous", num_servers=5))
    assert len(np.unique(drawn)) == drawn.size
    assert not np.isin(drawn, log).any()
    assert not np.array_equal(drawn, times(1, order="random"))


def test_gzip_and_a_byte_order_mark_change_nothing(small: Path, tmp_path: Path):
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + small.read_bytes()))
    np.testing.assert_array_equal(Trace(str(packed)).log.seconds, Trace(str(small)).log.seconds)


def test_every_dirty_row_is_counted_under_its_cause(tmp_path: Path):
    good = "2024-11-20 08:00:05,T,SUCCEED,7,G1,1"
    rows = [
        "2024-11-20 08:00:30,T,SUCCEED,5,G1,1",
        good,
        HEADER,
        "2024-11-20 08:00:07,T,FAILED,5,G1,1",
        "2024-11-20 08:00:08,T,,5,G1,1",
        ",T,SUCCEED,5,G1,1",
        "yesterday,T,SUCCEED,5,G1,1",
        "12,T,SUCCEED,5,G1,1",
        "1960-01-01 00:00:00,T,SUCCEED,5,G1,1",
        "1970-01-01 00:00:00,T,SUCCEED,5,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,many,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,nan,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,0,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,-3,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,1e300,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED,inf,G1,1",
        "2024-11-20 08:00:09,T,SUCCEED",
        "2024-11-20 08:00:09,T,SUCCEED,5,G1,1,1,1",
        "2024-11-20 08:00:20, T ,SUCCEED, 5 ,,",
        "2024-11-20 08:00:21,T,SUCCEED,5,,",
    ]
    log = Trace(str(write(tmp_path / "dirty.csv", rows)), work="exec_time_seconds", work_scale=2.0).log
    assert log.report["left_out"] == {
        "too few or too many cells": 2, "repeated header": 1, "status FAILED": 1, "status empty": 1,
        "time: empty": 1, "time: unreadable": 2, "time: negative": 1, "time: zero": 1, "work: empty": 1,
        "work: unreadable": 2, "work: zero": 1, "work: negative": 1, "work: out of range": 2,
    }  # fmt: skip
    assert log.report["used"] + sum(log.report["left_out"].values()) == log.report["rows"] == len(rows)
    assert log.report["out_of_order"] == 1
    assert (log.report["users"], log.report["without_user"]) == (1, 2)
    np.testing.assert_array_equal(log.seconds, [0, 15, 16, 25])
    assert log.work is not None
    np.testing.assert_array_equal(log.work, [14, 10, 10, 10])
    np.testing.assert_array_equal(log.user, [0, 1, 2, 0])  # who has no name is alone


def test_lines_that_a_stray_quote_swallows_are_told(tmp_path: Path):
    rows = small_rows(20)
    path = write(tmp_path / "quote.csv", [*rows[:10], rows[10].replace("TXT", '"TXT'), *rows[11:]])
    report = Trace(str(path)).log.report
    assert report["lines_within_quotes"] + report["rows"] == 20
    assert report["lines_within_quotes"] > 0


def test_columns_are_mapped_and_numbers_are_times(tmp_path: Path):
    rows = [f"{1000 * k},{k % 3},{10 + k}" for k in range(20)]
    path = write(tmp_path / "mine.csv", rows, "TIMESTAMP,who,tokens")
    (tmp_path / "mine.toml").write_text(
        'num_slots = 5\n[trace]\nfile = "mine.csv"\ntime = "TIMESTAMP"\nunit = "ms"\nuser = "who"\n'
        'size = "tokens"\nsize_scale = 0.25\n'
    )
    scenario = load_scenario(tmp_path / "mine.toml")
    assert scenario.arrivals == "trace"
    log = played(scenario).log
    np.testing.assert_array_equal(log.seconds, np.arange(20))  # a log that begins at 0 keeps its first row
    assert log.size is not None
    np.testing.assert_array_equal(log.size, 0.25 * (10 + np.arange(20)))
    columns = {"time": "TIMESTAMP", "user": "who", "status": "", "size": "tokens", "density": "", "work": ""}
    assert log.report["columns"] == columns
    again = Scenario(**scenario.to_dict())
    assert again.to_dict() == scenario.to_dict()
    assert again.trace is not None
    assert again.trace.file == str(path)
    elsewhere = load_scenario(tmp_path / "mine.toml", trace=str(path))
    assert elsewhere == scenario


def test_the_simulation_plays_the_log_as_a_plain_loop_says(small: Path):
    table = {"size": "num_images_per_prompt", "work": "exec_time_seconds", "work_scale": 0.1}
    scenario = scenario_of(small, table=table, time_scale=45.0, slot_duration=2.0)
    found = arrivals(scenario, 5, episode=3, training=True)
    frame: Any = pd.read_csv(small)
    seconds = (pd.to_datetime(frame["gmt_create"]) - pd.Timestamp("2024-11-20")).dt.total_seconds()
    seconds = seconds.to_numpy() - seconds.min()
    users = pd.factorize(frame["groupId"])[0]
    assert found.present.shape == (5, 6, 3, max(np.bincount((seconds // 90).astype(int))))
    starts = set()
    for seed in range(5):
        key = stream(jnp.uint32(seed), Stream.TRACE)
        fraction = (int(bits(fold_in(key, 0), 3)) >> 8) / 2**24
        # Before half the log is over, with the slot after it.
        start = int(fraction * (math.floor(seconds[-1] / 2 / 90) - 6))
        starts.add(start)
        wanted: dict[tuple[int, int], Any] = {}
        for k, second in enumerate(seconds):
            slot = math.floor(second / 90) - start
            if 0 <= slot < 6:
                station = (int(bits(fold_in(key, 1), users[k])) >> 8) * 3 >> 24
                task = frame["num_images_per_prompt"][k], 0.1 * frame["exec_time_seconds"][k]
                wanted.setdefault((slot, station), []).append(task)
        for t in range(6):
            for b in range(3):
                here = found.present[seed, t, b]
                tasks: Any = zip(found.size[seed, t, b, here], found.work[seed, t, b, here], strict=True)
                np.testing.assert_allclose([*tasks], wanted.get((t, b), []), rtol=1e-6)
    assert len(starts) > 1


def test_no_request_of_a_window_is_lost_or_doubled(small: Path):
    scenario = scenario_of(small)
    log = played(scenario).log
    per_slot = np.bincount(log.in_slots(60.0).astype(int))
    cuts = cuts_of(scenario)
    starts = cuts.first + cuts.spacing * stretches_of(scenario, np.arange(40), 0)
    found = arrivals(scenario, 40).present.sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(found, [per_slot[start : start + 6].sum() for start in starts])
    assert len(set(found)) > 2
    whole = scenario_of(small, num_slots=len(per_slot), table={"train_share": 0})
    assert set(arrivals(whole, 4).present.sum(axis=(1, 2, 3))) == {400}  # one window alone, for all seeds
    # Each seed puts the users elsewhere.
    at_first = arrivals(whole, 4).present[:, :, 0].sum(axis=(1, 2))
    assert len(set(at_first)) > 1


def test_sizes_without_columns_are_those_of_the_scenario_and_stay(small: Path):
    whole = scenario_of(small, num_slots=40, time_scale=60.0, table={"train_share": 0})
    tasks = arrivals(whole, 20)
    sizes = tasks.size[tasks.present]
    assert 2 <= sizes.min() < 2.1
    assert 4.9 < sizes.max() < 5
    density = tasks.work[tasks.present] / sizes
    assert 0.1023 < density.min() < density.max() < 0.3073


def test_traces_that_are_too_short_or_slots_too_fine_are_refused(small: Path):
    with pytest.raises(
        InputError, match=r"num_slots: 6 of 10000 s of .* legal: .*a time_scale up to "
    ) as refused:
        scenario_of(small, time_scale=10_000.0)
    legal = float(str(refused.value).partition("up to ")[2].partition(",")[0])
    assert cuts_of(scenario_of(small, time_scale=legal)).num_stretches == 1
    scenario_of(small, time_scale=legal).check_training()
    with pytest.raises(InputError, match="time_scale up to"):
        scenario_of(small, time_scale=1.5 * legal)
    with pytest.raises(InputError, match="time_scale: 1e-09; legal for this trace: from"):
        scenario_of(small, time_scale=1e-9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no column 'gmt_create'; legal: a file with a header"),
        (b"\n\n", "trace"),
        (b"gmt_create\n", "no usable row: no rows"),
        (b"time,x\n1,2\n", "has no column 'gmt_create'; legal: time, x"),
        (b"gmt_create,gmt_create\n1,2\n", "has 2 columns 'gmt_create'; legal: one"),
        (b"gmt_create,predict_status\n2024-11-20,FAILED\nx,SUCCEED\n", "status FAILED 1, time: unreadable 1"),
        (b"gmt_create\n\xff\xfe\n", "is not a table, neither CSV nor JSON"),
        (b"\x1f\x8b\x08\x00broken", "is damaged"),
        (gzip.compress(b"gmt_create\n2024-11-20\n", mtime=0)[:-4], "is damaged"),
        (b"\x00" * 100, "trace"),
        (b"PK\x03\x04" + bytes(range(256)), "trace"),
    ],
)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Trace(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (3, "trace: 3; legal: a table of file, time"),
        ({"time": "t"}, "trace: no file; legal: a field 'file', or --trace FILE"),
        ({"file": "x", "columns": 3}, "trace: unknown field 'columns'; legal: file, time"),
        ({"file": 3}, "trace.file: 3; legal: the path of a file"),
        ({"file": "x", "time": ""}, "trace.time: ''; legal: a text"),
        (
            {"file": "x", "unit": "minutes"},
            "trace.unit: 'minutes'; legal: s, ms, us, ns, a number of seconds",
        ),
        ({"file": "x", "unit": -1}, "trace.unit: -1; legal: a number"),
        ({"file": "x", "unit": "%"}, "trace.unit: '%'; legal: s, ms"),
        ({"file": "x", "delimiter": ";;"}, "trace.delimiter: ';;'; legal: one character"),
        ({"file": "x", "train_share": 1.5}, "trace.train_share: 1.5; legal: a number from 0 to 1"),
        ({"file": "x", "gap": -1}, "trace.gap: -1; legal: a number from 0"),
        ({"file": "x", "size_scale": 0}, "trace.size_scale: 0; legal: a number"),
        ({"file": "/no/such.csv"}, "cannot be read: No such file"),
        ({"file": "a\0b"}, "cannot be read"),
    ],
)
def test_bad_tables_are_refused(table: Any, words: str):
    with pytest.raises(InputError, match=words):
        Scenario(trace=table)


def test_a_changed_file_is_refused_everywhere(small: Path):
    scenario = scenario_of(small)
    travelled = pickle.dumps(scenario)
    assert len(travelled) < 2000  # by path and digest, not with the requests
    assert played(pickle.loads(travelled)).log.report == played(scenario).log.report
    write(small, small_rows()[1:])
    with pytest.raises(InputError, match="has changed: its SHA-256 is"):
        played(pickle.loads(travelled)).log  # noqa: B018
    with pytest.raises(InputError, match="has changed"):
        Scenario(**scenario.to_dict())


def run(path: Path, out: Path | None = None, execution: Execution | None = None, **changes: Any):
    options: dict[str, Any] = {
        "values": [30, 60], "methods": ["local"], "seeds": 70, "trained_seeds": 10, "episodes": 3,
    }  # fmt: skip
    options |= {"scenario": scenario_of(path), "execution": execution or Execution()}
    return carry_out(Sweep, "time_scale", out=out, **(options | changes))


def test_sweeps_resume_and_refuse_another_log(small: Path, tmp_path: Path):
    whole = run(small).rows
    out = tmp_path / "out"
    for part in ("0/2", "1/2"):
        run(small, out, Execution(shard=part, unit_seconds=1e-6))
    assert run(small, out, Execution(resume=True, unit_seconds=1e-6)).rows.equals(whole)
    moved = tmp_path / "moved.csv"
    moved.write_bytes(small.read_bytes())  # the same requests, elsewhere
    assert run(moved, out, Execution(resume=True, unit_seconds=1e-6)).missing == 0
    write(moved, small_rows()[:-1])
    with pytest.raises(InputError, match=r"made for something else: scenario\.trace\.sha256"):
        run(moved, out, Execution(resume=True, unit_seconds=1e-6))
    with pytest.raises(InputError, match="arrival_prob means nothing to arrivals = trace"):
        run_study(Sweep("arrival_prob", methods=["local"], scenario=scenario_of(small)))


def test_trained_methods_meet_the_same_requests(small: Path):
    both = run(small, methods=["local", QUICK]).rows
    table = both.pivot(index=["value", "seed"], columns="method", values="num_tasks").dropna()
    assert len(table) == 20
    np.testing.assert_array_equal(table["local"], table[QUICK.name])


def test_the_command_line_reports_what_it_left_out(script: Script, tmp_path: Path):
    rows = small_rows()
    path = write(tmp_path / "log.csv", [*rows[:100], "oops,T,SUCCEED,1,G1,1", *rows[100:]])
    code, shown, errors = script(
        "sweep", "--trace", path, "--param", "time_scale", "--values", 60, "--methods", "local",
        "--set", "num_servers=2", "num_slots=4", "--seeds", 8, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    assert "400 of 401 requests" in shown
    assert "time: unreadable 1" in shown
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["trace"]["left_out"] == {"time: unreadable": 1}
    assert manifest["scenario"]["trace"]["sha256"] == manifest["trace"]["sha256"]
    path.write_text("nothing,usable\n1,2\n")
    script.assert_refused(["has no column 'gmt_create'"], "sweep", "--trace", path, "--param", "time_scale")


if REAL:  # else there is no such test, rather than one that is skipped

    def test_the_real_log_is_read_and_played():
        scenario = Scenario(trace={"file": REAL, "work": "exec_time_seconds"}, time_scale=600.0)  # pyright: ignore
        report = played(scenario).log.report
        assert report["used"] + sum(report["left_out"].values()) == report["rows"]
        assert report["left_out"]["status FAILED"] > 0
        assert report["users"] > 1000
        assert (
            np.sum(
                run_study(
                    Sweep("time_scale", values=[600], methods=["local"], seeds=4, scenario=scenario)
                ).rows["num_tasks"]
            )
            > 0
        )
