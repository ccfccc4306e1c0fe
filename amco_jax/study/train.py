"""Train one method over many seeds, with curves, and agents to evaluate later."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.identity import name_of
from amco_jax.metrics import Metric, Metrics, columns_of, of_curves
from amco_jax.report.figures import convergence_figures
from amco_jax.scenario import Scenario
from amco_jax.study.agents import trained_seeds
from amco_jax.study.engines import Execution
from amco_jax.study.grid import Cell, identity_of
from amco_jax.study.run import Outcome, Reduced, carry_out, check_size
from amco_jax.study.trainer import curve_names, logs_of


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The outcome of a training."""

    curves: pd.DataFrame
    """Columns method, seed, episode, those of the metrics, and what the learner logs"""
    manifest: dict[str, Any]
    agents: Any = dataclasses.field(repr=False)
    """What the agents decide by, from `Learner.deployed`: leaves `[seeds, num_servers, ...]`"""
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    out: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A training as a study; its fields are the arguments of `train`.

    Raises:
      InputError: a rule, or a value out of range.
    """

    kind = "train"
    rows = "curves.parquet"

    method: Method
    num_seeds: int = 64
    episodes: int
    scenario: Scenario = dataclasses.field(default_factory=lambda: Scenario())
    physics: str = "unified"
    first_seed: int = 0
    metrics: Sequence[str | Metric] = ()

    def __post_init__(self):
        _ = self.measured
        self.method.require_training()
        self.method.physics(self.physics)
        self.method.check(self.scenario.num_servers)
        check_size(self.first_seed, self.num_seeds, self.episodes)

    @property
    def measured(self) -> Metrics:
        """The metrics."""
        return of_curves(self.metrics)

    def cells(self) -> list[Cell]:
        """One cell."""
        return [
            Cell(
                labels={"method": self.method.name},
                scenario=self.scenario,
                method=self.method,
                physics=self.physics,
                first_seed=self.first_seed,
                num_seeds=self.num_seeds,
                metrics=self.measured,
                columns=curve_names([self.method], self.measured, self.scenario.num_servers),
                train_episodes=self.episodes,
            )
        ]

    def describe(self) -> dict[str, Any]:
        """The training as plain data."""
        return {
            "kind": self.kind,
            "method": self.method.name,
            "allocator": name_of(self.method.allocator),
            "settings": self.method.require_training().settings.to_dict(),
            "logs": logs_of([self.method]),
            "physics": self.physics,
            "first_seed": self.first_seed,
            "num_seeds": self.num_seeds,
            "episodes": self.episodes,
            "scenario": self.scenario.to_dict(),
            "depends_on": identity_of(self.method, self.physics).to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The convergence figures."""
        curves = pd.concat(list(frames), ignore_index=True)
        return Reduced({}, convergence_figures(curves, columns_of(self.measured)), curves)


def train(
    method: str | Method,
    *,
    seeds: int = 64,
    episodes: int | None = None,
    scenario: Scenario | None = None,
    physics: str = "unified",
    out: str | Path | None = None,
    first_seed: int = 0,
    metrics: Sequence[str | Metric] = (),
    execution: Execution = Execution(),  # noqa: B008  # immutable
    overwrite: bool = False,
    progress: bool = False,
) -> TrainResult:
    """Train a method, all seeds side by side.

    Args:
      method: a trained method; `Method.with_settings` changes how it learns.
      seeds: number of seeds; each has densities, arrivals, initial weights, and draws for acting and
        learning of its own.
      episodes: by default those of the published run.
      scenario: by default the published setting.
      physics: `unified`, or `published` for the method's own published code.
      out: a directory for curves.parquet, the convergence figure, the agents and manifest.json.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      metrics: what to measure beside the usual: names, or metrics of your own, each a `Metric`.
      execution: engine, shard, resume.
      overwrite: replace what stands in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: a rule, an unknown name, a value out of range, an unwritable directory, or one that holds
        other results.
    """
    chosen = get_method(method)
    study = Training(
        method=chosen,
        num_seeds=seeds,
        episodes=chosen.require_training().episodes if episodes is None else episodes,
        scenario=scenario or Scenario(),
        physics=physics,
        first_seed=first_seed,
        metrics=metrics,
    )

    def result(outcome: Outcome) -> TrainResult:
        if outcome.missing or outcome.agents is None:
            return TrainResult(pd.DataFrame(), outcome.manifest, None, outcome.missing, outcome.out)
        agents = trained_seeds(study.cells()[0], outcome.agents).agents
        return TrainResult(outcome.reduced.kept, outcome.manifest, agents, out=outcome.out)

    return carry_out(study, out, execution, overwrite, progress, result)
