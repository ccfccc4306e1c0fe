"""The cells of a study's grid: each is a method in a scenario, over a range of seeds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amco_jax.agents.methods import Method
from amco_jax.agents.settings import Settings
from amco_jax.env import Physics
from amco_jax.errors import InputError
from amco_jax.identity import Identity, code_version, identify
from amco_jax.metrics import CURVE_METRICS, MAX_USERS, METRICS, Metrics, Reduction, columns_of, row_names
from amco_jax.results.provenance import package_versions
from amco_jax.scenario import Scenario


@dataclasses.dataclass(frozen=True)
class TrainedAgents:
    """The agents of a finished training: the names of blocks of consecutive seeds in a directory."""

    directory: Path
    names: tuple[str, ...]
    first_seed: int
    """The first seed of the first block"""


BATCHES = 30
"""Number of batches of a single long episode"""

PILOT_SEEDS = 128
"""Maximum number of seeds of a pilot run"""


def columns_of_rows(scenarios: Sequence[Scenario], metrics: Metrics, batches: int = 0) -> tuple[str, ...]:
    """The columns, after the labels, of all cells of a study with these scenarios and metrics.

    Args:
      batches: see `Cell.batches`.
    """
    shared = any(scenario.process.has_stretches for scenario in scenarios)
    names = row_names(columns_of(metrics), max(scenario.num_servers for scenario in scenarios))
    steady = any(scenario.warmup is not None for scenario in scenarios)
    given = {"stretch": shared, "batch": bool(batches), "warmup": steady, "trend_p": steady}
    return (*(name for name, there in given.items() if there), *names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One method in one scenario.

    The episodes in `plays` are simulated. A method with `train_episodes` is trained first, unless its agents
    are already on disk. If `plays` is empty, the rows are those of the training.
    """

    scenario: Scenario
    method: Method
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The first columns of the cell's rows"""
    physics: str = "unified"
    """The variant of the physics, see `Method.physics`"""
    first_seed: int = 0
    num_seeds: int = 1
    metrics: Metrics = CURVE_METRICS
    """The metrics of its episodes"""
    columns: tuple[str, ...] = ()
    """The columns of its rows after the labels; a column that does not apply to this cell is NaN"""
    plays: tuple[int, ...] = ()
    """The numbers of the episodes to simulate for each seed"""
    plays_training: bool = False
    """Whether these are the episodes that agents train on"""
    train_episodes: int = 0
    agents: TrainedAgents | None = None
    """Agents that are already trained"""
    batches: int = 0
    """Number of batches of slots into which a single episode is cut, with a row each; 0 for one row"""
    derivatives: tuple[str, ...] = ()
    """The parameters of the scenario in which the metrics are differentiated; its rows hold derivatives"""
    pilot: tuple[int, int] | None = None
    """The `pilot_seeds` of the whole cell, if this is a part of it"""

    @functools.cached_property
    def identity(self) -> Identity:
        """The identity of everything that the rows depend on besides the scenario and the package's code."""
        return self._identity(self.metrics)

    def _identity(self, metrics: Metrics) -> Identity:
        names = [metric.name for metric in metrics]
        own = [metric for metric in metrics if metric.name not in METRICS]  # the version covers the others
        return identity_of(self.method, self.physics, self.scenario.arrivals, names, *own)

    @property
    def trained_metrics(self) -> Metrics:
        """The metrics of the training episodes.

        They are the default ones if the agents are evaluated afterwards: the rows then exclude the training,
        and the name of the agents must not depend on the metrics of the evaluation.
        """
        return CURVE_METRICS if self.plays else self.metrics

    @property
    def trained_scenario(self) -> Scenario:
        """The scenario of its training.

        If the agents then play, they are the same for any warm-up that is left out of the measurements.
        """
        given = self.plays and self.scenario.warmup is not None
        return self.scenario.replace(warmup=None) if given else self.scenario

    @property
    def has_pilot(self) -> bool:
        """Whether a pilot run precedes its episodes, because a warm-up is given, if only of 0 slots."""
        plays = self.plays and not (self.plays_training or self.derivatives or self.method.is_bound)
        return bool(plays) and self.scenario.warmup is not None

    @property
    def pilot_seeds(self) -> tuple[int, int]:
        """The first seed of the pilot run and the number of its seeds: the first ones of the whole cell."""
        return self.pilot or (self.first_seed, min(self.num_seeds, PILOT_SEEDS))

    @property
    def has_quantiles(self) -> bool:
        """Whether its rows contain quantiles of tasks."""
        return any(m.reduction is Reduction.QUANTILES for m in self.metrics)

    @property
    def row(self) -> Physics:
        """The row of the physics table."""
        return self.method.physics(self.physics)

    @property
    def plays_stretches(self) -> bool:
        """Whether seeds may share their arrivals, see `ArrivalProcess.stretches`."""
        return self.scenario.process.has_stretches and not self.plays_training

    @property
    def settings(self) -> Settings:
        """The settings of the method's learner; raises InputError if the method is a rule."""
        return self.method.require_training().settings

    @property
    def num_rows(self) -> int:
        """The number of rows of the cell in the results."""
        return self.num_seeds * (self.batches or len(self.plays) or self.train_episodes)

    @property
    def episodes(self) -> int:
        """The number of simulated episodes, including those of the training."""
        return self.num_seeds * (len(self.plays) + self.train_episodes)

    def alike(self, other: Cell) -> bool:
        """Whether one program can compute both cells, with their seeds side by side."""

        def common(cell: Cell) -> tuple[Any, ...]:
            same = dataclasses.replace(cell, scenario=self.scenario, labels={}, physics=self.physics)
            return same, cell.row, cell.scenario.warmup is not None

        return common(self) == common(other)

    def of_seeds(self, first_seed: int, num_seeds: int) -> Cell:
        """The cell restricted to these seeds."""
        return dataclasses.replace(self, first_seed=first_seed, num_seeds=num_seeds, pilot=self.pilot_seeds)

    def describe(self) -> dict[str, Any]:
        """Everything that the rows depend on, as plain data."""
        return self._trained_from(self.identity) | {
            "labels": [[name, value] for name, value in self.labels.items()],
            "seeds": [self.first_seed, self.num_seeds],
            "columns": list(self.columns),
            "plays": [*self.plays, self.plays_training],
            "agents": None if self.agents is None else list(self.agents.names),
            "scenario": without_paths(self.scenario),
            "batches": self.batches,
            "derivatives": list(self.derivatives),
            "pilot": list(self.pilot_seeds) if self.has_pilot else None,
        }

    def training_name(self, start: int) -> str:
        """The name of the agents of a block of seeds: a digest of everything that they depend on.

        Args:
          start: the first seed of the block.
        """
        return digest_of(self._trained_from(self._identity(self.trained_metrics)) | {"start": start})

    def _trained_from(self, identity: Identity) -> dict[str, Any]:
        training = self.method.training
        return {
            "scenario": without_paths(self.trained_scenario),
            "method": self.method.name,
            "settings": None if training is None else training.settings.to_dict(),
            "depends_on": identity.digest,
            "physics": dataclasses.asdict(self.row),
            "train_episodes": self.train_episodes,
        }


