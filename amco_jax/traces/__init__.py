"""Request logs: text tables of requests; every row that is left out is counted by its cause."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError, check_number, from_table
from amco_jax.traces.cells import DELIMITERS, Cells, check_delimiter, read_cells
from amco_jax.traces.stretches import Stretches, cut, in_slots
from amco_jax.traces.times import (
    check_unit,
    clock,
    implausible,
    is_clock,
    read_time,
    read_times,
    shown,
    to_numbers,
)

OPTIONAL = ("user", "status")
"""Columns that a file may lack unless the user names them"""

NUMBERS = ("size", "density", "work")
"""Quantities of a task that columns may give"""

_LIMITS = 1e-9, 1e9
_TEXTS = ("file", "time", "user", "status", "succeeded", *NUMBERS, "since", "until", "sha256")


@dataclasses.dataclass(frozen=True)
class RequestLog:
    """The usable requests of a log, in order of time."""

    seconds: np.ndarray
    """`[requests]`, s since the first request"""
    origin: float
    """Time of the first request, s since 1970, or since the zero of a log that counts from its own start"""
    user: np.ndarray
    """`[requests]`, 0, 1, …; a request without a user has a unique number"""
    size: np.ndarray | None
    """`[requests]`, Mbit"""
    density: np.ndarray | None
    """`[requests]`, Gcycles/Mbit"""
    work: np.ndarray | None
    """`[requests]`, Gcycles"""
    report: dict[str, Any]
    """A description of the file's contents, for a manifest"""

    @property
    def span(self) -> float:
        """Time from the first request to the last, s."""
        return float(self.seconds[-1])

    @property
    def error(self) -> float:
        """The largest rounding error of the times of requests, s: that of both a time and the origin."""
        return 4 * float(np.spacing(self.origin + self.span))

    def in_slots(self, slot_seconds: float) -> np.ndarray:
        """`[requests]`, the time of each request in slots since the first request."""
        return in_slots(self.seconds, slot_seconds, self.error)


@dataclasses.dataclass(frozen=True)
class Trace:
    """A request log: its file, its format, and the meaning of its columns; an empty name means no column.

    Raises:
      InputError: a field has the wrong type, the file is unreadable, a column is missing, no row is usable,
        times are implausible, or the content does not match the given digest.
    """

    file: str
    time: str = "gmt_create"
    """The column of arrival times: dates with times, or numbers"""
    unit: str | float = ""
    """The unit of numeric times: s, ms, us, ns, or a number of seconds; or the format of dates, as for
    `strptime`. Detected if empty"""
    delimiter: str = ""
    """The character between cells; detected if empty, as is JSON"""
    user: str = "groupId"
    """The column of users; all requests of one user arrive at the same base station"""
    status: str = "predict_status"
    """The column of statuses"""
    succeeded: str = "SUCCEED"
    """The status of the requests that are used"""
    size: str = ""
    """The column that gives the size of a task; if empty, sizes are drawn as in the scenario"""
    size_scale: float = 1.0
    """Mbit per unit of that column"""
    density: str = ""
    """The column that gives the density of a task; if empty, densities are drawn as in the scenario"""
    density_scale: float = 1.0
    """Gcycles/Mbit per unit of that column"""
    work: str = ""
    """The column that gives the work of a task; if empty, work is size times density"""
    work_scale: float = 1.0
    """Gcycles per unit of that column"""
    since: str = ""
    """Requests before this time, written as in the log or as a date in ISO 8601, are left out"""
    until: str = ""
    """Requests after this time are left out"""
    train_share: float = 0.5
    """The share of the log, from its start, that agents are trained on; nothing is evaluated there"""
    gap: float | None = None
    """The minimum time between training and test part, s of the log; one episode if None"""
    sha256: str = ""
    """Digest of the file; filled in if empty"""

    def __post_init__(self):
        def clean(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in _TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) or not (value or defaults[name] == "" or name in OPTIONAL):
                legal = "the path of a file" if name == "file" else "a text"
                raise InputError(f"trace.{name}: {value!r}; legal: {legal}")
        for name in (f"{number}_scale" for number in NUMBERS):
            clean(name, check_number(f"trace.{name}", getattr(self, name)))
        clean("unit", check_unit("trace.unit", self.unit))
        clean("delimiter", check_delimiter("trace.delimiter", self.delimiter))
        clean("train_share", check_number("trace.train_share", self.train_share, 0, 1))
        if self.gap is not None:
            clean("gap", check_number("trace.gap", self.gap, 0))
        clean("file", str(Path(self.file).absolute()))
        clean("sha256", self.log.report["sha256"])

    @functools.cached_property
    def log(self) -> RequestLog:
        """The requests, read on first use.

        Raises:
          InputError: as for `Trace`.
        """
        return _read(self)

    @property
    def training_end(self) -> float:
        """The time at which the training part ends, s, counted like `RequestLog.origin`."""
        return self.log.origin + self.train_share * self.log.span

    def stretches(self, slot_seconds: float, num_slots: int) -> Stretches:
        """The positions of episodes of `num_slots` slots on the log."""
        log = self.log
        return cut(log.span, slot_seconds, num_slots, self.train_share, self.gap, log.error)

    def split(self, slot_seconds: float, num_slots: int) -> dict[str, Any]:
        """The two stretches as plain data, for a manifest."""
        cuts, log = self.stretches(slot_seconds, num_slots), self.log
        places = log.in_slots(slot_seconds)

        def stretch(first: int, end: int) -> dict[str, Any]:
            inside = np.searchsorted(places, [first, end])
            times = [clock(log.origin + slot * slot_seconds, log.origin + log.span) for slot in (first, end)]
            return {"first": times[0], "last": times[1], "requests": int(np.diff(inside)[0])}

        end = cuts.first + (cuts.num_stretches - 1) * cuts.spacing + num_slots
        return {
            "training": stretch(0, cuts.training) if self.train_share > 0 else None,
            "gap_s": (cuts.first - cuts.training) * slot_seconds if self.train_share > 0 else 0.0,
            "test": stretch(cuts.first, end)
            | {"stretches": cuts.num_stretches, "stretch_s": num_slots * slot_seconds},
        }

    def __getstate__(self) -> dict[str, Any]:
        """The state without the requests: another process reads the file itself, and checks its digest."""
        return {k: v for k, v in self.__dict__.items() if k != "log"}


