"""Request logs: CSV files, gzipped or not, in which every row that is left out is counted by its cause."""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from amco_jax.errors import InputError, check_number, from_table

OPTIONAL = ("user", "status")
"""Columns that a file may lack if they are not named by the user"""

NUMBERS = ("size", "density", "work")
"""What columns may say of a task"""

_LIMITS = 1e-9, 1e9
_EPOCH_S = 1e8
"""No log that counts from its own beginning gets here; clock times have been later since 1973."""


@dataclasses.dataclass(frozen=True)
class RequestLog:
    """The usable requests of a log in the order of time."""

    seconds: np.ndarray
    """`[requests]`, since the first of them"""
    user: np.ndarray
    """`[requests]`, 0, 1, …; a request without user has a number that no other one has"""
    size: np.ndarray | None
    """`[requests]`, Mbit"""
    density: np.ndarray | None
    """`[requests]`, Gcycles/Mbit"""
    work: np.ndarray | None
    """`[requests]`, Gcycles"""
    report: dict[str, Any]
    """What was found in the file, for a manifest"""

    def slots(self, slot_seconds: float) -> np.ndarray:
        """`[requests]`, the slot of each request, counted from the first one's, as whole floats."""
        return np.floor(self.seconds / slot_seconds)


@dataclasses.dataclass(frozen=True)
class Trace:
    """A request log, and which of its columns mean what; an empty name stands for no column.

    Raises:
      InputError: a field of the wrong type, an unreadable file, a missing column, nothing usable in it, or
        content other than that of the given digest.
    """

    file: str
    time: str = "gmt_create"
    """When a request came: a date and time, or a number"""
    time_unit: float = 1.0
    """s, of a time that is a number"""
    user: str = "groupId"
    """Whose requests come at one base station"""
    status: str = "predict_status"
    succeeded: str = "SUCCEED"
    """The status of the requests that are used"""
    size: str = ""
    """A number that the size of a task follows; without, sizes are drawn as in the scenario"""
    size_scale: float = 1.0
    """Mbit for each unit of it"""
    density: str = ""
    """A number that the density of a task follows; without, densities are drawn as in the scenario"""
    density_scale: float = 1.0
    """Gcycles/Mbit for each unit of it"""
    work: str = ""
    """A number that the work of a task follows; without, it is size times density"""
    work_scale: float = 1.0
    """Gcycles for each unit of it"""
    sha256: str = ""
    """Of the file; filled in if empty"""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value = f"trace.{field.name}", getattr(self, field.name)
            if field.type == "float":
                object.__setattr__(self, field.name, check_number(name, value))
            elif not isinstance(value, str) or not (value or field.default == "" or field.name in OPTIONAL):
                raise InputError(f"{name}: {value!r}; legal: a text")
        object.__setattr__(self, "file", str(Path(self.file).absolute()))
        object.__setattr__(self, "sha256", self.log.report["sha256"])

    @property
    def log(self) -> RequestLog:
        """The requests; read when they are first asked for.

        Raises:
          InputError: as for `Trace`.
        """
        if "_log" not in self.__dict__:
            self.__dict__["_log"] = _read(self)
        return self.__dict__["_log"]

    def __getstate__(self) -> dict[str, Any]:
        """Without the requests: another process reads the file itself, and checks its digest."""
        return {k: v for k, v in self.__dict__.items() if k != "_log"}


def as_trace(value: Any) -> Trace:
    """A trace from a table of its fields.

    Raises:
      InputError: no table, an unknown field, no file, or what `Trace` refuses.
    """
    return from_table("trace", value, Trace, "file", "a field 'file', or --trace FILE")


def _read(trace: Trace) -> RequestLog:
    path = Path(trace.file)
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"trace: {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if trace.sha256 not in ("", digest):
        raise InputError(
            f"trace: {path} has changed: its SHA-256 is {digest[:12]}…; legal: {trace.sha256[:12]}…"
        )
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"trace: {path} is damaged: {error}") from error
    cells, malformed = _cells(trace, raw)
    lines = sum(1 for line in raw.splitlines() if line)
    noted = {"lines_within_quotes": lines - 1 - len(cells["time"]) - malformed}
    return _requests(trace, cells, malformed, noted | {"sha256": digest})


def _cells(trace: Trace, raw: bytes) -> tuple[dict[str, pd.Series], int]:
    """The columns that are used, by field, as text; and the number of rows with too few or too many cells."""
    malformed: list[int] = []

    def count(row: Any) -> str:
        malformed.append(1)
        return "skip"

    parse = csv.ParseOptions(invalid_row_handler=count, newlines_in_values=b'"' in raw)
    try:
        raw.decode()
        names = list(csv.read_csv(pa.BufferReader(raw[: raw.find(b"\n") + 1] or raw)).column_names)
        fields = _columns(trace, names)
        wanted = list(dict.fromkeys(fields.values()))
        convert = csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            strings_can_be_null=False,
        )
        table = csv.read_csv(pa.BufferReader(raw), parse_options=parse, convert_options=convert)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"trace: {trace.file} is no CSV file: {reason}") from error
    columns = {name: table.column(name).to_pandas().astype(object) for name in wanted}
    return {field: columns[name].str.strip() for field, name in fields.items()}, len(malformed)


