"""Compare methods as the paper does, by their makespan over the episodes of training and at its end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from amco_jax.agents.methods import PAPER_METHODS, PHYSICS, Method, get_methods
from amco_jax.errors import InputError, check_choice, check_list, check_whole
from amco_jax.kernel.training import FIRST_TRAINING_EPISODE
from amco_jax.metrics import Column, Metrics, Shown, curve_metrics, shown_in
from amco_jax.report.figures import convergence_figures
from amco_jax.stats.summaries import Pairs, grouped, summarise
from amco_jax.study.base import Reduced, Study, check_size
from amco_jax.study.grid import Cell
from amco_jax.study.trainer import curve_names, logs_of, settings_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSize:
    """The size of a comparison."""

    seeds: int = 32
    """Number of seeds; a seed gives all methods the same densities and arrivals."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    episodes: int = 300
    """Number of training episodes; rules run on the same ones."""
    last: int = 50
    """Number of last episodes whose mean is the final makespan."""


@dataclasses.dataclass(frozen=True)
class Comparison(ComparisonSize, Study):
    """Train and run all methods on the same densities and arrivals, seed by seed and episode by episode.

    The result has a row per physics variant, method, seed and episode with the columns of the metrics and the
    values that the learners log, which are NaN for methods that do not log them. Its summary has the columns
    physics, method and `summaries.SUMMARY` over the last episodes, and reduction, reduction_low and
    reduction_high: by how much the first method reduces a metric relative to each method, paired by seed.

    Raises:
      InputError: a name is unknown or repeated, or a value is out of range.
    """

    kind = "compare"
    file = "curves.parquet"

    methods: Sequence[str | Method] = PAPER_METHODS
    """The methods; the first is compared with each of the others."""
    _: dataclasses.KW_ONLY
    physics: Sequence[str] = ("published", "unified")
    """The variants of the physics, names in `PHYSICS`; methods are compared within each one."""

    def __post_init__(self):
        _ = self.measured
        for variant in check_list("physics", self.physics):
            check_choice("physics", variant, PHYSICS)
        if len({*self.physics}) < len(self.physics):
            raise InputError(f"physics: {', '.join(self.physics)}; legal: each variant once")
        check_size(self.first_seed, self.seeds, self.episodes)
        check_whole("last", self.last, 1, self.episodes)
        self.base.check_training()  # rules, too, run on the training episodes
        for method in self.chosen:
            method.check(self.base.num_servers)
            method.check_decides()

    @functools.cached_property
    def chosen(self) -> list[Method]:
        """The methods."""
        return get_methods(self.methods)

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics."""
        return curve_metrics(self.metrics)

    def cells(self) -> list[Cell]:
        """One cell per physics variant and method; rules run on the episodes that the others train on."""
        first = FIRST_TRAINING_EPISODE
        return [
            Cell(
                labels={"physics": variant, "method": method.name},
                scenario=self.base,
                method=method,
                physics=variant,
                first_seed=self.first_seed,
                num_seeds=self.seeds,
                metrics=self.measured,
                columns=curve_names(self.chosen, self.measured, self.base.num_servers),
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
            "settings": settings_of(self.chosen),
            "logs": logs_of(self.chosen),
            "physics": list(self.physics),
            "first_seed": self.first_seed,
            "num_seeds": self.seeds,
            "episodes": self.episodes,
            "last": self.last,
            "scenario": self.base.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The table of the last episodes, and convergence figures for each physics variant."""
        curves, columns = pd.concat(list(frames), ignore_index=True), self.columns
        tail = curves.loc[curves["episode"] >= self.episodes - self.last]
        final = _final(tail, self.chosen[0].name, shown_in(columns, Shown.EVERYWHERE))
        figures: dict[str, Any] = {}
        for variant in self.physics:
            rows = curves.loc[curves["physics"] == variant]
            figures |= convergence_figures(rows, columns, f"-{variant}")
        return Reduced({"final.csv": final}, figures)


def _final(tail: pd.DataFrame, reference: str, columns: Sequence[Column]) -> pd.DataFrame:
    """Estimates over some episodes, and the reductions of a method's metrics relative to each method."""
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
