"""How the metrics of methods change with the parameters of a scenario: exact derivatives over many seeds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from amco_jax.agents.methods import Method, get_methods
from amco_jax.errors import InputError, check_choice
from amco_jax.kernel.gradient import check_differentiable
from amco_jax.metrics import Column, Metrics, Reduction, Shown, choose, columns_of, estimated_columns
from amco_jax.random import check_seeds
from amco_jax.stats.summaries import grouped, summarise
from amco_jax.study.base import Reduced, Study
from amco_jax.study.differentiate import PARAMETERS, derivative_columns
from amco_jax.study.grid import Cell

DEFAULT_METHODS = ("optimal", "all-servers")
ALWAYS = ("capacity", "link_rate")
"""The parameters in which all studies differentiate"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SensitivitySize:
    """The size of a study of sensitivities."""

    seeds: int = 128
    """Number of seeds per method; a seed gives all of them the same arrivals."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""


@dataclasses.dataclass(frozen=True)
class Sensitivity(SensitivitySize, Study):
    """Differentiate the mean makespan per task of some methods in the capacities, link rates and more.

    The derivatives are exact, and those of the sample paths (docs/gradients.md). The result has a row per
    method and seed, and a summary with the columns method and `summaries.SUMMARY`, with a row for each
    derivative, per task and per episode.

    Raises:
      InputError: a name is unknown, a method is trained, a metric has no derivatives, or a value is out of
        range.
    """

    kind = "sensitivity"
    file = "results.parquet"

    methods: Sequence[str | Method] = DEFAULT_METHODS
    """The methods, none of them trained."""
    _: dataclasses.KW_ONLY
    of: Sequence[str] = ()
    """Parameters in which to differentiate besides `capacity` and `link_rate`, names in
    `study.differentiate.PARAMETERS`."""
    physics: str = "unified"
    """The variant of the physics, a name in `PHYSICS`."""

    def __post_init__(self):
        check_seeds(self.first_seed, self.seeds)
        for name in self.of:
            check_choice("of", name, PARAMETERS)
        self.base.check_warmup()
        if "slot_duration" in self.of and self.base.process.has_stretches:
            raise InputError("of: slot_duration; legal with a request log, which has its own times: others")
        if self.base.service is not None:
            raise InputError("service: an image service; legal for sensitivities: none")
        for method in self.chosen:
            method.check_usable()
            method.check(self.base.num_servers)
            method.physics(self.physics)
            for metric in self.measured:
                check_differentiable(method, metric)
                if metric.reduction is not Reduction.MEAN_OF_TASKS:
                    raise InputError(f"metrics: {metric.name}; legal for sensitivities: means over tasks")

    @functools.cached_property
    def chosen(self) -> list[Method]:
        """The methods."""
        return get_methods(self.methods)

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """The parameters in which the metrics are differentiated."""
        return tuple(dict.fromkeys([*ALWAYS, *self.of]))

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics that are differentiated: the makespan, and those that are asked for."""
        return tuple(metric for metric in self._asked if metric.shown is Shown.EVERYWHERE)

    @functools.cached_property
    def _asked(self) -> Metrics:
        """The metrics with the counts that their means are taken over."""
        return choose(self.metrics, Shown.EVERYWHERE)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of counts and metrics, and those of the derivatives."""
        return columns_of(self._asked) + tuple(
            column
            for metric in self.measured
            for column in derivative_columns(metric, self.parameters, self.base.num_servers)
        )

    def cells(self) -> list[Cell]:
        """One cell per method."""
        stretch = ("stretch",) * self.base.process.has_stretches
        return [
            Cell(
                labels={"method": method.name},
                scenario=self.base,
                method=method,
                physics=self.physics,
                first_seed=self.first_seed,
                num_seeds=self.seeds,
                metrics=self.measured,
                columns=(*stretch, *(column.name for column in self.columns)),
                plays=(0,),
                derivatives=self.parameters,
            )
            for method in self.chosen
        ]

    def describe(self) -> dict[str, Any]:
        """The study as plain data."""
        return {
            "kind": self.kind,
            "methods": [m.name for m in self.chosen],
            "derivatives": {
                name: [
                    column.name
                    for metric in self.measured
                    for column in derivative_columns(metric, [name], self.base.num_servers)
                ]
                for name in self.parameters
            },
            "physics": self.physics,
            "first_seed": self.first_seed,
            "num_seeds": self.seeds,
            "episodes": 1,
            "scenario": self.base.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The means and their derivatives over seeds, with intervals."""
        summary = summarise(grouped(frames, ("method",)), ("method",), estimated_columns(self.columns))
        return Reduced({"summary.csv": summary})
