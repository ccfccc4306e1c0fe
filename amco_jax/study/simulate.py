"""Simulate one method in many scenarios and with many seeds, chunk by chunk, on all local devices."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.agents.methods import Method
from amco_jax.compile.fallback import first_that_compiles
from amco_jax.compile.fused import LANES, fuse_under_vmap, fusing
from amco_jax.compile.unroll import unroll
from amco_jax.compile.wide import on_host
from amco_jax.env import Physics
from amco_jax.identity import program_cache
from amco_jax.kernel import Progress, rollout
from amco_jax.kernel.slot import Scalarise, ways_to_scalarise
from amco_jax.metrics import EPISODE_METRICS, Metrics, columns
from amco_jax.metrics.over_slots import Series
from amco_jax.metrics.quantiles import KeptOnDevice, Values, is_exact, values_of
from amco_jax.params import Shape
from amco_jax.random import Stream, fold_in, stream
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import ACCELERATOR_BLOCKS, host_blocks, over_blocks
from amco_jax.study.chunks import CHUNK_BYTES, AgentSource, Chunk, for_this_device, over_chunks
from amco_jax.workload import Segment, carried_by, workload_of

SEEDS_PER_BLOCK = LANES
"""Seeds per block. 128 is best on CPUs, too: with fewer, LLVM considers some loops too short for overlap
checks to pay off, and with more, the working set exceeds a core's L1 cache (benchmarks/README.md)."""


