"""Train the agents of a chunk of blocks, several episodes per call, on all local devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.agents.learner import EpisodeLearner
from amco_jax.agents.methods import Method
from amco_jax.compile.fallback import first_that_compiles
from amco_jax.compile.unroll import unroll
from amco_jax.compile.wide import on_host
from amco_jax.errors import InputError, check_whole
from amco_jax.identity import program_cache
from amco_jax.kernel.slot import ways_to_scalarise
from amco_jax.kernel.training import Curve, Hyper, start_training, train_episode
from amco_jax.metrics import KEYS, Metrics, columns, columns_of, row_names
from amco_jax.params import Shape
from amco_jax.results.checkpoints import Journal, Saved
from amco_jax.study.blocks import Block, host_blocks, inputs_of, over_blocks, stack_blocks
from amco_jax.study.grid import Cell

EPISODES_PER_CALL = 25
"""Maximum number of episodes per call"""

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints, s"""

TRAINING_BYTES = {"cpu": 2**31, "accelerator": 2**34}
"""Bytes for the agents that are trained in parallel"""


_ACCELERATOR_SEEDS = 4096
"""Number of seeds that an accelerator trains in parallel"""

_COUNTERS = 2**31 - 1
"""Maximum of the counters of slots, tasks and learning steps of a whole training"""


def check_training(cell: Cell) -> list[str]:
    """Warnings that the agents of a training may learn little or nothing, one sentence each.

    Raises:
      InputError: nothing can be learnt at all, or the training is too long for its counters.
    """
    cell.scenario.check_training()
    scenario, episodes, learner = cell.scenario, cell.train_episodes, cell.method.require_training()
    found = learner.check_training(scenario, episodes, cell.method.name)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        returned = f"{type(learner).__name__}.check_training returns {found!r:.80}"
        raise InputError(f"check_training: {returned}; legal: a list of sentences")
    each = max(scenario.num_positions, learner.max_rounds)
    if episodes * scenario.num_slots * each > _COUNTERS:
        raise InputError(
            f"episodes: {episodes} of {scenario.num_slots} slots with up to {each} tasks or learning steps; "
            f"legal for training: at most {_COUNTERS // (each * scenario.num_slots)} such episodes"
        )
    return found


def logs_of(methods: Iterable[Method]) -> list[str]:
    """The names of the values that the learners of some methods log, without duplicates."""
    return list(dict.fromkeys(name for m in methods if m.training is not None for name in m.training.logs))


def settings_of(methods: Iterable[Method]) -> dict[str, dict[str, Any]]:
    """The settings of the learners of some methods as plain data, by the name of the method."""
    return {m.name: m.training.settings.to_dict() for m in methods if m.training is not None}


class Trainer:
    """The state of all agents of a chunk of blocks, and the program that trains them.

    The state stays on the devices. The agents do not depend on how a training is divided into calls of
    `advance`.
    """

    def __init__(self, shape: Shape, cells: Sequence[Cell], chunk: Sequence[Block], size: int):
        """Initialise the agents.

        Args:
          cells: compatible cells (`Cell.alike`), whose learners differ at most in traced settings.
          chunk: the blocks to train.
          size: the number of blocks including padding.
        """
        first = cells[0]
        self._lanes = first.method.require_training().seeds_per_block
        rows = memory_rows(cells, [block.cell for block in chunk])
        inputs = inputs_of([cell.trained_scenario for cell in cells], (block.cell for block in chunk), shape)
        traced = {cell: (own, hyper_of(cells[cell])) for cell, own in inputs.cells.items()}
        self.episode = 0
        self._metrics = first.trained_metrics
        self._slots = np.array([cells[block.cell].trained_scenario.counted_slots for block in chunk])
        self._columns = curve_names([first.method], first.trained_metrics, shape.num_servers)
        self._episodes, self._chunk = first.train_episodes, chunk
        self._programs = _programs(shape, first.method, rows, first.trained_metrics)
        self._physics, self._tables = first.row, inputs.tables
        (self._params, self._hyper), self._seeds = stack_blocks(chunk, size, self._lanes, traced)
        self.state = self._programs.start((self._params, self._hyper, self._seeds), None, None)

    def advance(self, episodes: int) -> Curve:
        """Train for at most `EPISODES_PER_CALL` episodes; return NumPy leaves `[blocks, lanes, episodes]`."""
        assert episodes <= EPISODES_PER_CALL
        self.state, curves = self._programs.advance(
            (self._params, self._hyper, self._seeds),
            (self._physics, np.int32(self.episode), np.int32(episodes), self._tables),
            self.state,
        )
        self.episode += episodes
        # The leaves are [blocks, EPISODES_PER_CALL, lanes, ...]; the first `episodes` entries are filled.
        return jax.tree.map(
            lambda x: np.stack(
                [b[:episodes].swapaxes(0, 1) for b, _ in zip(host_blocks(x), self._chunk, strict=False)]
            ),
            curves,
        )

    def run(
        self,
        tell: Callable[[int], None] = lambda episodes: None,
        name: str = "",
        journal: Journal | None = None,
    ) -> dict[str, np.ndarray]:
        """Train to the end, starting from the latest checkpoint if there is one.

        Args:
          tell: called with a number of episodes whenever each seed has done them.
          name: the name of the chunk in the journal.
          journal: the journal that stores the checkpoints.

        Returns:
          The columns in the order of `curve_names`, each `[blocks, lanes, episodes]` on the host.
        """
        curves = {name: np.zeros((len(self._chunk), self._lanes, 0)) for name in self._columns}
        if journal is not None and (saved := journal.load(name, (self.state, curves))) is not None:
            self.state, self.episode, curves = saved.state, saved.episode, saved.curves
            tell(self.episode)
        due = time.monotonic() + CHECKPOINT_SECONDS
        while self.episode < self._episodes:
            episodes = min(EPISODES_PER_CALL, self._episodes - self.episode)
            part = curve_columns(self._metrics, self.advance(episodes), self._slots)
            # By name, as a checkpoint returns the columns in another order.
            curves = {name: np.concatenate([curves[name], part[name]], axis=-1) for name in self._columns}
            tell(episodes)
            if journal is not None and time.monotonic() >= due and self.episode < self._episodes:
                journal.save(name, Saved(self.episode, self.state, curves))
                due = time.monotonic() + CHECKPOINT_SECONDS
        return curves

    def host_agents(self) -> Any:
        """The trained agents, for their policies, on the host: leaves `[blocks, lanes, num_servers, ...]`."""
        agents = self._programs.agents((self._params, self._hyper, self.state), None, None)
        return jax.tree.map(lambda x: np.asarray(x)[: len(self._chunk)], agents)


