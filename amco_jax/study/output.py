"""The files of a run. They appear together at the end, so an interrupted run leaves no results behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from amco_jax.errors import InputError, first_line
from amco_jax.files import draft_prefix, lock, remove_abandoned
from amco_jax.report.style import save_figure
from amco_jax.results.saved import MANIFEST, digests_in, write_digests

AGENTS = "agents"
"""Subdirectory of the results: the trained agents, which later runs may need too"""

log = logging.getLogger(__name__)


class Output:
    """A context manager that collects the files of a run in a hidden directory inside their destination."""

    def __init__(self, directory: str | Path, overwrite: bool = False, shared: bool = False):
        """Check the destination now, so that a run does not fail at its end.

        Args:
          shared: whether other processes may work on the same run; if not, this one locks it until the end.

        Raises:
          InputError: the directory cannot be written, it holds results and `overwrite` is not set, or another
            process is using it.
        """
        self._final = Path(directory)
        self._lock: int | None = None
        try:
            self._final.mkdir(parents=True, exist_ok=True)
            if not shared:
                self._lock = lock(self._final)
            if not overwrite and (self._final / MANIFEST).exists():
                raise InputError(f"out: {self._final} holds results; legal: another directory, or overwrite")
            remove_abandoned(self._final)
            self._staging = Path(tempfile.mkdtemp(prefix=draft_prefix(), dir=self._final))
        except BlockingIOError as error:
            raise InputError(
                f"out: another process is writing to {self._final}; legal: another directory, or wait"
            ) from error
        except OSError as error:
            self._unlock()
            raise InputError(f"out: {self._final} cannot be written: {error.strerror or error}") from error
        except InputError:
            self._unlock()
            raise

    def path(self, name: str) -> Path:
        """The path at which to write a file or directory; it is moved to the destination at the end."""
        return self._staging / name

    def draw(self, name: str, figure: Callable[[], Any]) -> None:
        """Write a figure as NAME.png and NAME.pdf; if that fails, log a warning and leave it out."""
        try:
            save_figure(figure(), self.path(name))
        except Exception as error:  # no failed figure is worth losing the results
            for suffix in (".png", ".pdf"):
                self.path(name).with_suffix(suffix).unlink(missing_ok=True)
            reason = first_line(error)
            log.warning("%s could not be drawn and is left out of the results: %s", name, reason)

    def finish(self, manifest: dict[str, Any], standing: Sequence[str] = ()) -> None:
        """Write the manifest and the digests, and move all files to their destination.

        Args:
          standing: directories that are already at the destination and belong to the results.
        """
        text = json.dumps(manifest, indent=2, allow_nan=False)
        self.path(MANIFEST).write_text(text + "\n", encoding="utf-8")
        write_digests(self._staging, [self._final / name for name in standing])
        try:
            if self._lock is None:
                self._lock = lock(self._final, wait=True)  # shards may finish at the same time
            # A manifest vouches for all other files: an old one goes first, the new one comes last.
            (self._final / MANIFEST).unlink(missing_ok=True)
            self._remove_replaced({*os.listdir(self._staging), *standing, AGENTS})
            for name in sorted(os.listdir(self._staging), key=lambda n: n == MANIFEST):
                target = self._final / name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(self._staging / name, target)
        finally:
            self._unlock()

    def _remove_replaced(self, kept: Collection[str]) -> None:
        """Remove the files of an earlier run in the destination, other than those within `kept`."""
        try:
            old = digests_in(self._final)
        except (OSError, UnicodeDecodeError, InputError):  # there is none, or it cannot be told what it was
            return
        home = self._final.resolve()
        for path in (home / name for name in old if PurePosixPath(name).parts[0] not in kept):
            if path.parent.resolve().is_relative_to(home):  # as the list may come from anyone
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # if that was its last file

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        if not any(self._final.iterdir()):
            self._final.rmdir()
        self._unlock()
