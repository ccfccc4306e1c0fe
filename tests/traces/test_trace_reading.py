"""Request logs in every form that people have them in: read as what they are, or refused, with the reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.tiny_training import Script

from amco_jax import InputError
from amco_jax.traces import Trace, understood

NAMES = ("gmt_create", "groupId", "predict_status")
START: Any = pd.Timestamp("2025-03-01 00:00:01.250", tz="UTC")
NUMBER = 60
Form = Callable[[Any], Any]
"""How a time is written"""


def times() -> list[Any]:
    """Times to the quarter of a second, so that floats of nanoseconds hold them."""
    gaps = np.random.default_rng(3).integers(1, 40, NUMBER) / 4
    return [START + pd.Timedelta(seconds=float(s)) for s in np.cumsum(gaps)]


def rows(form: Form = str) -> list[tuple[str, str, str]]:
    """Every third request failed."""
    return [(str(form(t)), f"g{k % 7}", "SUCCEED" if k % 3 else "FAILED") for k, t in enumerate(times())]


def text(form: Form = str, delimiter: str = ",", header: str = "", end: str = "\n") -> str:
    lines = [header or delimiter.join(NAMES), *(delimiter.join(row) for row in rows(form))]
    return end.join([*lines, ""])


def epoch(unit: float) -> Form:
    return lambda t: round(t.timestamp() / unit) if unit < 1 else t.timestamp() / unit


def compact(form: str, digits: int | None = None) -> Form:
    return lambda t: t.strftime(form)[:digits]


DOTTED = "%d.%m.%Y %H:%M:%S"
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in rows()]
FORMS: dict[str, str | bytes] = {
    "ISO 8601": text(),
    "T and Z": text(lambda t: t.isoformat().replace("+00:00", "Z")),
    "an offset": text(lambda t: t.tz_convert("Asia/Shanghai").isoformat()),
    "without a zone": text(lambda t: str(t.tz_localize(None))),
    "UTC behind it": text(lambda t: f"{t.tz_localize(None)} UTC"),
    "slashes": text(lambda t: str(t).replace("-", "/")),
    "a comma before fractions": text(lambda t: str(t.tz_localize(None)).replace(".", ","), ";"),
    "seconds": text(epoch(1)),
    "milliseconds": text(epoch(1e-3)),
    "microseconds": text(epoch(1e-6)),
    "nanoseconds": text(epoch(1e-9)),
    "exponents": text(lambda t: f"{t.timestamp() * 1e3:.15e}"),
    "digits": text(compact("%Y%m%d%H%M%S%f", 17)),
    "digits and fractions": text(compact("%Y%m%d%H%M%S.%f")),
    "spaces after commas": text(delimiter=", "),
    "spaces everywhere": text(delimiter=" , ", header="  gmt_create ,groupId , predict_status  "),
    "quotes": text(header='"gmt_create", "groupId","predict_status"').replace("g1,", '"g1",'),
    "semicolons": text(delimiter=";"),
    "tabs": text(delimiter="\t"),
    "bars": text(delimiter="|"),
    "decimal commas": text(lambda t: f"{t.timestamp()}".replace(".", ","), ";"),
    "capitals": text(header="GMT_Create,GroupID,PREDICT_STATUS"),
    "CRLF": text(end="\r\n"),
    "CR": text(end="\r"),
    "empty lines first": "\n\n" + text(),
    "a byte order mark": text().encode("utf-8-sig"),
    "UTF-16": text(end="\r\n").encode("utf-16"),
    "gzip": gzip.compress(text().encode(), mtime=0),
    "unsorted": "\n".join([",".join(NAMES), *(",".join(row) for row in reversed(rows())), ""]),
    "a zero time": text(epoch(1e-3)) + "0,g0,SUCCEED\n",
    "JSON lines": "\n".join(map(json.dumps, RECORDS)),
    "JSON lines with more keys": "\n".join(json.dumps({"n": [1, {"a": 2}]} | r) for r in RECORDS),
    "a JSON array": json.dumps(RECORDS, indent=1),
    "JSON numbers": "\n".join(
        json.dumps(dict(zip(NAMES, (int(t), *rest), strict=True))) for t, *rest in rows(epoch(1e-3))
    ),
}  # fmt: skip
TOLD: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown delimiter": (text(delimiter="~"), {"delimiter": "~"}),
    "spelt delimiter": (text(delimiter="\t"), {"delimiter": "tab"}),
    "day first": (text(compact("%d/%m/%Y %H:%M:%S.%f")), {"unit": "%d/%m/%Y %H:%M:%S.%f"}),
    "minutes": (text(lambda t: repr((t - START).total_seconds() / 60)), {"unit": 60}),
    "milliseconds of its own": (text(lambda t: (t - START) // pd.Timedelta("1ms")), {"unit": "ms"}),
    "seconds of its own": (text(lambda t: (t - START).total_seconds()), {"unit": "1"}),
    "a name with a unit": (
        text(lambda t: (t - START) // pd.Timedelta("1ms"), header="time_ms,groupId,predict_status"),
        {"time": "time_ms"},
    ),
    "wrong rows": (
        text() + "2099-12-31,g1,SUCCEED\n1970-01-02,g1,SUCCEED\n",
        {"since": "2025-03-01", "until": "2025-03-02"},
    ),
    "wrong milliseconds": (text(epoch(1e-3)) + "12345,g1,SUCCEED\n", {"since": "2025-02-28T23:59:59Z"}),
}  # fmt: skip


def read(tmp_path: Path, content: str | bytes, **fields: Any) -> Trace:
    path = tmp_path / "log.dat"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Trace(str(path), **fields)


def assert_read_rightly(trace: Trace) -> None:
    used = [t for k, t in enumerate(times()) if k % 3]
    np.testing.assert_allclose(trace.log.seconds, [(t - used[0]).total_seconds() for t in used], atol=1e-3)
    assert trace.log.report["left_out"]["status FAILED"] == NUMBER // 3
    np.testing.assert_array_equal(
        trace.log.user, pd.factorize(np.array([k % 7 for k in range(NUMBER) if k % 3]))[0]
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_what_it_is(tmp_path: Path, form: str):
    trace = read(tmp_path, FORMS[form])
    assert_read_rightly(trace)
    assert trace.log.report["first"] == "2025-03-01T00:00:" + f"{(times()[1]).second:02d}+00:00"
    assert trace.log.report["not_found"] == []


@pytest.mark.parametrize("form", TOLD)
def test_what_cannot_be_recognised_can_be_told(tmp_path: Path, form: str):
    content, fields = TOLD[form]
    assert_read_rightly(read(tmp_path, content, **fields))


@pytest.mark.parametrize(
    ("form", "told", "earlier", "later"),
    [
        (str, {}, "2024-12-31", "2025-03-01 00:01:00"),
        (str, {}, "20250228", "2025-03-01 00:01:00,000 UTC"),
        (lambda t: f"{t.tz_localize(None)} UTC", {}, "2025-02-28 23:00:00 UTC", "2025-03-01 00:01:00 UTC"),
        (compact("%Y%m%d%H%M%S"), {}, "20250228235959", "20250301000100"),
        (compact("%Y%m%d%H%M%S"), {}, "20250228", "2025-03-01T00:01:00"),
        (compact("%Y%m%d%H%M%S.%f"), {}, "20250228235959.5", "20250301000100.000000"),
        (compact(DOTTED), {"unit": DOTTED}, "28.02.2025 23:00:00", "01.03.2025 00:01:00"),
        (epoch(1e-3), {}, "1740787200000", "1740787260000"),
        (epoch(1e-3), {}, "2025-03-01", "2025-03-01T00:01:00Z"),
        (lambda t: f"{t.timestamp():.1f}".replace(".", ","), {}, "1740787200,5", "1740787260,0"),
    ],
)  # fmt: skip
def test_limits_are_written_as_the_times_of_the_log(
    tmp_path: Path, form: Form, told: dict[str, Any], earlier: str, later: str
):
    before = sum(t <= START.floor("min") + pd.Timedelta(minutes=1) for t in times())
    content = text(form, ";", "gmt_create;groupId;status")
    cut = read(tmp_path, content, **told, since=earlier, until=later).log.report
    assert 0 < cut["used"] == before < NUMBER
    rest = read(tmp_path, content, **told, since=later).log.report
    assert rest["used"] == NUMBER - before


@pytest.mark.parametrize(
    ("form", "text_of_limit"),
    [
        (str, "1740787260"),
        (compact("%Y%m%d%H%M%S"), "2025030100"),
        (compact("%Y%m%d%H%M%S"), "202503010001"),
        (epoch(1e-3), "01.03.2025 00:01:00"),
    ],
)
def test_limits_that_the_log_could_not_contain_are_refused(tmp_path: Path, form: Form, text_of_limit: str):
    with pytest.raises(InputError, match=r"trace\.until: '.*'; legal: a date such as .* are read as "):
        read(tmp_path, text(form), until=text_of_limit)


@pytest.mark.parametrize(
    ("content", "fields", "words"),
    [
        (text() + "2099-12-31,g1,SUCCEED\n", {}, ["no request arrives for 74.8 y", "1 after", "from 2025-"]),
        (text() + "1970-01-02,g1,SUCCEED\n", {}, ["after 1970-01-02T00:00:00", "1 before that gap"]),
        (text(epoch(1e-3)) + "1740787201,g1,SUCCEED\n", {}, ["after 1970-01-21", "numbers of ms"]),
        (text(epoch(1e-3)), {"unit": "s"}, ["beyond the year 2128", "numbers of s"]),
        (text(lambda t: (t - START) // pd.Timedelta("1us")), {}, ["its times may not be in seconds"]),
        (text(lambda t: (t - START) // pd.Timedelta("1ns")), {}, ["beyond the year 2128", "s (assumed)"]),
        (text(lambda t: t.timestamp() / 86400 + 25569), {}, ["its times may not be in seconds"]),
        (text(compact("%d/%m/%Y %H:%M:%S")), {}, ["no usable row", "time: unreadable 40"]),
        (text(delimiter="~"), {}, ["no column 'gmt_create'", "gmt_create~groupId", "a delimiter"]),
        (text(), {"user": "tenant"}, ["trace.user", "no column 'tenant'; legal: gmt_create, groupId"]),
        (text(), {"delimiter": ";"}, ["no column 'gmt_create'"]),
        (text(header="a,a ,gmt_create"), {"user": "a"}, ["has 2 columns 'a'"]),
        (text(header="A,a,gmt_create"), {"user": "Ä"}, ["no column 'Ä'"]),
        (",".join(NAMES), {}, ["no usable row: no rows"]),
        ("[1, 2", {}, ["no column 'gmt_create'"]),
        ("[" * 100_000, {}, ["no column 'gmt_create'"]),
        ("\n".join(map(json.dumps, RECORDS)), {"user": "tenant"}, ["no column 'tenant'"]),
        (text(), {"since": "yesterday"}, ["trace.since: 'yesterday'; legal: a date"]),
        (text(), {"since": "2025-03-02"}, ["no usable row", "time: before 2025-03-02 40"]),
        (text().replace("g1", "gü").encode("latin-1"), {}, ["is not a table", "utf-8"]),
    ],
)  # fmt: skip
def test_what_is_not_plausible_is_refused_with_what_was_understood(
    tmp_path: Path, content: Any, fields: Any, words: Any
):
    with pytest.raises(InputError) as refused:
        read(tmp_path, content, **fields)
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_was_understood_is_told(tmp_path: Path):
    body = text(epoch(1e-3), ";", "gmt_create;tenant;status") + "1740787201000;g1;SUCCEED\n" * 2
    line = understood(read(tmp_path, body).log.report)
    for part in (
        f"{NUMBER + 2} of {NUMBER + 2} requests of {tmp_path / 'log.dat'} used",
        "from 2025-03-01T00:00:01+00:00 to 2025-03-01T00:",
        " a second",
        "semicolon-separated, times read as numbers of ms",
        "columns: time gmt_create",
        "not found: groupId (user), predict_status (status)",
        "not used: tenant, status",
        "1 rows repeat another row",
    ):
        assert part in line
    own = understood(read(tmp_path, text(lambda t: (t - START).total_seconds())).log.report)
    assert "numbers of s (assumed)" in own


def test_broken_lines_of_json_are_counted(tmp_path: Path):
    lines = [*map(json.dumps, RECORDS), '{"gmt_create": ', "17", "", "null", '{"gmt_create": null}']
    report = read(tmp_path, "\n".join(lines)).log.report
    assert report["left_out"] == {"not a JSON object": 3, "status FAILED": 20, "status empty": 1}


def test_numbers_with_commas_are_read_where_commas_do_not_separate(tmp_path: Path):
    lines = [f"{k};{k % 3};2,5" for k in range(20)]
    trace = read(tmp_path, "\n".join(["gmt_create;groupId;tokens", *lines]), size="tokens")
    assert trace.log.size is not None
    np.testing.assert_array_equal(trace.log.size, np.full(20, 2.5))
    thousands = "\n".join(["gmt_create,groupId,tokens", *(f'{k},{k % 3},"1,500"' for k in range(20))])
    with pytest.raises(InputError, match="size: unreadable 20"):
        read(tmp_path, thousands, size="tokens")


def test_a_quiet_night_is_plausible(tmp_path: Path):
    lines = [f"{86400 * day + 30 * k},g" for day in (0, 1, 9) for k in range(100)]
    assert read(tmp_path, "\n".join(["gmt_create,groupId", *lines])).log.report["used"] == 300


def test_command_lines_take_unit_delimiter_and_limits(script: Script, tmp_path: Path):
    path = tmp_path / "log.csv"
    path.write_text(text(lambda t: (t - START) // pd.Timedelta("1ms"), "~") + "999999999~g1~SUCCEED\n")
    sweep: list[Any] = ["sweep", "--trace", path, "--param", "time_scale", "--methods", "local", "--seeds", 4]
    script.assert_refused(["no column 'gmt_create'"], *sweep)
    told = ["--trace-delimiter", "~", "--trace-unit", "ms", "--set", "num_servers=2", "num_slots=4"]
    script.assert_refused(["trace: ", "no request arrives for", "41 of 61 requests"], *sweep, *told)
    limits = ["--trace-until", "900000", "--trace-train-share", 0.2, "--out", tmp_path / "out"]
    code, shown, errors = script(*sweep, *told, *limits)
    assert code == 0, errors
    for part in (
        "40 of 61 requests",
        "'~'-separated, times read as numbers of ms",
        "time: after 900000 1",
        "disjoint",
    ):
        assert part in shown
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["scenario"]["trace"]["unit"] == "ms"
    assert [split["test"]["stretches"] for split in manifest["trace"]["splits"]][-1] >= 16
