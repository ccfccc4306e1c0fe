"""Times of request logs: dates, or numbers in any unit, and checks that they are plausible."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amco_jax.errors import InputError, check_number

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in each named unit"""

_EPOCH_S = 1e8, 5e9
"""The range of clock times, from 1973 to 2128; times that a log counts from its own start are smaller"""
_COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%f"}
"""Formats of dates written as one number, by its number of digits before the decimal point"""

_YEAR_S, _DAY_S = 365.25 * 86400, 86400.0
_MAX_YEARS = 10
_LARGEST_GAP = 10
"""A gap longer than a day and than this many times the rest of the log means that some times are wrong"""
_GAPS_S = 1e-3, 600.0
"""Smallest mean and largest median time between requests if seconds are only assumed as the unit"""


class Times(NamedTuple):
    """The times of a log, and how they were read."""

    seconds: np.ndarray
    """`[rows]`, NaN where a time cannot be read"""
    reading: str
    """How the times were interpreted"""
    assumed: bool
    """Whether that is an assumption which nothing in the log supports"""
    read: Callable[[pd.Series], np.ndarray]
    """Reads further times that are written like these, in seconds; NaN where one cannot be read"""


def check_unit(name: str, value: Any) -> str | float:
    """A unit of times; InputError if it is not one."""
    if isinstance(value, str):
        if value in ("", *UNITS):
            return value
        try:
            if "%" in value:
                _dates(pd.Series([""]), value)
                return value
            value = float(value)
        except ValueError:
            legal = f"{', '.join(UNITS)}, a number of seconds, or a format such as %d/%m/%Y %H:%M:%S"
            raise InputError(f"{name}: {value!r}; legal: {legal}") from None
    return check_number(name, value)


def read_times(
    cells: pd.Series, usable: np.ndarray, unit: str | float, name: str = "", decimal_comma: bool = False
) -> Times:
    """Times in seconds since 1970, or since the zero of a log that counts from its own start.

    All times are read as numbers or all as dates, whichever fits most of them; the rest are NaN.

    Args:
      usable: `[rows]`, the rows that this decision is based on.
      unit: one of `UNITS`, a number of seconds, or a format of dates; empty if it is to be detected.
      name: the name of the column, which may end in a unit.
      decimal_comma: whether numbers may have a decimal comma.
    """
    reading, assumed, read = _reader(cells, usable, unit, name, decimal_comma)
    return Times(read(cells), reading, assumed, read)


def read_time(name: str, text: str, times: Times) -> float:
    """A single time given by the user, in seconds: written as in the log, or else a date in ISO 8601.

    Raises:
      InputError: the text is neither.
    """
    for read in (times.read, _iso_dates):
        if np.isfinite(seconds := read(pd.Series([text]))[0]):
            return float(seconds)
    raise InputError(
        f"{name}: {text!r}; legal: a date such as 2025-03-01T12:00:00, or a time as in the log, whose times "
        f"are read as {times.reading}"
    )


def implausible(seconds: np.ndarray, times: Times) -> str:
    """A message about implausible times; empty if all are plausible. `seconds` must be in order."""
    last, span, gaps = seconds[-1], seconds[-1] - seconds[0], np.diff(seconds)
    if last > _EPOCH_S[1]:
        return f"its last time is {shown(clock(last, last))}, beyond the year 2128"
    if len(gaps) > 1:
        widest = int(np.argmax(gaps))
        if gaps[widest] > max(_DAY_S, _LARGEST_GAP * (span - gaps[widest])):
            before = widest + 1
            return (
                f"after {shown(clock(seconds[widest], last))} no request arrives for "
                f"{_duration(gaps[widest])}, with {before:,} before that gap and "
                f"{len(seconds) - before:,} after"
            )
    if span > _MAX_YEARS * _YEAR_S:
        return f"it covers {_duration(span)}"
    if times.assumed and len(gaps):
        mean, median = np.mean(gaps), np.median(gaps)
        if mean < _GAPS_S[0] or median > _GAPS_S[1]:
            gap = mean if mean < _GAPS_S[0] else median
            return f"its times may not be in seconds, as a request would then arrive every {gap:.3g} s"
    return ""


def clock(seconds: float, last: float) -> str | float:
    """A time of a log that ends at `last`: as text if the log counts from 1970, else in seconds."""
    if not is_clock(last) or not 0 <= seconds < 2.5e11:  # the year 9999
        return float(seconds)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def shown(time: str | float) -> str:
    """A result of `clock` as text for messages."""
    return time if isinstance(time, str) else f"{time:.10g} s"


