"""Run one method on many scenarios and seeds, chunk by chunk, on all local devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.agents.methods import Method
from amco_jax.compile.fused import LANES as FUSED_LANES
from amco_jax.compile.fused import fuse, fusing
from amco_jax.compile.wide import on_host
from amco_jax.env import Physics
from amco_jax.identity import program_cache
from amco_jax.kernel import Progress, rollout
from amco_jax.metrics import EPISODE_METRICS, Metrics, columns
from amco_jax.metrics.over_slots import Series
from amco_jax.metrics.quantiles import Values, values_of
from amco_jax.params import Shape
from amco_jax.random import Stream, fold_in, stream
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import (
    ACCELERATOR_BLOCKS,
    Block,
    Inputs,
    blocks_of,
    chunks_of,
    host_blocks,
    inputs_of,
    over_blocks,
    padded_shapes,
    stack_blocks,
    within_memory,
)
from amco_jax.study.trainer import LANES as TRAINING_LANES
from amco_jax.workload import Segment, carried_by, workload_of

log = logging.getLogger(__name__)

LANES = FUSED_LANES
"""Seeds of a block. On CPUs too 128 are best: with fewer, LLVM finds some loops too short to be worth their
overlap checks; the working set of more does not stay in a core's first-level cache (benchmarks/README.md)."""

_MAX_FUSED_BLOCKS = 2**16

CHUNK_BYTES = {"cpu": 2**26, "accelerator": 2**30}
"""Memory for the values of tasks that a call computes, such as makespans, and for agents; those of two calls
are held at a time. On CPUs, small chunks come from memory that the process has used before, and fresh pages
would cost more than the simulation."""


@runtime_checkable
class AgentSource(Protocol):
    """The source of the agents of a trained method."""

    def bytes_per_lane(self, shape: Shape) -> int:
        """Bytes for the agents of one seed."""
        ...

    def agents(self, shape: Shape, chunk: Sequence[Block], size: int) -> Any:
        """What the policies of a chunk act by: leaves `[blocks, lanes, ...]`, padded like the chunk."""
        ...


@dataclasses.dataclass(frozen=True)
class Batch:
    """Results of consecutive seeds of one scenario."""

    index: int
    """The position of the scenario in the sequence that was simulated"""
    seeds: np.ndarray
    """`[episodes]`"""
    metrics: dict[str, np.ndarray]
    """What `metrics.columns` gives"""