def curve_names(methods: Iterable[Method], metrics: Metrics, num_servers: int) -> tuple[str, ...]:
    """The names of the columns of training episodes.

    Raises:
      InputError: a learner logs a value under the name of another column.
    """
    names, logs = row_names(columns_of(metrics), num_servers), logs_of(methods)
    if taken := {*names, *KEYS} & {*logs}:
        raise InputError(f"logs: {', '.join(sorted(taken))}; legal: names that no other column has")
    return (*names, *logs)


def curve_columns(metrics: Metrics, curves: Curve, num_slots: int | np.ndarray) -> dict[str, np.ndarray]:
    """The columns `curve_names` of training episodes, float64; NaN in episodes without arrivals.

    Args:
      num_slots: as in `metrics.columns`.
    """
    curves = on_host(curves)
    found = columns(metrics, curves.totals, num_slots, {}) | curves.logs
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def hyper_of(cell: Cell) -> Hyper:
    """The traced form of a cell's settings, which compiled programs take."""
    return Hyper(cell.settings.traced(), np.int32(_rows_of(cell)))


def memory_rows(cells: Sequence[Cell], used: Sequence[int]) -> int:
    """The number of rows of memory that suffices for all of the used cells."""
    return max(_rows_of(cells[i]) for i in used)


def _rows_of(cell: Cell) -> int:
    learner = cell.method.require_training()
    return check_whole("memory_rows", learner.memory_rows(cell.scenario, cell.train_episodes))


def state_bytes(cells: Sequence[Cell], shape: Shape) -> int:
    """The size of the training state of one seed, in bytes, for the cells of a shape."""
    used = [i for i, c in enumerate(cells) if c.scenario.num_servers == shape.num_servers]
    rows, first = memory_rows(cells, used), hyper_of(cells[used[0]])
    state = jax.eval_shape(
        lambda seed: start_training(shape, cells[0].method, first, rows, seed),
        jax.ShapeDtypeStruct((), np.uint32),
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


class _Programs(NamedTuple):
    start: Any
    advance: Any
    agents: Any


def _user_code(shape: Shape, method: Method, rows: int, metrics: Metrics) -> tuple[Any, ...]:
    return shape.arrivals, method.policy, method.allocator, method.learner, metrics


@program_cache(32, _user_code)
def _programs(shape: Shape, method: Method, rows: int, metrics: Metrics) -> _Programs:
    learner = method.require_training().static()

    def start(blocked, _, __):
        _, hyper, seeds = blocked
        return jax.vmap(lambda seed: start_training(shape, method, hyper, rows, seed))(seeds)

    def advance(scalarise, blocked, shared, state):
        (params, place), hyper, seeds = blocked
        physics, first, episodes, tables = shared
        own = tables.of(place)

        def episode(i, carry):
            state, curves = carry

            def one(seed, of_seed):
                return train_episode(
                    shape, params, physics, method, hyper, seed, first + i, of_seed, own, metrics,
                    scalarise,
                )  # fmt: skip

            state, curve = jax.vmap(one)(seeds, state)
            return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), curves, curve)

        zero = Curve.zero(shape.num_servers, params.capacity.dtype, metrics, learner.logs)
        empty = jax.tree.map(lambda x: jnp.broadcast_to(x, (EPISODES_PER_CALL, *seeds.shape, *x.shape)), zero)
        return lax.fori_loop(0, episodes, episode, (state, empty))

    def agents(blocked, _, __):
        (params, _), hyper, state = blocked
        of_agent = partial(learner.deployed, hyper.settings, params)
        return jax.vmap(jax.vmap(of_agent))(state.learnt)

    # Learners of whole episodes choose for each of their own programs.
    ways = [unroll] if isinstance(learner, EpisodeLearner) else ways_to_scalarise(shape.num_servers)
    at_once = max(_ACCELERATOR_SEEDS // learner.seeds_per_block, 1)  # a user's learner may have larger blocks
    mapped = partial(over_blocks, accelerator_blocks=at_once)
    trained = first_that_compiles(
        f"the training of {method.name}", [mapped(partial(advance, way)) for way in ways]
    )
    return _Programs(mapped(start), trained, mapped(agents))
