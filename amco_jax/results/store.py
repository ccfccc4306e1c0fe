"""The results of units of work on disk: committed once, as a whole, and verified whenever they are read.

A store is a directory next to the results, and the results themselves, a directory of Parquet files that
readers treat as one table:

    units/plan.json                           what is computed, by which code; written first
    units/<unit>.sha256                       the commit of a unit: the digest and the name of its rows
    results.parquet/<unit>-<digest>.parquet   the rows of a unit

Hidden files beside them are drafts of processes that are at work, here or elsewhere, or have been killed.

Units are named so that their rows are in the order of the study. A file gets its name by a hard link, which
fails if the name exists. If two processes compute the same unit, the first commit is kept, and the second
process compares its own rows with it.
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
from amco_jax.files import draft_prefix, remove_abandoned, replacing, sync
from amco_jax.results.checkpoints import remove_damaged, remove_journal
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
          directory: the directory of the plan, the commits and the checkpoints.
          rows: the directory of the rows.
        """
        self.directory, self.rows = directory, rows

    @property
    def begun(self) -> bool:
        """Whether the store has a plan."""
        return (self.directory / PLAN).exists()

    def planned(self, name: str) -> Any:
        """A value of the plan; None if there is no such value, or no intact plan."""
        path = self.directory / PLAN
        plan = _plan_in(path.read_bytes()) if path.is_file() else None
        return None if plan is None else plan.get(name)

    def begin(self, plan: Mapping[str, Any], recompute: bool = False, renewed: Collection[str] = ()) -> None:
        """Write the plan, or check that the existing one is the same.

        Args:
          recompute: rewrite the plan if it is damaged. This is safe because the names of units identify them.
          renewed: keys whose values may differ; the plan is then rewritten. The names of units must
            distinguish these values.

        Raises:
          InputError: the existing plan is damaged, or it differs; the message says in what.
        """
        for home in (self.directory, self.rows):
            home.mkdir(parents=True, exist_ok=True)
            remove_abandoned(home)
        for journal in self.directory.glob(f"*{_JOURNAL}"):  # left by a kill just after the commit
            if self.committed(journal.stem):
                self.drop_journal(journal.stem)
        path, wanted = self.directory / PLAN, _canonical(plan)
        _link(wanted, path)
        if (content := path.read_bytes()) == wanted:
            return
        if (found := _plan_in(content)) is None:
            if not recompute:
                raise _damaged(path, "it is not as it was written")
        elif other := _differences(found, json.loads(json.dumps(plan)), renewed):
            raise InputError(
                f"store: {path} was made for something else: {other}; legal: the same, or overwrite"
            )
        with replacing(path) as draft:
            draft.write_bytes(wanted)

    def committed(self, unit: str) -> bool:
        """Whether the unit's rows have been committed."""
        return (self.directory / (unit + _COMMIT)).exists()

    def commit(self, unit: str, frame: pd.DataFrame) -> str:
        """Write the rows of a unit, or check that the committed ones are the same.

        Returns:
          The digest of the rows.

        Raises:
          InputError: different rows have been committed for this unit.
        """
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)  # no threads, as in `read_rows`
        pq.write_table(table, sink)
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
          InputError: the rows are missing or damaged; the message names the file.
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

    def others(self, units: Collection[str]) -> set[str]:
        """The committed units that are none of these."""
        return {path.name.removesuffix(_COMMIT) for path in self.directory.glob(f"*{_COMMIT}")} - set(units)

    def tidy(self, units: Collection[str]) -> None:
        """Once these units are committed, remove what killed processes left of them and of all others."""
        kept = {self._rows(unit, self._digest(unit)).name for unit in units}
        for path in self.rows.glob("*.parquet"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        for journal in self.directory.glob(f"*{_JOURNAL}"):
            self.drop_journal(journal.stem)

    def discard(self, unit: str) -> None:
        """Remove the commit and the rows of a unit."""
        (self.directory / (unit + _COMMIT)).unlink(missing_ok=True)
        for path in self.rows.glob(f"{unit}-*.parquet"):
            path.unlink(missing_ok=True)

    def discard_damaged(self, unit: str) -> None:
        """Remove a unit if it is damaged, or the damaged checkpoints of an uncommitted one."""
        if not self.committed(unit):
            remove_damaged(self.journal(unit))
            return
        try:
            self.read(unit)
        except InputError:
            self.discard(unit)

    def journal(self, unit: str) -> Path:
        """The directory of an unfinished unit's checkpoints."""
        return self.directory / f"{unit}{_JOURNAL}"

    def drop_journal(self, unit: str) -> None:
        """Remove the checkpoints of a unit, unless another process is using them."""
        remove_journal(self.journal(unit))

    def log(self, event: str, unit: str) -> None:
        """Record who did what, for human readers; no code reads it."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with (self.directory / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{now} {socket.gethostname()} {os.getpid()} {event} {unit}\n")

    def remove(self) -> None:
        """Remove everything in the store."""
        for home in (self.directory, self.rows):
            shutil.rmtree(home, ignore_errors=True)

    def _digest(self, unit: str) -> str:
        path = self.directory / (unit + _COMMIT)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"store: {path} is missing; legal: resume") from error
        digest = content[:64].decode("ascii", "replace")
        # The file name in it is for human readers and sha256sum; the unit and the digest identify the rows.
        if content != self._commit(unit, digest) or not _is_digest(digest):
            raise _damaged(path, "it is not a commit of this unit")
        return digest

    def _rows(self, unit: str, digest: str) -> Path:
        return self.rows / f"{unit}-{digest[:16]}.parquet"

    def _commit(self, unit: str, digest: str) -> bytes:
        return f"{digest}  ../{self.rows.name}/{self._rows(unit, digest).name}\n".encode()


def _link(content: bytes, path: Path) -> None:
    """Write a file as a whole and durably, unless one of that name exists."""
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
        sync(path.parent)
    finally:
        Path(draft).unlink(missing_ok=True)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"store: {path} is damaged: {why}; legal: resume with recompute, or overwrite")


def _canonical(plan: Mapping[str, Any]) -> bytes:
    """The plan and its digest, which distinguishes another plan from a damaged one."""
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**plan, "sha256": digest}, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _plan_in(content: bytes) -> Any:
    """The plan that `_canonical` wrote, or None if the content is damaged."""
    try:
        found = json.loads(content)
        plan = {key: value for key, value in found.items() if key != "sha256"}
        return plan if _canonical(plan) == content else None
    except (ValueError, AttributeError, RecursionError):
        return None


def _differences(found: Any, wanted: Any, but: Collection[str] = (), name: str = "") -> str:
    """A short description of how two JSON values differ, but for some names; empty if they do not."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = {
            k: f"{name}.{k}" if name else k for k in {**found, **wanted} if found.get(k) != wanted.get(k)
        }
        return ", ".join(
            _differences(found.get(k), wanted.get(k), but, full)
            for k, full in names.items()
            if full not in but
        )
    return f"{name} = {json.dumps(found)[:60]}, not {json.dumps(wanted)[:60]}"