def as_trace(value: Any) -> Trace:
    """A trace from a table of its fields.

    Raises:
      InputError: the value is not a table, has an unknown field or no file, or `Trace` rejects it.
    """
    return from_table("trace", value, Trace, "file", "a field 'file', or --trace FILE")


def understood(report: dict[str, Any]) -> str:
    """One line that says how a log was read, from its report."""
    left_out = ", ".join(f"{cause} {count:,}" for cause, count in report["left_out"].items())
    columns = ", ".join(f"{field} {name}" for field, name in report["columns"].items() if name)
    rate = f", {report['used'] / report['span_s']:.3g} a second" if report["span_s"] else ""
    parts = [
        f"{report['used']:,} of {report['rows']:,} requests of {report['file']} used",
        f"from {shown(report['first'])} to {shown(report['last'])}{rate}",
        f"{report['format']}, times read as {report['times']}",
        f"columns: {columns}",
        f"not found: {_listed(report['not_found'])}",
        f"not used: {_listed(report['unused'])}",
        f"left out: {left_out or 'none'}",
    ]
    if report["repeated"]:
        parts.append(f"{report['repeated']:,} rows repeat another row")
    if report["lines_within_quotes"]:
        parts.append(f"{report['lines_within_quotes']:,} lines are inside quoted cells")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    shortened = [*names[:12], "..."] if len(names) > 12 else names
    return ", ".join(name[:40] for name in shortened) or "none"


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
    fields = {field: getattr(trace, field) for field in ("time", *OPTIONAL, *NUMBERS)}
    optional = [field for field in OPTIONAL if fields[field] == getattr(Trace, field)]
    named = {field: name for field, name in fields.items() if name}
    cells = read_cells(raw, trace.file, named, optional, trace.delimiter)
    missing = [f"{name} ({field})" for field, name in named.items() if field not in cells.found]
    return _requests(trace, cells, {"not_found": missing, "sha256": digest})