def _columns(trace: Trace, names: list[str]) -> dict[str, str]:
    """The columns that are used, by field."""
    fields = {}
    for field in ("time", *OPTIONAL, *NUMBERS):
        name = getattr(trace, field)
        if name and name not in names:
            if field in OPTIONAL and name == getattr(Trace, field):
                continue
            raise InputError(
                f"trace.{field}: {trace.file} has no column {name!r}; legal: {', '.join(names)[:300]}"
            )
        if name and names.count(name) > 1:
            raise InputError(f"trace.{field}: {trace.file} has two columns {name!r}; legal: one")
        if name:
            fields[field] = name
    return fields


def _requests(trace: Trace, cells: dict[str, pd.Series], malformed: int, noted: dict[str, Any]) -> RequestLog:
    """The usable rows; each of the others is counted under the first of its faults."""
    left_out = {"too few or too many cells": malformed}
    usable = np.ones(len(cells["time"]), bool)

    def leave_out(cause: str, rows: np.ndarray) -> None:
        rows = usable & rows
        left_out[cause] = left_out.get(cause, 0) + int(rows.sum())
        usable[rows] = False

    leave_out("repeated header", np.asarray(cells["time"] == trace.time))
    if "status" in cells:
        statuses = np.asarray(cells["status"])
        for status in pd.unique(statuses[usable & (statuses != trace.succeeded)]):
            leave_out(f"status {status[:40] or 'empty'}", statuses == status)
    leave_out("time: empty", np.asarray(cells["time"] == ""))
    seconds = _seconds(cells["time"], trace.time_unit, usable)
    leave_out("time: unreadable", ~np.isfinite(seconds))
    leave_out("time: negative", seconds < 0)
    if np.any(usable & (seconds > 0)) and seconds[usable & (seconds > 0)].min() > _EPOCH_S:
        leave_out("time: zero", seconds == 0)
    numbers = {}
    for field in NUMBERS:
        if field in cells:
            value = _numbers(cells[field])
            leave_out(f"{field}: empty", np.asarray(cells[field] == ""))
            leave_out(f"{field}: unreadable", np.isnan(value))
            leave_out(f"{field}: zero", value == 0)
            leave_out(f"{field}: negative", value < 0)
            value = value * getattr(trace, f"{field}_scale")
            leave_out(f"{field}: out of range", ~((value >= _LIMITS[0]) & (value <= _LIMITS[1])))
            numbers[field] = value
    left_out = {cause: count for cause, count in left_out.items() if count}
    rows = len(usable) + malformed
    if not usable.any():
        causes = ", ".join(f"{cause} {count}" for cause, count in left_out.items()) or "no rows"
        raise InputError(f"trace: {trace.file} has no usable row: {causes}")
    kept = np.flatnonzero(usable)
    order = kept[np.argsort(seconds[kept], kind="stable")]
    user, users, nameless = _users(cells.get("user"), order)
    first, last = float(seconds[order[0]]), float(seconds[order[-1]])
    report = {
        "file": trace.file,
        "columns": {field: getattr(trace, field) if field in cells else "" for field in ("time", *OPTIONAL)},
        "rows": rows,
        "used": len(order),
        "left_out": left_out,
        "out_of_order": int(np.sum(np.diff(seconds[kept]) < 0)),
        "without_user": nameless,
        "users": users,
        "first": _clock(first),
        "last": _clock(last),
        "span_s": last - first,
    } | noted
    return RequestLog(
        seconds=seconds[order] - first,
        user=user,
        **{field: numbers[field][order] if field in numbers else None for field in NUMBERS},
        report=report,
    )


def _users(cells: pd.Series | None, order: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Numbers of users, how many users there are, and how many requests are without one."""
    if cells is None:
        return np.arange(len(order), dtype=np.int32), 0, len(order)
    names = cells.iloc[order].replace("", None)
    codes, users = pd.factorize(names)
    nameless = codes < 0
    codes[nameless] = len(users) + np.arange(int(nameless.sum()))
    return codes.astype(np.int32), len(users), int(nameless.sum())


def _numbers(cells: pd.Series) -> np.ndarray:
    """NaN where a cell is no number."""
    return np.array(pd.to_numeric(cells, errors="coerce"), np.float64)


def _seconds(cells: pd.Series, unit: float, usable: np.ndarray) -> np.ndarray:
    """Times as seconds, NaN where they are not of the kind, number or date, that most of them are."""
    numbers = _numbers(cells)
    if 2 * np.isfinite(numbers[usable]).sum() >= usable.sum():
        return numbers * unit
    texts = cells.where(usable & ~np.isfinite(numbers), None)
    dates = pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True)
    return np.array((dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), np.float64)


def _clock(seconds: float) -> str | float:
    """A clock time as text, or the seconds of a log that counts from its own beginning."""
    if not _EPOCH_S < seconds < 2.5e11:
        return float(seconds)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
