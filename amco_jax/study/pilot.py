"""Pilot runs, which determine the warm-up of a cell and test whether its episodes are stationary after it.

Servers and links are empty at the start of an episode. A pilot run simulates the first seeds of a cell in
batches of `MSER_BATCH` slots, and evaluates the mean makespan and the mean response time of each batch: the
makespan, which ends at the deadline, can be steady while queues and response times grow without limit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from amco_jax.compile.wide import on_host
from amco_jax.errors import InputError
from amco_jax.metrics import ACCEPTED, MAKESPAN, NUM_TASKS, RESPONSE, Metrics, columns
from amco_jax.metrics.quantiles import values_of
from amco_jax.params import Shape
from amco_jax.scenario import AUTO, Scenario
from amco_jax.stats.stationarity import MSER_BATCH, mser_truncation, trend_p_value
from amco_jax.study.blocks import host_blocks
from amco_jax.study.chunks import AgentSource, Chunk, over_chunks
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import SEEDS_PER_BLOCK, of_episodes, player, start_state

TREND = 0.001
"""The probability of a false warning in a study; the level of each test is this over the number of cells"""

_MEANS = ((MAKESPAN, NUM_TASKS), (RESPONSE, ACCEPTED))
"""The means that must be steady, as metrics whose sums are their numerators and denominators"""


class Pilot(NamedTuple):
    """The result of a pilot run."""

    warmup: int
    """The number of slots to exclude"""
    trend_p: float
    """The p-value of the hypothesis that the two halves of the rest have the same mean makespan and the same
    mean response time, see `trend_p_value`; NaN with fewer than two seeds"""


def check_warmup(cell: Cell) -> None:
    """Raise InputError if `auto` cannot determine a warm-up, or an episode is too short for its batches."""
    scenario = cell.scenario
    if cell.batches and scenario.counted_slots < (most := cell.batches * MSER_BATCH * 2):
        raise InputError(
            f"num_slots: {scenario.num_slots}; legal for a single seed with a warm-up, whose episode is cut "
            f"into {cell.batches} batches: {scenario.num_slots - scenario.counted_slots + most} or more"
        )
    for metric in cell.metrics if cell.batches else ():
        if metric.is_over_slots:
            raise InputError(
                f"metrics: {metric.name} is over the slots of an episode; legal for a single seed with a "
                "warm-up, whose episode is cut into batches: other metrics"
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
    metrics = tuple(itertools.chain(*_MEANS))
    played = _played(cells, source, metrics)
    return [
        _pilot(cell.scenario, [(each.totals[over.name], each.totals[under.name]) for over, under in _MEANS])
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
    played = _played(cells, source, metrics)
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
        of_users = {metric.name: metric.is_of_users for metric in metrics}
        for name, values in each.values.items():
            kept = [values_of(cell.scenario.episode_positions, of_users[name]) for _ in edges]
            for edge, one in zip(edges, kept, strict=True):
                one.add(values[0, edge : edge + length].reshape(1, -1))
            quantiles[name] = np.concatenate([one.quantiles() for one in kept])
        found.append(columns(metrics, totals, length * MSER_BATCH, quantiles))
    return found


def pilots_in(cells: Sequence[Cell], rows: pd.DataFrame) -> list[tuple[Cell, Pilot]]:
    """The pilot run of each cell, as recorded in the rows of the cells."""
    found = ((cell, of_cell.iloc[0]) for cell, of_cell in rows_by_cell(cells, rows))
    return [(cell, Pilot(int(row["warmup"]), float(row["trend_p"]))) for cell, row in found]


def rows_by_cell(cells: Sequence[Cell], rows: pd.DataFrame) -> list[tuple[Cell, pd.DataFrame]]:
    """The rows of each cell, out of those of several in turn."""
    ends = np.cumsum([cell.num_rows for cell in cells]).tolist()
    return [(cell, rows.iloc[end - cell.num_rows : end]) for cell, end in zip(cells, ends, strict=True)]


def pilot_entries(pilots: Sequence[tuple[Cell, Pilot]]) -> list[dict[str, Any]]:
    """The results of pilot runs, for a manifest."""
    return [
        dict(cell.labels)
        | {"warmup": pilot.warmup, "trend_p": None if np.isnan(pilot.trend_p) else pilot.trend_p}
        for cell, pilot in pilots
    ]


def drifting(pilots: Sequence[tuple[Cell, Pilot]]) -> list[tuple[Cell, Pilot]]:
    """The cells whose episodes are not stationary after their warm-up."""
    return [(cell, pilot) for cell, pilot in pilots if pilot.trend_p < TREND / len(pilots)]


def _pilot(scenario: Scenario, means: Sequence[tuple[np.ndarray, np.ndarray]]) -> Pilot:
    """The result of a pilot run.

    Args:
      means: the numerators and the denominators of each mean over batches of slots, `[seeds, batches]`.
    """
    if scenario.warmup == AUTO:
        batches = max(_truncation(*each) for each in means)
        warmup = batches * MSER_BATCH
    else:
        warmup = scenario.num_slots - scenario.counted_slots
        batches = -(-warmup // MSER_BATCH)
    # Where all tasks are in time, the means are the same, and so is their test.
    kept = {
        (over[:, batches:].tobytes(), under[:, batches:].tobytes()): (over, under) for over, under in means
    }
    found = [float(trend_p_value(over[:, batches:], under[:, batches:])) for over, under in kept.values()]
    known = [p for p in found if not math.isnan(p)]
    return Pilot(warmup, min(1.0, len(known) * min(known)) if known else math.nan)  # Bonferroni's correction


def _truncation(numerator: np.ndarray, denominator: np.ndarray) -> int:
    """The number of batches to exclude, from sums over the tasks of each batch, `[seeds, batches]`."""
    total = denominator.sum(axis=0)
    means = np.divide(numerator.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
    return mser_truncation(means, 1) if np.count_nonzero(total) > 1 else 0


class _Played(NamedTuple):
    """The simulated seeds of one scenario, in batches of `MSER_BATCH` slots."""

    totals: dict[str, np.ndarray]
    """Sums by the name of the metric, `[seeds, batches]` or `[seeds, batches, num_servers]`"""
    values: dict[str, np.ndarray]
    """The values of tasks by the name of the metric, `[seeds, batches, positions]`, inf where empty"""


def _of_first_seeds(values: Any, num_seeds: int) -> np.ndarray:
    """The values of a segment, `[blocks, seeds, n]`; a copy, or a few seeds would hold those of all lanes."""
    found = np.array(of_episodes(np.asarray(values))[:, :num_seeds])
    return found.reshape(*found.shape[:2], -1)


def _played(cells: Sequence[Cell], source: AgentSource | None, metrics: Metrics) -> list[_Played]:
    """Simulate the pilot seeds of cells from the first slot on, without an incomplete last batch."""
    first, scenarios = cells[0], [cell.scenario.replace(warmup=0) for cell in cells]
    start, num_seeds = first.pilot_seeds
    lists = [metric.name for metric in metrics if not metric.is_sum]
    play = player(first.method, first.row, first.plays[0], metrics)

    def lane_bytes(shape: Shape) -> int:
        return 4 * shape.num_servers * shape.max_tasks * MSER_BATCH * max(len(lists), 1)

    def play_all(chunk: Chunk) -> list[tuple[int, np.ndarray, _Played]]:
        slots = range(0, chunk.shape.num_slots - MSER_BATCH + 1, MSER_BATCH)
        segments = [(slot, MSER_BATCH) for slot in slots]
        state, _ = start_state(chunk.shape, chunk.lanes, metrics, first.method)
        totals, values = [on_host(state.totals)], []
        for state, of_tasks in play(chunk, segments):
            totals.append(on_host(state.totals))
            values.append({name: _of_first_seeds(of_tasks[name], num_seeds) for name in lists})
        played = _Played(
            {name: np.diff(np.stack([each[name] for each in totals], axis=2), axis=2) for name in totals[0]},
            {name: np.stack([each[name] for each in values], axis=2) for name in lists},
        )
        return list(chunk.by_scenario(host_blocks(played)))

    parts: list[list[_Played]] = [[] for _ in scenarios]
    for found in over_chunks(play_all, scenarios, start, num_seeds, SEEDS_PER_BLOCK, lane_bytes, source):
        for index, _, played in found:
            parts[index].append(played)
    return [jax.tree.map(lambda *leaves: np.concatenate(leaves), *each) for each in parts]
