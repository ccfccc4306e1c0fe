"""Train one method on a chunk of blocks, some episodes at a time, on all local devices."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.agents.dqn import acting
from amco_jax.agents.methods import Method
from amco_jax.agents.replay import rows_for
from amco_jax.agents.settings import Hyperparameters, Settings
from amco_jax.env import Physics
from amco_jax.errors import InputError
from amco_jax.experiment.blocks import Block, host_blocks, inputs_of, over_blocks, stack_blocks
from amco_jax.experiment.checkpoints import Journal, Saved
from amco_jax.params import Shape
from amco_jax.scenario import Scenario
from amco_jax.training import Curve, start_training, train_episode

LANES = 32
"""Seeds of a block"""

SEGMENT = 25
"""Most episodes of one call"""

CHECKPOINT_SECONDS = 60.0
"""Between checkpoints of a training that is part of a longer run"""

TRAINING_BYTES = {"cpu": 2**31, "accelerator": 2**34}
"""Memory for the agents that train side by side."""


class Cell(NamedTuple):
    """What is trained: a method's settings in a scenario."""

    scenario: Scenario
    settings: Settings


_COUNTERS = 2**31 - 1
"""What the counters of slots, tasks and learning steps of a whole training can hold"""


def check_training(method: str, cell: Cell, episodes: int) -> list[str]:
    """Why the agents of a training may end as they began, one sentence each; mostly none.

    Args:
      method: its name, for the sentences.
      episodes: of the whole training.

    Raises:
      InputError: nothing can be learnt at all, or the training is too long for its counters.
    """
    scenario, settings = cell.scenario, cell.settings
    if scenario.num_slots < 2:
        raise InputError(
            f"num_slots: {scenario.num_slots}; legal for training {method}: at least 2, "
            "since the tasks of an episode's first slot are never stored"
        )
    slots = episodes * scenario.num_slots
    each = max(scenario.num_positions, settings.learn_repeats)
    if slots * each > _COUNTERS:
        raise InputError(
            f"episodes: {episodes} of {scenario.num_slots} slots with up to {each} tasks or learning steps; "
            f"legal for training: at most {_COUNTERS // (each * scenario.num_slots)} such episodes"
        )
    found = []
    due = slots // settings.learn_interval - min(settings.learn_after, slots) // settings.learn_interval
    if due == 0:
        found.append(
            f"{method} makes no learning step: its training has {slots} slots, learn_after is "
            f"{settings.learn_after} and learn_interval {settings.learn_interval}."
        )
    stored = scenario.count_moments[0] * (scenario.num_slots - 1) * episodes
    if stored < 1:
        found.append(
            f"{method} has hardly anything to learn from: over the whole training {stored:.2g} tasks "
            "are stored at a base station on average."
        )
    return found


