"""Evaluate trained agents greedily on fresh arrivals, in the scenario of their training or in another one."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from amco_jax.agents.methods import Method, get_method, get_methods, without_allocator
from amco_jax.alloc import ALLOCATORS
from amco_jax.compile.runtime import own_numerics
from amco_jax.errors import InputError, check_whole
from amco_jax.identity import name_of
from amco_jax.metrics import estimated_columns
from amco_jax.results.saved import open_run
from amco_jax.scenario import Scenario
from amco_jax.service.latency import is_shipped
from amco_jax.stats.summaries import grouped, summarise
from amco_jax.study.agents import AgentStore, agents_in
from amco_jax.study.base import Reduced, Study
from amco_jax.study.grid import Cell, TrainedAgents, columns_of_rows, identity_of
from amco_jax.study.output import AGENTS
from amco_jax.workload import PROCESSES

log = logging.getLogger(__name__)

BASELINES = ("optimal", "randcoedge")


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A finished training, read from a directory."""

    method: Method
    scenario: Scenario
    """The default scenario for evaluations"""
    trained: Mapping[str, Any]
    """The scenario of the training, as plain data"""
    physics: str
    first_seed: int
    num_seeds: int
    episodes: int
    agents: TrainedAgents

    @property
    def weights(self) -> Any:
        """The agents, as returned by `Learner.deployed`, with leaves `[num_seeds, num_servers, ...]`."""
        blocks = AgentStore(self.agents.directory).load_all(
            self.agents.names, self.method, self.trained["num_servers"]
        )
        return jax.tree.map(lambda leaf: leaf[: self.num_seeds], blocks.agents)

    def unseen(self, number: int) -> tuple[int, ...]:
        """The numbers of so many episodes that the agents were not trained on, beginning with episode 0."""
        # Training uses neither episode 0 nor the episodes after its last one.
        return tuple(episode and self.episodes + episode for episode in range(number))


@own_numerics()
def load_run(
    directory: str | Path, *, method: str | Method | None = None, scenario: Scenario | None = None
) -> TrainedRun:
    """Read a finished training.

    Args:
      directory: the output directory of a `Training`.
      method: the trained method; needed only if its name is not in `METHODS`.
      scenario: replaces the scenario of the training. It is required if the latter names a request log,
        latency tables or a user's arrival process, as nothing that a manifest names is read or imported.

    Raises:
      InputError: the directory contains no finished training or a damaged one, the method is unknown or
        another one, the number of servers differs, or a required scenario is missing.
    """
    saved = open_run(directory, ["train"])
    manifest = saved.manifest
    method = _trained_method(method, manifest["method"]).with_settings(**manifest["settings"])
    method = _allocating_by(method, manifest["allocator"])
    if (found := identity_of(method, manifest["physics"]).to_dict()) != (
        trained_with := manifest["depends_on"]
    ):
        changed = _changed(trained_with["modules"], found["modules"]) or "values or functions that it uses"
        log.warning("%s is not as it was when its agents were trained: %s changed", method.name, changed)
    trained = manifest["scenario"]
    if scenario is None:
        if _names_files(trained):
            raise InputError(
                f"scenario: that of {directory} needs a request log, latency tables or an arrival process; "
                "legal: the scenario and the trace given anew"
            )
        scenario = _as_given(trained)
    _check_fleet(method, scenario, trained)
    agents = agents_in(saved.directory / AGENTS, manifest["agents"], manifest["first_seed"])
    run = TrainedRun(
        method, scenario, trained, manifest["physics"], manifest["first_seed"], manifest["num_seeds"],
        manifest["episodes"], agents,
    )  # fmt: skip
    _ = run.weights  # raises if the agents are damaged or have another structure
    return run


def _as_given(written: Mapping[str, Any]) -> Scenario:
    """The scenario of a manifest, which writes the fleet out, with what follows from other fields left out.

    In another fleet, it then follows from that one.
    """
    of_servers, of_capacities = ("capacity", "link_rate"), ("power_idle", "power_busy", "price_per_hour")
    any_fleet = Scenario(**{**written, **dict.fromkeys((*of_servers, *of_capacities))}).to_dict()
    follows = Scenario(**{**written, **dict.fromkeys(of_capacities)}).to_dict()
    follows |= {name: any_fleet[name] for name in of_servers}
    names = (name for name in (*of_servers, *of_capacities) if written[name] == follows[name])
    return Scenario(**{**written, **dict.fromkeys(names)})


def _trained_method(given: str | Method | None, name: str) -> Method:
    """The given method, which must be the one of that name up to the allocator, or by default that one."""
    try:
        method = get_method(given or name)
    except InputError as error:
        if given is not None:
            raise
        raise InputError(f"{error}; your own with evaluate.py --method module:attribute") from None
    if without_allocator(method.name) != (trained := without_allocator(name)):
        raise InputError(f"method: {method.name}; legal for these agents: {trained}")
    return method


