"""Train one method with many seeds, and keep the learning curves and the agents."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.identity import name_of
from amco_jax.metrics import Metrics, curve_metrics
from amco_jax.report.figures import convergence_figures
from amco_jax.study.base import Reduced, Study, check_size
from amco_jax.study.grid import Cell, identity_of
from amco_jax.study.trainer import curve_names, logs_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """The size of a training."""

    seeds: int = 64
    """Number of seeds, trained in parallel; each has its own densities, arrivals, initial weights, and draws
    for acting and learning."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    episodes: int | None = None
    """Number of training episodes; by default, the method's own: for the paper's methods, that of the
    published run."""


@dataclasses.dataclass(frozen=True)
class Training(TrainingSize, Study):
    """Train a method with many seeds in parallel.

    The result has the trained agents, and a row per seed and episode with the columns method, seed and
    episode, those of the metrics, and the values that the learner logs.

    Raises:
      InputError: the method is a rule, a name is unknown, or a value is out of range.
    """

    kind = "train"
    file = "curves.parquet"
    keeps_agents = True

    method: str | Method
    """A trained method; `Method.with_settings` changes the settings of its learner."""
    _: dataclasses.KW_ONLY
    physics: str = "unified"
    """The variant of the physics, a name in `PHYSICS`."""

    def __post_init__(self):
        _ = self.measured
        self.chosen.require_training()
        self.chosen.physics(self.physics)
        self.chosen.check(self.base.num_servers)
        check_size(self.first_seed, self.seeds, self.length)

    @functools.cached_property
    def chosen(self) -> Method:
        """The method."""
        return get_method(self.method)

    @property
    def length(self) -> int:
        """The number of training episodes."""
        return self.chosen.train_episodes(self.episodes)

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics."""
        return curve_metrics(self.metrics)

    def cells(self) -> list[Cell]:
        """One cell."""
        return [
            Cell(
                labels={"method": self.chosen.name},
                scenario=self.base,
                method=self.chosen,
                physics=self.physics,
                first_seed=self.first_seed,
                num_seeds=self.seeds,
                metrics=self.measured,
                columns=curve_names([self.chosen], self.measured, self.base.num_servers),
                train_episodes=self.length,
            )
        ]

    def describe(self) -> dict[str, Any]:
        """The training as plain data."""
        return {
            "kind": self.kind,
            "method": self.chosen.name,
            "allocator": name_of(self.chosen.allocator),
            "settings": self.chosen.require_training().settings.to_dict(),
            "logs": logs_of([self.chosen]),
            "physics": self.physics,
            "first_seed": self.first_seed,
            "num_seeds": self.seeds,
            "episodes": self.length,
            "scenario": self.base.to_dict(),
            "depends_on": identity_of(self.chosen, self.physics).to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The convergence figures."""
        curves = pd.concat(list(frames), ignore_index=True)
        return Reduced({}, convergence_figures(curves, self.columns))
