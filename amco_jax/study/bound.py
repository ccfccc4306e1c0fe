"""Lower bounds on the makespan and on the misses of any method, over many seeds on all local devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.bounds.ascent import STEPS, ascend
from amco_jax.bounds.drawn import Drawn, Places, by_places, drawn, packed
from amco_jax.bounds.misses import SLACK, fewest_misses
from amco_jax.bounds.relaxation import SlotTasks, alone, costs, dual
from amco_jax.compile.runtime import own_numerics
from amco_jax.errors import check_whole
from amco_jax.identity import program_cache
from amco_jax.metrics import LEVELS, MAKESPAN, MISS_RATE, NUM_TASKS, Metrics
from amco_jax.params import Shape
from amco_jax.random import check_seeds
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import over_blocks
from amco_jax.study.chunks import for_this_device
from amco_jax.workload import tables_of

_GRID = 4
"""The grid of the bound, see `relaxation.dual`"""
_CELLS = 2**23
"""Cells of dynamic programmes that a block keeps for its way back"""
_MOST_SLOTS_PER_BLOCK = 64
"""The largest number of slots in a block"""
_SEEDS_PER_CALL = 32
"""Seeds that are computed together"""
_ROUND = 16
"""Work of servers, in tasks, is counted up to a multiple of this, so that scenarios share programs"""


class Bound(NamedTuple):
    """Lower bounds for each seed, `[seeds]`; NaN for a mean over no tasks."""

    seeds: np.ndarray
    num_tasks: np.ndarray
    makespan_s: np.ndarray
    """Mean makespan per task, s: no method is below"""
    gap_s: np.ndarray
    """The most by which better multipliers could raise that bound, s"""
    misses: np.ndarray
    """The number of tasks that miss with any method"""


@own_numerics()
def bound(
    scenario: Scenario | None = None,
    *,
    seeds: int = 64,
    first_seed: int = 0,
    episode: int = 0,
    steps: int = STEPS,
) -> Bound:
    """Lower bounds on the mean makespan and on the misses of any method, on the arrivals of each seed.

    They hold under any row of the physics table but that of serial links, and for methods that know all
    arrivals in advance (docs/bounds.md). The two bounds are separate: no one method need come close to
    both.

    Args:
      scenario: by default the published one.
      seeds: number of seeds.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      episode: the number of the episode; 0 is that of sweeps.
      steps: steps of the ascent; the bound is valid after any number of them, and tighter after more.

    Raises:
      InputError: a number is out of range, or the warm-up is one that a pilot run would have to find.
    """
    check_seeds(first_seed, seeds)
    check_whole("episode", episode, 0)
    check_whole("steps", steps)
    scenario = scenario or Scenario()
    scenario.check_warmup()
    parts = [*bounds_of_seeds(scenario, first_seed, seeds, episode=episode, steps=steps)]
    return Bound(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


def bound_columns(metrics: Metrics, found: Bound, scenario: Scenario) -> dict[str, Any]:
    """The columns of rows that hold what is bounded, and lists of missing numbers.

    Args:
      metrics: those of the study.
    """
    known = {
        NUM_TASKS.name: found.num_tasks,
        MAKESPAN.name: found.makespan_s,
        MISS_RATE.name: np.divide(
            found.misses, found.num_tasks, out=np.full(len(found.seeds), np.nan), where=found.num_tasks > 0
        ),
    }
    lengths = {
        metric.name: scenario.num_slots if metric.is_over_slots else len(LEVELS)
        for metric in metrics
        if metric.is_list
    }
    return known | {
        name: np.full((len(found.seeds), length), np.nan, np.float32) for name, length in lengths.items()
    }


def bounds_of_seeds(
    scenario: Scenario, first_seed: int, num_seeds: int, *, episode: int = 0, steps: int = STEPS
) -> Iterator[Bound]:
    """Yield the bounds of consecutive seeds, some at a time."""
    shape = scenario.shape()
    draw = _draw_program(shape)
    tables = tables_of([scenario], shape).of(0)
    for start in range(first_seed, first_seed + num_seeds, _SEEDS_PER_CALL):
        seeds = np.arange(start, min(start + _SEEDS_PER_CALL, first_seed + num_seeds), dtype=np.uint32)
        slots = Drawn(*map(np.asarray, draw(seeds, scenario.params(), tables, np.int32(episode))))
        slots = Drawn(*(x[:, scenario.num_slots - scenario.counted_slots :] for x in slots))
        yield _bound_from_slots(scenario, seeds.astype(np.int64), slots, steps)


def _bound_from_slots(scenario: Scenario, seeds: np.ndarray, slots: Drawn, steps: int) -> Bound:
    """The bounds of seeds from their slots, leaves `[seeds, slots, positions]`."""
    by_slot, positions = slots.present.shape[:2], slots.present.shape[2]
    flat = Drawn(*(x.reshape(-1, positions) for x in slots))
    least, relaxed = (np.zeros(len(flat.present)) for _ in range(2))
    work, single = (np.zeros(flat.present.shape) for _ in range(2))
    for chosen, places in by_places(scenario, flat):
        found = _of_slots(scenario, Drawn(*(x[chosen] for x in flat)), places, steps)
        least[chosen], relaxed[chosen] = found.least, found.relaxed
        work[chosen, : found.work.shape[1]], single[chosen, : found.work.shape[1]] = found.work, found.single
    capacity, deadline, within = scenario.capacities, scenario.deadline, scenario.timing != "slotted"
    misses = [
        fewest_misses(of_work, of_single, capacity, deadline, scenario.slot_duration, within)
        for of_work, of_single in zip(*(x.reshape(*by_slot, -1) for x in (work, single)), strict=True)
    ]
    total, upper = (x.reshape(by_slot).sum(axis=1) for x in (least * (1 - SLACK), np.maximum(relaxed, least)))
    count = slots.present.sum(axis=(1, 2))
    some = np.where(count > 0, count, np.nan)
    return Bound(seeds, count, total / some, (upper - total) / some, np.array(misses))


class _OfSlots(NamedTuple):
    """What is found of slots, each alone."""

    least: np.ndarray
    """`[slots]`, s, a lower bound on the summed makespans"""
    relaxed: np.ndarray
    """`[slots]`, s, an upper limit on what better multipliers could make of it"""
    work: np.ndarray
    """`[slots, tasks]`, Gcycles, the least work of each task on any server; 0 without a task"""
    single: np.ndarray
    """`[slots, tasks]`, s, the least makespan of each task"""


def _of_slots(scenario: Scenario, slots: Drawn, places: Places, steps: int) -> _OfSlots:
    tasks = packed(scenario, slots, places)
    most, count = _most(scenario, places), len(tasks.present)
    most_slots = _CELLS // (places.tasks * scenario.num_servers * most)
    blocked = _blocks(tasks, max(1, min(_MOST_SLOTS_PER_BLOCK, most_slots)))
    parts = [_of_blocks(scenario, each, most, steps) for each in _calls(blocked)]
    single, least, relaxed = (np.concatenate([*x])[:count] for x in zip(*parts, strict=True))
    return _OfSlots(least, relaxed, (tasks.load * scenario.capacities).min(axis=2), single)


def _calls(blocked: SlotTasks) -> Iterator[SlotTasks]:
    """The blocks of each call.

    On CPUs, these are one for each device, so that the same program computes any number of slots, and on
    accelerators, which compute blocks in parallel, all of them.
    """
    count = len(blocked.present)
    at_once = for_this_device({"cpu": jax.local_device_count(), "accelerator": count})
    for start in range(0, count, at_once):
        yield jax.tree.map(lambda x: x[start : start + at_once], blocked)  # noqa: B023


def _of_blocks(
    scenario: Scenario, blocked: SlotTasks, most: int, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `_OfSlots` calls single, least and relaxed, of the slots of blocks, one block after the other."""
    single = _in_double(_alone_program(), blocked)
    least = np.minimum(single, scenario.deadline).sum(axis=2)
    relaxed = least
    if scenario.timing == "slotted":
        multipliers, fraction = _ascent_program(most, steps)(_single(blocked), None, None)
        value, relaxed = _in_double(_dual_program(most), (blocked, multipliers, fraction))
        least = np.maximum(least, value)
    return tuple(x.reshape(-1, *x.shape[2:]) for x in (single, least, relaxed))