def is_clock(seconds: float) -> bool:
    """Whether a time counts from 1970."""
    return bool(seconds > _EPOCH_S[0])


def to_numbers(cells: pd.Series, decimal_comma: bool = False) -> np.ndarray:
    """The numbers in cells; NaN where a cell is not a number."""
    if decimal_comma:
        cells = cells.astype(object).str.replace(r"^([+-]?\d*),(\d+)$", r"\1.\2", regex=True)
    return np.array(pd.to_numeric(cells, errors="coerce"), np.float64)


def _reader(
    cells: pd.Series, usable: np.ndarray, unit: str | float, name: str, decimal_comma: bool
) -> tuple[str, bool, Callable[[pd.Series], np.ndarray]]:
    """How times are interpreted, whether that is assumed, and the function that reads them."""
    if isinstance(unit, str) and "%" in unit:
        return f"dates as {unit}", False, functools.partial(_dates, form=unit)
    numbers = to_numbers(cells, decimal_comma)[usable]
    if 2 * np.isfinite(numbers).sum() < usable.sum():
        return "dates", False, lambda texts: _iso_dates(_without_numbers(texts, decimal_comma))
    assumed = False
    if unit == "":
        if digits := _compact_digits(cells.loc[usable]):
            return "dates written as numbers", False, functools.partial(_compact_dates, digits=digits)
        unit, assumed = _recognised(numbers, name)
    seconds = UNITS[unit] if isinstance(unit, str) else unit
    reading = f"numbers of {unit}" if isinstance(unit, str) else f"numbers of {unit:g} s"
    return reading, assumed, lambda texts: to_numbers(texts, decimal_comma) * seconds


def _recognised(numbers: np.ndarray, name: str) -> tuple[str, bool]:
    """The unit in which most times would be clock times, else the one in the name; whether it is assumed."""
    positive = numbers[np.isfinite(numbers) & (numbers > 0)]
    # Quantiles, so that a few wrong times, or a start at 0, do not matter.
    early, late = np.quantile(positive, [0.1, 0.9]) if len(positive) else (0.0, 0.0)
    for unit, seconds in UNITS.items():
        if _EPOCH_S[0] <= early * seconds and late * seconds <= _EPOCH_S[1]:
            return unit, False
    named = re.search(r"(?:^|[\W_])(s|ms|us|ns)\W*$", name.casefold())
    return (named[1], False) if named else ("s", True)


def _compact_digits(cells: pd.Series) -> int:
    """The number of digits of times written like 20250301120000; 0 unless most cells are such times."""
    length = cells.str.extract(r"^(\d+)(?:\.\d+)?$")[0].str.len().mode()
    if not len(length) or (digits := int(length.iloc[0])) not in _COMPACT:
        return 0
    years = _compact_dates(cells, digits) / _YEAR_S + 1970
    return digits if 2 * np.sum((years >= 1973) & (years <= 2128)) >= len(cells) else 0


def _compact_dates(cells: pd.Series, digits: int) -> np.ndarray:
    """Times written like 20250301120000, in seconds; NaN where the number of digits is another one."""
    parts = cells.str.extract(rf"^(\d{{{digits}}})(\.\d+)?$")
    return _dates(parts[0], _COMPACT[digits]) + np.nan_to_num(np.array(pd.to_numeric(parts[1]), np.float64))


def _without_numbers(cells: pd.Series, decimal_comma: bool) -> pd.Series:
    """The cells with None in place of numbers: a year alone, such as 2025, is no time in a log of dates."""
    return cells.where(np.isnan(to_numbers(cells, decimal_comma)), None)


def _iso_dates(cells: pd.Series) -> np.ndarray:
    """Dates in ISO 8601, also with UTC behind them or a comma before fractions, in seconds."""
    texts = cells.astype(object).str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    return _dates(texts.str.replace(r"(\d\d),(\d+)", r"\1.\2", regex=True), "ISO8601")


def _dates(cells: pd.Series, form: str) -> np.ndarray:
    """Dates in seconds since 1970; a date without an offset is in UTC."""
    dates = pd.to_datetime(cells, errors="coerce", format=form, utc=True)
    microseconds = dates.dt.tz_localize(None).astype("datetime64[us]")  # nanoseconds end in 2262
    return np.where(dates.isna(), np.nan, microseconds.to_numpy().astype(np.int64) / 1e6)


def _duration(seconds: float) -> str:
    for name, length in (("years", _YEAR_S), ("days", _DAY_S), ("h", 3600.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.3g} s"
