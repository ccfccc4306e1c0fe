"""Chunks: blocks that one call computes, so few that memory does not grow with the number of seeds."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from amco_jax.params import Shape
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import Block, Inputs, blocks_of, inputs_of, padded_shapes, stack_blocks
from amco_jax.workload import Tables

log = logging.getLogger(__name__)

CHUNK_BYTES = {"cpu": 2**26, "accelerator": 2**30}
"""Bytes for the per-task values that a call computes, such as makespans, and for agents; the values of two
calls are held at a time. On CPUs, small chunks reuse memory that the process already has, as faulting in new
pages would cost more than the simulation."""

_MAX_LANES = 2**16


@runtime_checkable
class AgentSource(Protocol):
    """The source of the agents of a trained method."""

    @property
    def seeds_per_block(self) -> int:
        """The number of seeds per block."""
        ...

    def bytes_per_lane(self, shape: Shape) -> int:
        """The size of the agents of one seed, in bytes."""
        ...

    def agents(self, shape: Shape, chunk: Sequence[Block], size: int) -> Any:
        """The agents of a chunk, for its policies: leaves `[blocks, lanes, ...]`, padded like the chunk."""
        ...


class Chunk(NamedTuple):
    """Blocks of one shape, and their inputs, which `stack_blocks` pads."""

    shape: Shape
    members: list[tuple[int, np.ndarray]]
    """The index of the scenario and the seeds of each block, without padding"""
    blocked: tuple[Any, np.ndarray, Any]
    """((params, place in the tables), seeds, agents), with leaves `[blocks, ...]`; seeds and agents have a
    second axis over lanes, and the agents of rules are None"""
    tables: Tables
    """The tables of all scenarios of the shape"""

    @property
    def lanes(self) -> tuple[int, ...]:
        """The number of blocks, including those of padding, and the number of lanes of each."""
        return self.blocked[1].shape

    def by_scenario(self, results: Iterable[Any]) -> Iterator[tuple[int, np.ndarray, Any]]:
        """Join the results of the blocks of each scenario, and drop those of padding.

        Args:
          results: a pytree per block, with NumPy leaves `[lanes, ...]`.

        Returns:
          The index of the scenario, its seeds, and their results with leaves `[seeds, ...]`.
        """
        pairs = zip(self.members, results, strict=False)  # blocks of padding come last
        for index, group in itertools.groupby(pairs, key=lambda pair: pair[0][0]):
            parts = [(seeds, _first(len(seeds), result)) for (_, seeds), result in group]
            yield index, *jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _first(count: int, result: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[:count], result)


def over_chunks(
    compute: Callable[[Chunk], Any],
    scenarios: Sequence[Scenario],
    first_seed: int,
    num_seeds: int,
    seeds_per_block: int,
    bytes_per_lane: Callable[[Shape], int],
    source: AgentSource | None = None,
) -> Iterator[Any]:
    """Yield what `compute` returns for each chunk, with the scenarios in turn and their seeds in order.

    Args:
      seeds_per_block: the number of seeds per block, unless a source of agents has another one.
      bytes_per_lane: the size of what is computed for one seed.
    """
    shapes, end = padded_shapes(scenarios), first_seed + num_seeds
    seeds_per_block = seeds_per_block if source is None else source.seeds_per_block

    def lane_bytes(shape: Shape) -> int:
        return bytes_per_lane(shape) + (0 if source is None else source.bytes_per_lane(shape))

    @functools.cache
    def inputs(shape: Shape) -> Inputs:
        return inputs_of(scenarios, (i for i, each in enumerate(shapes) if each == shape), shape)

    def launch(shape: Shape, blocks: Sequence[Block], size: int) -> Any:
        cells, tables = inputs(shape)
        stacked, seeds = stack_blocks(blocks, size, seeds_per_block, cells)
        agents = None if source is None else source.agents(shape, blocks, size)
        members = [(cell, np.arange(start, min(start + seeds_per_block, end))) for cell, start in blocks]
        return compute(Chunk(shape, members, (stacked, seeds, agents), tables))

    blocks = blocks_of(len(scenarios), first_seed, num_seeds, seeds_per_block)
    chunks = chunks_of(blocks, shapes, seeds_per_block, lane_bytes, CHUNK_BYTES)
    return (found for _, found in within_memory(launch, chunks))


def for_this_device(values: Mapping[str, Any]) -> Any:
    """The value for this process's kind of device, `cpu` or `accelerator`."""
    return values["cpu" if jax.default_backend() == "cpu" else "accelerator"]


def chunks_of(
    blocks: Sequence[Block],
    shapes: Sequence[Shape],
    seeds_per_block: int,
    bytes_per_lane: Callable[[Shape], int],
    limits: Mapping[str, int],
) -> Iterator[tuple[Shape, list[Block], int]]:
    """Divide consecutive blocks of one shape into chunks that fit into the memory of `limits`.

    Args:
      shapes: the shape of each cell.
      limits: bytes by kind of device, see `for_this_device`.

    Returns:
      The shape, the blocks, and the common size of the chunks of that shape; the last chunk may be smaller.
    """
    memory = for_this_device(limits)
    for shape, members in itertools.groupby(blocks, key=lambda block: shapes[block.cell]):
        most = min(memory // bytes_per_lane(shape), _MAX_LANES) // seeds_per_block
        most = max(most, jax.local_device_count())  # chunks are padded to at least this size
        group = list(members)
        size = -(-len(group) // -(-len(group) // most))
        for start in range(0, len(group), size):
            yield shape, group[start : start + size], size


def within_memory(
    launch: Callable[[Shape, Sequence[Block], int], Any], chunks: Iterable[tuple[Shape, list[Block], int]]
) -> Iterator[tuple[Sequence[Block], Any]]:
    """Yield chunks with the results of `launch`; halve them whenever the device runs out of memory."""
    most = None
    for shape, blocks, size in chunks:
        todo = list(blocks)
        while todo:
            count = min(size, most or size)
            try:
                outputs = launch(shape, todo[:count], count)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or count == 1:
                    raise
                most = -(-count // 2)
                log.warning("out of device memory with %d blocks at a time; going on with %d", count, most)
                continue
            yield todo[:count], outputs
            todo = todo[count:]
