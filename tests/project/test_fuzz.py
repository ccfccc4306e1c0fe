"""Bad input, made up by the thousand: refused in one line with exit code 2, never a traceback, never a hang.

Input that is accepted would be simulated; here it stops where the first program would be built.
`AMCO_JAX_CASES` sets the number of cases of each test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import importlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from helpers.kills import tiny_paper
from helpers.paths import ROOT
from helpers.request_logs import played
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amco_jax.cli import arguments
from amco_jax.errors import InputError
from amco_jax.kernel import recording
from amco_jax.report import page
from amco_jax.scenario import Scenario
from amco_jax.scenario.axes import AXES
from amco_jax.scenario.presets import load_scenario
from amco_jax.service import ImageService
from amco_jax.service.latency import COLUMNS
from amco_jax.study import bench, engines, reproduce
from amco_jax.traces import Trace
from amco_jax.workload import PROCESSES
from sd_repair import pipeline

pytestmark = [
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("unchecked"),
]

fuzz = settings(
    max_examples=int(os.environ.get("AMCO_JAX_CASES", "50")),
    deadline=10_000,  # ms: a hang fails
    derandomize="AMCO_JAX_CASES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = st.sampled_from(
    [*"012", "-1", "0.5", "1e-300", "1e300", "1e-9", "1e9", "nan", "inf", "-inf", "0x10", "1" * 30, "true"]
)
LITERALS = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=6).map(lambda items: f"[{', '.join(items)}]"),
    st.lists(st.lists(NUMBERS, max_size=6), max_size=6).map(lambda rows: str(rows).replace("'", "")),
    st.lists(NUMBERS, max_size=6).map("-".join),
    st.sampled_from(["", "{}", "{a = 1}", "2024-01-01", '"5"', "[" * 3000, "9" * 6000, "[1, [2]]", "="]),
    st.text(max_size=12),
)
QUANTITIES = [name for process in PROCESSES.values() for name in process.varied]
FIELDS = st.sampled_from([*AXES, *QUANTITIES, "preset", "arival_prob", "", "a.b", "capacity[0]"])

LOG = """gmt_create,groupId,predict_status,size,work
2024-05-01 10:00:00,a,SUCCEED,1,10
2024-05-01 10:00:01,b,SUCCEED,2,20
2024-05-01 10:00:09,a,FAILED,,
2024-05-01 10:02:00,c,SUCCEED,1,20
"""
LOG_AS_JSON = "".join(
    json.dumps(dict(zip(LOG.split()[0].split(","), row.split(","), strict=True))) + "\n"
    for row in LOG.splitlines()[1:]
)
OF_READING = {
    "unit": st.sampled_from(["s", "ms", "ns", 60, 1e-9, "%Y-%m-%d %H:%M:%S", "%", "%Q"]),
    "delimiter": st.sampled_from([",", ";", "tab", "~", " "]),
    "since": st.sampled_from(["2024-05-01", "0", "soon", "1e400", "2300-01-01"]),
    "until": st.sampled_from(["2024-05-02T00:00:00Z", "1e18", "-1"]),
    "train_share": st.sampled_from([0, 0.5, 1, 1e-300]),
    "gap": st.sampled_from([0, 1e9, 1e-300]),
}
ROW = "1,estimated,D,m,w,float32,512,yes,s,1,{},{},wall,point,{},,made up"
TABLE = "\n".join([",".join(COLUMNS), ROW.format("", "fixed", 0), ROW.format("", "per_step", 0.5), ""])
SOUND = {
    "trace": {"file": '"log.csv"', "size": '"size"', "work": '"work"'},
    "service": {"devices": '["D", "D"]', "tables": '["table.csv"]'},
}
TEXTS = st.sampled_from(
    ['""', '"size"', '"work"', '"groupId"', '"D"', '["D"]', '"log.csv"', '"."', '["estimated"]']
)
OF_TABLES = {
    name: st.dictionaries(
        st.sampled_from([f.name for f in dataclasses.fields(kind)] + ["files"]),
        st.none() | TEXTS | LITERALS,
        max_size=3,
    ).map(lambda changes, sound=SOUND[name]: sound | changes)
    for name, kind in (("trace", Trace), ("service", ImageService))
}


def toml(pairs: Iterable[tuple[str, str | None]]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in pairs if value is not None)


def damaged(text: str) -> st.SearchStrategy[bytes]:
    """CSV files with some cells replaced, rows dropped or repeated, bytes changed, and perhaps gzipped."""
    cells = st.sampled_from(
        [
            "",
            "-1",
            "0",
            "1e400",
            "nan",
            '"',
            "2024-13-01",
            "1970-01-01",
            "9" * 400,
            "size",
            "SUCCEED",
            "\0",
            "é",
            "a,b",
        ]
    )
    rows = text.splitlines()

    @st.composite
    def draw(draw: Any) -> bytes:
        table = [row.split(",") for row in draw(st.lists(st.sampled_from(rows), max_size=6) | st.just(rows))]
        for _ in range(draw(st.integers(0, 3))):
            if table:
                row = draw(st.sampled_from(table))
                row[draw(st.integers(0, len(row) - 1))] = draw(cells)
        content = bytearray("\n".join(map(",".join, table)).encode())
        for place, value in draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=2)):
            content[place : place + 1] = bytes([value])
        return (
            gzip.compress(content)[: draw(st.none() | st.integers(0, 90))]
            if draw(st.booleans())
            else bytes(content)
        )

    return draw()


class AcceptedError(Exception):
    """The input is legal: from here on it would be simulated."""


def accept(*_: Any, **__: Any) -> Any:
    raise AcceptedError


def one_line(error: InputError) -> None:
    assert str(error).strip()
    assert "\n" not in str(error)


@st.composite
def scenario_files(draw: Any) -> bytes:
    text = toml(draw(st.lists(st.tuples(FIELDS, LITERALS), max_size=5)))
    for name in draw(st.sampled_from([[], ["trace"], ["service"], ["trace", "service"]])):
        text += f"[{name}]\n{toml(draw(OF_TABLES[name]).items())}"
    return text.encode("utf-8", "replace")


@fuzz
@given(scenario_files() | st.binary(max_size=200))
def test_scenario_files(tmp_path: Path, content: bytes):
    path = tmp_path / "scenario.toml"
    path.write_bytes(content)
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "table.csv").write_text(TABLE)
    try:
        params = load_scenario(path).params()
    except InputError as error:
        one_line(error)
    else:
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))


@fuzz
@given(
    damaged(LOG) | damaged(LOG.replace(",", ";")) | damaged(LOG_AS_JSON),
    st.fixed_dictionaries({}, optional=OF_READING),
)
def test_request_logs(tmp_path: Path, content: bytes, fields: dict[str, Any]):
    (tmp_path / "log.csv").write_bytes(content)
    try:
        trace = Trace(str(tmp_path / "log.csv"), size="size", **fields)
        log = played(Scenario(trace=trace, num_slots=1)).log
    except InputError as error:
        one_line(error)
    else:
        assert np.all(np.diff(log.seconds) >= 0)
        assert log.size is not None
        assert np.all(log.size > 0)


@fuzz
@given(damaged(TABLE))
def test_latency_tables(tmp_path: Path, content: bytes):
    (tmp_path / "table.csv").write_bytes(content)
    try:
        service = ImageService(("D",), (str(tmp_path / "table.csv"),))
    except InputError as error:
        one_line(error)
    else:
        assert np.all(np.isfinite([*service.capacity, *service.overhead]))


def recorded() -> dict[str, Any]:
    return {
        "task_mbit": np.full((3, 2, 2), 3.0),
        "density_gcycles_per_mbit": np.array([0.1, 0.2]),
        "capacity_gcycles_per_s": np.array([10.0, 20.0]),
        "rate_mbit_per_s": np.array(400.0),
        "deadline_s": np.array(1.0),
        "slot_s": np.array(1.0),
        "selected": np.ones((3, 2, 2, 2), bool),
        "allocator": np.array("cwa"),
        "method": np.array("randcoedge"),
    }


ARRAYS = st.sampled_from(
    [
        np.array(np.nan), np.array(np.inf), np.array(-1), np.array(0), np.array(1e300), np.array(1e-300),
        np.array("cwa"), np.array(b"\xff"), np.array(["a", "b"]), np.array(1j), np.array([]),
        np.zeros((0, 2)),
        np.ones((3, 2, 2)), np.ones((3, 2, 2), np.int8), np.ones((3, 2, 2, 2)) * 0.5, np.ones((1, 1, 1)),
        np.full(2, np.nan), np.array([1.0, -1.0]), np.array("2024-01-01", "datetime64[D]"), np.ones((2, 2)),
        np.array([(1, 2.0)], [("a", int), ("b", float)]), np.float16(6e4), np.array([10**15, 1]),
    ]
)  # fmt: skip


@fuzz
@given(
    st.dictionaries(st.sampled_from([*recorded(), "other"]), st.none() | ARRAYS, max_size=3),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 3000),
    st.sampled_from(["unified", "published", "x"]),
    st.sampled_from([None, "cwa", "hecwa", "x"]),
)
def test_replay_files(tmp_path: Path, changes, flips, end, physics, allocator):
    arrays = {k: v for k, v in (recorded() | changes).items() if v is not None}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    content = bytearray(file.getvalue()[:end])
    for place, value in flips:
        content[place % max(len(content), 1) : place % max(len(content), 1) + 1] = bytes([value])
    path = tmp_path / "recording.npz"
    path.write_bytes(content)
    with mock.patch.object(recording, "_program", accept):
        try:
            recording.replay(recording.load_recording(path), physics=physics, allocator=allocator)
        except InputError as error:
            one_line(error)
        except AcceptedError:
            pass


VALUES = st.one_of(
    LITERALS,
    st.tuples(FIELDS, LITERALS).map("=".join),
    FIELDS,
    st.sampled_from(["discount=2", "widths=[]", "reward_offset=nan", "batch_size=1e9", "discount=0,0.9"]),
    st.sampled_from(
        ["randcoedge", "amcoedge-stable", "drlcoedge", "optimal", "nowhere:METHOD", "os:path", ":"]
    ),
    st.sampled_from(["unified", "published", "cwa", "local", "ray", "3/2", "default", "/dev/null", "."]),
)
EXECUTION = (
    " --shard --unit-seconds --engine --address --cpus-per-unit --resume --recompute --store --overwrite"
)
OPTIONS = {
    "sweep": "--param --values --methods --seeds --first-seed --trained-seeds --episodes --physics "
    "--scenario --set" + EXECUTION,
    "train": "--method --seeds --first-seed --episodes --physics --allocator --learn --scenario --set"
    + EXECUTION,
    "tune": "--vary --trials --trials-seed --method --learn --seeds --first-seed --episodes --within "
    "--reference --physics --set" + EXECUTION,
    "compare": "--methods --seeds --first-seed --episodes --last --physics --scenario --set" + EXECUTION,
    "evaluate": "--scenario --set --trace --trace-unit --trace-delimiter --trace-since --method --methods "
    "--seeds --episodes --physics" + EXECUTION,
    "sensitivity": "--methods --of --seeds --first-seed --physics --metrics --scenario --set" + EXECUTION,
    "bench": "--methods --seeds --trained-seeds --repeats --growth --growth-seeds --growth-servers "
    "--scenario --set --overwrite",
    "replay": "--physics --allocator --method --precision --seed",
    "report": "--format --baseline --published-csv",
    "reproduce": "--quick --format" + EXECUTION,
    "repair": "--mask --mask-marks --method --truth --size --seed --model --config --variant --samples "
    "--steps --guidance --eta --strength --batch --device --dtype",
    "profile_repair": "--model --config --variant --random-weights --tiny --sizes --steps --batches "
    "--guidance --repeats --warm-up --device --dtype --threads",
}
SINKS = [
    (engines.Execution, "start"),
    (bench, "alone"),
    (recording, "_program"),
    (page, "means"),
    (pipeline, "load_diffusers"),
]


@pytest.mark.parametrize("script", OPTIONS)
@fuzz
@given(st.data())
def test_command_lines(script: str, finished: Path, tmp_path: Path, monkeypatch, data: st.DataObject):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "studies_of", tiny_paper)  # naming the units of the paper takes a second
    shutil.rmtree(tmp_path / "out", ignore_errors=True)  # begun by an accepted line
    options = st.sampled_from([*OPTIONS[script].split(), "--no-such-option"])
    groups = data.draw(st.lists(st.tuples(options, st.lists(VALUES, max_size=2)), max_size=4))
    line = [word for option, values in groups for word in (option, *values)]
    run = str(data.draw(st.sampled_from([finished, "none"])))
    first = {
        "sweep": ["--param", data.draw(FIELDS)],
        "replay": [
            str(data.draw(st.sampled_from([ROOT / "tests" / "golden" / "randcoedge.npz", "none.npz"])))
        ],
        "evaluate": [run],
        "report": [run],
        "repair": [data.draw(st.sampled_from(["astronaut", "none.png"])), "--mask", "box"],
    }
    line = [*first.get(script, []), *line]
    suffix = {"repair": ".png", "profile_repair": ".csv"}.get(script, "")
    line += ["--out", str(tmp_path / f"out{suffix}")]
    package = "sd_repair" if suffix else "amco_jax"
    module, messages = importlib.import_module(f"{package}.commands.{script}"), io.StringIO()
    with contextlib.ExitStack() as stack:
        of_script = [
            (module, name) for name in ("load_diffusers", "repair_classical") if hasattr(module, name)
        ]
        for place, name in [*SINKS, *of_script]:
            stack.enter_context(mock.patch.object(place, name, accept))
        stack.enter_context(mock.patch.object(sys, "argv", [script, *line]))
        stack.enter_context(contextlib.redirect_stderr(messages))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            arguments.run(module.Arguments, module.main, "")
        except AcceptedError:
            return
        except SystemExit as stop:
            status = stop.code
        else:
            raise AssertionError("neither accepted nor refused")
    if status not in (0, None):  # --help, by an abbreviation
        assert status == 2, messages.getvalue()
        assert messages.getvalue().startswith("error: ")
        assert messages.getvalue().count("\n") == 1
