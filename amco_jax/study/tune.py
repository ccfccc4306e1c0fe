"""Sweep the settings of a trained method: every combination and seed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.errors import InputError, check_list
from amco_jax.metrics import MAKESPAN, TASK, Column, Metric, Metrics, Shown, choose, columns_of, shown_in
from amco_jax.scenario import Scenario
from amco_jax.stats.summaries import COUNTS, Episodes, summarise
from amco_jax.study.engines import Execution
from amco_jax.study.grid import Cell, columns_of_rows
from amco_jax.study.run import Outcome, Reduced, carry_out, check_size

GAP_PERCENTILES = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """The outcome of a sweep over settings."""

    results: pd.DataFrame
    """One row per combination and seed: the settings, seed, columns of metrics, gap"""
    summary: pd.DataFrame
    """One row per combination: the settings, `summaries.COUNTS`, each metric of tables, per task where that
    is possible, and then also per episode, with `_per_episode` behind its name; and of the gaps of the seeds
    with tasks the mean, percentiles (gap_p50, ...), the largest, and the share within `within`"""
    manifest: dict[str, Any]
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    out: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A sweep over settings as a study; its fields are the arguments of `tune`.

    Raises:
      InputError: a rule as method, an unknown setting, or a value out of range.
    """

    kind = "tune"
    rows = "results.parquet"

    method: Method
    settings: Mapping[str, Sequence[Any]]
    num_seeds: int = 64
    episodes: int = 300
    within: float = 0.03
    scenario: Scenario = dataclasses.field(default_factory=lambda: Scenario())
    physics: str = "unified"
    reference: Method
    first_seed: int = 0
    metrics: Sequence[str | Metric] = ()

    def __post_init__(self):
        _ = self.measured
        if self.reference.training is not None:
            raise InputError(f"reference: {self.reference.name} is trained; legal: a rule")
        check_size(self.first_seed, self.num_seeds, self.episodes)
        self.method.check(self.scenario.num_servers)
        self.method.physics(self.physics)
        _ = self.variants  # which checks the settings
        for metric in self.measured:
            if metric.name in self.settings:
                raise InputError(f"metrics: {metric.name} is a setting too; legal: names of their own")

    @functools.cached_property
    def grid(self) -> list[dict[str, Any]]:
        """All combinations."""
        choices = [check_list(name, values) for name, values in self.settings.items()]
        return [dict(zip(self.settings, values, strict=True)) for values in itertools.product(*choices)]

    @functools.cached_property
    def variants(self) -> list[Method]:
        """The method under each combination."""
        return [self.method.with_settings(**changes) for changes in self.grid]

    @property
    def measured(self) -> Metrics:
        """The metrics."""
        return choose(self.metrics, Shown.TABLES)

    def cells(self) -> list[Cell]:
        """The reference, and each combination, those that share a program side by side."""

        def cell(method: Method, changes: Mapping[str, Any]) -> Cell:
            return Cell(
                labels={"method": method.name} | {name: str(changes.get(name, "")) for name in self.settings},
                scenario=self.scenario,
                method=method,
                physics=self.physics,
                first_seed=self.first_seed,
                num_seeds=self.num_seeds,
                metrics=self.measured,
                columns=columns_of_rows([self.scenario], self.measured),
                plays=(0,),
                train_episodes=self.episodes if method.training else 0,
            )

        by_shape = sorted(range(len(self.grid)), key=lambda i: str(self.variants[i].policy))
        return [cell(self.reference, {}), *(cell(self.variants[i], self.grid[i]) for i in by_shape)]

    def describe(self) -> dict[str, Any]:
        """The tuning as plain data."""
        return {
            "kind": self.kind,
            "method": self.method.name,
            "base_settings": self.method.require_training().settings.to_dict(),
            "settings": {name: list(map(str, values)) for name, values in self.settings.items()},
            "physics": self.physics,
            "reference": self.reference.name,
            "within": self.within,
            "first_seed": self.first_seed,
            "num_seeds": self.num_seeds,
            "episodes": self.episodes,
            "scenario": self.scenario.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The gap of each seed to the reference in the same episode, and its summary by combination."""
        rows = pd.concat(list(frames), ignore_index=True)
        names = list(self.settings)
        is_reference = np.arange(len(rows)) < self.num_seeds
        target = rows.loc[is_reference].set_index("seed")[MAKESPAN.name]
        found = rows.loc[~is_reference].drop(columns=["method", "episode"])
        found["gap"] = np.asarray(found[MAKESPAN.name]) / np.asarray(target.loc[found["seed"]]) - 1
        tables = []
        for changes in self.grid:
            chosen = np.ones(len(found), bool)
            for name in names:
                chosen &= np.asarray(found[name] == str(changes[name]))
            tables.append(found.loc[chosen])
        columns = shown_in(columns_of(self.measured), Shown.TABLES)
        summary = [
            _summarise(changes, table, columns, self.within)
            for changes, table in zip(self.grid, tables, strict=True)
        ]
        results = pd.concat(tables, ignore_index=True)
        return Reduced({"summary.csv": pd.DataFrame(summary)}, kept=results)


def tune(
    method: str | Method,
    settings: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 64,
    episodes: int = 300,
    within: float = 0.03,
    scenario: Scenario | None = None,
    physics: str = "unified",
    reference: str | Method = "optimal",
    out: str | Path | None = None,
    first_seed: int = 0,
    metrics: Sequence[str | Metric] = (),
    execution: Execution = Execution(),  # noqa: B008  # immutable
    overwrite: bool = False,
    progress: bool = False,
) -> TuneResult:
    """Train under all combinations of some settings, and evaluate each seed greedily on an unseen episode.

    Combinations that agree in the static settings share one program.

    Args:
      method: a trained method, whose other settings stay as they are.
      settings: values by the name of one of the settings of its learner.
      seeds: number of seeds for each combination.
      episodes: of training.
      within: a seed counts as good where its gap is at most this.
      scenario: by default the published setting.
      physics: `unified`, or `published` for the methods' own published codes.
      reference: a rule. The gap of a seed is makespan / makespan of the reference - 1 in the same episode.
      out: a directory for results.parquet, summary.csv and manifest.json.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      metrics: what to measure beside the usual: names, or metrics of your own, each a `Metric`.
      execution: engine, shard, resume.
      overwrite: replace the results that stand in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: a rule as method, an unknown setting, a value out of range, an unwritable directory.
    """
    study = Tuning(
        method=get_method(method), settings=settings, num_seeds=seeds, episodes=episodes, within=within,
        scenario=scenario or Scenario(), physics=physics, reference=get_method(reference),
        first_seed=first_seed, metrics=metrics,
    )  # fmt: skip
    return carry_out(study, out, execution, overwrite, progress, _result)


def _result(outcome: Outcome) -> TuneResult:
    results = pd.DataFrame() if outcome.missing else outcome.reduced.kept
    summary = outcome.reduced.tables.get("summary.csv", pd.DataFrame())
    return TuneResult(results, summary, outcome.manifest, outcome.missing, outcome.out)


def _summarise(
    changes: Mapping[str, Any], table: pd.DataFrame, columns: Sequence[Column], within: float
) -> dict[str, Any]:
    rows = summarise([((), Episodes.of(table))], (), columns).set_index(["metric", "per"])
    means = {
        f"{column.name}{suffix}": rows.loc[(column.name, per), "mean"]
        for column in columns
        for per, suffix in zip(column.weightings, ("", "_per_episode"), strict=False)
    }
    gap = np.asarray(table["gap"])
    gap = gap[~np.isnan(gap)]  # a seed without tasks has none
    known = gap if len(gap) else np.array([np.nan])
    return {
        **{name: str(value) for name, value in changes.items()},
        **{name: rows.loc[(MAKESPAN.name, TASK), name] for name in COUNTS},
        **means,
        "gap_mean": np.mean(known),
        **{f"gap_p{q}": np.percentile(known, q) for q in GAP_PERCENTILES},
        "gap_max": np.max(known),
        f"within_{within:g}": np.mean(gap <= within) if len(gap) else np.nan,
    }
