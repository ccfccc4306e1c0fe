"""Saved results: finished runs on disk, and checks that they are intact.

A run is a directory with a manifest, which is written last, and the digests of all its files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from amco_jax.errors import InputError
from amco_jax.files import is_hidden

MANIFEST = "manifest.json"
DIGESTS = "SHA256SUMS"


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A finished run on disk. Each file is checked against its digest as it is read."""

    directory: Path
    manifest: dict[str, Any]
    digests: dict[str, str]
    """SHA-256 of each file, by its relative path with `/` as separator"""

    def table(self, name: str) -> pd.DataFrame:
        """The rows of a table, which is a directory of Parquet files, in the order of their names.

        Raises:
          InputError: the table is missing, or one of its files is damaged.
        """
        return self.arrow(name).to_pandas(use_threads=False)

    def content(self, name: str) -> bytes:
        """The content of a file, by its relative path; InputError if it is missing or damaged."""
        return _checked(self.directory, name, self.digests)

    def arrow(self, name: str) -> pa.Table:
        """The rows of a table as an Arrow table, which keeps columns of lists.

        Raises:
          InputError: the table is missing, one of its files is damaged, or they differ in their columns.
        """
        found = (file for file in self.digests if file.startswith(f"{name}/"))
        parts = sorted(file for file in found if not is_hidden(PurePosixPath(file)))
        if not parts:
            raise InputError(f"run: {self.directory / name} cannot be read; legal: intact results")
        rows = [read_rows(_checked(self.directory, part, self.digests)) for part in parts]
        try:
            return _joined(rows)
        except pa.ArrowException as error:
            raise InputError(
                f"run: the files of {self.directory / name} differ in their columns; legal: results of this "
                "version"
            ) from error


def kind_of(directory: Path) -> str | None:
    """The kind of a run by its manifest, which `open_run` checks; None if there is none that can be read."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    return kind if isinstance(kind, str) else None


def open_run(directory: str | Path, kinds: Collection[str]) -> SavedRun:
    """Open a finished run of one of these kinds.

    Raises:
      InputError: there is no finished run, it is of another kind, or its manifest is damaged.
    """
    home = Path(directory)
    legal = f"legal: the --out of {' or '.join(kinds)}"
    try:
        digests = digests_in(home)
        (home / MANIFEST).stat()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"run: {home} holds no finished results; {legal}") from error
    try:
        manifest = json.loads(_checked(home, MANIFEST, digests))
    except (ValueError, RecursionError) as error:
        raise _damaged(home / MANIFEST) from error
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind not in kinds:
        raise InputError(f"run: {home} holds results of {kind}; {legal}")
    return SavedRun(home, _Manifest(manifest), digests)


def digests_in(directory: Path) -> dict[str, str]:
    """The digests of a run's files, by their names, as the run has recorded them.

    Raises:
      OSError, UnicodeDecodeError: they cannot be read.
      InputError: they are damaged.
    """
    digests = {}
    for line in (directory / DIGESTS).read_text(encoding="utf-8").splitlines():
        if not (match := re.fullmatch(r"([0-9a-f]{64})  (.+)", line)):
            raise _damaged(directory / DIGESTS)
        digests[match[2]] = match[1]
    return digests


class _Manifest(dict[str, Any]):
    """A manifest that reports a missing key as an InputError; another version may have written it."""

    def __missing__(self, key: str) -> Any:
        raise InputError(f"run: {MANIFEST} has no {key!r}; legal: results of this version")


def read_rows(content: bytes) -> pa.Table:
    """The rows in the content of a Parquet file.

    They are read without Arrow's threads: one that is still alive when the interpreter exits sometimes aborts
    the process (apache/arrow#34314), so a finished command would report a failure. `pq.read_table` starts
    some even if it is told not to use them.
    """
    return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)


def read_table(directory: Path) -> pd.DataFrame:
    """The rows of a directory of Parquet files, in the order of their names; see `read_rows`."""
    parts = sorted(path for path in directory.iterdir() if not is_hidden(PurePath(path.name)))
    return _joined(read_rows(path.read_bytes()) for path in parts).to_pandas(use_threads=False)


def _joined(parts: Iterable[pa.Table]) -> pa.Table:
    """One table of several, where a column may hold whole numbers in some of them and others elsewhere."""
    return pa.concat_tables(list(parts), promote_options="permissive")


def write_digests(directory: Path, beside: Iterable[Path] = ()) -> None:
    """Write the digests of all files in a directory, in the format of `sha256sum -c`.

    Args:
      beside: other directories, which will be moved into this one and are therefore included.
    """
    with (directory / DIGESTS).open("w", encoding="utf-8") as file:
        file.write(_digests(directory, directory) + "".join(_digests(d, d.parent) for d in beside))
        file.flush()
        os.fsync(file.fileno())


def is_intact(directory: Path) -> bool:
    """Whether the files of a directory match the digests that were written."""
    try:
        return (directory / DIGESTS).read_text(encoding="utf-8") == _digests(directory, directory)
    except (OSError, UnicodeDecodeError):
        return False


def _digests(directory: Path, root: Path) -> str:
    lines = []
    for path in sorted(directory.rglob("*")):
        # A hidden file is the draft of another process, which may be at work or have been killed.
        if path.is_file() and path.name != DIGESTS and not is_hidden(path.relative_to(directory)):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(root).as_posix()}\n")
    return "".join(lines)


def _checked(home: Path, name: str, digests: dict[str, str]) -> bytes:
    path = home / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"run: {path} cannot be read: {error.strerror}; legal: intact results") from error
    if hashlib.sha256(content).hexdigest() != digests.get(name):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> InputError:
    return InputError(f"run: {path} has changed since it was written; legal: intact results, or a new run")