_STEP_POSITIONS = 200
"""The least number of task positions of a step, see `_steps_of`"""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Results of consecutive seeds of one scenario."""

    index: int
    """The index of the scenario in the simulated sequence"""
    seeds: np.ndarray
    """`[episodes]`"""
    metrics: dict[str, np.ndarray]
    """The columns that `metrics.columns` returns"""


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
    """Yield the results of each scenario in turn, with its seeds in order.

    Memory does not grow with the number of seeds or slots: chunks of seeds, and segments of the slots of long
    episodes, are limited to `CHUNK_BYTES`.

    Args:
      source: the agents of a trained method.
      episode: the number of the episode of each seed; training uses episodes from 1 on.
      training: whether to draw the arrivals that agents train on, see `amco_jax.workload.workload_of`.
      metrics: the metrics to compute.
    """
    lists = tuple(metric for metric in metrics if metric.is_list)
    play = player(method, physics, episode, metrics, training)

    def slot_bytes(shape: Shape) -> int:
        # At least one number per task, so that the chunks are the same for metrics without quantiles.
        return 4 * shape.num_servers * shape.max_tasks * max(len(lists), 1)

    def lane_bytes(shape: Shape) -> int:
        return slot_bytes(shape) * shape.num_slots

    def launch(chunk: Chunk) -> Future[list[Batch]]:
        taken = _Lists(scenarios, chunk, lists)
        most = for_this_device(CHUNK_BYTES) // (slot_bytes(chunk.shape) * math.prod(chunk.lanes))
        segments = segments_of(chunk.shape.num_slots, most)
        taking, ends = None, []
        for progress, values in play(chunk, segments):
            # The host processes the values of one segment while the devices compute the next.
            if taking is not None:
                taking.result()
            taking = host.submit(taken.take, values, len(segments) == 1)
            ends.append(progress)
        return host.submit(_collect, metrics, scenarios, chunk, taken, ends[-1])

    with ThreadPoolExecutor(max_workers=1) as host:
        pending = None
        for collecting in over_chunks(
            launch, scenarios, first_seed, num_seeds, SEEDS_PER_BLOCK, lane_bytes, source
        ):
            # The host sorts the values of one chunk while the devices compute the next.
            if pending is not None:
                yield from pending.result()
            pending = collecting
        if pending is not None:
            yield from pending.result()


def segments_of(num_slots: int, most: int) -> list[tuple[int, int]]:
    """The first slot and the number of slots of each segment of an episode, at most `most` slots long.

    Segments have the same length, as each length needs its own program, unless that takes at least twice as
    many of them.
    """
    fewest = -(-num_slots // max(most, 1))
    parts = next((n for n in range(fewest, 2 * fewest) if num_slots % n == 0), fewest)
    length = -(-num_slots // parts)
    return [(first, min(length, num_slots - first)) for first in range(0, num_slots, length)]


def player(
    method: Method, physics: Physics, episode: int, metrics: Metrics, training: bool = False
) -> Callable[[Chunk, Sequence[tuple[int, int]]], Iterator[tuple[Progress, dict[str, jax.Array]]]]:
    """A function that simulates the episodes of chunks, and that prepares each shape of chunk only once.

    Returns:
      A function of a chunk and of the first slot and the number of slots of each segment. It yields after
      each segment what `block_program` returns, on CPUs before it has been computed. A `Progress` is valid
      until the next one is asked for, whose computation reuses its memory.
    """

    on_cpu = jax.default_backend() == "cpu"

    @functools.cache
    def program(shape: Shape, whole: bool) -> Any:
        return block_program(shape, method, metrics, whole, training)

    @functools.cache
    def start(shape: Shape) -> Any:
        return start_state(shape, (), metrics, method)

    def play(chunk: Chunk, segments: Sequence[tuple[int, int]]) -> Iterator[Any]:
        whole = [*segments] == [(0, chunk.shape.num_slots)]
        state = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (*chunk.lanes, *leaf.shape)), start(chunk.shape)
        )
        for first, length in segments:
            shared = physics, np.int32(episode), chunk.tables, np.int32(first)
            of_segment = program(chunk.shape._replace(num_slots=length), whole)
            state, values = of_segment(chunk.blocked, shared, state)
            if not on_cpu:
                jax.block_until_ready(values)  # `within_memory` has to know if there was too little
            yield state[0], values

    return play


def start_state(shape: Shape, lanes: tuple[int, ...], metrics: Metrics, method: Method) -> Any:
    """The state of `block_program` at slot 0, as NumPy arrays: leaves `[*lanes, ...]`."""
    before = shape.arrivals.before(shape.num_servers)
    state = Progress.start(shape.num_servers, np.float32, metrics, method.policy.sees_load), before
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*lanes, *leaf.shape)), state)


@program_cache(
    64, lambda shape, method, metrics, *others: (shape.arrivals, method.policy, method.allocator, metrics)
)
def block_program(shape: Shape, method: Method, metrics: Metrics, whole: bool, training: bool) -> Any:
    """The jitted simulation of blocks of seeds, sharded over the local devices.

    Args:
      shape: the shape of the scenario, with `num_slots` as the number of slots to simulate.
      whole: whether these are all slots of the episode rather than a segment of it.

    Returns:
      A function `(blocked, shared, state) -> (state, values)`. `blocked` is ((params, place), seeds, agents)
      with leaves `[blocks, ...]`, where seeds and agents have a second axis over lanes; `shared` is (physics,
      episode, tables, first slot). The state is a `Progress` and the state of the arrivals, initially
      `start_state`, with leaves `[blocks, lanes, ...]`. The values are those of metrics that are lists,
      `[blocks, steps, lanes, ...]`, where the steps are consecutive parts of the episode; see `of_episodes`.
    """
    ways = [_Way(None, way, ACCELERATOR_BLOCKS) for way in ways_to_scalarise(shape.num_servers)]
    if fusing() and _is_one_kernel(shape, method, whole):
        ways.insert(0, _EPISODE)
    programs = [_block_program(shape, method, metrics, whole, training, way) for way in ways]
    return first_that_compiles(method.name, programs)


class _Way(NamedTuple):
    """How a program runs: what becomes scalar code, and how many blocks run in parallel on an accelerator."""

    episode: Scalarise | None
    slot: Scalarise
    blocks: int


# The GPU itself queues the blocks that it cannot run at the same time.
_EPISODE = _Way(fuse_under_vmap, unroll, 2**16)


def _is_one_kernel(shape: Shape, method: Method, whole: bool) -> bool:
    """Whether a whole episode may be one kernel: nothing is needed for a slot before it is served."""
    policy, process = method.policy, shape.arrivals
    decides_alone = not (policy.sees_slot or policy.sees_load or policy.by_position)
    return decides_alone and shape.by_station and process.fuses and (whole or process.fuses_segments)


def _block_program(
    shape: Shape, method: Method, metrics: Metrics, whole: bool, training: bool, way: _Way
) -> Any:
    steps = _steps_of(shape, metrics)
    whole = whole and steps == 1
    part = shape._replace(num_slots=shape.num_slots // steps)

    def block(blocked, shared, state, step):
        (params, place), seeds, agents = blocked
        physics, number, tables, first = shared
        own, first = tables.of(place), first + step * part.num_slots

        def episode(params, physics, first, workload, key, agent, progress):
            out = rollout(
                part, params, physics, method=method, workload=workload, key=key, metrics=metrics,
                agent=agent, first=first, start=progress, scalarise=way.slot,
            )  # fmt: skip
            return out.end, out.of_tasks | out.over_slots

        if way.episode is not None:
            episode = way.episode(episode)

        def one(seed, carried, agent, progress):
            segment = None if whole else Segment(first, carried)
            workload = workload_of(part, params, own, seed, number, segment, training=training)
            key = fold_in(stream(seed, Stream.POLICY), number)
            end, kept = episode(params, physics, 0 if whole else first, workload, key, agent, progress)
            return end, kept, carried_by(part, workload)

        progress, carried = state
        end, kept, after = jax.vmap(one)(seeds, carried, agents, progress)
        values = jax.tree.map(lambda x: x.reshape(x.shape[0], -1), kept)
        return (end, after), values

    return over_blocks(block, way.blocks, steps)


def _steps_of(shape: Shape, metrics: Metrics) -> int:
    """The number of steps in which a CPU simulates an episode, so that their values are still in its cache
    when they are brought into the order of the output.

    Source: benchmarks/README.md.
    """
    if jax.default_backend() != "cpu" or not any(m.is_list and not m.is_over_slots for m in metrics):
        return 1
    positions = shape.num_servers * shape.max_tasks
    divisors = (n for n in range(1, shape.num_slots) if shape.num_slots % n == 0)
    slots = next((n for n in divisors if n * positions >= _STEP_POSITIONS), shape.num_slots)
    return shape.num_slots // slots


def of_episodes(values: np.ndarray) -> np.ndarray:
    """A view with seeds first, `[..., lanes, steps, n]`, of values of a program, `[..., steps, lanes, n]`."""
    return np.swapaxes(values, -2, -3)


class _Lists:
    """The values of the episodes of a chunk that are collected until these end."""

    def __init__(self, scenarios: Sequence[Scenario], chunk: Chunk, metrics: Metrics):
        """Make the collectors.

        Args:
          metrics: the metrics whose rows are lists.
        """
        self._num_seeds = [len(seeds) for _, seeds in chunk.members]
        positions = [scenarios[index].episode_positions for index, _ in chunk.members]
        stay = jax.default_backend() != "cpu" and all(map(is_exact, positions))
        self._on_device = {
            m.name: KeptOnDevice() for m in metrics if stay and not (m.is_over_slots or m.is_of_users)
        }
        self._of_blocks: list[dict[str, Values | Series]] = [
            {
                metric.name: Series() if metric.is_over_slots else values_of(of_block, metric.is_of_users)
                for metric in metrics
                if metric.name not in self._on_device
            }
            for of_block in positions
        ]

    def take(self, values: dict[str, jax.Array], whole: bool) -> None:
        """Add the values of a segment, `[blocks, steps, lanes, n]` by name; padding is dropped.

        Args:
          whole: whether it is the whole episode.
        """
        for name, sharded in values.items():
            if name in self._on_device:
                self._on_device[name].add(sharded)
                continue
            # Block by block and without copying the whole, so that the values to sort stay in CPU caches.
            blocks = zip(self._of_blocks, self._num_seeds, host_blocks(sharded), strict=False)
            for block, num_seeds, of_block in blocks:
                of_seeds = of_episodes(of_block)[:num_seeds]
                block[name].add(of_seeds if whole else of_seeds.copy())

    def by_block(self) -> Iterator[dict[str, np.ndarray]]:
        """What rows hold as lists, `[seeds, ...]` by name, for each block in turn."""
        of_chunk = {name: values.quantiles() for name, values in self._on_device.items()}
        for number, (block, num_seeds) in enumerate(zip(self._of_blocks, self._num_seeds, strict=True)):
            yield {name: of_lanes[number, :num_seeds] for name, of_lanes in of_chunk.items()} | {
                name: values.values() if isinstance(values, Series) else values.quantiles()
                for name, values in block.items()
            }


def _collect(
    metrics: Metrics, scenarios: Sequence[Scenario], chunk: Chunk, taken: _Lists, end: Progress
) -> list[Batch]:
    """The metrics of a chunk, as one batch per scenario."""
    totals = map(on_host, host_blocks(end.totals))
    results = zip(totals, taken.by_block(), strict=False)
    return [
        Batch(index, seeds, columns(metrics, sums, scenarios[index].counted_slots, lists))
        for index, seeds, (sums, lists) in chunk.by_scenario(results)
    ]
