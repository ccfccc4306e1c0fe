"""What a study is: a grid of cells, a reducer of their rows to tables and figures, and what comes of it."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from amco_jax.errors import check_whole
from amco_jax.metrics import Metric, Metrics, choose
from amco_jax.random import check_seeds
from amco_jax.scenario import Scenario
from amco_jax.study.grid import Cell


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What a study makes of its rows."""

    tables: Mapping[str, pd.DataFrame]
    """The tables, by the name of the CSV file; the first is the study's summary."""
    figures: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    """Functions that draw a figure, by the name of its files without their endings."""
    rows: pd.DataFrame | None = None
    """The rows as the user gets them, if they differ from those that are stored."""


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """The result of a study."""

    manifest: dict[str, Any]
    """The study, versions, device and wall time: the contents of manifest.json."""
    summary: pd.DataFrame
    """The main table, as in summary.csv or final.csv. It is empty for a training, which has none."""
    missing: int = 0
    """The number of units that other shards have not computed yet. If there are any, the rest is empty."""
    agents: Any = dataclasses.field(repr=False, default=None)
    """What trained agents decide by, from `Learner.deployed`: leaves `[seeds, num_servers, ...]`. Only a
    training has them."""
    out: Path | None = None
    """The directory of the results, if they were written."""
    kept: pd.DataFrame | Path = dataclasses.field(repr=False, default_factory=pd.DataFrame)
    """The rows, or the file that holds them."""

    @property
    def rows(self) -> pd.DataFrame:
        """All rows: one per cell, seed and episode. They are read from `out` if they were written there."""
        return pd.read_parquet(self.kept) if isinstance(self.kept, Path) else self.kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(abc.ABC):
    """A grid of cells and a reducer of their rows. `run_study` carries it out."""

    kind: ClassVar[str]
    """The name of the study's command."""
    file: ClassVar[str]
    """The name of the table of all rows."""

    scenario: Scenario | None = None
    """What the cells have in common; by default, the published setting."""
    metrics: Sequence[str | Metric] = ()
    """What is measured besides the usual metrics: names, or metrics of your own, each a `Metric`."""

    @functools.cached_property
    def base(self) -> Scenario:
        """The scenario that the cells vary."""
        return self.scenario or Scenario()

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics of its rows."""
        return choose(self.metrics)

    @abc.abstractmethod
    def cells(self) -> Sequence[Cell]:
        """The grid, in the order of the rows."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The study as plain data, for the manifest."""

    @abc.abstractmethod
    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """Tables and figures from the rows, which come unit by unit, in order."""


def check_size(first_seed: object, seeds: object, episodes: object) -> None:
    """Raise InputError unless these are seeds and a number of episodes."""
    check_seeds(first_seed, seeds)
    check_whole("episodes", episodes)