def simulate(
    scenarios: Sequence[Scenario],
    method: Method,
    physics: Physics,
    first_seed: int,
    num_seeds: int,
    source: AgentSource | None = None,
    episode: int = 0,
    training: bool = False,
    metrics: Metrics = EPISODE_METRICS,
) -> Iterator[Batch]:
    """Yield the results of each scenario in turn, its seeds in order.

    Memory does not grow with the number of seeds or slots: chunks of seeds, and of long episodes segments of
    slots, keep to `CHUNK_BYTES`.

    Args:
      source: the agents of a trained method.
      episode: which of a seed's arrivals; training takes those from 1 on.
      training: whether they are those that agents train on, see `amco_jax.workload.workload_of`.
      metrics: what is measured.
    """
    lanes = LANES if source is None else TRAINING_LANES
    memory = CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    shapes = padded_shapes(scenarios)
    blocks = blocks_of(len(scenarios), first_seed, num_seeds, lanes)
    lists = tuple(metric for metric in metrics if metric.is_list)

    def slot_bytes(shape: Shape) -> int:
        # Of one number for each task at least, so that metrics without quantiles run in the same chunks.
        return 4 * shape.num_servers * shape.max_tasks * max(len(lists), 1)

    def lane_bytes(shape: Shape) -> int:
        values = slot_bytes(shape) * shape.num_slots
        return values + (0 if source is None else source.bytes_per_lane(shape))

    chunks = chunks_of(blocks, shapes, lanes, lane_bytes, memory)
    end = first_seed + num_seeds

    @functools.cache
    def inputs(shape: Shape) -> Inputs:
        return inputs_of(scenarios, (i for i, each in enumerate(shapes) if each == shape), shape)

    def launch(shape: Shape, chunk: Sequence[Block], size: int) -> Future[list[Batch]]:
        agents = None if source is None else source.agents(shape, chunk, size)
        cells, tables = inputs(shape)
        stacked, seeds = stack_blocks(chunk, size, lanes, cells)
        taken = [_Block(scenarios[each.cell], each, min(lanes, end - each.start), lists) for each in chunk]
        segments = segments_of(shape.num_slots, memory // (slot_bytes(shape) * seeds.size))
        state, taking = start_state(shape, seeds.shape, metrics), None
        for first, num_slots in segments:
            program = block_program(
                shape._replace(num_slots=num_slots), method, metrics, len(segments) == 1, training
            )
            shared = physics, np.int32(episode), tables, np.int32(first)
            state, values = jax.block_until_ready(program((stacked, seeds, agents), shared, state))
            # The host takes in one segment's values while the devices compute the next.
            if taking is not None:
                taking.result()
            taking = host.submit(_take, taken, values, len(segments) == 1)
        return host.submit(_collect, metrics, taken, state[0], shape.num_slots)

    with ThreadPoolExecutor(max_workers=1) as host:
        pending = None
        for _, collecting in within_memory(launch, chunks):
            # The host sorts one chunk's values while the devices compute the next chunk.
            if pending is not None:
                yield from pending.result()
            pending = collecting
        if pending is not None:
            yield from pending.result()


def segments_of(num_slots: int, most: int) -> list[tuple[int, int]]:
    """First slot and number of slots of each part of an episode, at most `most` slots long.

    They are equally long where that takes less than twice as many: another length is another program.
    """
    fewest = -(-num_slots // max(most, 1))
    parts = next((n for n in range(fewest, 2 * fewest) if num_slots % n == 0), fewest)
    length = -(-num_slots // parts)
    return [(first, min(length, num_slots - first)) for first in range(0, num_slots, length)]


def start_state(shape: Shape, lanes: tuple[int, ...], metrics: Metrics) -> Any:
    """The state of `block_program` at slot 0: leaves `[*lanes, ...]`, NumPy."""
    before = shape.arrivals.before(shape.num_servers)
    state = Progress.start(shape.num_servers, np.float32, metrics), before
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*lanes, *leaf.shape)), state)


@program_cache(
    64, lambda shape, method, metrics, *others: (shape.arrivals, method.policy, method.allocator, metrics)
)
def block_program(shape: Shape, method: Method, metrics: Metrics, whole: bool, training: bool) -> Any:
    """The jitted simulation of blocks of seeds, sharded over the local devices.

    Args:
      shape: `num_slots` slots are simulated.
      whole: these are all slots of the episode, and not a segment of it.

    Returns:
      A function of ((params, place), seeds, agents), leaves `[blocks, ...]`, where seeds and agents have a
      second axis over lanes, of (physics, episode, tables, first slot) and of the state, to (state, values
      of tasks): leaves `[blocks, lanes, ...]`, the tasks of an episode in one axis. The state is a `Progress`
      and what the arrivals carry, at first `start_state`.
    """
    scanned = _block_program(shape, method, metrics, whole, training, False)
    if not fusing():
        return scanned
    return _Fallback(_block_program(shape, method, metrics, whole, training, True), scanned, method.name)


class _Fallback:
    """One program as long as it can be built and run, then another: a jitted function to its callers."""

    def __init__(self, first: Any, second: Any, name: str):
        self._first, self._second, self._name = first, second, name

    def _use(self, attempt: Callable[[Any], Any]) -> Any:
        if self._first is not None:
            try:
                return attempt(self._first)
            except Exception as error:  # of an experimental compiler: of any kind
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                log.warning("%s is simulated by a scan, as it cannot be one kernel: %s", self._name, reason)
                self._first = None
        return attempt(self._second)

    def __call__(self, *inputs: Any) -> Any:
        return self._use(lambda program: jax.block_until_ready(program(*inputs)))

    def lower(self, *inputs: Any) -> Any:
        return self._use(lambda program: program.lower(*inputs))


