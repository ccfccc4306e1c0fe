"""Run trained agents greedily on fresh arrivals, under the scenario of their training or another one."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.alloc import ALLOCATORS
from amco_jax.compile.runtime import own_numerics
from amco_jax.errors import InputError, check_whole
from amco_jax.identity import name_of
from amco_jax.metrics import Metric, Metrics, choose, columns_of, estimated
from amco_jax.results.saved import open_run
from amco_jax.scenario import Scenario
from amco_jax.service.latency import is_shipped
from amco_jax.stats.summaries import grouped, summarise
from amco_jax.study.agents import AgentStore, agents_in
from amco_jax.study.engines import Execution
from amco_jax.study.grid import Cell, TrainedAgents, columns_of_rows, identity_of
from amco_jax.study.run import AGENTS, Outcome, Reduced, carry_out
from amco_jax.workload import PROCESSES

log = logging.getLogger(__name__)

BASELINES = ("optimal", "randcoedge")


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `train` left in a directory."""

    method: Method
    scenario: Scenario
    """The scenario to evaluate in, if no other is given"""
    trained: Mapping[str, Any]
    """The scenario of the training, as a table"""
    physics: str
    first_seed: int
    num_seeds: int
    episodes: int
    agents: TrainedAgents

    @property
    def weights(self) -> Any:
        """What the agents decide by, from `Learner.deployed`: leaves `[num_seeds, num_servers, ...]`."""
        blocks = AgentStore(self.agents.directory).load_all(
            self.agents.names, self.method, self.trained["num_servers"]
        )
        return jax.tree.map(lambda leaf: leaf[: self.num_seeds], blocks.agents)


@dataclasses.dataclass(frozen=True)
class EvaluateResult:
    """The outcome of an evaluation."""

    results: pd.DataFrame
    """One row per method, seed and episode"""
    summary: pd.DataFrame
    """Columns method and `summaries.SUMMARY`: each metric per task or per episode, or both"""
    manifest: dict[str, Any]
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    out: Path | None = None


@own_numerics()
def load_run(
    directory: str | Path, *, method: str | Method | None = None, scenario: Scenario | None = None
) -> TrainedRun:
    """Read a finished training.

    Args:
      directory: what `train` wrote.
      method: of your own, where its name is not one of `METHODS`.
      scenario: in place of that of the training, and needed where that names a request log, latency tables or
        an arrival process of one's own: nothing that a manifest names is read or imported.

    Raises:
      InputError: no finished training in the directory, a damaged one, an unknown method, another number of
        servers, or no scenario where one is needed.
    """
    saved = open_run(directory, ["train"])
    manifest = saved.manifest
    method = get_method(method or manifest["method"]).with_settings(**manifest["settings"])
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
        scenario = Scenario(**trained)
    servers = trained["num_servers"]
    if scenario.num_servers != servers:
        raise InputError(f"num_servers: {scenario.num_servers}; legal for these agents: {servers}")
    agents = agents_in(saved.directory / AGENTS, manifest["agents"], manifest["first_seed"])
    run = TrainedRun(
        method, scenario, trained, manifest["physics"], manifest["first_seed"], manifest["num_seeds"],
        manifest["episodes"], agents,
    )  # fmt: skip
    _ = run.weights  # refuses what is damaged or of another structure
    return run


