"""Sweep one quantity over values × methods × seeds, the main kind of study."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from amco_jax.agents.methods import Method, get_methods
from amco_jax.errors import InputError, check_list, check_whole
from amco_jax.metrics import Metrics, Shown, choose, estimated_columns, shown_in
from amco_jax.report.figures import sweep_figure
from amco_jax.scenario import AUTO, Scenario
from amco_jax.scenario.axes import Axis, default_values, get_axis, value_labels
from amco_jax.stats.summaries import grouped, summarise
from amco_jax.study.base import Reduced, Study, check_size
from amco_jax.study.grid import BATCHES, Cell, columns_of_rows
from amco_jax.study.trainer import settings_of

DEFAULT_METHODS = (
    "optimal",
    "optimal-admission",
    "amco-priced",
    "amcoedge-plus",
    "amcoedge-regret",
    "smcoedge-regret",
    "drlcoedge-regret",
    "randcoedge",
    "all-servers",
    "least-wait",
    "two-choices",
    "local",
)

_LABELS = ("method", "param", "value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSize:
    """The size of a sweep."""

    seeds: int = 1000
    """Number of seeds per method and value; a seed gives all of them the same arrivals."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    trained_seeds: int = 16
    """Maximum number of seeds for trained methods, `bound` and `planner`, which use the first ones."""
    episodes: int | None = None
    """Number of training episodes for each value and seed; by default, each method's own, which for the
    paper's methods is that of the published code."""
    percentiles: bool = True
    """Measure percentiles of the makespan. To record and sort the makespans of an episode takes nearly as
    long as to simulate it, so that a sweep of a rule without percentiles is 1.1 to 2.5 times as fast on
    CPUs."""


@dataclasses.dataclass(frozen=True)
class Sweep(SweepSize, Study):
    """Simulate every method at every value of one quantity, on the same arrivals seed by seed.

    Trained methods are trained anew for each value and seed, and then evaluated greedily on the same episode
    as the other methods. The result has a row per method, value and seed, and a summary with the columns
    method, param, value and `summaries.SUMMARY`, with each metric per task, per episode, or both.

    Raises:
      InputError: a name is unknown, a value is out of range, a list is empty, or an entry is repeated.
    """

    kind = "sweep"
    file = "results.parquet"

    param: str
    """The quantity to sweep, which is a scenario field or a scale (see `amco_jax.scenario.axes.AXES`), or a
    quantity that the scenario's arrival process can vary."""
    values: Sequence[Any] | None = None
    """The values of the quantity; by default, a range that suits it."""
    _: dataclasses.KW_ONLY
    methods: Sequence[str | Method] = DEFAULT_METHODS
    """The methods, each a name or a `Method`."""
    physics: str = "unified"
    """The variant of the physics, a name in `PHYSICS`."""

    def __post_init__(self):
        _ = self.measured  # checks the metrics
        check_size(self.first_seed, self.seeds, 1 if self.episodes is None else self.episodes)
        check_whole("trained_seeds", self.trained_seeds)
        for each in self.scenarios:  # checks the values
            self._check(each)
        pairs = itertools.combinations([each.to_dict() for each in self.scenarios], 2)
        if len(set(self.labels)) < len(self.labels) or any(one == other for one, other in pairs):
            raise InputError(
                f"values: {', '.join(map(str, self.labels))}; legal: each value once, and none that "
                "makes the same scenario as another"
            )
        for method in self.chosen:
            method.physics(self.physics)

    def _check(self, scenario: Scenario) -> None:
        """Raise InputError unless all methods can be simulated in the scenario."""
        for method in self.chosen:
            method.check(scenario.num_servers)
            if method.training is not None:
                scenario.check_training()
            if method.is_bound and (scenario.warmup == AUTO or self._in_batches(scenario)):
                raise InputError(
                    f"warmup: {scenario.warmup}; legal with {method.name}: none, or a number of slots with "
                    "two seeds or more"
                )

    def _in_batches(self, scenario: Scenario) -> bool:
        """Whether the rows are batches of a single episode."""
        return self.seeds == 1 and bool(scenario.warmup)

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics in the rows."""
        return choose(self.metrics, percentiles=self.percentiles)

    @functools.cached_property
    def axis(self) -> Axis:
        """The axis of the swept quantity."""
        return get_axis(self.param, self.base)

    @functools.cached_property
    def chosen(self) -> list[Method]:
        """The methods."""
        return get_methods(self.methods)

    @functools.cached_property
    def points(self) -> list[Any]:
        """The values."""
        if self.values is not None:
            return check_list("values", self.values)
        self._check(self.base)
        return default_values(self.param, self.base, self._check)

    @functools.cached_property
    def labels(self) -> list[Any]:
        """The values as shown in tables."""
        return value_labels(self.points)

    @functools.cached_property
    def scenarios(self) -> list[Scenario]:
        """The scenarios, one per value."""
        return [self.axis.apply(self.base, value) for value in self.points]

    def cells(self) -> list[Cell]:
        """One cell per method and value."""
        batches = BATCHES if all(map(self._in_batches, self.scenarios)) else 0
        columns = columns_of_rows(self.scenarios, self.measured, batches)
        few = min(self.seeds, self.trained_seeds)
        return [
            Cell(
                labels={"method": method.name, "param": self.param, "value": label},
                scenario=scenario,
                method=method,
                physics=self.physics,
                first_seed=self.first_seed,
                num_seeds=few if method.takes_long else self.seeds,
                metrics=self.measured,
                columns=columns,
                plays=(0,),
                batches=batches,
                train_episodes=method.train_episodes(self.episodes),
            )
            for method in self.chosen
            for label, scenario in zip(self.labels, self.scenarios, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """The sweep as plain data."""
        return {
            "kind": self.kind,
            "param": self.param,
            "param_label": self.axis.label_for(self.base),
            "values": self.labels,
            "methods": [m.name for m in self.chosen],
            "physics": self.physics,
            "first_seed": self.first_seed,
            "num_seeds": self.seeds,
            "training": {
                "episodes": {m.name: m.train_episodes(self.episodes) for m in self.chosen if m.training},
                "num_seeds": min(self.seeds, self.trained_seeds),
                "settings": settings_of(self.chosen),
            },
            "scenario": self.base.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The means with intervals, and figures of them."""
        columns = self.columns
        servers = max(scenario.num_servers for scenario in self.scenarios)
        summary = summarise(grouped(frames, _LABELS), _LABELS, estimated_columns(columns, servers))
        label = self.axis.label_for(self.base)
        figures = {
            column.figure or column.name: functools.partial(sweep_figure, summary, column, label)
            for column in shown_in(columns, Shown.TABLES)
        }
        return Reduced({"summary.csv": summary}, figures)
