"""Units of work: what a sweep is cut into, so that it can stop, go on, and be shared out.

A unit is some consecutive values of the sweep, or a range of seeds of one value, for one method. Its rows
depend on nothing else, and its name is a digest of everything that they depend on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amco_jax
from amco_jax.agents.methods import Method, get_methods
from amco_jax.errors import InputError, check_list, check_number, check_whole
from amco_jax.experiment.axes import Axis, get_axis, value_labels
from amco_jax.experiment.checkpoints import BusyError, Journal
from amco_jax.experiment.provenance import package_versions
from amco_jax.experiment.simulate import LANES, Batch, simulate
from amco_jax.experiment.trainer import Cell, OnTheSpot, check_training
from amco_jax.metrics import as_columns
from amco_jax.random import check_seeds
from amco_jax.scenario import Scenario

log = logging.getLogger(__name__)

UNIT_SECONDS = 120.0
"""Nominal duration of a unit on two CPU cores"""

# What two cores make in a second (benchmarks/): a rule's task positions, and how many of them cost as much as
# one in training. Constants, since the cut must be the same on every machine.
_POSITIONS_PER_S = 7e7
_TRAINING_COST = 20


@dataclasses.dataclass(frozen=True)
class Unit:
    """Consecutive cells of a job."""

    id: str
    method: int
    """Its place in the job's methods"""
    values: tuple[int, ...]
    """Their places in the job's values"""
    first_seed: int
    num_seeds: int
    episodes: int
    """Of simulation and training, over all values and seeds"""


@dataclasses.dataclass(frozen=True)
class Job:
    """A sweep, as `amco_jax.sweep` describes its arguments."""

    param: str
    values: Sequence[Any]
    methods: Sequence[Method]
    scenario: Scenario
    physics: str
    first_seed: int
    num_seeds: int
    trained_seeds: int
    episodes: int
    unit_seconds: float = UNIT_SECONDS

    @functools.cached_property
    def axis(self) -> Axis:
        """What is swept."""
        return get_axis(self.param)

    @functools.cached_property
    def scenarios(self) -> list[Scenario]:
        """One for each value."""
        return [self.axis.apply(self.scenario, value) for value in self.values]

    @functools.cached_property
    def labels(self) -> list[Any]:
        """The values as they stand in tables."""
        return value_labels(self.values)

    def seeds_of(self, method: Method) -> int:
        """How many seeds a method runs."""
        return self.num_seeds if method.training is None else min(self.num_seeds, self.trained_seeds)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """Why trained agents may end as they began, see `check_training`.

        Raises:
          InputError: as there.
        """
        return [
            f"{self.param} = {label}: {text}"
            for method in self.methods
            if method.training is not None
            for scenario, label in zip(self.scenarios, self.labels, strict=True)
            for text in check_training(method.name, Cell(scenario, method.training.settings), self.episodes)
        ]

    def describe(self) -> dict[str, Any]:
        """The job as plain data, for a manifest."""
        return {
            "kind": "sweep",
            "param": self.param,
            "param_label": self.axis.label_for(self.scenario),
            "values": self.labels,
            "methods": [m.name for m in self.methods],
            "physics": self.physics,
            "first_seed": self.first_seed,
            "num_seeds": self.num_seeds,
            "training": {
                "episodes": self.episodes,
                "num_seeds": min(self.num_seeds, self.trained_seeds),
                "settings": {
                    m.name: m.training.settings.to_dict() for m in self.methods if m.training is not None
                },
            },
            "scenario": self.scenario.to_dict(),
        }

    def plan(self) -> dict[str, Any]:
        """Everything that the rows depend on, and how they are cut into units."""
        scenario = self.scenario.to_dict()
        if self.scenario.trace is not None:  # what counts is its digest
            del scenario["trace"]["file"]
        if self.scenario.service is not None:
            del scenario["service"]["tables"]
        return self.describe() | {
            "scenario": scenario,
            "unit_seconds": self.unit_seconds,
            "code": code_version(),
            "versions": package_versions(),
            "own_methods": {m.name: source for m in self.methods if (source := _own_source(m)) is not None},
        }


