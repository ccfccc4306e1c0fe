"""The grid of a study: cells, each a method in a scenario over a range of seeds, and what is asked of it."""

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
from amco_jax.identity import Identity, code_version, identify
from amco_jax.metrics import CURVE_METRICS, Metrics, columns_of, row_names
from amco_jax.results.provenance import package_versions
from amco_jax.scenario import Scenario


@dataclasses.dataclass(frozen=True)
class TrainedAgents:
    """The agents of a finished training: blocks of consecutive seeds in a directory, by name."""

    directory: Path
    names: tuple[str, ...]
    first_seed: int
    """The first seed of the first block"""


KEYS = ("seed", "episode", "stretch")
"""Columns behind a cell's labels that are no metrics; `stretch` where seeds may share their arrivals"""


def columns_of_rows(scenarios: Sequence[Scenario], metrics: Metrics) -> tuple[str, ...]:
    """The columns of the cells of one study, whose rows have the same ones."""
    shared = any(scenario.process.has_stretches for scenario in scenarios)
    names = row_names(columns_of(metrics), max(scenario.num_servers for scenario in scenarios))
    return ("stretch", *names) if shared else names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One method in one scenario.

    A rule, or a method with agents, plays the episodes in `plays`. A method with `train_episodes` is trained
    first, unless its agents are on disk already; where it plays nothing, its rows are those of the training.
    """

    scenario: Scenario
    method: Method
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The first columns of the cell's rows"""
    physics: str = "unified"
    """A variant, see `Method.physics`"""
    first_seed: int = 0
    num_seeds: int = 1
    metrics: Metrics = CURVE_METRICS
    """What is measured of its episodes"""
    columns: tuple[str, ...] = ()
    """The columns of its rows behind the labels, NaN where one does not exist here"""
    plays: tuple[int, ...] = ()
    """Numbers of the episodes of a seed that are played"""
    plays_training: bool = False
    """Whether these are the episodes that agents train on"""
    train_episodes: int = 0
    agents: TrainedAgents | None = None
    """Agents that need no training"""

    @functools.cached_property
    def identity(self) -> Identity:
        """What the rows depend on beyond the scenario and the package's code."""
        return self._identity(self.metrics)

    def _identity(self, metrics: Metrics) -> Identity:
        return identity_of(self.method, self.physics, self.scenario.arrivals, *metrics)

    @property
    def trained_metrics(self) -> Metrics:
        """What is measured of the episodes of its training.

        Where the agents go on to play, the rows are not those of the training, and the agents are the same
        whatever else is measured.
        """
        return CURVE_METRICS if self.plays else self.metrics

    @property
    def has_quantiles(self) -> bool:
        """Whether its rows hold quantiles."""
        return any(metric.is_list and not metric.is_over_slots for metric in self.metrics)

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
        """How the method learns; InputError where it does not."""
        return self.method.require_training().settings

    @property
    def num_rows(self) -> int:
        """Rows of the cell in the results."""
        return self.num_seeds * (len(self.plays) or self.train_episodes)

    @property
    def episodes(self) -> int:
        """Episodes that are simulated, those of the training included."""
        return self.num_seeds * (len(self.plays) + self.train_episodes)

    def alike(self, other: Cell) -> bool:
        """Whether one program can compute both, with their seeds side by side."""

        def common(cell: Cell) -> tuple[Any, ...]:
            seeds = cell.first_seed, cell.num_seeds
            return (
                cell.method, cell.row, seeds, cell.metrics, cell.columns, cell.plays, cell.plays_training,
                cell.train_episodes, cell.agents,
            )  # fmt: skip

        return common(self) == common(other)

    def of_seeds(self, first_seed: int, num_seeds: int) -> Cell:
        """The part of the cell that has these seeds."""
        return dataclasses.replace(self, first_seed=first_seed, num_seeds=num_seeds)

    def describe(self) -> dict[str, Any]:
        """Everything that the rows depend on, as plain data."""
        return self._trained_from(self.identity) | {
            "labels": [[name, value] for name, value in self.labels.items()],
            "seeds": [self.first_seed, self.num_seeds],
            "columns": list(self.columns),
            "plays": [*self.plays, self.plays_training],
            "agents": None if self.agents is None else list(self.agents.names),
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
            "scenario": without_paths(self.scenario),
            "method": self.method.name,
            "settings": None if training is None else training.settings.to_dict(),
            "depends_on": identity.digest,
            "physics": dataclasses.asdict(self.row),
            "train_episodes": self.train_episodes,
        }


def identity_of(method: Method, physics: str, *others: Any) -> Identity:
    """What a method's numbers depend on beyond its settings, the scenario and the package's code."""
    return identify(method.policy, method.allocator, method.physics(physics), *others)


def without_paths(scenario: Scenario) -> dict[str, Any]:
    """The fields of a scenario as plain data; files are told by the digest of their content."""
    fields = scenario.to_dict()
    if scenario.trace is not None:
        del fields["trace"]["file"]
    if scenario.service is not None:
        del fields["service"]["tables"]
    return fields


def digest_of(described: Any) -> str:
    """A name for something described as plain data, for this version of the code."""
    text = json.dumps([described, code_version(), package_versions()], sort_keys=True, default=float)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