def _check_fleet(method: Method, scenario: Scenario, trained: Mapping[str, Any]) -> None:
    """Raise InputError if the scenario has another number of servers than the agents can handle."""
    servers = trained["num_servers"]
    if scenario.num_servers != servers and not method.require_training().any_fleet:
        raise InputError(f"num_servers: {scenario.num_servers}; legal for these agents: {servers}")


def _allocating_by(method: Method, allocator: str) -> Method:
    """The method with the allocator that its agents were trained with."""
    if (own := name_of(method.allocator)) == allocator:
        return method
    if allocator not in ALLOCATORS:
        raise InputError(f"method: {method.name} allocates by {own}; legal for its agents: {allocator}")
    return method.with_allocator(allocator)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of modules whose source has changed."""
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _names_files(scenario: Mapping[str, Any]) -> bool:
    """Whether a scenario, as plain data, names files or code of the user."""
    if scenario["arrivals"] not in list(PROCESSES):  # a dictionary for a user's process
        return True
    service = scenario.get("service") or {"tables": []}
    return bool(scenario.get("trace")) or not all(is_shipped(table) for table in service["tables"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSize:
    """The size of an evaluation."""

    seeds: int | None = None
    """Number of seeds, from the first one on; by default, all that were trained."""
    episodes: int = 1
    """Number of episodes per seed."""


@dataclasses.dataclass(frozen=True)
class Evaluation(EvaluationSize, Study):
    """Evaluate the agents of a training greedily in unseen episodes.

    The agents of a seed keep its task densities, as drawn for the new scenario, and get new arrivals. The
    result has a row per method, seed and episode, and a summary with the columns method and
    `summaries.SUMMARY`, with each metric per task, per episode, or both.

    Raises:
      InputError: there is no finished training, the number of servers differs, a trained method is among the
        rules, or a number is out of range.
    """

    kind = "evaluate"
    file = "results.parquet"

    training: str | Path | TrainedRun
    """The directory of a finished training, or the result of `load_run`. By default, the scenario is that of
    the training; the number of servers must be the same, unless the learner is for any fleet."""
    _: dataclasses.KW_ONLY
    methods: Sequence[str | Method] = BASELINES
    """Rules to run on the same arrivals."""
    physics: str | None = None
    """The variant of the physics, a name in `PHYSICS`; by default, that of the training."""

    def __post_init__(self):
        _ = self.measured
        _check_fleet(self.run.method, self.base, self.run.trained)
        check_whole("seeds", self.num_seeds, 1, self.run.num_seeds)
        check_whole("episodes", self.episodes)
        for other in self.others:
            other.check(self.base.num_servers)
            other.check_decides()
            if other.training is not None:
                raise InputError(f"methods: {other.name} is trained; legal: rules, or a run of its own")
        self.run.method.physics(self.variant)
        self.base.process.check_unseen(self.base, self.run.trained)

    @functools.cached_property
    def others(self) -> list[Method]:
        """The rules."""
        _, *others = get_methods([self.run.method, *self.methods])  # whose names must differ
        return others

    @functools.cached_property
    def run(self) -> TrainedRun:
        """The training whose agents are evaluated."""
        found = self.training
        return found if isinstance(found, TrainedRun) else load_run(found, scenario=self.scenario)

    @functools.cached_property
    def base(self) -> Scenario:
        """The scenario of the evaluation."""
        return self.scenario or self.run.scenario

    @property
    def num_seeds(self) -> int:
        """The number of seeds."""
        return self.run.num_seeds if self.seeds is None else self.seeds

    @property
    def variant(self) -> str:
        """The variant of the physics."""
        return self.physics or self.run.physics

    def cells(self) -> list[Cell]:
        """One cell for the agents, and one per rule on the same arrivals."""
        return [
            Cell(
                labels={"method": method.name},
                scenario=self.base,
                method=method,
                physics=self.variant,
                first_seed=self.run.first_seed,
                num_seeds=self.num_seeds,
                metrics=self.measured,
                columns=columns_of_rows([self.base], self.measured),
                plays=self.run.unseen(self.episodes),
                agents=self.run.agents if method is self.run.method else None,
            )
            for method in (self.run.method, *self.others)
        ]

    def describe(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        run = self.run
        return {
            "kind": self.kind,
            "method": run.method.name,
            "settings": run.method.require_training().settings.to_dict(),
            "trained": {"scenario": run.trained, "physics": run.physics, "episodes": run.episodes},
            "methods": [m.name for m in self.others],
            "physics": self.variant,
            "first_seed": run.first_seed,
            "num_seeds": self.num_seeds,
            "episodes": self.episodes,
            "scenario": self.base.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The means over seeds, with intervals."""
        results = pd.concat(list(frames), ignore_index=True)
        columns = estimated_columns(self.columns, self.base.num_servers)
        summary = summarise(grouped([results], ("method",)), ("method",), columns)
        return Reduced({"summary.csv": summary})