def checked_job(
    param: str,
    values: Sequence[Any] | None,
    methods: Sequence[str | Method],
    scenario: Scenario | None,
    physics: str,
    first_seed: int,
    num_seeds: int,
    trained_seeds: int,
    episodes: int,
    unit_seconds: float,
) -> Job:
    """A job from a user's arguments.

    Raises:
      InputError: an unknown name, a value out of range, an empty list, something named twice.
    """
    values = check_list("values", get_axis(param).values if values is None else values)
    chosen = get_methods(methods)
    check_seeds(first_seed, num_seeds)
    check_whole("trained_seeds", trained_seeds)
    check_whole("episodes", episodes)
    check_number("unit_seconds", unit_seconds)
    job = Job(
        param, values, chosen, scenario or Scenario(), physics, first_seed, num_seeds, trained_seeds,
        episodes, unit_seconds,
    )  # fmt: skip
    for each in job.scenarios:  # which checks the values
        if each.arrivals not in job.axis.arrivals:
            raise InputError(
                f"param: {param} means nothing to arrivals = {each.arrivals}; "
                f"legal: arrivals = {' or '.join(job.axis.arrivals)}"
            )
        for method in chosen:
            method.check(each.num_servers)
    if len(set(job.labels)) < len(job.labels):
        raise InputError(f"values: {', '.join(map(str, job.labels))}; legal: each value once")
    for method in chosen:
        method.physics(physics)
    for text in job.warnings:
        log.warning(text)
    return job


def units_of(job: Job) -> list[Unit]:
    """All units of a job, method by method, value by value, in the order of the seeds."""
    plan = json.dumps(job.plan(), sort_keys=True)
    units = []

    def add(method: int, values: Sequence[int], first: int, count: int) -> None:
        rounds = 1 if job.methods[method].training is None else job.episodes + 1
        coordinates = [job.methods[method].name, [job.labels[i] for i in values], first, count]
        digest = hashlib.sha256(f"{plan}\n{json.dumps(coordinates)}".encode()).hexdigest()[:16]
        units.append(Unit(digest, method, tuple(values), first, count, len(values) * count * rounds))

    for number, method in enumerate(job.methods):
        total, group, spent = job.seeds_of(method), [], 0.0
        rounds = 1 if method.training is None else _TRAINING_COST * (job.episodes + 1)
        for i, scenario in enumerate(job.scenarios):
            positions = scenario.num_servers * scenario.num_positions * scenario.num_slots
            per_seed = positions * rounds / _POSITIONS_PER_S
            seconds = per_seed * total
            if group and spent + seconds > job.unit_seconds:
                add(number, group, job.first_seed, total)
                group, spent = [], 0.0
            if seconds <= job.unit_seconds:
                group, spent = [*group, i], spent + seconds
                continue
            # One value is too much for a unit. Whole blocks of seeds, so that no lanes are left empty.
            most = max(int(job.unit_seconds / per_seed) // LANES, 1) * LANES
            for first in range(0, total, most):
                add(number, [i], job.first_seed + first, min(most, total - first))
        if group:
            add(number, group, job.first_seed, total)
    return units


def run_unit(
    job: Job, unit: Unit, journal: Path, tell: Callable[[int], None] = lambda episodes: None
) -> pd.DataFrame:
    """Compute a unit's rows: method, param, value, seed and the metrics.

    Args:
      journal: where a long training keeps its checkpoints, and goes on from them.
      tell: called with the number of episodes each time that some are done.
    """
    method = job.methods[unit.method]
    scenarios = [job.scenarios[i] for i in unit.values]
    row, source = method.physics(job.physics), None
    most_servers = max(s.num_servers for s in job.scenarios)
    frames = []
    with contextlib.ExitStack() as stack:
        if method.training is not None:
            cells = [Cell(each, method.training.settings) for each in scenarios]
            progress = None
            with contextlib.suppress(BusyError):  # then another process computes this unit as well
                progress = stack.enter_context(Journal(journal, {"unit": unit.id}, resume=True))
            source = OnTheSpot(method, row, cells, job.episodes, tell, progress)
        for batch in simulate(scenarios, method, row, unit.first_seed, unit.num_seeds, source):
            label = job.labels[unit.values[batch.index]]
            frames.append(_frame(batch, method.name, job.param, label, most_servers))
            tell(len(frames[-1]))
    return pd.concat(frames, ignore_index=True)


@functools.cache
def code_version() -> str:
    """A digest of the package's source files."""
    home = Path(inspect.getfile(amco_jax)).parent
    digest = hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(f"{path.relative_to(home).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _own_source(method: Method) -> str | None:
    """A digest of the file that a user's own policy or action space stands in; None for the package's."""
    function = method.policy.function if method.training is None else method.training.actions
    try:
        path = Path(inspect.getfile(inspect.unwrap(function)))
        if path.is_relative_to(Path(inspect.getfile(amco_jax)).parent):
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):  # typed at a prompt
        return "unknown"


def _frame(batch: Batch, method: str, param: str, label: Any, most_servers: int) -> pd.DataFrame:
    """Tidy rows of a batch; where fleets differ in size, missing servers are NaN."""
    columns = {"method": method, "param": param, "value": label, "seed": batch.seeds}
    columns |= as_columns(batch.metrics)
    missing = {f"utilisation_{i}": np.nan for i in range(most_servers)}
    return pd.DataFrame(columns | {k: v for k, v in missing.items() if k not in columns})
