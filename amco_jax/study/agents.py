"""Trained agents on disk, in blocks of seeds, so that no training is done twice.

The name of a block is a digest of everything that its agents depend on. Studies that need the same agents
therefore find them in a shared directory, and an interrupted training resumes with the missing blocks.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.agents.methods import Method
from amco_jax.errors import InputError
from amco_jax.files import adding
from amco_jax.identity import program_cache
from amco_jax.params import Shape
from amco_jax.random import Stream, stream
from amco_jax.results.checkpoints import journal_of, load_tree, save_tree
from amco_jax.results.saved import is_intact
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import Block, blocks_of, padded, padded_shapes
from amco_jax.study.chunks import chunks_of, within_memory
from amco_jax.study.grid import Cell, TrainedAgents, digest_of
from amco_jax.study.trainer import TRAINING_BYTES, Trainer, state_bytes


class Trained(NamedTuple):
    """The outcome of a training for one block of seeds."""

    agents: Any
    """The agents, as returned by `Learner.deployed`, with leaves `[lanes, num_servers, ...]`"""
    curves: np.ndarray
    """The learning curves, `[lanes, train_episodes, columns]`, with the columns `trainer.curve_names`"""


class AgentStore:
    """A directory of trained blocks, which are written atomically, with digests, and never changed."""

    def __init__(self, directory: Path):
        """Open the store in `directory`, which need not exist yet."""
        self.directory = directory

    def has(self, name: str) -> bool:
        """Whether the store contains the block."""
        return (self.directory / name).is_dir()

    def load(self, name: str, method: Method, num_servers: int) -> Trained:
        """Load a block.

        Raises:
          InputError: the block is missing or damaged, or contains something else, or another number of seeds.
        """
        agent = _agent_like(method, num_servers)
        found = load_tree(self.directory / name, Trained(agent, np.zeros(())))
        lanes, legal = len(found.curves), method.require_training().seeds_per_block
        if lanes != legal:
            raise InputError(
                f"agents: {self.directory / name} holds {lanes} seeds; legal: {legal}, the seeds_per_block "
                f"of the learner of {method.name}"
            )
        wanted = [(lanes, *leaf.shape) for leaf in jax.tree.leaves(agent)]
        held = [(len(leaf), *leaf.shape[2:]) for leaf in jax.tree.leaves(found.agents)]
        if held != wanted:
            raise InputError(
                f"agents: {self.directory / name} holds arrays of other shapes; legal: those of "
                f"{method.name} with {num_servers} servers"
            )
        return found

    def load_all(self, names: Sequence[str], method: Method, num_servers: int) -> Trained:
        """Load consecutive blocks and concatenate them: leaves `[seeds, ...]`."""
        blocks = [self.load(name, method, num_servers) for name in names]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)

    def commit(self, name: str, trained: Trained) -> None:
        """Store a block, unless another process already has."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.has(name):
            save_tree(self.directory / name, trained)

    def discard_damaged(self, cells: Sequence[Cell]) -> None:
        """Remove damaged blocks with agents of these cells, so that they are trained again."""
        for cell in cells:
            for name in training_names(cell) if cell.train_episodes else ():
                if self.has(name) and not is_intact(self.directory / name):
                    shutil.rmtree(self.directory / name)

    def copy_from(self, other: AgentStore, names: Sequence[str]) -> None:
        """Copy blocks from another store, unless another process already has."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not self.has(name):
                with adding(self.directory / name) as draft:
                    shutil.copytree(other.directory / name, draft)


@program_cache(64, lambda method, num_servers: method.learner)
def _agent_like(method: Method, num_servers: int) -> Any:
    """The structure of `Learner.deployed` for one agent; of a scenario, only the fleet size affects it."""
    learner, scenario = method.require_training(), Scenario(num_servers=num_servers)

    def deployed() -> Any:
        settings, key = learner.settings.traced(), stream(jnp.uint32(0), Stream.INIT)
        learnt, _ = learner.static().init(settings, scenario.shape(), 1, key)
        return learner.static().deployed(settings, scenario.params(), learnt)

    return jax.eval_shape(deployed)


def training_names(cell: Cell) -> list[str]:
    """The names of the blocks that contain the agents of a cell's seeds."""
    if cell.agents is not None:
        return list(cell.agents.names)
    return [cell.training_name(start) for start in _starts(cell)]


def _starts(cell: Cell) -> range:
    return range(cell.first_seed, cell.first_seed + cell.num_seeds, _lanes(cell))


def _lanes(cell: Cell) -> int:
    return cell.method.require_training().seeds_per_block


