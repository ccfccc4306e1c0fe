"""Sweep one quantity over values × methods × seeds: the main job."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amco_jax.agents.methods import Method, get_methods
from amco_jax.errors import InputError, check_list, check_whole
from amco_jax.metrics import Metric, Metrics, Shown, choose, columns_of, estimated, shown_in
from amco_jax.report.figures import sweep_figure
from amco_jax.scenario import Scenario
from amco_jax.scenario.axes import Axis, default_values, get_axis, value_labels
from amco_jax.stats.summaries import grouped, summarise
from amco_jax.study.engines import Execution
from amco_jax.study.grid import BATCHES, Cell, columns_of_rows
from amco_jax.study.run import Outcome, Reduced, carry_out, check_size

DEFAULT_METHODS = (
    "optimal",
    "optimal-admission",
    "amcoedge-stable",
    "smcoedge-stable",
    "drlcoedge-stable",
    "randcoedge",
    "all-servers",
    "least-wait",
    "two-choices",
    "local",
)

TRAINED_SEEDS = 32
EPISODES = 50

_LABELS = ("method", "param", "value")


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep."""

    summary: pd.DataFrame
    """Columns method, param, value and `summaries.SUMMARY`: each metric per task or per episode, or both"""
    manifest: dict[str, Any]
    """Scenario, seeds, versions, device, wall time"""
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    rows: pd.DataFrame | None = dataclasses.field(repr=False, default=None)
    out: Path | None = None

    @property
    def results(self) -> pd.DataFrame:
        """One row per method, value and seed; read from `out` where results were written there."""
        return pd.read_parquet(self.out / Sweep.rows) if self.rows is None and self.out else self.rows  # pyright: ignore[reportReturnType]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as a study; its fields are the arguments of `sweep`.

    Raises:
      InputError: an unknown name, a value out of range, an empty list, something named twice.
    """

    kind = "sweep"
    rows = "results.parquet"

    param: str
    values: Sequence[Any] | None = None
    methods: Sequence[str | Method] = DEFAULT_METHODS
    scenario: Scenario = dataclasses.field(default_factory=lambda: Scenario())
    physics: str = "unified"
    first_seed: int = 0
    num_seeds: int = 1000
    trained_seeds: int = TRAINED_SEEDS
    episodes: int = EPISODES
    metrics: Sequence[str | Metric] = ()

    def __post_init__(self):
        _ = self.measured
        check_size(self.first_seed, self.num_seeds, self.episodes)
        check_whole("trained_seeds", self.trained_seeds)
        for each in self.scenarios:  # which checks the values
            self._check(each)
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"values: {', '.join(map(str, self.labels))}; legal: each value once")
        for method in self.chosen:
            method.physics(self.physics)

    def _check(self, scenario: Scenario) -> None:
        """Raise InputError unless all methods can be simulated there."""
        for method in self.chosen:
            method.check(scenario.num_servers)
            if method.training is not None:
                scenario.check_training()

    @functools.cached_property
    def axis(self) -> Axis:
        """What is swept."""
        return get_axis(self.param, self.scenario)

    @functools.cached_property
    def chosen(self) -> list[Method]:
        """The methods."""
        return get_methods(self.methods)

    @property
    def measured(self) -> Metrics:
        """The metrics."""
        return choose(self.metrics)

    @functools.cached_property
    def points(self) -> list[Any]:
        """The values."""
        if self.values is not None:
            return check_list("values", self.values)
        self._check(self.scenario)
        return default_values(self.param, self.scenario, self._check)

    @functools.cached_property
    def labels(self) -> list[Any]:
        """The values as they stand in tables."""
        return value_labels(self.points)

    @functools.cached_property
    def scenarios(self) -> list[Scenario]:
        """One for each value."""
        return [self.axis.apply(self.scenario, value) for value in self.points]

    def cells(self) -> list[Cell]:
        """Method by method, value by value."""
        single = self.num_seeds == 1 and all(scenario.warmup for scenario in self.scenarios)
        batches = BATCHES if single else 0
        columns = columns_of_rows(self.scenarios, self.measured, batches)
        trained = min(self.num_seeds, self.trained_seeds)
        return [
            Cell(
                labels={"method": method.name, "param": self.param, "value": label},
                scenario=scenario,
                method=method,
                physics=self.physics,
                first_seed=self.first_seed,
                num_seeds=self.num_seeds if method.training is None else trained,
                metrics=self.measured,
                columns=columns,
                plays=(0,),
                batches=batches,
                train_episodes=0 if method.training is None else self.episodes,
            )
            for method in self.chosen
            for label, scenario in zip(self.labels, self.scenarios, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """The sweep as plain data."""
        return {
            "kind": self.kind,
            "param": self.param,
            "param_label": self.axis.label_for(self.scenario),
            "values": self.labels,
            "methods": [m.name for m in self.chosen],
            "physics": self.physics,
            "first_seed": self.first_seed,
            "num_seeds": self.num_seeds,
            "training": {
                "episodes": self.episodes,
                "num_seeds": min(self.num_seeds, self.trained_seeds),
                "settings": {
                    m.name: m.training.settings.to_dict() for m in self.chosen if m.training is not None
                },
            },
            "scenario": self.scenario.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """Means with intervals, and figures of them."""
        columns = columns_of(self.measured)
        servers = max(scenario.num_servers for scenario in self.scenarios)
        summary = summarise(grouped(frames, _LABELS), _LABELS, estimated(columns, servers))
        label = self.axis.label_for(self.scenario)
        figures = {
            column.figure or column.name: functools.partial(sweep_figure, summary, column, label)
            for column in shown_in(columns, Shown.TABLES)
        }
        return Reduced({"summary.csv": summary}, figures)


def sweep(
    param: str,
    *,
    values: Sequence[Any] | None = None,
    methods: Sequence[str | Method] = DEFAULT_METHODS,
    seeds: int = 1000,
    scenario: Scenario | None = None,
    physics: str = "unified",
    out: str | Path | None = None,
    first_seed: int = 0,
    trained_seeds: int = TRAINED_SEEDS,
    episodes: int = EPISODES,
    metrics: Sequence[str | Metric] = (),
    execution: Execution = Execution(),  # noqa: B008  # frozen
    overwrite: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Simulate every method at every value of one quantity, on the same arrivals seed by seed.

    Trained methods are trained anew for each value and seed, and then decide greedily the same episode as
    the other methods. The work is cut into units, each of which is committed to disk as it ends: an
    interrupted sweep goes on from there.

    Args:
      param: a scenario field, a scale, see `amco_jax.scenario.axes.AXES`, or a quantity that the arrival
        process of the scenario may vary.
      values: by default those of the axis.
      methods: names, or methods of your own, each a `Method`.
      seeds: number of seeds; seed k draws the same arrivals for every method and value.
      scenario: what is held fixed; by default the published setting.
      physics: `unified`, or `published` for each method's own published code.
      out: a directory for results.parquet, summary.csv, manifest.json and figures, which appear at the end,
        and for the units.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      trained_seeds: most seeds of a trained method, the first ones of `seeds`.
      episodes: of training, for each value and seed.
      metrics: what to measure beside the usual: names, or metrics of your own, each a `Metric`.
      execution: engine, shard, resume.
      overwrite: replace what stands in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: an unknown name, a value out of range, an empty list, an unwritable directory, or one that
        holds other results or damaged ones.

    Example:
      >>> small = Scenario(num_servers=2, num_tasks=5, num_slots=4)
      >>> found = sweep("deadline", values=[0.5, 1], methods=["local", "optimal"], seeds=8, scenario=small)
      >>> found.results[["method", "value", "seed"]].tail(2)
           method  value  seed
      30  optimal    1.0     6
      31  optimal    1.0     7
    """
    study = Sweep(
        param=param, values=values, methods=methods, scenario=scenario or Scenario(), physics=physics,
        first_seed=first_seed, num_seeds=seeds, trained_seeds=trained_seeds, episodes=episodes,
        metrics=metrics,
    )  # fmt: skip
    return carry_out(study, out, execution, overwrite, progress, _result)


def _result(outcome: Outcome) -> SweepResult:
    summary = outcome.reduced.tables.get("summary.csv", pd.DataFrame())
    return SweepResult(summary, outcome.manifest, outcome.missing, outcome.rows, outcome.out)
