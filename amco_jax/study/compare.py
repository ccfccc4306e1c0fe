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
from amco_jax.report.figures import convergence_figure
from amco_jax.scenario import Scenario
from amco_jax.stats.summaries import COUNTS, EPISODE, TASK, Pairs, grouped, summarise
from amco_jax.study.engines import Execution
from amco_jax.study.grid import Cell
from amco_jax.study.run import Outcome, Reduced, carry_out, check_size
from amco_jax.study.trainer import CURVES, logs_of

PAPER_METHODS = ("amcoedge", "smcoedge", "drlcoedge", "randcoedge", "optimal")


@dataclasses.dataclass(frozen=True)
class CompareResult:
    """The outcome of a comparison."""

    curves: pd.DataFrame
    """Columns physics, method, seed, episode and `trainer.CURVES`, and what the learners log: NaN where a
    method does not"""
    final: pd.DataFrame
    """Two rows per physics and method, per task and per episode: `summaries.COUNTS`, and makespan_s, ci_low,
    ci_high over the last episodes; and the reduction of the first method's makespan against this one, seed by
    seed: reduction, reduction_low, reduction_high"""
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
    physics: Sequence[str] = PHYSICS[::-1]
    first_seed: int = 0

    def __post_init__(self):
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
                columns=(*CURVES, *logs_of(self.chosen)),
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
        """The table of the last episodes, and a convergence figure for each variant."""
        curves = pd.concat(list(frames), ignore_index=True)
        final = _final(curves, self.chosen[0].name, self.episodes - self.last)
        figures = {
            f"convergence-{variant}": functools.partial(
                convergence_figure, curves.loc[curves["physics"] == variant]
            )
            for variant in self.physics
        }
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
      execution: engine, shard, resume.
      overwrite: replace the results that stand in `out`.
      progress: show bars with the remaining time on stderr.

    Raises:
      InputError: an unknown name, a value out of range, an unwritable directory.
    """
    study = Comparison(
        methods=methods, num_seeds=seeds, episodes=episodes, last=last, scenario=scenario or Scenario(),
        physics=physics, first_seed=first_seed,
    )  # fmt: skip
    return carry_out(study, out, execution, overwrite, progress, _result)


def _result(outcome: Outcome) -> CompareResult:
    reduced = outcome.reduced
    curves = pd.DataFrame() if outcome.missing else reduced.kept
    final = reduced.tables.get("final.csv", pd.DataFrame())
    return CompareResult(curves, final, outcome.manifest, outcome.missing, outcome.out)


def _final(curves: pd.DataFrame, reference: str, start: int) -> pd.DataFrame:
    tail = curves.loc[curves["episode"] >= start]
    groups = dict(grouped([tail], ("physics", "method")))
    summary = summarise(groups.items(), ("physics", "method"), ("makespan_mean_s",))
    reductions = {}
    for per in (TASK, EPISODE):
        pairs = [(groups[variant, reference], episodes) for (variant, _), episodes in groups.items()]
        found = zip(*Pairs.of("makespan_mean_s", pairs, per).reduction(), strict=True)
        reductions |= {(*key, per): numbers for key, numbers in zip(groups, found, strict=True)}
    keys = zip(summary["physics"], summary["method"], summary["per"], strict=True)
    columns = pd.DataFrame(
        [reductions[key] for key in keys], columns=["reduction", "reduction_low", "reduction_high"]
    )
    kept = ["physics", "method", "per", *COUNTS, "makespan_s", "ci_low", "ci_high"]
    return pd.concat([summary.rename(columns={"mean": "makespan_s"})[kept], columns], axis=1)
