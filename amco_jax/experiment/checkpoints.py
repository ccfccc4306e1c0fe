"""Orbax checkpoints: of unfinished trainings, and of the agents that they end with."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.errors import InputError
from amco_jax.files import draft_prefix, lock, remove_abandoned
from amco_jax.saved import is_intact, write_digests

_PLAN = "job.json"


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
    """The progress of a training on disk: the newest checkpoint of each chunk of seeds.

    A context, which keeps other processes away from the journal.
    """

    def __init__(self, directory: Path, job: dict[str, Any], resume: bool):
        """Begin, or go on where an interrupted run of the same job stopped.

        Raises:
          InputError: the directory holds an unfinished training and `resume` is not set, or another or a
            damaged one.
          BusyError: another process is at it.
        """
        self._directory = directory
        self._lock = _locked(directory)
        try:
            self._begin(job, resume)
        except BaseException:
            os.close(self._lock)
            raise

    def _begin(self, job: dict[str, Any], resume: bool) -> None:
        plan, home = self._directory / _PLAN, self._directory.parent
        if not plan.exists():
            draft = self._directory / f"{draft_prefix()}{_PLAN}"
            draft.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
            draft.replace(plan)
            return
        if not resume:
            raise InputError(f"out: {home} holds an unfinished training; legal: resume, overwrite")
        found, wanted = _read_plan(plan), json.loads(json.dumps(job))
        if other := [key for key in wanted if found.get(key) != wanted[key]]:
            raise InputError(
                f"resume: {', '.join(other)} differ from the unfinished training in {home}; "
                f"legal: {', '.join(f'{key} = {found.get(key)}' for key in other)}"
            )

    def save(self, chunk: str, saved: Saved) -> None:
        """Keep the state of a chunk, in place of an earlier one."""
        home = self._directory / f"chunk-{chunk}"
        home.mkdir(exist_ok=True)
        save_tree(home / str(saved.episode), (saved.state, saved.curves))
        for old in _episodes(home):
            if old < saved.episode:
                shutil.rmtree(home / str(old))

    def load(self, chunk: str, like: Any) -> Saved | None:
        """The newest state of a chunk, or None; `like` has the structure of (state, curves)."""
        home = self._directory / f"chunk-{chunk}"
        if not (episodes := _episodes(home)):
            return None
        newest = max(episodes)
        return Saved(newest, *load_tree(home / str(newest), like))

    def remove(self) -> None:
        """Forget everything, once the results stand."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._lock)


def remove_journal(directory: Path) -> None:
    """Remove a journal, unless a process is at it."""
    if directory.exists():
        with contextlib.suppress(BusyError):
            handle = _locked(directory)
            shutil.rmtree(directory, ignore_errors=True)
            os.close(handle)


def remove_damaged(directory: Path) -> None:
    """Remove the damaged checkpoints of a journal, or all where its plan is, unless a process is at it."""
    if directory.exists():
        with contextlib.suppress(BusyError):
            handle = _locked(directory)
            damaged = [path for path in directory.glob("chunk-*/[0-9]*") if not is_intact(path)]
            try:
                _read_plan(directory / _PLAN)
            except InputError:
                damaged = [directory]
            for path in damaged:
                shutil.rmtree(path)
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


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _episodes(home: Path) -> list[int]:
    """Of the checkpoints of a chunk; a number stands for a whole one."""
    return [int(d.name) for d in home.glob("*") if d.name.isdigit()] if home.is_dir() else []
