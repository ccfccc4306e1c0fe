"""Pilot runs, which determine the warm-up of a cell and test whether its episodes are stationary after it.

Servers and links are empty at the start of an episode. A pilot run simulates the first seeds of a cell in
batches of `MSER_BATCH` slots, and evaluates the mean makespan of each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amco_jax.compile.wide import on_host
from amco_jax.errors import InputError
from amco_jax.metrics import MAKESPAN, NUM_TASKS, Metrics, columns
from amco_jax.metrics.quantiles import values_of
from amco_jax.params import Shape
from amco_jax.scenario import AUTO, Scenario
from amco_jax.stats.stationarity import MSER_BATCH, mser_truncation, trend_p_value
from amco_jax.study.blocks import (
    Block,
    blocks_of,
    chunks_of,
    inputs_of,
    padded_shapes,
    stack_blocks,
    within_memory,
)
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import CHUNK_BYTES, LANES, AgentSource, block_program, start_state
from amco_jax.study.trainer import LANES as TRAINING_LANES

TREND = 0.001
"""The probability of a false warning in a study; the level of each test is this over the number of cells"""

_METRICS: Metrics = (MAKESPAN, NUM_TASKS)


class Pilot(NamedTuple):
    """The result of a pilot run."""

    warmup: int
    """The number of slots to exclude"""
    trend_p: float
    """The p-value of the hypothesis that the two halves of the rest have the same mean makespan, see
    `trend_p_value`; NaN with fewer than two seeds"""


def check_warmup(cell: Cell) -> None:
    """Raise InputError if `auto` cannot determine a warm-up, or an episode is too short for its batches."""
    scenario = cell.scenario
    if cell.batches and scenario.counted_slots < (most := cell.batches * MSER_BATCH * 2):
        raise InputError(
            f"num_slots: {scenario.num_slots}; legal for a single seed with a warm-up, whose episode is cut "
            f"into {cell.batches} batches: {scenario.num_slots - scenario.counted_slots + most} or more"
        )
    if scenario.warmup != AUTO:
        return
    if not cell.has_pilot:
        raise InputError(
            f"warmup: {AUTO}; legal in episodes of training, which have no steady state: a number of slots"
        )
    if scenario.num_slots < 2 * MSER_BATCH:
        raise InputError(f"num_slots: {scenario.num_slots}; legal with warmup = {AUTO}: {2 * MSER_BATCH}")


def pilots_of(cells: Sequence[Cell], source: AgentSource | None) -> list[Pilot]:
    """The pilot runs of compatible cells (`Cell.alike`).

    Args:
      source: the agents of their `pilot_seeds`, if the method is trained.
    """
    played = _played([cell.scenario.replace(warmup=0) for cell in cells], cells[0], source, _METRICS)
    return [
        _pilot(cell.scenario, each.totals[MAKESPAN.name], each.totals[NUM_TASKS.name])
        for cell, each in zip(cells, played, strict=True)
    ]


def batch_columns(
    cells: Sequence[Cell], pilots: Sequence[Pilot], source: AgentSource | None
) -> list[dict[str, np.ndarray]]:
    """The columns of single long episodes, cut into `Cell.batches` batches after the warm-up.

    The batches have equal length; the remainder is excluded at the beginning, together with the warm-up.

    Returns:
      The results of `metrics.columns` for each cell, `[batches]`, and lists.
    """
    metrics = cells[0].metrics
    played = _played([cell.scenario.replace(warmup=0) for cell in cells], cells[0], source, metrics)
    found = []
    for cell, pilot, each in zip(cells, pilots, played, strict=True):
        slots = cell.scenario.num_slots // MSER_BATCH
        length = (slots - -(-pilot.warmup // MSER_BATCH)) // cell.batches
        edges = range(slots - length * cell.batches, slots, length)
        totals = {
            name: np.stack([total[0, edge : edge + length].sum(axis=0) for edge in edges])
            for name, total in each.totals.items()
        }
        quantiles = {}
        for name, values in each.values.items():
            kept = [values_of(cell.scenario.episode_positions) for _ in edges]
            for edge, one in zip(edges, kept, strict=True):
                one.add(np.concatenate(values[edge : edge + length], axis=1))
            quantiles[name] = np.concatenate([one.quantiles() for one in kept])
        found.append(columns(metrics, totals, length * MSER_BATCH, quantiles))
    return found


def without_warmup(scenario: Scenario, pilot: Pilot) -> Scenario:
    """The scenario with the warm-up that the pilot run determined."""
    return scenario.replace(warmup=pilot.warmup)


def pilots_in(cells: Sequence[Cell], rows: pd.DataFrame) -> list[tuple[Cell, Pilot]]:
    """The pilot run of each cell, as recorded in the rows of the cells."""
    starts = np.cumsum([0, *(cell.num_rows for cell in cells)])
    found = [rows.iloc[int(start)] for start in starts[:-1]]
    return [
        (cell, Pilot(int(row["warmup"]), float(row["trend_p"])))
        for cell, row in zip(cells, found, strict=True)
    ]


def described(pilots: Sequence[tuple[Cell, Pilot]]) -> list[dict[str, Any]]:
    """The results of pilot runs, for a manifest."""
    return [
        dict(cell.labels)
        | {"warmup": pilot.warmup, "trend_p": None if np.isnan(pilot.trend_p) else pilot.trend_p}
        for cell, pilot in pilots
    ]


def trends(pilots: Sequence[tuple[Cell, Pilot]]) -> list[tuple[Cell, str]]:
    """A sentence for each cell whose episodes are not stationary."""
    return [
        (
            cell,
            f"the episodes are not stationary after a warm-up of {pilot.warmup} "
            f"slot{'s' * (pilot.warmup != 1)}: the mean makespans of their two halves differ "
            f"(p = {pilot.trend_p:.1g}).",
        )
        for cell, pilot in pilots
        if pilot.trend_p < TREND / len(pilots)
    ]


def _pilot(scenario: Scenario, makespans: np.ndarray, tasks: np.ndarray) -> Pilot:
    """The result of a pilot run from sums over batches of slots, `[seeds, batches]`."""
    if scenario.warmup == AUTO:
        total = tasks.sum(axis=0)
        means = np.divide(makespans.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
        batches = mser_truncation(means, 1) if np.count_nonzero(total) > 1 else 0
        warmup = batches * MSER_BATCH
    else:
        warmup = int(scenario.warmup)
        batches = -(-warmup // MSER_BATCH)
    return Pilot(warmup, float(trend_p_value(makespans[:, batches:], tasks[:, batches:])))


class _Played(NamedTuple):
    """The simulated seeds of one scenario, in batches of `MSER_BATCH` slots."""

    totals: dict[str, np.ndarray]
    """Sums by the name of the metric, `[seeds, batches]` or `[seeds, batches, num_servers]`"""
    values: dict[str, list[np.ndarray]]
    """The values of tasks by the name of the metric, for each batch `[seeds, positions]`, inf where empty"""


def _played(
    scenarios: Sequence[Scenario], first: Cell, source: AgentSource | None, metrics: Metrics
) -> list[_Played]:
    """Simulate the pilot seeds of scenarios, without a last batch that would be incomplete."""
    start, num_seeds = first.pilot_seeds
    lanes = LANES if source is None else TRAINING_LANES
    blocks = blocks_of(len(scenarios), start, num_seeds, lanes)
    shapes = padded_shapes(scenarios)
    lists = [metric.name for metric in metrics if not metric.is_sum]

    def lane_bytes(shape: Shape) -> int:
        values = 4 * shape.num_servers * shape.max_tasks * MSER_BATCH * max(len(lists), 1)
        return values + (0 if source is None else source.bytes_per_lane(shape))

    def launch(shape: Shape, chunk: Sequence[Block], size: int) -> tuple[list[Any], list[Any]]:
        agents = None if source is None else source.agents(shape, chunk, size)
        used = (i for i, each in enumerate(shapes) if each == shape)
        cells, tables = inputs_of(scenarios, used, shape)
        stacked, seeds = stack_blocks(chunk, size, lanes, cells)
        batch = shape._replace(num_slots=MSER_BATCH)
        program = block_program(batch, first.method, metrics, False, False)
        none = start_state(shape, seeds.shape, metrics, method)
        state, totals, values = none, [on_host(none[0].totals)], []
        for slot in range(0, shape.num_slots - MSER_BATCH + 1, MSER_BATCH):
            shared = first.row, np.int32(first.plays[0]), tables, np.int32(slot)
            state, of_tasks = program((stacked, seeds, agents), shared, state)
            totals.append(on_host(state[0].totals))
            values.append({name: np.asarray(x)[:, :num_seeds] for name, x in of_tasks.items()})
        return totals, values

    found: list[list[_Played]] = [[] for _ in scenarios]
    chunks = chunks_of(blocks, shapes, lanes, lane_bytes, CHUNK_BYTES["cpu"])
    for chunk, (totals, values) in within_memory(launch, chunks):
        for place, block in enumerate(chunk):
            here = place, slice(0, min(lanes, start + num_seeds - block.start))
            sums = {name: np.stack([each[name][here] for each in totals], axis=1) for name in totals[0]}
            found[block.cell].append(
                _Played(
                    {name: np.diff(total, axis=1) for name, total in sums.items()},
                    {name: [each[name][here] for each in values] for name in lists},
                )
            )
    return [
        _Played(
            {name: np.concatenate([part.totals[name] for part in parts]) for name in parts[0].totals},
            {
                name: [np.concatenate(each) for each in zip(*(p.values[name] for p in parts), strict=True)]
                for name in lists
            },
        )
        for parts in found
    ]
