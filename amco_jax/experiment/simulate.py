"""Run one method on many scenarios and seeds, chunk by chunk, on all local devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.agents.methods import Method
from amco_jax.env import Physics
from amco_jax.experiment.blocks import (
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
from amco_jax.experiment.trainer import LANES as TRAINING_LANES
from amco_jax.fused import LANES as FUSED_LANES
from amco_jax.fused import fuse, fusing
from amco_jax.kernel import Record, rollout
from amco_jax.metrics import keep_makespan, summarise
from amco_jax.params import Shape
from amco_jax.random import Stream, fold_in, stream
from amco_jax.scenario import Scenario
from amco_jax.workload import workload_of

log = logging.getLogger(__name__)

LANES = FUSED_LANES
"""Seeds of a block. On CPUs too 128 are best: with fewer, LLVM finds some loops too short to be worth their
overlap checks; the working set of more does not stay in a core's first-level cache (benchmarks/README.md)."""

_MAX_FUSED_BLOCKS = 2**16

CHUNK_BYTES = {"cpu": 2**26, "accelerator": 2**30}
"""Memory for the makespans of a chunk; two chunks are held at a time. On CPUs, small chunks come from memory
that the process has used before, and fresh pages would cost more than the simulation."""


@runtime_checkable
class AgentSource(Protocol):
    """Where the agents of a trained method come from."""

    @property
    def memory(self) -> int:
        """Bytes for the agents of a chunk."""
        ...

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
    """Of the scenario in the sequence that was simulated"""
    seeds: np.ndarray
    """`[episodes]`"""
    metrics: dict[str, np.ndarray]
    """By name, each `[episodes]`"""


def simulate(
    scenarios: Sequence[Scenario],
    method: Method,
    physics: Physics,
    first_seed: int,
    num_seeds: int,
    source: AgentSource | None = None,
    episode: int = 0,
) -> Iterator[Batch]:
    """Yield the results of each scenario in turn, its seeds in order.

    Memory is bounded by `CHUNK_BYTES` however many seeds there are, and by the source's.

    Args:
      source: the agents of a trained method.
      episode: which of a seed's arrivals; training takes those from 1 on.
    """
    lanes = LANES if source is None else TRAINING_LANES
    shapes = padded_shapes(scenarios)
    blocks = blocks_of(len(scenarios), first_seed, num_seeds, lanes)
    if source is None:
        memory = CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
        chunks = chunks_of(blocks, shapes, lanes, _makespan_bytes, memory)
    else:
        chunks = chunks_of(blocks, shapes, lanes, source.bytes_per_lane, source.memory)
    end = first_seed + num_seeds

    @functools.cache
    def inputs(shape: Shape) -> Inputs:
        return inputs_of(scenarios, (i for i, each in enumerate(shapes) if each == shape), shape)

    def launch(shape: Shape, chunk: Sequence[Block], size: int) -> Any:
        agents = None if source is None else source.agents(shape, chunk, size)
        cells, tables = inputs(shape)
        stacked, seeds = stack_blocks(chunk, size, lanes, cells)
        program = block_program(shape, method, keep_makespan)
        shared = physics, np.int32(episode), tables
        return jax.block_until_ready(program((stacked, seeds, agents), shared, None))

    with ThreadPoolExecutor(max_workers=1) as host:
        pending = None
        for chunk, outputs in within_memory(launch, chunks):
            # The host sorts one chunk's makespans while the devices compute the next chunk.
            if pending is not None:
                yield from pending.result()
            pending = host.submit(_collect, chunk, outputs, lanes, end)
        if pending is not None:
            yield from pending.result()


def _makespan_bytes(shape: Shape) -> int:
    return 4 * shape.num_servers * shape.max_tasks * shape.num_slots


@functools.lru_cache(maxsize=64)
def block_program(shape: Shape, method: Method, record: Record) -> Any:
    """The jitted simulation of blocks of seeds, sharded over the local devices.

    Returns:
      A function of ((params, place), seeds, agents), leaves `[blocks, ...]`, where seeds and agents have a
      second axis over lanes, of (physics, episode, tables) and of None, to (totals, utilisation,
      records): leaves `[blocks, lanes, ...]`, the records of an episode in one axis.
    """
    scanned = _block_program(shape, method, record, False)
    return (
        _Fallback(_block_program(shape, method, record, True), scanned, method.name) if fusing() else scanned
    )


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


def _block_program(shape: Shape, method: Method, record: Record, fused: bool) -> Any:
    def block(blocked, shared, _):
        if fused and (shape.arrivals == "trace" or method.policy.sees_slot):
            raise NotImplementedError("it decides slot by slot, or replays a trace")
        (params, place), seeds, agents = blocked
        physics, number, tables = shared
        own = tables.of(place)

        def start(seed):
            workload = workload_of(shape, params, own, seed, number)
            return workload, fold_in(stream(seed, Stream.POLICY), number)

        def episode(common, laned):
            (params, physics), ((workload, key), agent) = common, laned
            out = rollout(
                shape, params, physics, method=method, workload=workload, key=key, record=record, agent=agent
            )
            return out.totals, list(out.utilisation), out.decisions

        common = params, physics
        if fused:
            totals, utilisation, kept = fuse(episode)(common, (jax.vmap(start)(seeds), agents))
        else:
            alone = jax.vmap(lambda seed, agent: episode(common, (start(seed), agent)))
            totals, utilisation, kept = alone(seeds, agents)
        records = jax.tree.map(lambda x: x.reshape(x.shape[0], -1), kept)
        return totals, jnp.stack(utilisation, axis=1), records

    # Blocks that do not fit on a GPU wait for their turn.
    return over_blocks(block, _MAX_FUSED_BLOCKS if fused else ACCELERATOR_BLOCKS)


def _collect(chunk: Sequence[Block], outputs: Any, lanes: int, end: int) -> list[Batch]:
    """Metrics of a chunk, one batch per scenario; lanes beyond the last seed are dropped."""
    leaves, structure = jax.tree.flatten(outputs)
    # Block by block, without a copy of the whole: what is sorted stays in the processor's caches.
    blocks = zip(chunk, *map(host_blocks, leaves), strict=False)
    batches = []
    for cell, group in itertools.groupby(blocks, key=lambda block: block[0].cell):
        seeds, metrics = [], []
        for block, *arrays in group:
            count = min(lanes, end - block.start)
            seeds.append(np.arange(block.start, block.start + count))
            metrics.append(summarise(*jax.tree.unflatten(structure, [x[:count] for x in arrays])))
        columns = {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}
        batches.append(Batch(cell, np.concatenate(seeds), columns))
    return batches
