"""The results of units of work on disk: committed whole, once, and never taken on trust.

A store is a directory beside the results, and the results themselves, which are a directory of Parquet files
that readers take for one table:

    units/plan.json                           what is computed, by which code; written first, never changed
    units/<unit>.sha256                       the commit of a unit: the digest and the name of its rows
    results.parquet/<unit>-<digest>.parquet   the rows of a unit

Units are named so that their rows are in the order of the study. A file appears under its name by a hard
link, which fails where the name is taken. So of two processes that compute the same unit the first one's
commit stands, and the second compares its own rows with it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from amco_jax.errors import InputError
from amco_jax.results.checkpoints import remove_damaged, remove_journal
from amco_jax.results.files import draft_prefix, remove_abandoned
from amco_jax.results.saved import read_rows

PLAN = "plan.json"
LOG = "log.txt"
_COMMIT = ".sha256"
_JOURNAL = ".checkpoints"


class Store:
    """Committed units in a directory."""

    def __init__(self, directory: Path, rows: Path):
        """Open a store; neither directory need exist yet.

        Args:
          directory: holds the plan, the commits and the checkpoints.
          rows: holds the rows.
        """
        self.directory, self.rows = directory, rows

    @property
    def begun(self) -> bool:
        """Whether a plan stands here."""
        return (self.directory / PLAN).exists()

    def begin(self, plan: Mapping[str, Any], recompute: bool = False) -> None:
        """Write the plan, or check that the one that stands here is the same.

        Args:
          recompute: write it anew where it is damaged. Units keep their names, so that no other unit is taken
            for one of this plan.

        Raises:
          InputError: the plan that stands here is another one, in what the message says, or damaged.
        """
        for home in (self.directory, self.rows):
            home.mkdir(parents=True, exist_ok=True)
            remove_abandoned(home)
        for journal in self.directory.glob(f"*{_JOURNAL}"):  # of a kill between a commit and this
            if self.committed(journal.stem):
                self.drop_journal(journal.stem)
        path, wanted = self.directory / PLAN, _canonical(plan)
        _link(wanted, self.directory / PLAN)
        if (content := path.read_bytes()) == wanted:
            return
        found = _plan_in(content)
        if found is not None:
            other = _differences(found, json.loads(json.dumps(plan)))
            raise InputError(
                f"store: {path} was made for something else: {other}; legal: the same, or overwrite"
            )
        if not recompute:
            raise _damaged(path, "it is not as it was written")
        path.unlink()
        _link(wanted, self.directory / PLAN)

    def committed(self, unit: str) -> bool:
        """Whether the unit's rows stand here."""
        return (self.directory / (unit + _COMMIT)).exists()

    def commit(self, unit: str, frame: pd.DataFrame) -> str:
        """Write the rows of a unit, or check that those that stand here are the same.

        Returns:
          The digest of the rows.

        Raises:
          InputError: other rows of the same unit stand here.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
        content = sink.getvalue().to_pybytes()
        digest = hashlib.sha256(content).hexdigest()
        path = self._rows(unit, digest)
        _link(content, path)
        _link(self._commit(unit, digest), self.directory / (unit + _COMMIT))
        if (found := self._digest(unit)) != digest:
            path.unlink()
            raise InputError(
                f"store: unit {unit} in {self.directory} was computed twice with different results "
                f"({found[:12]} and {digest[:12]}); legal: one kind of device and of code for all units"
            )
        return digest

    def read(self, unit: str) -> pd.DataFrame:
        """The committed rows of a unit.

        Raises:
          InputError: there are none, or they are damaged; the file is named.
        """
        digest = self._digest(unit)
        path = self._rows(unit, digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise _damaged(path, "it is missing") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise _damaged(path, "its content is not what was committed")
        return read_rows(content).to_pandas(use_threads=False)

    def tidy(self, units: Collection[str]) -> None:
        """Once all units are committed, remove rows that a killed process wrote and no commit names."""
        kept = {self._rows(unit, self._digest(unit)).name for unit in units}
        for path in self.rows.glob("*.parquet"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def discard(self, unit: str) -> None:
        """Remove a unit, for it to be computed again."""
        (self.directory / (unit + _COMMIT)).unlink(missing_ok=True)
        for path in self.rows.glob(f"{unit}-*.parquet"):
            path.unlink(missing_ok=True)

    def discard_damaged(self, unit: str) -> None:
        """Remove a unit that is damaged, and damaged checkpoints of one that is not committed."""
        if not self.committed(unit):
            remove_damaged(self.journal(unit))
            return
        try:
            self.read(unit)
        except InputError:
            self.discard(unit)

    def journal(self, unit: str) -> Path:
        """Where the checkpoints of an unfinished unit stand."""
        return self.directory / f"{unit}{_JOURNAL}"

    def drop_journal(self, unit: str) -> None:
        """Forget the checkpoints of a unit, unless a process goes on with them."""
        remove_journal(self.journal(unit))

    def log(self, event: str, unit: str) -> None:
        """Note who did what, for people; nothing depends on it."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with (self.directory / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{now} {socket.gethostname()} {os.getpid()} {event} {unit}\n")

    def remove(self) -> None:
        """Forget everything."""
        for home in (self.directory, self.rows):
            shutil.rmtree(home, ignore_errors=True)

    def _digest(self, unit: str) -> str:
        path = self.directory / (unit + _COMMIT)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"store: {path} is missing; legal: resume") from error
        digest = content[:64].decode("ascii", "replace")
        # The name in it is for people and for sha256sum; what is read is told by the unit and the digest.
        if content != self._commit(unit, digest) or not _is_digest(digest):
            raise _damaged(path, "it is no commit of this unit")
        return digest

    def _rows(self, unit: str, digest: str) -> Path:
        return self.rows / f"{unit}-{digest[:16]}.parquet"

    def _commit(self, unit: str, digest: str) -> bytes:
        return f"{digest}  ../{self.rows.name}/{self._rows(unit, digest).name}\n".encode()


def _link(content: bytes, path: Path) -> None:
    """Write a file whole and durably, unless one of that name stands there."""
    handle, draft = tempfile.mkstemp(prefix=draft_prefix(), dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(draft).unlink(missing_ok=True)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"store: {path} is damaged: {why}; legal: resume with recompute, or overwrite")


def _canonical(plan: Mapping[str, Any]) -> bytes:
    """The plan and its digest, which tells another plan from a damaged one."""
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**plan, "sha256": digest}, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _plan_in(content: bytes) -> Any:
    """What `_canonical` was given, or None."""
    try:
        found = json.loads(content)
        plan = {key: value for key, value in found.items() if key != "sha256"}
        return plan if _canonical(plan) == content else None
    except (ValueError, AttributeError, RecursionError):
        return None


def _differences(found: Any, wanted: Any, name: str = "") -> str:
    """Where two JSON values differ, in a few words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
        return ", ".join(
            _differences(found.get(k), wanted.get(k), f"{name}.{k}" if name else k) for k in keys
        )
    return f"{name} = {json.dumps(found)[:60]}, not {json.dumps(wanted)[:60]}"
