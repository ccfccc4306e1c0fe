"""Compare methods as the paper does: makespan over the episodes of training, and what is left at the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amco_jax.agents.methods import PHYSICS, Method, get_methods
from amco_jax.errors import check_choice, check_list, check_whole
from amco_jax.kernel.training import FIRST_TRAINING_EPISODE
from amco_jax.metrics import Column, Metric, Metrics, Shown, columns_of, of_curves, shown_in
from amco_jax.report.figures import convergence_figures
from amco_jax.scenario import Scenario
from amco_jax.stats.summaries import Pairs, grouped, summarise
from amco_jax.study.engines import Execution
from amco_jax.study.grid import Cell
from amco_jax.study.run import Outcome, Reduced, carry_out, check_size
from amco_jax.study.trainer import curve_names, logs_of

PAPER_METHODS = ("amcoedge", "smcoedge", "drlcoedge", "randcoedge", "optimal")


@dataclasses.dataclass(frozen=True)
class CompareResult:
    """The outcome of a comparison."""

    curves: pd.DataFrame
    """Columns physics, method, seed, episode, those of the metrics, and what the learners log: NaN where a
    method does not"""
    final: pd.DataFrame
    """Columns physics, method and `summaries.SUMMARY` over the last episodes, for the makespan and what was
    asked for beside it; and the reduction of the first method's metric against this one, seed by seed:
    reduction, reduction_low, reduction_high"""
    manifest: dict[str, Any]
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    out: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison as a study; its fields are the arguments of `compare`.

    Raises:
      InputError: an unknown name, or a value out of range.
    """

    kind = "compare"
    rows = "curves.parquet"

    methods: Sequence[str | Method] = PAPER_METHODS
    num_seeds: int = 32
    episodes: int = 300
    last: int = 50
    scenario: Scenario = dataclasses.field(default_factory=lambda: Scenario())
    physics: Sequence[str] = ("published", "unified")
    first_seed: int = 0
    metrics: Sequence[str | Metric] = ()

    def __post_init__(self):
        _ = self.measured
        for variant in check_list("physics", self.physics):
            check_choice("physics", variant, PHYSICS)
        check_size(self.first_seed, self.num_seeds, self.episodes)
        check_whole("last", self.last, 1, self.episodes)
        self.scenario.check_training()  # rules play the episodes of training too
        for method in self.chosen:
            method.check(self.scenario.num_servers)

    @functools.cached_property
    def chosen(self) -> list[Method]:
        """The methods."""
        return get_methods(self.methods)

    @property
    def measured(self) -> Metrics:
        """The metrics."""
        return of_curves(self.metrics)

    def cells(self) -> list[Cell]:
        """Variant by variant, method by method; rules play the episodes that the others train on."""
        first = FIRST_TRAINING_EPISODE
        return [
            Cell(
                labels={"physics": variant, "method": method.name},
                scenario=self.scenario,
                method=method,
                physics=variant,
                first_seed=self.first_seed,
                num_seeds=self.num_seeds,
                metrics=self.measured,
                columns=curve_names(self.chosen, self.measured, self.scenario.num_servers),
                plays_training=True,
                plays=() if method.training else tuple(range(first, first + self.episodes)),
                train_episodes=self.episodes if method.training else 0,
            )
            for variant in self.physics
            for method in self.chosen
        ]

    def describe(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {
            "kind": self.kind,
            "methods": [m.name for m in self.chosen],
            "settings": {
                m.name: m.training.settings.to_dict() for m in self.chosen if m.training is not None
            },
            "logs": logs_of(self.chosen),
            "physics": list(self.physics),
            "first_seed": self.first_seed,
            "num_seeds": self.num_seeds,
            "episodes": self.episodes,
            "last": self.last,
            "scenario": self.scenario.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The table of the last episodes, and convergence figures for each variant."""
        curves, columns = pd.concat(list(frames), ignore_index=True), columns_of(self.measured)
        tail = curves.loc[curves["episode"] >= self.episodes - self.last]
        final = _final(tail, self.chosen[0].name, shown_in(columns, Shown.EVERYWHERE))
        figures: dict[str, Any] = {}
        for variant in self.physics:
            rows = curves.loc[curves["physics"] == variant]
            figures |= convergence_figures(rows, columns, f"-{variant}")
        return Reduced({"final.csv": final}, figures, curves)


def compare(
    methods: Sequence[str | Method] = PAPER_METHODS,
    *,
    seeds: int = 32,
    episodes: int = 300,
    last: int = 50,
    scenario: Scenario | None = None,
    physics: Sequence[str] = ("published", "unified"),
    out: str | Path | None = None,
    first_seed: int = 0,
    metrics: Sequence[str | Metric] = (),
    execution: Execution = Execution(),  # noqa: B008  # immutable
    overwrite: bool = False,
    progress: bool = False,
) -> CompareResult:
    """Train and run all methods on the same densities and arrivals, seed by seed and episode by episode.

    Args:
      methods: the first is the one whose makespan is set against the others'.
      seeds: number of seeds.
      episodes: of training; rules run through the same ones.
      last: episodes at the end whose mean counts as the final makespan.
      scenario: by default the published setting.
      physics: variants to compare under, each on its own.
      out: a directory for curves.parquet, final.csv, manifest.json and a convergence figure per variant.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      metrics: what to measure beside the usual: names, or metrics of your own, each a `Metric`.
      execution: engine, shard, resume.
      overwrite: replace the results that stand in `out`.
      progress: show bars with the remaining time on stderr.

    Raises:
      InputError: an unknown name, a value out of range, an unwritable directory.
    """
    study = Comparison(
        methods=methods, num_seeds=seeds, episodes=episodes, last=last, scenario=scenario or Scenario(),
        physics=physics, first_seed=first_seed, metrics=metrics,
    )  # fmt: skip
    return carry_out(study, out, execution, overwrite, progress, _result)


def _result(outcome: Outcome) -> CompareResult:
    reduced = outcome.reduced
    curves = pd.DataFrame() if outcome.missing else reduced.kept
    final = reduced.tables.get("final.csv", pd.DataFrame())
    return CompareResult(curves, final, outcome.manifest, outcome.missing, outcome.out)


def _final(tail: pd.DataFrame, reference: str, columns: Sequence[Column]) -> pd.DataFrame:
    """Estimates over some episodes, and the reductions of a method's metrics against each of the others."""
    groups = dict(grouped([tail], ("physics", "method")))
    summary = summarise(groups.items(), ("physics", "method"), columns)
    reductions: dict[tuple[Any, ...], Any] = {}
    pairs = [(groups[variant, reference], episodes) for (variant, _), episodes in groups.items()]
    for column in columns:
        for per in column.weightings:
            found = zip(*Pairs.of(column, pairs, per).reduction(), strict=True)
            names = ((*key, column.name, per) for key in groups)
            reductions |= dict(zip(names, found, strict=True))
    keys = zip(*(summary[name] for name in ("physics", "method", "metric", "per")), strict=True)
    names = ["reduction", "reduction_low", "reduction_high"]
    return pd.concat([summary, pd.DataFrame([reductions[key] for key in keys], columns=names)], axis=1)