def train_missing(
    cells: Sequence[Cell],
    store: AgentStore,
    checkpoints: Path,
    tell: Callable[[int], None] = lambda episodes: None,
) -> None:
    """Train those agents of compatible cells (`Cell.alike`) that the store does not contain.

    Args:
      checkpoints: the directory of checkpoints from which an interrupted training resumes.
      tell: called with a number of episodes, over all seeds, whenever they are done.
    """
    first = cells[0]
    if first.agents is not None or first.train_episodes == 0:
        return
    lanes = _lanes(first)
    blocks = blocks_of(len(cells), first.first_seed, first.num_seeds, lanes)
    names = {block: cells[block.cell].training_name(block.start) for block in blocks}
    # Cells have the same agents if they differ only in how they are labelled.
    firsts = {name: block for block, name in reversed(names.items())}
    shapes = padded_shapes([cell.scenario for cell in cells])
    chunks = list(chunks_of(blocks, shapes, lanes, lambda shape: state_bytes(cells, shape), TRAINING_BYTES))
    end, missing = first.first_seed + first.num_seeds, []

    def num_seeds(blocks: Sequence[Block]) -> int:
        return sum(min(lanes, end - block.start) for block in blocks)

    for shape, chunk, size in chunks:
        left = [block for block in chunk if firsts[names[block]] == block and not store.has(names[block])]
        tell((num_seeds(chunk) - num_seeds(left)) * first.train_episodes)
        if left:
            missing.append((shape, left, size if len(left) == len(chunk) else len(left)))
    if not missing:
        return
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(journal_of(checkpoints))

        def launch(shape: Shape, chunk: Sequence[Block], size: int) -> list[Trained]:
            trainer = Trainer(shape, cells, chunk, size)
            name = digest_of([[names[block] for block in chunk], size, jax.local_device_count()])
            seeds = num_seeds(chunk)
            curves = trainer.run(lambda episodes: tell(episodes * seeds), name, journal)
            agents = trainer.host_agents()
            return [
                Trained(jax.tree.map(lambda leaf: leaf[i], agents), np.stack(each, axis=-1))  # noqa: B023
                for i, each in enumerate(zip(*curves.values(), strict=True))
            ]

        for chunk, trained in within_memory(launch, missing):
            for block, each in zip(chunk, trained, strict=True):
                store.commit(names[block], each)


class StoredAgents:
    """An `AgentSource` that reads the agents of cells from a store, and keeps them for further episodes."""

    def __init__(self, cells: Sequence[Cell], store: AgentStore):
        self._cells, self._store = cells, store
        self._loaded: dict[Block, Any] = {}
        self.seeds_per_block = _lanes(cells[0])

    def bytes_per_lane(self, shape: Shape) -> int:
        """The size of the agents of one seed, in bytes."""
        like = _agent_like(self._cells[0].method, shape.num_servers)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like)) * shape.num_servers

    def agents(self, shape: Shape, chunk: Sequence[Block], size: int) -> Any:
        """Leaves `[blocks, lanes, num_servers, ...]`, `padded` to `size`."""
        loaded = self._loaded
        blocks = [loaded[block] if block in loaded else self._load(block, shape) for block in chunk]
        if len(self._cells[0].plays) > 1:  # otherwise, memory does not grow with the number of seeds
            loaded |= dict(zip(chunk, blocks, strict=True))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *padded(blocks, size))

    def _load(self, block: Block, shape: Shape) -> Any:
        cell = self._cells[block.cell]
        if (given := cell.agents) is None:
            store, name = self._store, cell.training_name(block.start)
        else:
            store = AgentStore(given.directory)
            name = given.names[(block.start - given.first_seed) // self.seeds_per_block]
        return store.load(name, cell.method, shape.num_servers).agents


def trained_seeds(cell: Cell, store: AgentStore) -> Trained:
    """The agents and the learning curves of a cell: leaves `[num_seeds, ...]`."""
    blocks = store.load_all(training_names(cell), cell.method, cell.scenario.num_servers)
    return jax.tree.map(lambda leaf: leaf[: cell.num_seeds], blocks)


def agents_in(directory: Path, names: Any, first_seed: int) -> TrainedAgents:
    """The agents of a finished training.

    Raises:
      InputError: a name is not that of a block; the check also keeps paths within the directory.
    """
    if not isinstance(names, list) or not all(re.fullmatch("[0-9a-f]{16}", str(name)) for name in names):
        raise InputError("agents: the manifest names no trained agents; legal: results of this version")
    return TrainedAgents(directory, tuple(names), first_seed)
