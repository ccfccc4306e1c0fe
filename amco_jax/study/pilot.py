"""Pilot runs: the warm-up that a cell leaves out, and whether what is left of its episodes is stationary.

Servers and links are empty at the beginning of an episode. A pilot run plays the first seeds of a cell in
batches of `MSER_BATCH` slots, and looks at the mean makespan of each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amco_jax.compile.wide import on_host
from amco_jax.errors import InputError
from amco_jax.metrics import MAKESPAN, NUM_TASKS, Metrics
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
"""The p-value below which a study warns, over the number of its cells: its chance of a false alarm"""

_METRICS: Metrics = (MAKESPAN, NUM_TASKS)


class Pilot(NamedTuple):
    """What a pilot run found."""

    warmup: int
    """Slots that are left out"""
    trend_p: float
    """The p-value of the hypothesis that the two halves of the rest have the same mean makespan, see
    `trend_p_value`; NaN with fewer than two seeds"""


def check_warmup(cell: Cell) -> None:
    """Raise InputError where a warm-up of `auto` cannot be found."""
    scenario = cell.scenario
    if scenario.warmup != AUTO:
        return
    if not cell.has_pilot:
        raise InputError(
            f"warmup: {AUTO}; legal in episodes of training, which have no steady state: a number of slots"
        )
    if scenario.num_slots < 2 * MSER_BATCH:
        raise InputError(f"num_slots: {scenario.num_slots}; legal with warmup = {AUTO}: {2 * MSER_BATCH}")


def pilots_of(cells: Sequence[Cell], source: AgentSource | None) -> list[Pilot]:
    """The pilot runs of cells that are alike.

    Args:
      source: the agents of their `pilot_seeds`, where the method is trained.
    """
    sums = _batch_sums([cell.scenario.replace(warmup=0) for cell in cells], cells[0], source)
    return [_pilot(cell.scenario, *each) for cell, each in zip(cells, sums, strict=True)]


def without_warmup(scenario: Scenario, pilot: Pilot) -> Scenario:
    """The scenario that leaves out the warm-up that was found."""
    return scenario.replace(warmup=pilot.warmup)


def pilots_in(cells: Sequence[Cell], rows: pd.DataFrame) -> list[tuple[Cell, Pilot]]:
    """The pilot runs that the rows of some cells tell of, cell by cell."""
    starts = np.cumsum([0, *(cell.num_rows for cell in cells)])
    found = [rows.iloc[int(start)] for start in starts[:-1]]
    return [
        (cell, Pilot(int(row["warmup"]), float(row["trend_p"])))
        for cell, row in zip(cells, found, strict=True)
    ]


def described(pilots: Sequence[tuple[Cell, Pilot]]) -> list[dict[str, Any]]:
    """What pilot runs found, for a manifest."""
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
            f"the episodes are not stationary after a warm-up of {pilot.warmup} slots: the mean makespans of "
            f"their two halves differ (p = {pilot.trend_p:.1g}).",
        )
        for cell, pilot in pilots
        if pilot.trend_p < TREND / len(pilots)
    ]


def _pilot(scenario: Scenario, makespans: np.ndarray, tasks: np.ndarray) -> Pilot:
    """From sums over batches of slots, `[seeds, batches]`."""
    if scenario.warmup == AUTO:
        total = tasks.sum(axis=0)
        means = np.divide(makespans.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
        batches = mser_truncation(means, 1) if np.count_nonzero(total) > 1 else 0
        warmup = batches * MSER_BATCH
    else:
        warmup = int(scenario.warmup)
        batches = -(-warmup // MSER_BATCH)
    return Pilot(warmup, float(trend_p_value(makespans[:, batches:], tasks[:, batches:])))


def _batch_sums(
    scenarios: Sequence[Scenario], first: Cell, source: AgentSource | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The sums of makespans and the numbers of tasks of each scenario in batches of slots.

    Returns:
      Pairs of `[seeds, batches]`; slots at the end that do not fill a batch are left out.
    """
    start, num_seeds = first.pilot_seeds
    lanes = LANES if source is None else TRAINING_LANES
    blocks = blocks_of(len(scenarios), start, num_seeds, lanes)

    def lane_bytes(shape: Shape) -> int:
        values = 4 * shape.num_servers * shape.max_tasks * MSER_BATCH
        return values + (0 if source is None else source.bytes_per_lane(shape))

    shapes = padded_shapes(scenarios)

    def launch(shape: Shape, chunk: Sequence[Block], size: int) -> list[dict[str, np.ndarray]]:
        agents = None if source is None else source.agents(shape, chunk, size)
        used = (i for i, each in enumerate(shapes) if each == shape)
        cells, tables = inputs_of(scenarios, used, shape)
        stacked, seeds = stack_blocks(chunk, size, lanes, cells)
        batch = shape._replace(num_slots=MSER_BATCH)
        program = block_program(batch, first.method, _METRICS, False, False)
        state, totals = start_state(shape, seeds.shape, _METRICS), []
        for slot in range(0, shape.num_slots - MSER_BATCH + 1, MSER_BATCH):
            shared = first.row, np.int32(first.plays[0]), tables, np.int32(slot)
            state, _ = program((stacked, seeds, agents), shared, state)
            totals.append(on_host(state[0].totals))
        return totals

    found: list[list[Any]] = [[] for _ in scenarios]
    memory = CHUNK_BYTES["cpu"]
    for chunk, totals in within_memory(launch, chunks_of(blocks, shapes, lanes, lane_bytes, memory)):
        for place, block in enumerate(chunk):
            here = slice(0, min(lanes, start + num_seeds - block.start))
            sums = [
                np.stack([np.zeros(here.stop), *(each[metric.name][place, here] for each in totals)], axis=1)
                for metric in _METRICS
            ]
            found[block.cell].append([np.diff(each, axis=1) for each in sums])
    return [tuple(np.concatenate(part) for part in zip(*parts, strict=True)) for parts in found]  # pyright: ignore
