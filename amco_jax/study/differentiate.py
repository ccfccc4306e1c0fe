"""Gradients of one method in many scenarios and with many seeds, chunk by chunk, on all local devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.agents.methods import Method, get_method
from amco_jax.compile.runtime import own_numerics
from amco_jax.env import Physics
from amco_jax.errors import InputError
from amco_jax.identity import program_cache
from amco_jax.kernel.gradient import Gradient, check_differentiable, gradient
from amco_jax.metrics import MAKESPAN, Metric
from amco_jax.params import Shape
from amco_jax.random import Stream, check_seeds, fold_in, stream
from amco_jax.scenario import AUTO, Scenario
from amco_jax.stats import Interval, mean_interval
from amco_jax.study.blocks import (
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
from amco_jax.study.simulate import CHUNK_BYTES
from amco_jax.workload import workload_of

LANES = 32
"""Seeds per block; a gradient keeps much more of each seed than a simulation"""


@dataclasses.dataclass(frozen=True)
class GradientBatch:
    """Gradients of consecutive seeds of one scenario."""

    index: int
    """The index of the scenario in the sequence"""
    seeds: np.ndarray
    """`[episodes]`"""
    gradients: Gradient
    """Leaves `[episodes, ...]`"""


def differentiate(
    scenarios: Sequence[Scenario],
    method: Method,
    physics: Physics,
    first_seed: int,
    num_seeds: int,
    *,
    metric: Metric = MAKESPAN,
    prices: str = "none",
    episode: int = 0,
) -> Iterator[GradientBatch]:
    """Yield the gradients in each scenario in turn, with its seeds in order; see `kernel.gradient`.

    They are those of the episodes that `simulate` plays, in float32.

    Args:
      metric: the metric whose sum over the episode is differentiated.
      prices: `none`, `summed` over slots, or `by_slot`; the last needs memory and time that grow with the
        square of the number of slots.
      episode: the number of the episode of each seed.

    Raises:
      InputError: the method is trained, or the metric has no gradient.
    """
    check_differentiable(method, metric)
    shapes = padded_shapes(scenarios)
    blocks = blocks_of(len(scenarios), first_seed, num_seeds, LANES)
    end = first_seed + num_seeds

    def lane_bytes(shape: Shape) -> int:
        slots = {"none": 0, "summed": 1, "by_slot": shape.num_slots}[prices]
        num_servers = shape.num_servers
        return 4 * (num_servers**2 + slots * num_servers * shape.max_tasks * (num_servers + 1))

    @functools.cache
    def inputs(shape: Shape) -> Inputs:
        return inputs_of(scenarios, (i for i, each in enumerate(shapes) if each == shape), shape)

    def launch(shape: Shape, chunk: Sequence[Block], size: int) -> Gradient:
        cells, tables = inputs(shape)
        blocked = stack_blocks(chunk, size, LANES, cells)
        program = _block_program(shape, method, metric, prices)
        return jax.block_until_ready(program(blocked, (physics, np.int32(episode), tables), None))

    memory = CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    chunks = chunks_of(blocks, shapes, LANES, lane_bytes, memory)
    for chunk, found in within_memory(launch, chunks):
        leaves, structure = jax.tree.flatten(found)
        each = zip(chunk, *map(host_blocks, leaves), strict=False)
        for cell, group in itertools.groupby(each, key=lambda row: row[0].cell):
            kept = [(block, [x[: end - block.start] for x in of_lanes]) for block, *of_lanes in group]
            seeds = [np.arange(block.start, min(block.start + LANES, end)) for block, _ in kept]
            joined = [np.concatenate(x) for x in zip(*(of_lanes for _, of_lanes in kept), strict=True)]
            yield GradientBatch(cell, np.concatenate(seeds), jax.tree.unflatten(structure, joined))


def check_known_warmup(scenario: Scenario) -> None:
    """Raise InputError if the warm-up is one that a pilot run would have to find."""
    if scenario.warmup == AUTO:
        raise InputError(f"warmup: {AUTO}; legal for gradients: a number of slots")


@program_cache(
    64, lambda shape, method, metric, prices: (shape.arrivals, method.policy, method.allocator, metric)
)
def _block_program(shape: Shape, method: Method, metric: Metric, prices: str) -> Any:
    """The jitted gradients of blocks of seeds, sharded over the local devices."""

    def block(blocked: Any, shared: Any, state: None) -> Gradient:
        del state
        ((params, place), seeds), (physics, number, tables) = blocked, shared
        own = tables.of(place)

        def alone(seed: Any) -> Gradient:
            return gradient(
                shape, params, physics, method=method, metric=metric, prices=prices,
                workload=lambda given: workload_of(shape, given, own, seed, number, training=False),
                key=fold_in(stream(seed, Stream.POLICY), number),
            )  # fmt: skip

        return jax.vmap(alone)(seeds)

    return over_blocks(block)


class ShadowPrices(NamedTuple):
    """Means over seeds and slots, with 95 % intervals over seeds."""

    work: Interval
    """`[b, n, i]`, per Gcycle on server i right after the decision at position n of base station b"""
    delay: Interval
    """`[b, n]`, per second on the link of base station b right after that decision"""


@own_numerics()
def shadow_prices(
    scenario: Scenario | None = None,
    method: str | Method = "optimal",
    *,
    seeds: int = 64,
    first_seed: int = 0,
    physics: str = "unified",
    metric: Metric = MAKESPAN,
) -> ShadowPrices:
    """What background load costs: how much it adds to the sum of a metric over the rest of the episode.

    Args:
      scenario: by default the published one.
      method: a method without training.
      seeds: number of seeds.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      physics: a variant of the physics, see `Method.physics`.
      metric: a metric with one sum of real numbers; prices are in its unit, s for the makespan.

    Raises:
      InputError: a name is unknown, a number is out of range, or there are no such gradients.
    """
    check_seeds(first_seed, seeds)
    scenario, chosen = scenario or Scenario(), get_method(method)
    chosen.check(scenario.num_servers)
    check_known_warmup(scenario)
    batches = differentiate(
        [scenario], chosen, chosen.physics(physics), first_seed, seeds, metric=metric, prices="summed"
    )
    parts = [(batch.gradients.work, batch.gradients.delay) for batch in batches]
    work, delay = (
        np.concatenate(x).astype(np.float64) / scenario.num_slots for x in zip(*parts, strict=True)
    )
    return ShadowPrices(mean_interval(work), mean_interval(delay))