def _block_program(
    shape: Shape, method: Method, metrics: Metrics, whole: bool, training: bool, fused: bool
) -> Any:
    process = shape.arrivals

    def block(blocked, shared, state):
        if fused and method.policy.sees_slot:
            raise NotImplementedError("it decides slot by slot")
        if fused and not shape.by_station:
            raise NotImplementedError(f"its tasks are served in another order: {shape.order}, {shape.timing}")
        if fused and not (process.fuses and (whole or process.fuses_segments)):
            raise NotImplementedError(f"its arrivals are {process.name}")
        (params, place), seeds, agents = blocked
        physics, number, tables, first = shared
        own = tables.of(place)

        def start(seed, carried):
            segment = None if whole else Segment(first, carried)
            workload = workload_of(shape, params, own, seed, number, segment, training=training)
            return workload, fold_in(stream(seed, Stream.POLICY), number)

        def episode(common, laned):
            (params, physics, first), ((workload, key), agent, progress) = common, laned
            out = rollout(
                shape, params, physics, method=method, workload=workload, key=key,
                metrics=metrics, agent=agent, first=first, start=progress,
            )  # fmt: skip
            return out.end, out.of_tasks | out.over_slots

        progress, carried = state
        common = params, physics, 0 if whole else first
        if fused:
            starts = jax.vmap(start)(seeds, carried)
            parts, kept = fuse(_in_scalars(episode))(common, (starts, agents, progress))
            end = jax.tree.map(
                lambda x, part: jnp.stack(part, axis=1) if x.ndim > 1 else part, progress, parts
            )
            after = jax.vmap(functools.partial(carried_by, shape))(starts[0])
        else:

            def alone(seed, carried, agent, progress):
                workload, key = start(seed, carried)
                end, kept = episode(common, ((workload, key), agent, progress))
                return end, kept, carried_by(shape, workload)

            end, kept, after = jax.vmap(alone)(seeds, carried, agents, progress)
        values = jax.tree.map(lambda x: x.reshape(x.shape[0], -1), kept)
        return (end, after), values

    # Blocks that do not fit on a GPU wait for their turn.
    return over_blocks(block, _MAX_FUSED_BLOCKS if fused else ACCELERATOR_BLOCKS)


def _in_scalars(episode: Callable[..., Any]) -> Callable[..., Any]:
    """The same with the end of the episode in scalars, which is all that a kernel returns."""

    def in_scalars(*args):
        end, kept = episode(*args)
        return jax.tree.map(lambda x: list(x) if x.ndim else x, end), kept

    return in_scalars


class _Block:
    """What the host keeps of a block until its episodes end."""

    def __init__(self, scenario: Scenario, block: Block, num_seeds: int, lists: Metrics):
        self.cell = block.cell
        self.seeds = np.arange(block.start, block.start + num_seeds)
        self.values: dict[str, Values | Series] = {
            metric.name: Series() if metric.is_over_slots else values_of(scenario.episode_positions)
            for metric in lists
        }

    def lists(self) -> dict[str, np.ndarray]:
        """What rows hold as lists, by the name of the metric."""
        return {
            name: values.values() if isinstance(values, Series) else values.quantiles()
            for name, values in self.values.items()
        }


def _take(blocks: Sequence[_Block], values: dict[str, jax.Array], whole: bool) -> None:
    """Take in the values of a segment's tasks, without those of lanes beyond the last seed."""
    # Block by block, without a copy of the whole: what is sorted stays in the processor's caches.
    for name, sharded in values.items():
        for block, of_lanes in zip(blocks, host_blocks(sharded), strict=False):
            of_seeds = of_lanes[: len(block.seeds)]
            block.values[name].add(of_seeds if whole else of_seeds.copy())


def _collect(metrics: Metrics, blocks: Sequence[_Block], progress: Progress, num_slots: int) -> list[Batch]:
    """Metrics of a chunk, one batch per scenario."""
    leaves, structure = jax.tree.flatten(progress)
    ends = (jax.tree.unflatten(structure, each) for each in zip(*map(host_blocks, leaves), strict=False))
    batches = []
    for cell, group in itertools.groupby(zip(blocks, ends, strict=False), key=lambda pair: pair[0].cell):
        seeds, rows = [], []
        for block, end in group:
            totals = {name: total[: len(block.seeds)] for name, total in on_host(end.totals).items()}
            seeds.append(block.seeds)
            rows.append(columns(metrics, totals, num_slots, block.lists()))
        of_cell = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
        batches.append(Batch(cell, np.concatenate(seeds), of_cell))
    return batches
