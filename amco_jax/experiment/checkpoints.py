"""Orbax checkpoints: of unfinished trainings, and of the agents that they end with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.errors import InputError


def save_tree(directory: Path, tree: Any) -> None:
    """Write the leaves of a pytree, as arrays of the host."""
    import orbax.checkpoint as ocp  # takes a second to import, and rules need none

    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    leaves[_DIGEST] = _digest(leaves)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.resolve(), leaves)


def load_tree(directory: Path, like: Any) -> Any:
    """What `save_tree` wrote, in the structure of `like`.

    Raises:
      InputError: no such checkpoint, a damaged one, or one of another structure.
    """
    import orbax.checkpoint as ocp

    if not directory.is_dir():
        raise InputError(f"checkpoint: {directory} does not exist; legal: a directory written by train")
    damaged = f"checkpoint: {directory} is damaged; legal: recompute, or overwrite"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            leaves = checkpointer.restore(directory.resolve())
    except Exception as error:  # Orbax and what is below it raise many kinds
        raise InputError(damaged) from error
    if not np.array_equal(leaves.pop(_DIGEST, None), _digest(leaves)):
        raise InputError(damaged)
    structure = jax.tree.structure(like)
    if len(leaves) != structure.num_leaves:
        raise InputError(f"checkpoint: {directory} has {len(leaves)} arrays, not {structure.num_leaves}")
    return jax.tree.unflatten(structure, [np.asarray(leaves[str(i)]) for i in range(len(leaves))])


_DIGEST = "digest"


def _digest(leaves: Mapping[str, Any]) -> np.ndarray:
    """Of all arrays, since a checkpoint's own check sums do not cover every byte of it."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        leaf = np.ascontiguousarray(leaves[name])
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode() + leaf.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


class Saved(NamedTuple):
    """A training of some chunk up to an episode."""

    episode: int
    state: Any
    curves: Any


class Journal:
    """The progress of a training on disk: the newest checkpoint of each chunk of seeds."""

    def __init__(self, directory: Path, job: dict[str, Any], resume: bool):
        """Begin, or go on where an interrupted run of the same job stopped.

        Raises:
          InputError: the directory holds an unfinished training and `resume` is not set, or another one.
        """
        self._directory = directory
        plan = directory / "job.json"
        if plan.exists():
            if not resume:
                raise InputError(
                    f"out: {directory.parent} holds an unfinished training; legal: resume, overwrite"
                )
            found = json.loads(plan.read_text(encoding="utf-8"))
            wanted = json.loads(json.dumps(job))
            if other := [key for key in wanted if found.get(key) != wanted[key]]:
                raise InputError(
                    f"resume: {', '.join(other)} differ from the unfinished training in {directory.parent}; "
                    f"legal: {', '.join(f'{key} = {found.get(key)}' for key in other)}"
                )
            return
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / "job.json.draft"
        draft.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
        draft.replace(plan)

    def save(self, chunk: int | str, saved: Saved) -> None:
        """Keep the state of a chunk, in place of an earlier one."""
        home = self._directory / f"chunk-{chunk}"
        home.mkdir(exist_ok=True)
        save_tree(home / str(saved.episode), (saved.state, saved.curves))
        for old in self._episodes(chunk):
            if old < saved.episode:
                shutil.rmtree(home / str(old))

    def load(self, chunk: int | str, like: Any) -> Saved | None:
        """The newest state of a chunk, or None; `like` has the structure of (state, curves)."""
        episodes = self._episodes(chunk)
        if not episodes:
            return None
        newest = max(episodes)
        return Saved(newest, *load_tree(self._directory / f"chunk-{chunk}" / str(newest), like))

    def _episodes(self, chunk: int | str) -> list[int]:
        home = self._directory / f"chunk-{chunk}"
        # Orbax writes under another name and renames, so that a number stands for a whole checkpoint.
        return [int(d.name) for d in home.glob("*") if d.name.isdigit()] if home.is_dir() else []

    def remove(self) -> None:
        """Forget everything, once the results stand."""
        shutil.rmtree(self._directory, ignore_errors=True)
