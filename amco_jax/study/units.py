"""Units of work, into which a study is divided so that it can be interrupted, resumed and distributed.

A unit consists of cells that one program computes, or of a range of seeds of one cell. Its rows do not depend
on other units, and its name contains a digest of everything on which they depend.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from amco_jax.compile.runtime import own_numerics
from amco_jax.metrics import as_columns, counts_among
from amco_jax.scenario import Scenario
from amco_jax.study.agents import AgentStore, StoredAgents, train_missing, trained_seeds
from amco_jax.study.bound import bound_columns, bounds_of_seeds
from amco_jax.study.chunks import AgentSource
from amco_jax.study.differentiate import derivatives, differentiate
from amco_jax.study.grid import Cell, digest_of
from amco_jax.study.pilot import Pilot, batch_columns, pilots_of
from amco_jax.study.planner import Planned
from amco_jax.study.simulate import SEEDS_PER_BLOCK, simulate
from amco_jax.study.trainer import curve_names

# Throughput of two cores (benchmarks/): task positions that a rule simulates per second, and the cost of one
# in training, with a gradient, or of a lower bound, relative to that. They are constants, since all machines
# must divide a study into the same units.
_POSITIONS_PER_S = 7e7
_TRAINING_COST = 20
_GRADIENT_COST = 50
_BOUND_COST = 10_000
_PLAN_COST = 240


@dataclasses.dataclass(frozen=True)
class Unit:
    """Compatible cells of one study (`Cell.alike`), which are computed together."""

    id: str
    """The unit's position in the study, and its digest"""
    cells: tuple[Cell, ...]

    @property
    def method(self) -> str:
        """The name of the method, for the progress bar."""
        return self.cells[0].method.name

    @property
    def episodes(self) -> int:
        """The number of episodes of simulation and training."""
        return sum(cell.episodes for cell in self.cells)


def units_of(cells: Sequence[Cell], unit_seconds: float) -> list[Unit]:
    """All units of a study, in the order of its cells and seeds.

    Args:
      unit_seconds: the nominal duration of a unit on two CPU cores.
    """
    return [
        Unit(f"{number:05d}-{digest_of([cell.describe() for cell in part])}", tuple(part))
        for number, part in enumerate(_parts(cells, unit_seconds))
    ]


