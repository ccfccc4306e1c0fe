"""Run one method on many scenarios and seeds, chunk by chunk, on all local devices.

The unit of computation is a block of `LANES` seeds of one scenario, whatever the number of seeds, chunks
or devices. So a seed's result never depends on what runs beside it, scenarios of one shape share one
compilation, and a block's scenario stays in scalars while its seeds fill the vector lanes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from amco_jax.agents.methods import Method
from amco_jax.env import Physics
from amco_jax.kernel import Record, rollout
from amco_jax.metrics import keep_makespan, summarise
from amco_jax.random import Stream, stream
from amco_jax.scenario import Params, Scenario, Shape
from amco_jax.workload import bernoulli

LANES = 64
"""Seeds of a block: eight AVX2 vectors, whose working set stays in a core's first-level cache."""

ACCELERATOR_BLOCKS = 256
"""Blocks that run side by side on an accelerator; on a CPU core they run one after the other."""

CHUNK_BYTES = {"cpu": 2**26, "accelerator": 2**30}
"""Memory for the makespans of a chunk; two chunks are held at a time. On CPUs, small chunks come from memory
that the process has used before, and fresh pages would cost more than the simulation."""

_MAX_CHUNK_LANES = 2**16


class Block(NamedTuple):
    """The unit of computation: `LANES` consecutive seeds of one scenario."""

    scenario: int
    """Its place in the sequence that is simulated"""
    start: int
    """The first seed"""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Results of consecutive seeds of one scenario."""

    index: int
    """Of the scenario in the sequence that was simulated"""
    seeds: np.ndarray
    """`[episodes]`"""
    metrics: dict[str, np.ndarray]
    """By name, each `[episodes]`"""


def simulate(
    scenarios: Sequence[Scenario], method: Method, physics: Physics, first_seed: int, num_seeds: int
) -> Iterator[Batch]:
    """Yield the results of each scenario in turn, its seeds in order.

    Memory is bounded by `CHUNK_BYTES` however many seeds there are.
    """
    end = first_seed + num_seeds
    blocks = [Block(i, s) for i in range(len(scenarios)) for s in range(first_seed, end, LANES)]
    shapes = _padded_shapes(scenarios)
    with ThreadPoolExecutor(max_workers=1) as host:
        pending = None
        for shape, chunk, size in _chunks(blocks, shapes):
            outputs = _launch(shape, method, physics, scenarios, chunk, size)
            # The host sorts one chunk's makespans while the devices compute the next chunk.
            if pending is not None:
                yield from pending.result()
            pending = host.submit(_collect, chunk, outputs, end)
        if pending is not None:
            yield from pending.result()


def _padded_shapes(scenarios: Sequence[Scenario]) -> list[Shape]:
    """Shapes in which num_tasks is the largest among scenarios that agree otherwise."""
    most: dict[tuple[int, int], int] = {}
    for s in scenarios:
        key = (s.num_servers, s.num_slots)
        most[key] = max(most.get(key, 0), s.num_tasks)
    return [s.shape(most[s.num_servers, s.num_slots]) for s in scenarios]


def _chunks(blocks: Sequence[Block], shapes: Sequence[Shape]) -> Iterator[tuple[Shape, list[Block], int]]:
    """Consecutive blocks of one shape, in chunks of equal size that fit the memory for one."""
    for shape, group in itertools.groupby(blocks, key=lambda block: shapes[block.scenario]):
        positions = shape.num_servers * shape.max_tasks * shape.num_slots
        memory = CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
        most = max(min(memory // (4 * positions), _MAX_CHUNK_LANES) // LANES, 1)
        group = list(group)
        size = -(-len(group) // -(-len(group) // most))
        for start in range(0, len(group), size):
            yield shape, group[start : start + size], size


def _launch(
    shape: Shape,
    method: Method,
    physics: Physics,
    scenarios: Sequence[Scenario],
    chunk: Sequence[Block],
    size: int,
) -> Any:
    """Start a chunk on the devices, padded to the common size with copies of its last block."""
    num_devices = jax.local_device_count()
    size = -(-size // num_devices) * num_devices
    padded = [*chunk, *[chunk[-1]] * (size - len(chunk))]
    params = {block.scenario: scenarios[block.scenario].params() for block in chunk}
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(params[block.scenario] for block in padded))
    starts = np.asarray([block.start for block in padded], np.uint32)
    seeds = starts[:, None] + np.arange(LANES, dtype=np.uint32)
    return block_program(shape, method, keep_makespan)(stacked, seeds, physics)


@functools.lru_cache(maxsize=64)
def block_program(shape: Shape, method: Method, record: Record) -> Any:
    """The jitted simulation of blocks of seeds, sharded over the local devices.

    Returns:
      A function of params (leaves `[blocks, ...]`), seeds `[blocks, LANES]` and physics, where blocks is a
      multiple of the number of devices, to (totals, utilisation, records): leaves `[blocks, LANES, ...]`,
      the records of an episode in one axis.
    """

    def episode(params: Params, seed, physics: Physics):
        workload = bernoulli(params, shape.max_tasks, seed)
        out = rollout(shape, params, physics, method, workload, stream(seed, Stream.POLICY), record)
        return out.totals, out.utilisation, jax.tree.map(lambda x: x.reshape(-1), out.decisions)

    def device(params, seeds, physics):
        def block(block_params_and_seeds):
            block_params, block_seeds = block_params_and_seeds
            return jax.vmap(episode, in_axes=(None, 0, None))(block_params, block_seeds, physics)

        side_by_side = None if jax.default_backend() == "cpu" else ACCELERATOR_BLOCKS
        return lax.map(block, (params, seeds), batch_size=side_by_side)

    mesh, spec = Mesh(np.asarray(jax.local_devices()), ("blocks",)), PartitionSpec("blocks")
    sharded = jax.shard_map(
        device, mesh=mesh, in_specs=(spec, spec, PartitionSpec()), out_specs=spec, check_vma=False
    )
    split, whole = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    return jax.jit(sharded, in_shardings=(split, split, whole))


def _collect(chunk: Sequence[Block], outputs: Any, end: int) -> list[Batch]:
    """Metrics of a chunk, one batch per scenario; lanes beyond the last seed are dropped."""
    leaves, structure = jax.tree.flatten(outputs)
    # Block by block, without a copy of the whole: what is sorted stays in the processor's caches.
    blocks = zip(chunk, *map(_host_blocks, leaves), strict=False)
    batches = []
    for scenario, group in itertools.groupby(blocks, key=lambda block: block[0].scenario):
        seeds, metrics = [], []
        for block, *lanes in group:
            count = min(LANES, end - block.start)
            seeds.append(np.arange(block.start, block.start + count))
            metrics.append(summarise(*jax.tree.unflatten(structure, [x[:count] for x in lanes])))
        columns = {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}
        batches.append(Batch(scenario, np.concatenate(seeds), columns))
    return batches


def _host_blocks(sharded: jax.Array) -> Iterator[np.ndarray]:
    """The blocks of a sharded array in order."""
    for shard in sorted(sharded.addressable_shards, key=lambda s: s.index[0].start or 0):
        yield from np.asarray(shard.data)
