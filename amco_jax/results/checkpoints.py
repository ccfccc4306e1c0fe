"""Orbax checkpoints of unfinished training runs and of trained agents."""

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
from amco_jax.files import adding, lock
from amco_jax.results.saved import is_intact, write_digests


class BusyError(InputError):
    """Another process is using the journal."""


def save_tree(directory: Path, tree: Any) -> None:
    """Write the leaves of a pytree as host arrays; the directory appears only when complete, with digests.

    If another process has written it in the meantime, its directory is kept.

    Raises:
      OSError: the disk is full, or the file system reports another error.
    """
    import orbax.checkpoint as ocp  # takes a second to import, and rules need no checkpoints

    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    with adding(directory) as draft:
        # On a full disk, Orbax would print pages of errors from its threads.
        if shutil.disk_usage(directory.parent).free < sum(leaf.nbytes for leaf in leaves.values()) + 2**17:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(draft.resolve(), args=ocp.args.PyTreeSave(leaves))
        except ValueError as error:  # libraries below Orbax report file system errors this way
            raise OSError(errno.EIO, str(error), str(directory)) from error
        write_digests(draft)


def load_tree(directory: Path, like: Any) -> Any:
    """Read a pytree that `save_tree` wrote, in the structure of `like`.

    Raises:
      InputError: the checkpoint does not exist, is damaged or has another structure.
    """
    import orbax.checkpoint as ocp

    if not directory.is_dir():
        raise InputError(f"checkpoint: {directory} does not exist; legal: a directory written by train")
    if not is_intact(directory):
        raise _damaged(directory)
    structure = jax.tree.structure(like)
    # Arrays are read by these names only: names in the checkpoint could be paths to elsewhere.
    names = {str(i): 0 for i in range(structure.num_leaves)}
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            leaves = checkpointer.restore(directory.resolve(), args=ocp.args.PyTreeRestore(names))
    except Exception as error:  # Orbax and the libraries below it raise many kinds
        raise InputError(
            f"checkpoint: {directory} does not hold the {len(names)} arrays that are needed; "
            "legal: a checkpoint of the same method and scenario"
        ) from error
    return jax.tree.unflatten(structure, [np.asarray(leaves[name]) for name in names])


def _damaged(path: Path) -> InputError:
    return InputError(f"checkpoint: {path} is damaged; legal: overwrite, or resume with recompute")


class Saved(NamedTuple):
    """The state of a chunk's training after some episodes."""

    episode: int
    state: Any
    curves: Any


class Journal:
    """Training progress on disk: the newest checkpoint of each chunk of seeds.

    It is a context manager that locks the journal against other processes. The name of a chunk must identify
    everything that its state depends on.
    """

    def __init__(self, directory: Path):
        """Start a journal, or continue that of an interrupted run.

        Raises:
          BusyError: another process is using it.
        """
        self._directory = directory
        self._lock = _locked(directory)

    def save(self, chunk: str, saved: Saved) -> None:
        """Save the state of a chunk, replacing an earlier one."""
        home = self._directory / f"chunk-{chunk}"
        home.mkdir(exist_ok=True)
        save_tree(home / str(saved.episode), (saved.state, saved.curves))
        for old in _episodes(home):
            if old < saved.episode:
                shutil.rmtree(home / str(old))

    def load(self, chunk: str, like: Any) -> Saved | None:
        """The newest state of a chunk, or None; `like` has the structure of (state, curves).

        Raises:
          InputError: the checkpoint is damaged.
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
    """The journal in a directory, or None if another process is using it and saves the checkpoints."""
    try:
        journal = Journal(directory)
    except BusyError:
        yield None
        return
    with journal:
        yield journal


def remove_journal(directory: Path) -> None:
    """Remove a journal, unless another process is using it."""
    _clean(directory, lambda: [directory])


def remove_damaged(directory: Path) -> None:
    """Remove the damaged checkpoints of a journal, unless another process is using it."""
    _clean(directory, lambda: [p for p in directory.glob("chunk-*/[0-9]*") if not is_intact(p)])


def _clean(directory: Path, unwanted: Callable[[], list[Path]]) -> None:
    if directory.exists():
        with contextlib.suppress(BusyError):
            handle = _locked(directory)
            for path in unwanted():
                shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _locked(directory: Path) -> int:
    """The descriptor of a directory, created if need be and locked until it is closed or the process ends."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock(directory)
        except FileNotFoundError:  # another process has finished and removed it in the meantime
            continue
        except BlockingIOError as error:
            raise BusyError(
                f"out: another process is training in {directory.parent}; legal: another directory, or wait"
            ) from error
        if directory.exists() and os.path.samestat(os.fstat(handle), directory.stat()):
            return handle
        os.close(handle)  # it was removed in the meantime, as above


def _episodes(home: Path) -> list[int]:
    """The episodes of a chunk's checkpoints; only complete ones have a number as their name."""
    return [int(d.name) for d in home.glob("*") if d.name.isdigit()] if home.is_dir() else []