def identity_of(method: Method, physics: str, *others: Any) -> Identity:
    """The identity of what a method's results depend on besides settings, scenario and the package's code.

    A user's learner is part of it, as its policy may be another's and need not refer to it.
    """
    learner = method.learner
    own = () if learner is None or type(learner).__module__.startswith("amco_jax.") else (learner,)
    return identify(method.policy, method.allocator, method.physics(physics), *others, *own)


def without_paths(scenario: Scenario) -> dict[str, Any]:
    """The fields of a scenario as plain data, in which files are identified by digests of their contents."""
    fields = scenario.to_dict()
    if scenario.trace is not None:
        del fields["trace"]["file"]
    if scenario.service is not None:
        del fields["service"]["tables"]
    return fields


def digest_of(described: Any) -> str:
    """A digest of plain data and of the versions of the package's code and of its dependencies."""
    text = json.dumps([described, code_version(), package_versions()], sort_keys=True, default=float)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_users(cell: Cell) -> None:
    """Raise InputError if a metric is over users, but tasks have none, or more than float32 can number."""
    process = cell.scenario.process
    for metric in cell.metrics:
        if not metric.is_of_users:
            continue
        if not process.num_users:
            raise InputError(
                f"metrics: {metric.name} is by user, and {process.name} arrivals have none; "
                "legal with a request log: --trace FILE"
            )
        if process.num_users > MAX_USERS:
            raise InputError(
                f"metrics: {metric.name} is by user, and the log has {process.num_users:,} users; "
                f"legal: at most {MAX_USERS:,}"
            )
