"""Gradients of one method in many scenarios and with many seeds, chunk by chunk, on all local devices."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.agents.methods import Method, get_method
from amco_jax.compile.runtime import own_numerics
from amco_jax.env import Physics
from amco_jax.identity import program_cache
from amco_jax.kernel.gradient import Gradient, check_differentiable, gradient
from amco_jax.metrics import MAKESPAN, Column, Metric, Shown
from amco_jax.params import Shape
from amco_jax.random import Stream, check_seeds, fold_in, stream
from amco_jax.scenario import Scenario
from amco_jax.stats import Interval, cluster_totals, ratio_interval
from amco_jax.study.blocks import host_blocks, over_blocks
from amco_jax.study.chunks import Chunk, over_chunks
from amco_jax.workload import workload_of

PARAMETERS = {
    "capacity": ("capacity of server", "Gcycles/s"),
    "link_rate": ("rate of the link", "Mbit/s"),
    "slot_duration": ("slot duration, with the same arrivals per slot", "s"),
    "deadline": ("deadline", "s"),
    "task_size_min": ("least task size", "Mbit"),
    "task_size_max": ("largest task size", "Mbit"),
    "density_min": ("least density", "Gcycles/Mbit"),
    "density_max": ("largest density", "Gcycles/Mbit"),
}
"""The parameters of a scenario in which an episode has derivatives: label and unit by name. The arrival
probability has none, as a sample path changes only in jumps with it"""

SEEDS_PER_BLOCK = 32
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
      prices: `none`, `summed` over slots, or `by_slot`.
      episode: the number of the episode of each seed.

    Raises:
      InputError: the method is trained, or the metric has no gradient.
    """
    check_differentiable(method, metric)

    def lane_bytes(shape: Shape) -> int:
        num_servers, positions = shape.num_servers, shape.num_slots * shape.num_servers * shape.max_tasks
        sets, numbers = positions * num_servers, 0 if prices == "none" else positions * (num_servers + 1)
        return sets + 4 * (num_servers**2 + numbers)

    def batches(chunk: Chunk) -> list[GradientBatch]:
        program = _block_program(chunk.shape, method, metric, prices)
        found = program(chunk.blocked, (physics, np.int32(episode), chunk.tables), None)
        return [GradientBatch(*each) for each in chunk.by_scenario(host_blocks(found))]

    found = over_chunks(batches, scenarios, first_seed, num_seeds, SEEDS_PER_BLOCK, lane_bytes)
    return itertools.chain.from_iterable(found)


def derivative_columns(metric: Metric, parameters: Sequence[str], num_servers: int) -> tuple[Column, ...]:
    """The columns of a metric's derivatives: one for each server or link, from a station to another server.

    Args:
      parameters: names in `PARAMETERS`.
    """
    found = []
    for name in parameters:
        label, unit = PARAMETERS[name]
        for place in _places(name, num_servers):
            where = " from {} to {}".format(*place) if len(place) == 2 else "".join(f" {i}" for i in place)
            found.append(
                Column(
                    name=_name(metric, name, place),
                    label=f"derivative of the {metric.label} in the {label}{where}",
                    unit=f"{metric.unit or '1'} per {unit}",
                    weight=metric.weight,
                    shown=Shown.ROWS,
                )
            )
    return tuple(found)


def derivatives(metric: Metric, found: Gradient, parameters: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of rows: the weight and the mean of a metric, and its derivatives, `[episodes]` each.

    They are NaN where an episode has nothing to take a mean over.
    """
    weight = np.asarray(found.weight, np.float64)

    def mean(values: Any) -> np.ndarray:
        return np.divide(values, weight, out=np.full(weight.shape, np.nan), where=weight > 0)

    columns = {metric.weight: weight.astype(np.int64), metric.name: mean(found.total)}
    for name in parameters:
        values = np.asarray(getattr(found.params, name), np.float64)
        columns |= {
            _name(metric, name, place): mean(values[(slice(None), *place)])
            for place in _places(name, found.params.capacity.shape[-1])
        }
    return columns


def _name(metric: Metric, parameter: str, place: tuple[int, ...]) -> str:
    return "_".join([metric.name, "per", parameter, *map(str, place)])


def _places(parameter: str, num_servers: int) -> list[tuple[int, ...]]:
    """The indices of a parameter's entries; a task that stays where it is uses no link."""
    if parameter == "link_rate":
        return list(itertools.permutations(range(num_servers), 2))
    return [(i,) for i in range(num_servers)] if parameter == "capacity" else [()]


@program_cache(
    64, lambda shape, method, metric, prices: (shape.arrivals, method.policy, method.allocator, metric)
)
def _block_program(shape: Shape, method: Method, metric: Metric, prices: str) -> Any:
    """The jitted gradients of blocks of seeds, sharded over the local devices."""

    def block(blocked: Any, shared: Any, state: None) -> Gradient:
        del state
        ((params, place), seeds, _), (physics, number, tables) = blocked, shared
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
    """Means over seeds and slots, with 95 % intervals over seeds, or over the stretches of a request log."""

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
    scenario.check_warmup()
    batches = differentiate(
        [scenario], chosen, chosen.physics(physics), first_seed, seeds, metric=metric, prices="summed"
    )
    parts = [(batch.gradients.work, batch.gradients.delay) for batch in batches]
    work, delay = (
        np.concatenate(x).astype(np.float64) / scenario.num_slots for x in zip(*parts, strict=True)
    )
    clusters = np.arange(first_seed, first_seed + seeds)
    if scenario.process.has_stretches:  # seeds that play the same stretch are not independent
        clusters = scenario.process.stretches(scenario, clusters, 0)

    def interval(values: np.ndarray) -> Interval:
        return ratio_interval(*(cluster_totals(x, clusters) for x in (values, np.ones_like(values))))

    return ShadowPrices(interval(work), interval(delay))
