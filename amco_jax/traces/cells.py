"""Request logs as columns of text: delimited as their header shows, or JSON with one record per line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from amco_jax.errors import InputError, first_line
from amco_jax.files import text_of

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""The delimiters that are detected, and their names"""

_WRITTEN = {"tab": "\t", "\\t": "\t", "space": " "}


class Cells(NamedTuple):
    """The columns of a log that are used."""

    columns: dict[str, pd.Series]
    """The text of each field, without surrounding spaces and quotes"""
    found: dict[str, str]
    """The name of each field's column in the file"""
    unused: list[str]
    """The names of the other columns"""
    malformed: int
    """The number of rows with too few or too many cells, or of JSON lines that are not records"""
    swallowed: int
    """The number of lines inside quoted cells"""
    delimiter: str
    """The character between cells; empty for JSON"""


def check_delimiter(name: str, value: Any) -> str:
    """A delimiter as one character, or empty if it is to be detected; InputError if it is not one."""
    value = _WRITTEN.get(value, value) if isinstance(value, str) else value
    if value != "" and (
        not isinstance(value, str) or len(value) != 1 or value in "\"'\r\n" or value.isalnum()
    ):
        raise InputError(f"{name}: {value!r}; legal: one character such as , ; | or tab")
    return value


def read_cells(
    raw: bytes, file: str, fields: dict[str, str], optional: Iterable[str], delimiter: str
) -> Cells:
    """The columns of a log.

    Column names are compared without surrounding spaces and quotes, and if none is equal, without regard to
    letter case.

    Args:
      file: the name of the log in messages.
      fields: the column name of each field to read, including `time`.
      optional: the fields that the log may lack.
      delimiter: the character between cells; empty if it is to be detected.

    Raises:
      InputError: the content is not text or not a table, or a column is missing or repeated.
    """
    try:
        text = text_of(raw).lstrip("\n")
        if not delimiter and text.lstrip()[:1] in ("{", "["):
            return _json(text, file, fields, optional)
        return _delimited(text, file, fields, optional, delimiter)
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        reason = first_line(error)
        raise InputError(f"trace: {file} is not a table, neither CSV nor JSON: {reason}") from error


def _delimited(
    text: str, file: str, fields: dict[str, str], optional: Iterable[str], delimiter: str
) -> Cells:
    first, _, rest = text.partition("\n")
    headers = {
        each: [_bare(name) for name in next(csv.reader([first], delimiter=each, skipinitialspace=True), [])]
        for each in ([delimiter] if delimiter else DELIMITERS)
    }
    # The delimiter under which the time column is found and, among several, the one with the most columns.
    found = {each: (bool(_places(fields["time"], names)), len(names)) for each, names in headers.items()}
    delimiter = max(found, key=lambda each: found[each])
    names = headers[delimiter]
    places = _choose(file, fields, optional, names)
    rows, malformed = _rows(
        rest, delimiter, len(names), [str(place) for place in dict.fromkeys(places.values())]
    )
    columns: dict[str, Any] = {field: rows[str(place)] for field, place in places.items()}
    swallowed = sum(1 for line in rest.split("\n") if line) - len(rows) - malformed
    return _cells(columns, places, names, malformed, swallowed, delimiter)


def _rows(text: str, delimiter: str, num_columns: int, wanted: list[str]) -> tuple[pd.DataFrame, int]:
    """The wanted columns, by position, as text, and the number of rows with too few or too many cells."""
    malformed: list[int] = []

    def count(row: Any) -> str:
        malformed.append(1)
        return "skip"

    if not text.strip("\n"):  # no rows, which Arrow reports as an empty file
        return pd.DataFrame({name: pd.Series(dtype=object) for name in wanted}), 0
    table = arrow_csv.read_csv(
        pa.BufferReader(text.encode()),
        read_options=arrow_csv.ReadOptions(
            column_names=[str(place) for place in range(num_columns)],
            use_threads=False,  # as in `results.saved.read_rows`
        ),
        parse_options=arrow_csv.ParseOptions(
            delimiter=delimiter, invalid_row_handler=count, newlines_in_values='"' in text
        ),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    )
    return table.to_pandas(use_threads=False).astype(object), len(malformed)


def _json(text: str, file: str, fields: dict[str, str], optional: Iterable[str]) -> Cells:
    """The columns of JSON objects, one per line or in one array."""
    parts = [text] if text.lstrip().startswith("[") else [line for line in text.split("\n") if line.strip()]
    values = [_value(part) for part in parts]
    items = values[0] if isinstance(values[0], list) else values
    records = [item for item in items if isinstance(item, dict)]
    names = list(dict.fromkeys(name for record in records for name in record))
    places = _choose(file, fields, optional, [_bare(name) for name in names])
    columns = {}
    for field, place in places.items():
        values = (record.get(names[place]) for record in records)
        columns[field] = pd.Series(["" if v is None else str(v) for v in values], dtype=object)
    return _cells(columns, places, names, len(items) - len(records), 0, "")


def _value(line: str) -> Any:
    """The value of a line of JSON; None if it is not valid JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _cells(
    columns: dict[str, pd.Series],
    places: dict[str, int],
    names: list[str],
    malformed: int,
    swallowed: int,
    delimiter: str,
) -> Cells:
    used = set(places.values())
    return Cells(
        columns={field: cells.str.strip().str.strip('"').str.strip() for field, cells in columns.items()},
        found={field: names[place] for field, place in places.items()},
        unused=[name for place, name in enumerate(names) if place not in used],
        malformed=malformed,
        swallowed=swallowed,
        delimiter=delimiter,
    )


def _choose(file: str, fields: dict[str, str], optional: Iterable[str], names: list[str]) -> dict[str, int]:
    """The position of each field's column."""
    places = {}
    for field, name in fields.items():
        found = _places(name, names)
        if len(found) > 1:
            raise InputError(f"trace.{field}: {file} has {len(found)} columns {name!r}; legal: one")
        if found:
            places[field] = found[0]
        elif field not in optional:
            raise InputError(
                f"trace.{field}: {file} has no column {name!r}; "
                f"legal: {', '.join(names)[:300] or 'a file with a header'}"
                f"{', or a delimiter between them' if len(names) == 1 else ''}"
            )
    return places


def _places(name: str, names: list[str]) -> list[int]:
    """The positions of the columns of that name or, if there are none, of those that differ only in case."""
    for same in (str, str.casefold):
        if found := [place for place, each in enumerate(names) if same(each) == same(_bare(name))]:
            return found
    return []


def _bare(name: str) -> str:
    return name.strip().strip('"').strip()
