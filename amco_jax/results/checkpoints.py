"""Orbax checkpoints: of unfinished trainings, and of the agents that they end with."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.errors import InputError
from amco_jax.results.files import draft_prefix, lock, remove_abandoned
from amco_jax.results.saved import is_intact, write_digests


class BusyError(InputError):
    """Another process has the journal."""


def save_tree(directory: Path, tree: Any) -> None:
    """Write the leaves of a pytree, as arrays of the host; the directory appears whole, with digests.

    Raises:
      OSError: the disk is full, or another fault of the file system.
    """
    import orbax.checkpoint as ocp  # takes a second to import, and rules need none

    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    remove_abandoned(directory.parent)
    # Orbax would tell of a full disk by pages of its threads' errors.
    if shutil.disk_usage(directory.parent).free < sum(leaf.nbytes for leaf in leaves.values()) + 2**17:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    draft = directory.parent / f"{draft_prefix()}{directory.name}"
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(draft.resolve(), args=ocp.args.PyTreeSave(leaves))
        write_digests(draft)
        draft.rename(directory)
    except ValueError as error:  # what is below Orbax tells so of errors of the file system
        raise OSError(errno.EIO, str(error), str(directory)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_tree(directory: Path, like: Any) -> Any:
    """What `save_tree` wrote, in the structure of `like`.

    Raises:
      InputError: no such checkpoint, a damaged one, or one of another structure.
    """
    import orbax.checkpoint as ocp

    if not directory.is_dir():
        raise InputError(f"checkpoint: {directory} does not exist; legal: a directory written by train")
    if not is_intact(directory):
        raise _damaged(directory)
    structure = jax.tree.structure(like)
    # Arrays are read by these names alone: those in the checkpoint may be paths to somewhere else.
    names = {str(i): 0 for i in range(structure.num_leaves)}
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            leaves = checkpointer.restore(directory.resolve(), args=ocp.args.PyTreeRestore(names))
    except Exception as error:  # Orbax and what is below it raise many kinds
        raise InputError(
            f"checkpoint: {directory} does not hold the {len(names)} arrays that are wanted; "
            "legal: a checkpoint of the same method and scenario"
        ) from error
    return jax.tree.unflatten(structure, [np.asarray(leaves[name]) for name in names])


def _damaged(path: Path) -> InputError:
    return InputError(
        f"checkpoint: {path} is damaged; legal: overwrite, or where a sweep goes on, resume with recompute"
    )


class Saved(NamedTuple):
    """A training of some chunk up to an episode."""

    episode: int
    state: Any
    curves: Any


class Journal:
    """The progress of trainings on disk: the newest checkpoint of each chunk of seeds.

    A context, which keeps other processes away from the journal. A chunk's name must tell everything that its
    state depends on.
    """

    def __init__(self, directory: Path):
        """Begin, or go on with what an interrupted run left.

        Raises:
          BusyError: another process is at it.
        """
        self._directory = directory
        self._lock = _locked(directory)

    def save(self, chunk: str, saved: Saved) -> None:
        """Keep the state of a chunk, in place of an earlier one."""
        home = self._directory / f"chunk-{chunk}"
        home.mkdir(exist_ok=True)
        save_tree(home / str(saved.episode), (saved.state, saved.curves))
        for old in _episodes(home):
            if old < saved.episode:
                shutil.rmtree(home / str(old))

    def load(self, chunk: str, like: Any) -> Saved | None:
        """The newest state of a chunk, or None; `like` has the structure of (state, curves).

        Raises:
          InputError: it is damaged.
        """
        home = self._directory / f"chunk-{chunk}"
        if not (episodes := _episodes(home)):
            return None
        newest = max(episodes)
        return Saved(newest, *load_tree(home / str(newest), like))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._lock)


@contextlib.contextmanager
def journal_of(directory: Path) -> Iterator[Journal | None]:
    """The journal in a directory; None where another process is at it, as that one keeps the checkpoints."""
    try:
        journal = Journal(directory)
    except BusyError:
        yield None
        return
    with journal:
        yield journal


def remove_journal(directory: Path) -> None:
    """Remove a journal, unless a process is at it."""
    _clean(directory, lambda: [directory])


def remove_damaged(directory: Path) -> None:
    """Remove the damaged checkpoints of a journal, unless a process is at it."""
    _clean(directory, lambda: [p for p in directory.glob("chunk-*/[0-9]*") if not is_intact(p)])


def _clean(directory: Path, unwanted: Callable[[], list[Path]]) -> None:
    if directory.exists():
        with contextlib.suppress(BusyError):
            handle = _locked(directory)
            for path in unwanted():
                shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _locked(directory: Path) -> int:
    """The directory, made if need be, opened and locked until it is closed or the process ends."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock(directory)
        except FileNotFoundError:  # another process has finished, and removed it meanwhile
            continue
        except BlockingIOError as error:
            raise BusyError(
                f"out: another process trains in {directory.parent}; legal: another directory, or to wait"
            ) from error
        if directory.exists() and os.path.samestat(os.fstat(handle), directory.stat()):
            return handle
        os.close(handle)  # likewise


def _episodes(home: Path) -> list[int]:
    """Of the checkpoints of a chunk; a number stands for a whole one."""
    return [int(d.name) for d in home.glob("*") if d.name.isdigit()] if home.is_dir() else []