def _allocating_by(method: Method, allocator: str) -> Method:
    """The method with the allocator that its agents were trained with."""
    if (own := name_of(method.allocator)) == allocator:
        return method
    if allocator not in ALLOCATORS:
        raise InputError(f"method: {method.name} allocates by {own}; legal for its agents: {allocator}")
    return method.with_allocator(allocator)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of modules whose source is another one."""
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _names_files(scenario: Mapping[str, Any]) -> bool:
    """Whether a scenario as a table names files or code of the user's."""
    if scenario["arrivals"] not in list(PROCESSES):  # a table, if it is an object
        return True
    service = scenario.get("service") or {"tables": []}
    return bool(scenario.get("trace")) or not all(is_shipped(table) for table in service["tables"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation as a study; its fields are the arguments of `evaluate`.

    Raises:
      InputError: another number of servers, a trained method among the rules, or a number out of range.
    """

    kind = "evaluate"
    rows = "results.parquet"

    run: TrainedRun
    scenario: Scenario
    methods: Sequence[str | Method] = BASELINES
    num_seeds: int
    episodes: int = 1
    physics: str
    metrics: Sequence[str | Metric] = ()

    def __post_init__(self):
        _ = self.measured
        servers = self.run.trained["num_servers"]
        if self.scenario.num_servers != servers:
            raise InputError(f"num_servers: {self.scenario.num_servers}; legal for these agents: {servers}")
        check_whole("seeds", self.num_seeds, 1, self.run.num_seeds)
        check_whole("episodes", self.episodes)
        for other in self.others:
            other.check(servers)
            if other.training is not None:
                raise InputError(f"methods: {other.name} is trained; legal: rules, or a run of its own")
        self.run.method.physics(self.physics)
        self.scenario.process.check_unseen(self.scenario, self.run.trained)

    @functools.cached_property
    def others(self) -> list[Method]:
        """The rules."""
        return [get_method(m) for m in self.methods]

    @property
    def measured(self) -> Metrics:
        """The metrics."""
        return choose(self.metrics)

    def cells(self) -> list[Cell]:
        """The agents, and the rules on the same arrivals."""
        # Episode 0 is kept from training, and so are those after its last.
        numbers = tuple(e and self.run.episodes + e for e in range(self.episodes))
        return [
            Cell(
                labels={"method": method.name},
                scenario=self.scenario,
                method=method,
                physics=self.physics,
                first_seed=self.run.first_seed,
                num_seeds=self.num_seeds,
                metrics=self.measured,
                columns=columns_of_rows([self.scenario], self.measured),
                plays=numbers,
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
            "physics": self.physics,
            "first_seed": run.first_seed,
            "num_seeds": self.num_seeds,
            "episodes": self.episodes,
            "scenario": self.scenario.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """Means over seeds, with intervals."""
        results = pd.concat(list(frames), ignore_index=True)
        columns = estimated(columns_of(self.measured), self.scenario.num_servers)
        summary = summarise(grouped([results], ("method",)), ("method",), columns)
        return Reduced({"summary.csv": summary}, kept=results)


def evaluate(
    run: str | Path | TrainedRun,
    *,
    scenario: Scenario | None = None,
    methods: Sequence[str | Method] = BASELINES,
    seeds: int | None = None,
    episodes: int = 1,
    physics: str | None = None,
    metrics: Sequence[str | Metric] = (),
    out: str | Path | None = None,
    execution: Execution = Execution(),  # noqa: B008  # immutable
    overwrite: bool = False,
    progress: bool = False,
) -> EvaluateResult:
    """Let the agents of a training decide greedily episodes that they have not seen.

    The agents of a seed keep its task densities, as those drawn for the new scenario, and meet new arrivals.

    Args:
      run: the directory of a finished training, or what `load_run` gives.
      scenario: by default that of the training; the number of servers must be the same.
      methods: rules to run on the same arrivals.
      seeds: by default all that were trained, else the first ones.
      episodes: for each seed.
      physics: by default that of the training.
      metrics: what to measure beside the usual: names, or metrics of your own, each a `Metric`.
      out: a directory for results.parquet, summary.csv and manifest.json.
      execution: engine, shard, resume.
      overwrite: replace the results that stand in `out`.
      progress: show a bar on stderr.

    Raises:
      InputError: no finished training, another number of servers, a trained method among `methods`, or a
        number out of range.
    """
    run = run if isinstance(run, TrainedRun) else load_run(run, scenario=scenario)
    study = Evaluation(
        run=run, scenario=scenario or run.scenario, methods=methods,
        num_seeds=run.num_seeds if seeds is None else seeds, episodes=episodes,
        physics=physics or run.physics, metrics=metrics,
    )  # fmt: skip
    return carry_out(study, out, execution, overwrite, progress, _result)


def _result(outcome: Outcome) -> EvaluateResult:
    results = pd.DataFrame() if outcome.missing else outcome.reduced.kept
    summary = outcome.reduced.tables.get("summary.csv", pd.DataFrame())
    return EvaluateResult(results, summary, outcome.manifest, outcome.missing, outcome.out)