def _most(scenario: Scenario, places: Places) -> int:
    """The work up to which the dynamic programme of a server counts, in tasks."""
    capacity = scenario.capacities
    share = float(np.max(capacity) / np.sum(capacity))
    usual = 1.25 * share * places.tasks + _ROUND
    return min(places.tasks, math.ceil(usual / _ROUND) * _ROUND)


def _blocks(tasks: SlotTasks, slots_per_block: int) -> SlotTasks:
    """Slots in blocks that divide among the devices: leaves `[blocks, slots_per_block, ...]`.

    The last block is padded with copies of the last slot.
    """
    count, slots_at_once = len(tasks.present), slots_per_block * jax.local_device_count()
    places = np.minimum(np.arange(-(-count // slots_at_once) * slots_at_once), count - 1)
    return jax.tree.map(lambda x: x[places].reshape(-1, slots_per_block, *x.shape[1:]), tasks)


def _single(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, tree)


def _in_double(program: Any, tree: Any) -> Any:
    """The results of a program in float64."""
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x), tree)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, program(wide, None, None))


@program_cache(64, lambda shape: (shape.arrivals,))
def _draw_program(shape: Shape) -> Any:
    """The jitted tasks of seeds: `(seeds, params, tables, episode) -> Drawn`, leaves `[seeds, ...]`."""

    def of_seed(seed: Any, params: Any, tables: Any, episode: Any) -> Drawn:
        return drawn(shape, params, tables, seed, episode)

    return jax.jit(jax.vmap(of_seed, (0, None, None, None)))


@functools.lru_cache(maxsize=64)
def _ascent_program(most: int, steps: int) -> Any:
    """The jitted ascent of blocks of slots, sharded over the local devices."""

    def block(slots: SlotTasks, shared: None, state: None) -> Any:
        del shared, state
        return jax.vmap(lambda slot: ascend(slot, most, steps))(slots)

    return over_blocks(block)


@functools.lru_cache(maxsize=64)
def _dual_program(most: int) -> Any:
    """The jitted bounds of blocks of slots, with upper limits on them."""

    def block(blocked: Any, shared: None, state: None) -> Any:
        del shared, state

        def bound_slot(slot: SlotTasks, multipliers: Any, fraction: Any) -> Any:
            return dual(slot, multipliers, _GRID, most)[0], costs(slot, fraction)

        return jax.vmap(bound_slot)(*blocked)

    return over_blocks(block)


@functools.cache
def _alone_program() -> Any:
    """The jitted least makespan of each task of the slots of blocks."""
    return jax.jit(lambda slots, shared, state: jax.vmap(jax.vmap(alone))(slots))