def _requests(trace: Trace, cells: Cells, noted: dict[str, Any]) -> RequestLog:
    """The usable rows; every other row is counted under its first fault."""
    columns = cells.columns
    left_out = {"too few or too many cells" if cells.delimiter else "not a JSON object": cells.malformed}
    usable = np.ones(len(columns["time"]), bool)

    def leave_out(cause: str, rows: np.ndarray) -> None:
        rows = usable & rows
        left_out[cause] = left_out.get(cause, 0) + int(rows.sum())
        usable[rows] = False

    leave_out("repeated header", np.asarray(columns["time"] == cells.found["time"]))
    if "status" in columns:
        statuses = np.asarray(columns["status"])
        for status in pd.unique(statuses[usable & (statuses != trace.succeeded)]):
            leave_out(f"status {status[:40] or 'empty'}", statuses == status)
    leave_out("time: empty", np.asarray(columns["time"] == ""))
    decimal_comma = cells.delimiter not in (",", "")
    times = read_times(columns["time"], usable, trace.unit, cells.found["time"], decimal_comma)
    seconds = times.seconds
    leave_out("time: unreadable", ~np.isfinite(seconds))
    leave_out("time: negative", seconds < 0)
    if np.any(usable & (seconds > 0)) and is_clock(seconds[usable & (seconds > 0)].min()):
        leave_out("time: zero", seconds == 0)
    if trace.since:
        leave_out(f"time: before {trace.since}", seconds < read_time("trace.since", trace.since, times))
    if trace.until:
        leave_out(f"time: after {trace.until}", seconds > read_time("trace.until", trace.until, times))
    numbers = {}
    for field in NUMBERS:
        if field in columns:
            value = to_numbers(columns[field], decimal_comma)
            leave_out(f"{field}: empty", np.asarray(columns[field] == ""))
            leave_out(f"{field}: unreadable", np.isnan(value))
            leave_out(f"{field}: zero", value == 0)
            leave_out(f"{field}: negative", value < 0)
            value = value * getattr(trace, f"{field}_scale")
            leave_out(f"{field}: out of range", ~((value >= _LIMITS[0]) & (value <= _LIMITS[1])))
            numbers[field] = value
    left_out = {cause: count for cause, count in left_out.items() if count}
    if not usable.any():
        causes = ", ".join(f"{cause} {count}" for cause, count in left_out.items()) or "no rows"
        raise InputError(f"trace: {trace.file} has no usable row: {causes}")
    kept = np.flatnonzero(usable)
    order = kept[np.argsort(seconds[kept], kind="stable")]
    user, users, nameless = _users(columns.get("user"), order)
    first, last = float(seconds[order[0]]), float(seconds[order[-1]])
    report = {
        "file": trace.file,
        "format": f"{DELIMITERS.get(cells.delimiter, repr(cells.delimiter))}-separated"
        if cells.delimiter
        else "JSON",
        "times": f"{times.reading}{' (assumed)' if times.assumed else ''}",
        "columns": {field: cells.found.get(field, "") for field in ("time", *OPTIONAL, *NUMBERS)},
        "unused": cells.unused,
        "rows": len(usable) + cells.malformed,
        "used": len(order),
        "left_out": left_out,
        "out_of_order": int(np.sum(np.diff(seconds[kept]) < 0)),
        "repeated": int(pd.DataFrame(columns)[usable].duplicated().sum()),
        "without_user": nameless,
        "users": users,
        "lines_within_quotes": cells.swallowed,
        "first": clock(first, last),
        "last": clock(last, last),
        "span_s": last - first,
    } | noted
    if fault := implausible(seconds[order], times):
        raise InputError(
            f"trace: {fault}; legal: a log without such times, or --trace-unit, --trace-since, --trace-until "
            f"(unit, since, until in [trace]); as it was read: {understood(report)}"
        )
    return RequestLog(
        seconds=seconds[order] - first,
        origin=first,
        user=user,
        **{field: numbers[field][order] if field in numbers else None for field in NUMBERS},
        report=report,
    )


def _users(cells: pd.Series | None, order: np.ndarray) -> tuple[np.ndarray, int, int]:
    """`[requests]` numbers of users, the number of users, and the number of requests without a user."""
    if cells is None:
        return np.arange(len(order), dtype=np.int32), 0, len(order)
    names = cells.iloc[order].replace("", None)
    codes, users = pd.factorize(names)
    nameless = codes < 0
    codes[nameless] = len(users) + np.arange(int(nameless.sum()))
    return codes.astype(np.int32), len(users), int(nameless.sum())