def _parts(cells: Sequence[Cell], unit_seconds: float) -> Iterator[list[Cell]]:
    group: list[Cell] = []
    spent = 0.0
    for cell in cells:
        per_seed = _seconds_per_seed(cell)
        seconds = per_seed * cell.num_seeds
        if group and (spent + seconds > unit_seconds or not cell.alike(group[0])):
            yield group
            group, spent = [], 0.0
        if seconds <= unit_seconds:
            group, spent = [*group, cell], spent + seconds
            continue
        # The cell is too large for a unit. Its parts are whole blocks of seeds, of agents as well as of
        # episodes, so that no lane stays idle and all parts find the same agents.
        learner = cell.method.training
        block = math.lcm(SEEDS_PER_BLOCK, 1 if learner is None else learner.seeds_per_block)
        most = max(int(unit_seconds / per_seed) // block, 1) * block
        for start in range(0, cell.num_seeds, most):
            yield [cell.of_seeds(cell.first_seed + start, min(most, cell.num_seeds - start))]
    if group:
        yield group


def _seconds_per_seed(cell: Cell) -> float:
    scenario = cell.scenario
    positions = scenario.num_servers * scenario.num_positions * scenario.num_slots
    if cell.method.is_bound:
        cost = _BOUND_COST
    elif cell.method.policy.by_position:
        cost = _PLAN_COST
    else:
        cost = _GRADIENT_COST * len(cell.metrics) if cell.derivatives else 1
    trained = _TRAINING_COST * cell.train_episodes
    return positions * (cost * len(cell.plays) + trained) / _POSITIONS_PER_S


@own_numerics()
def run_unit(
    unit: Unit, store: AgentStore, checkpoints: Path, tell: Callable[[int], None] = lambda episodes: None
) -> pd.DataFrame:
    """The rows of a unit: the labels of its cells, seed, episode, and the columns that the cells request.

    Args:
      store: the store of trained agents; missing agents are trained and added to it.
      checkpoints: the directory of checkpoints from which a long training resumes.
      tell: called with a number of episodes whenever they are done.
    """
    first = unit.cells[0]
    train_missing(unit.cells, store, checkpoints, tell)
    if not first.plays:
        return pd.concat([_curves(cell, store) for cell in unit.cells], ignore_index=True)
    if first.derivatives:
        return _derivatives(unit, tell)
    if first.method.is_bound:
        return pd.concat([_bound_rows(cell, tell) for cell in unit.cells], ignore_index=True)
    scenarios, told = [cell.scenario for cell in unit.cells], [{} for _ in unit.cells]
    if first.has_pilot:
        pilots = _pilots(unit, store, checkpoints)
        found = zip(scenarios, pilots, strict=True)
        scenarios = [scenario.replace(warmup=pilot.warmup) for scenario, pilot in found]
        told = [pilot._asdict() for pilot in pilots]
        if first.batches:
            source = _sources(unit.cells, scenarios, store)(first.plays[0])
            rows = batch_columns(unit.cells, pilots, source)
            tell(len(rows))
            return pd.concat(
                [_batches(*each) for each in zip(unit.cells, pilots, rows, strict=True)], ignore_index=True
            )
    frames: dict[tuple[int, int], list[pd.DataFrame]] = {}
    sources = _sources(unit.cells, scenarios, store)
    for episode, number in enumerate(first.plays):
        batches = simulate(
            scenarios, first.method, first.row, first.first_seed, first.num_seeds, sources(number), number,
            first.plays_training, first.metrics,
        )  # fmt: skip
        for batch in batches:
            cell, seeds = unit.cells[batch.index], batch.seeds
            played = _played(cell, seeds, number)
            same = {name: np.full(len(seeds), value) for name, value in told[batch.index].items()}
            metrics = batch.metrics | {"stretch": played} | same
            frame = _frame(cell, seeds, np.full(len(seeds), episode), metrics)
            frames.setdefault((batch.index, episode), []).append(frame)
            tell(len(frame))
    return pd.concat([frame for key in sorted(frames) for frame in frames[key]], ignore_index=True)


def _derivatives(unit: Unit, tell: Callable[[int], None]) -> pd.DataFrame:
    """Rows of derivatives, with the metrics that are differentiated."""
    first, scenarios = unit.cells[0], [cell.scenario for cell in unit.cells]
    rows: list[dict[str, np.ndarray]] = [{} for _ in unit.cells]
    (number,) = first.plays
    for metric in first.metrics:
        batches = differentiate(
            scenarios,
            first.method,
            first.row,
            first.first_seed,
            first.num_seeds,
            metric=metric,
            episode=number,
        )
        for index, group in itertools.groupby(batches, key=lambda batch: batch.index):
            parts = [derivatives(metric, batch.gradients, first.derivatives) for batch in group]
            rows[index] |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tell(unit.episodes)
    frames = []
    for cell, found in zip(unit.cells, rows, strict=True):
        seeds = np.arange(cell.first_seed, cell.first_seed + cell.num_seeds)
        stretch = _played(cell, seeds, number)
        frames.append(_frame(cell, seeds, np.zeros_like(seeds), found | {"stretch": stretch}))
    return pd.concat(frames, ignore_index=True)


def _bound_rows(cell: Cell, tell: Callable[[int], None]) -> pd.DataFrame:
    """The rows of lower bounds."""
    frames = []
    for found in bounds_of_seeds(cell.scenario, cell.first_seed, cell.num_seeds):
        metrics = bound_columns(cell.metrics, found, cell.scenario) | {"stretch": _played(cell, found.seeds)}
        if cell.scenario.warmup is not None:
            metrics["warmup"] = np.full(len(found.seeds), cell.scenario.warmup)
        frames.append(_frame(cell, found.seeds, np.zeros_like(found.seeds), metrics))
        tell(len(found.seeds))
    return pd.concat(frames, ignore_index=True)


def _played(cell: Cell, seeds: np.ndarray, episode: int = 0) -> np.ndarray:
    """The stretch of a log that each seed plays; a number of its own where it has its own arrivals."""
    if cell.plays_stretches:
        return cell.scenario.process.stretches(cell.scenario, seeds, episode)
    return -1 - seeds


def _batches(cell: Cell, pilot: Pilot, metrics: dict[str, np.ndarray]) -> pd.DataFrame:
    """The rows of a single episode, one per batch."""
    seeds, number = np.full(cell.batches, cell.first_seed), np.arange(cell.batches)
    same = {name: np.full(cell.batches, value) for name, value in pilot._asdict().items()}
    return _frame(cell, seeds, np.zeros_like(number), metrics | same | {"batch": number})


def _pilots(unit: Unit, store: AgentStore, checkpoints: Path) -> list[Pilot]:
    """The pilot runs of a unit's cells; their seeds may differ from the unit's."""
    cells = [cell.of_seeds(*cell.pilot_seeds) for cell in unit.cells]
    train_missing(cells, store, checkpoints)
    sources = _sources(cells, [cell.scenario for cell in cells], store)
    return pilots_of(cells, sources(cells[0].plays[0]))


def _sources(
    cells: Sequence[Cell], scenarios: Sequence[Scenario], store: AgentStore
) -> Callable[[int], AgentSource | None]:
    """The agents of trained methods, or a planner's plans of a numbered episode; None for rules."""
    first = cells[0]
    if first.method.policy.by_position:
        return lambda number: Planned(scenarios, first.method, first.row, number, first.plays_training)
    agents = None if first.method.training is None else StoredAgents(cells, store)
    return lambda number: agents


def _curves(cell: Cell, store: AgentStore) -> pd.DataFrame:
    """The rows of a training, for one seed after another."""
    names = curve_names([cell.method], cell.trained_metrics, cell.scenario.num_servers)
    counts = counts_among(names, cell.trained_metrics)
    curves, episodes = trained_seeds(cell, store).curves, cell.train_episodes
    seeds = np.arange(cell.first_seed, cell.first_seed + cell.num_seeds)
    return _frame(
        cell,
        np.repeat(seeds, episodes),
        np.tile(np.arange(episodes), len(seeds)),
        {
            name: values.ravel().astype(np.int64 if name in counts else np.float64)
            for name, values in zip(names, np.moveaxis(curves, -1, 0), strict=True)
        },
    )


def _frame(
    cell: Cell, seeds: np.ndarray, episodes: np.ndarray, metrics: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Tidy rows with all columns that the cell requests.

    A column that does not apply to it has no values, in the type that it has in the rows of other cells.
    """
    absent = {name: np.nan for name in cell.columns}
    counts = counts_among(cell.columns, cell.metrics)
    absent |= {name: pd.array([pd.NA] * len(seeds), dtype="Int64") for name in counts}
    found = absent | as_columns(metrics)
    return pd.DataFrame(
        dict(cell.labels)
        | {"seed": seeds, "episode": episodes}
        | {name: found[name] for name in cell.columns}
    )
