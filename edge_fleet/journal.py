"""The journal of a run: lines of JSON that are on disk before they count.

A result counts once its line is written, and only the first one of an image. A run that was killed continues
from what its journal holds; a last line that was cut short is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amco_jax.errors import InputError

FILE = "journal.jsonl"


class Journal:
    """The journal of one process, open for appending by one thread at a time."""

    def __init__(self, directory: Path):
        """Open the journal in a directory, or begin it.

        Raises:
          InputError: a line other than the last is damaged, or the file cannot be written.
        """
        self.path = directory / FILE
        try:
            whole = _whole_bytes(self.path)
            self._file = self.path.open("ab")
            self._file.truncate(whole)
        except OSError as error:
            raise InputError(f"out: {self.path} cannot be written: {error.strerror or error}") from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; when this returns, it is on disk."""
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in order."""
        return read_journal(self.path.parent)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a directory's journal, in order; none if there is no journal.

    Raises:
      InputError: a line other than the last is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                record["kind"]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"journal: {path}, line {number} is damaged; restore it, or use --overwrite"
                ) from error
            yield record


def _whole_bytes(path: Path) -> int:
    """The length of the complete lines of a file."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    return content.rfind(b"\n") + 1