class Trainer:
    """The state of all agents of a chunk of blocks, and the program that trains them.

    The state stays on the devices. Any way to cut a training into calls of `advance` gives the same agents.
    """

    def __init__(
        self,
        shape: Shape,
        method: Method,
        physics: Physics,
        cells: Sequence[Cell],
        chunk: Sequence[Block],
        size: int,
        episodes: int,
    ):
        """New agents.

        Args:
          cells: all of them; their settings agree in the widths and the batch size of the method.
          chunk: the blocks to train.
          size: padded number of blocks.
          episodes: of the whole training.
        """
        rows = replay_rows(cells, [block.cell for block in chunk], episodes)
        inputs = inputs_of([cell.scenario for cell in cells], (block.cell for block in chunk), shape)
        traced = {cell: (own, hyper(cells[cell])) for cell, own in inputs.cells.items()}
        self.episode = 0
        self._episodes, self._chunk = episodes, chunk
        # Another number of devices pads a chunk to another size; its checkpoints are of no use then.
        self._name = f"{chunk[0].cell}-{chunk[0].start}-{len(chunk)}-{size}-{jax.local_device_count()}"
        self._programs = _programs(shape, method, rows)
        self._physics, self._tables = physics, inputs.tables
        (self._params, self._hyper), self._seeds = stack_blocks(chunk, size, LANES, traced)
        self.state = self._programs.start((self._params, self._hyper, self._seeds), None, None)

    def advance(self, episodes: int) -> Curve:
        """Train for at most `SEGMENT` episodes more; leaves `[blocks, LANES, episodes]` on the host."""
        assert episodes <= SEGMENT
        self.state, curves = self._programs.advance(
            (self._params, self._hyper, self._seeds),
            (self._physics, np.int32(self.episode), np.int32(episodes), self._tables),
            self.state,
        )
        self.episode += episodes
        # Written slot by slot of the segment: [blocks, SEGMENT, LANES], of which the first are filled.
        return jax.tree.map(
            lambda x: np.stack([b[:episodes].T for b, _ in zip(host_blocks(x), self._chunk, strict=False)]),
            curves,
        )

    def run(
        self,
        tell: Callable[[int], None],
        journal: Journal | None = None,
        checkpoint_every: int | None = None,
    ) -> Curve:
        """Train to the end, from the newest checkpoint on where there is one.

        Args:
          tell: called with the number of episodes, over all seeds, each time that some are done.
          journal: keeps the checkpoints.
          checkpoint_every: episodes between them; by default they are `CHECKPOINT_SECONDS` apart.

        Returns:
          Leaves `[blocks, LANES, episodes]` on the host.
        """
        curves, lanes = _no_curves(len(self._chunk)), len(self._chunk) * LANES
        if journal is not None and (saved := journal.load(self._name, (self.state, curves))) is not None:
            self.state, self.episode, curves = saved.state, saved.episode, saved.curves
            tell(self.episode * lanes)
        every = self._episodes if checkpoint_every is None else checkpoint_every
        due = time.monotonic() + CHECKPOINT_SECONDS
        while self.episode < self._episodes:
            until = min(self._episodes, (self.episode // every + 1) * every)
            part = self.advance(min(SEGMENT, until - self.episode))
            curves = jax.tree.map(lambda old, new: np.concatenate([old, new], axis=-1), curves, part)
            tell(part.loss.shape[-1] * lanes)
            is_due = time.monotonic() >= due if checkpoint_every is None else self.episode == until
            if journal is not None and is_due:
                journal.save(self._name, Saved(self.episode, self.state, curves))
                due = time.monotonic() + CHECKPOINT_SECONDS
        return curves

    def agents(self) -> Any:
        """What the trained policies act by: leaves `[padded blocks, LANES, num_servers, ...]`."""
        return self._programs.agents((self._params, self._hyper, self.state), None, None)

    def host_agents(self) -> Any:
        """Those of the chunk's own blocks, on the host: leaves `[blocks, LANES, num_servers, ...]`."""
        return jax.tree.map(lambda x: np.asarray(x)[: len(self._chunk)], self.agents())


def _no_curves(num_blocks: int) -> Curve:
    """The curves of no episode yet."""
    return jax.tree.map(lambda one: np.zeros((num_blocks, LANES, 0), one.dtype), Curve.zero(np.float32))


def hyper(cell: Cell) -> Hyperparameters:
    """The traced part of a cell's settings."""
    return cell.settings.traced(rows_for(cell.settings.replay_capacity, cell.scenario))


def replay_rows(cells: Sequence[Cell], used: Sequence[int], episodes: int) -> int:
    """Rows of a replay that suit all of the cells, and no more than are ever written."""
    return max(
        min(rows_for(c.settings.replay_capacity, c.scenario), max(episodes * (c.scenario.num_slots - 1), 1))
        for c in (cells[i] for i in used)
    )


class _Programs(NamedTuple):
    start: Any
    advance: Any
    agents: Any


@functools.lru_cache(maxsize=32)
def _programs(shape: Shape, method: Method, rows: int) -> _Programs:
    def start(blocked, _, __):
        _, hyper, seeds = blocked
        return jax.vmap(lambda seed: start_training(shape, method, hyper, rows, seed))(seeds)

    def advance(blocked, shared, state):
        (params, place), hyper, seeds = blocked
        physics, first, episodes, tables = shared
        own = tables.of(place)

        def episode(i, carry):
            state, curves = carry

            def one(seed, of_seed):
                return train_episode(shape, params, physics, method, hyper, seed, first + i, of_seed, own)

            state, curve = jax.vmap(one)(seeds, state)
            return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), curves, curve)

        empty = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (SEGMENT, *seeds.shape)), Curve.zero(params.capacity.dtype)
        )
        return lax.fori_loop(0, episodes, episode, (state, empty))

    def agents(blocked, _, __):
        (params, _), hyper, state = blocked
        return jax.vmap(jax.vmap(lambda learner: acting(hyper, params, learner).weights))(state.learner)

    return _Programs(over_blocks(start), over_blocks(advance), over_blocks(agents))


def training_memory() -> int:
    """Bytes for agents, of this process's kind of device."""
    return TRAINING_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]


class OnTheSpot:
    """An `AgentSource` that trains the agents of each chunk when it is their turn."""

    def __init__(
        self,
        method: Method,
        physics: Physics,
        cells: Sequence[Cell],
        episodes: int,
        tell: Callable[[int], None] = lambda episodes: None,
        journal: Journal | None = None,
    ):
        """New source.

        Args:
          tell: called with the number of episodes, over all seeds, each time that some are done.
          journal: keeps checkpoints every `CHECKPOINT_SECONDS`, from which an interrupted run goes on.
        """
        self._tell, self._journal = tell, journal
        self._method, self._physics, self._cells, self._episodes = method, physics, cells, episodes

    @property
    def memory(self) -> int:
        return training_memory()

    def bytes_per_lane(self, shape: Shape) -> int:
        """Of the state of one seed's training."""
        used = [i for i, c in enumerate(self._cells) if c.scenario.num_servers == shape.num_servers]
        rows = replay_rows(self._cells, used, self._episodes)
        first = hyper(self._cells[used[0]])
        state = jax.eval_shape(
            lambda seed: start_training(shape, self._method, first, rows, seed),
            jax.ShapeDtypeStruct((), np.uint32),
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def agents(self, shape: Shape, chunk: Sequence[Block], size: int) -> Any:
        """Train a chunk to the end."""
        trainer = Trainer(shape, self._method, self._physics, self._cells, chunk, size, self._episodes)
        trainer.run(self._tell, self._journal)
        return trainer.agents()
