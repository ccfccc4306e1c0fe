"""Studies: a grid of cells, a reducer that turns their rows into tables and figures, and a result."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from amco_jax.errors import check_whole
from amco_jax.metrics import Column, Metric, Metrics, choose, columns_of
from amco_jax.random import check_seeds
from amco_jax.results.saved import read_table
from amco_jax.scenario import Scenario
from amco_jax.study.grid import Cell


@dataclasses.dataclass(frozen=True)
class Reduced:
    """The tables and figures that a study derives from its rows."""

    tables: Mapping[str, pd.DataFrame]
    """The tables, by the name of their CSV file; the first is the summary of the study."""
    figures: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    """Functions that each draw one figure, by the name of its files without the suffix."""
    rows: pd.DataFrame | None = None
    """The rows that the user gets, if they differ from the stored rows."""


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """The result of a study."""

    manifest: dict[str, Any]
    """The contents of manifest.json, such as the study, versions, device and wall time."""
    summary: pd.DataFrame
    """The main table, as in summary.csv or final.csv; empty for a training, which has none."""
    missing: int = 0
    """The number of units that other shards have yet to compute. If it is not 0, there are no results yet."""
    agents: Any = dataclasses.field(repr=False, default=None)
    """The trained agents, as returned by `Learner.deployed`, with leaves `[seeds, num_servers, ...]`. Only a
    training has them."""
    out: Path | None = None
    """The directory of the results, if they were written."""
    kept: pd.DataFrame | Path = dataclasses.field(repr=False, default_factory=pd.DataFrame)
    """The rows, or the file that contains them."""

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """All rows, one per cell, seed and episode; read on first use, if they were written to `out`."""
        return read_table(self.kept) if isinstance(self.kept, Path) else self.kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(abc.ABC):
    """A grid of cells and a reducer of their rows; `run_study` runs it."""

    kind: ClassVar[str]
    """The name of the command that runs such studies."""
    file: ClassVar[str]
    """The name of the file with all rows."""
    keeps_agents: ClassVar[bool] = False
    """Whether the trained agents are part of the results, of a study that has a single cell."""

    scenario: Scenario | None = None
    """The scenario that the cells vary; by default, the published one."""
    metrics: Sequence[str | Metric] = ()
    """Metrics to measure in addition to the usual ones, each a name or a `Metric`."""

    @functools.cached_property
    def base(self) -> Scenario:
        """The scenario that the cells vary, with the default applied."""
        return self.scenario or Scenario()

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics in the rows."""
        return choose(self.metrics)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the metrics, as the manifest describes them."""
        return columns_of(self.measured)

    @abc.abstractmethod
    def cells(self) -> Sequence[Cell]:
        """The grid, in the order of the rows."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The study as plain data, for the manifest."""

    @abc.abstractmethod
    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """Tables and figures of the rows, which are passed unit by unit, in order."""


def check_size(first_seed: object, seeds: object, episodes: object) -> None:
    """Raise InputError unless these are valid seeds and a valid number of episodes."""
    check_seeds(first_seed, seeds)
    check_whole("episodes", episodes)
