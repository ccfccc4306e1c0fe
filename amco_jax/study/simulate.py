"""Simulate one method in many scenarios and with many seeds, chunk by chunk, on all local devices."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

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
from amco_jax.study.blocks import ACCELERATOR_BLOCKS, host_blocks, over_blocks
from amco_jax.study.chunks import CHUNK_BYTES, AgentSource, Chunk, memory_in, over_chunks
from amco_jax.workload import Segment, carried_by, workload_of

log = logging.getLogger(__name__)

LANES = FUSED_LANES
"""Seeds per block. 128 is best on CPUs, too: with fewer, LLVM considers some loops too short for overlap
checks to pay off, and with more, the working set exceeds a core's L1 cache (benchmarks/README.md)."""

_MAX_FUSED_BLOCKS = 2**16


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

    def slot_bytes(shape: Shape) -> int:
        # At least one number per task, so that the chunks are the same for metrics without quantiles.
        return 4 * shape.num_servers * shape.max_tasks * max(len(lists), 1)

    def lane_bytes(shape: Shape) -> int:
        return slot_bytes(shape) * shape.num_slots

    def launch(chunk: Chunk) -> Future[list[Batch]]:
        taken = [_Lists(scenarios[index], len(seeds), lists) for index, seeds in chunk.members]
        most = memory_in(CHUNK_BYTES) // (slot_bytes(chunk.shape) * math.prod(chunk.lanes))
        segments = segments_of(chunk.shape.num_slots, most)
        taking, ends = None, []
        for progress, values in play(chunk, method, physics, episode, metrics, segments, training):
            # The host processes the values of one segment while the devices compute the next.
            if taking is not None:
                taking.result()
            taking = host.submit(_take, taken, values, len(segments) == 1)
            ends.append(progress)
        return host.submit(_collect, metrics, scenarios, chunk, taken, ends[-1])

    with ThreadPoolExecutor(max_workers=1) as host:
        pending = None
        for collecting in over_chunks(launch, scenarios, first_seed, num_seeds, LANES, lane_bytes, source):
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


def play(
    chunk: Chunk,
    method: Method,
    physics: Physics,
    episode: int,
    metrics: Metrics,
    segments: Sequence[tuple[int, int]],
    training: bool = False,
) -> Iterator[tuple[Progress, dict[str, jax.Array]]]:
    """Simulate the episodes of a chunk, and yield after each segment what `block_program` returns.

    A `Progress` is valid until the next one is asked for, whose computation reuses its memory.

    Args:
      segments: the first slot and the number of slots of each.
    """
    whole = [*segments] == [(0, chunk.shape.num_slots)]
    state = start_state(chunk.shape, chunk.lanes, metrics, method)
    programs = {
        length: block_program(chunk.shape._replace(num_slots=length), method, metrics, whole, training)
        for length in {length for _, length in segments}
    }
    for first, length in segments:
        shared = physics, np.int32(episode), chunk.tables, np.int32(first)
        state, values = jax.block_until_ready(programs[length](chunk.blocked, shared, state))
        yield state[0], values


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
      `start_state`. State and per-task values have leaves `[blocks, lanes, ...]`, with the tasks of an
      episode on one axis.
    """
    scanned = _block_program(shape, method, metrics, whole, training, False)
    if not fusing():
        return scanned
    return _Fallback(_block_program(shape, method, metrics, whole, training, True), scanned, method.name)


class _Fallback:
    """A jitted function that is replaced by a second one if it cannot be compiled or run."""

    def __init__(self, first: Any, second: Any, name: str):
        self._first, self._second, self._name = first, second, name

    def _use(self, attempt: Callable[[Any], Any]) -> Any:
        if self._first is not None:
            try:
                return attempt(self._first)
            except Exception as error:  # an experimental compiler may raise anything
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
        policy = method.policy
        if fused and (policy.sees_slot or policy.sees_load or policy.by_position):
            raise NotImplementedError("it decides slot by slot, recalls earlier slots or knows later ones")
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

    # The GPU itself queues the blocks that it cannot run at the same time.
    return over_blocks(block, _MAX_FUSED_BLOCKS if fused else ACCELERATOR_BLOCKS)


def _in_scalars(episode: Callable[..., Any]) -> Callable[..., Any]:
    """`episode` with its final state as lists of scalars, since a fused kernel cannot return arrays."""

    def in_scalars(*args):
        end, kept = episode(*args)
        return jax.tree.map(lambda x: list(x) if x.ndim else x, end), kept

    return in_scalars


class _Lists:
    """The values of a block that the host collects until its episodes end."""

    def __init__(self, scenario: Scenario, num_seeds: int, lists: Metrics):
        self.num_seeds = num_seeds
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


def _take(blocks: Sequence[_Lists], values: dict[str, jax.Array], whole: bool) -> None:
    """Add the per-task values of a segment to their blocks, except for lanes beyond the last seed."""
    # Block by block and without copying the whole, so that the values to sort stay in the CPU caches.
    for name, sharded in values.items():
        for block, of_lanes in zip(blocks, host_blocks(sharded), strict=False):
            of_seeds = of_lanes[: block.num_seeds]
            block.values[name].add(of_seeds if whole else of_seeds.copy())


def _collect(
    metrics: Metrics, scenarios: Sequence[Scenario], chunk: Chunk, taken: Sequence[_Lists], end: Progress
) -> list[Batch]:
    """The metrics of a chunk, as one batch per scenario."""
    totals = map(on_host, host_blocks(end.totals))
    results = ((of_block, block.lists()) for of_block, block in zip(totals, taken, strict=False))
    return [
        Batch(index, seeds, columns(metrics, sums, scenarios[index].counted_slots, lists))
        for index, seeds, (sums, lists) in chunk.by_scenario(results)
    ]
