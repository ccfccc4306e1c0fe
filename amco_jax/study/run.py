"""Carry out studies: a grid of cells, and a reducer of their rows to tables and figures.

Every command that simulates is a study, and this is the one way in which studies run: they are cut into
units, computed by an engine, committed to a store, reduced, and written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from amco_jax.compile.runtime import own_numerics
from amco_jax.errors import InputError, check_whole
from amco_jax.identity import Identity, code_version, identify
from amco_jax.metrics import Metrics, accuracy, columns_of, described
from amco_jax.progress import progress_bar
from amco_jax.random import check_seeds
from amco_jax.results.output import Output
from amco_jax.results.provenance import package_versions, provenance
from amco_jax.results.saved import MANIFEST, open_run
from amco_jax.results.store import Store
from amco_jax.scenario import Scenario
from amco_jax.study.agents import AgentStore, training_names
from amco_jax.study.engines import Execution, Work
from amco_jax.study.grid import Cell, without_paths
from amco_jax.study.trainer import check_training
from amco_jax.study.units import Unit, units_of
from amco_jax.workload import ArrivalProcess

log = logging.getLogger(__name__)

FORMAT = 3
"""The version of the files of a run, in its manifest"""

UNITS, AGENTS = "units", "agents"
"""Directories in that of the results: the store of the units, and the trained agents"""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What a reducer makes of the rows of a study."""

    tables: Mapping[str, pd.DataFrame]
    """The tables by the name of the CSV file"""
    figures: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    """Functions that draw a figure, by the name of its files without their endings"""
    kept: Any = None
    """What the study's own result holds beside these"""


@runtime_checkable
class Study(Protocol):
    """A grid, and what is made of its rows."""

    kind: str
    rows: str
    """The name of the table of all rows"""

    @property
    def scenario(self) -> Scenario:
        """The scenario that the cells vary."""
        ...

    @property
    def measured(self) -> Metrics:
        """The metrics of its rows."""
        ...

    def cells(self) -> Sequence[Cell]:
        """The grid, in the order of the rows."""
        ...

    def describe(self) -> dict[str, Any]:
        """The study as plain data, for a manifest."""
        ...

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """Tables and figures from the rows, which come unit by unit, in order."""
        ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study that was carried out."""

    reduced: Reduced
    manifest: dict[str, Any]
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    rows: pd.DataFrame | None = dataclasses.field(repr=False, default=None)
    """All rows, where they were not written"""
    agents: AgentStore | None = None
    """The store of the trained agents"""
    out: Path | None = None


@own_numerics()
def carry_out(
    study: Study,
    out: str | Path | None = None,
    execution: Execution = Execution(),  # noqa: B008  # immutable
    overwrite: bool = False,
    progress: bool = False,
    take: Callable[[Outcome], Any] = lambda outcome: outcome,
) -> Any:
    """Carry out one study, or go on with it.

    Args:
      out: a directory for the results; by default they are only returned.
      execution: engine, shard, resume.
      overwrite: replace the results in `out`.
      progress: show a bar with the remaining time on stderr.
      take: makes of the outcome what is returned, while the files of a study without `out` still stand.

    Raises:
      InputError: `out` cannot be written, or holds other results, an unfinished study, or damaged files.
    """
    with contextlib.ExitStack() as stack:
        home = Path(out) if out is not None else None
        if home is None:
            if execution.joins or execution.recompute:
                raise InputError("out: none; legal with resume, recompute or a shard: a directory")
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amco-jax-")))
        run = _Run(study, home, execution, overwrite, home / AGENTS, written=out is not None)
        stack.enter_context(run.opened())
        _compute([run], execution, progress)
        return take(run.finish())


@own_numerics()
def carry_out_all(
    studies: Mapping[str, Study], home: Path, execution: Execution, progress: bool = False
) -> dict[str, Outcome]:
    """Carry out several studies side by side, each in its directory in `home`; they share their agents.

    Raises:
      InputError: as `carry_out`.
    """
    with contextlib.ExitStack() as stack:
        runs = {
            name: _Run(study, home / name, execution, False, home / AGENTS, written=True)
            for name, study in studies.items()
        }
        for run in runs.values():
            stack.enter_context(run.opened())
        _compute(list(runs.values()), execution, progress)
        return {name: run.finish() for name, run in runs.items()}


class _Run:
    """One study in its directory."""

    def __init__(
        self, study: Study, home: Path, execution: Execution, overwrite: bool, agents: Path, written: bool
    ):
        self._started = time.time()
        self._study, self._home, self._execution = study, home, execution
        self._overwrite, self._written = overwrite, written
        self._idle = execution.joins and not execution.recompute and (home / MANIFEST).exists()
        self.cells = study.cells()
        self._warnings = [
            ": ".join([*_where(cell), text])
            for cell in self.cells
            if cell.train_episodes
            for text in check_training(cell)
        ]
        self.store = Store(home / UNITS, home / study.rows)
        self.agents = AgentStore(execution.store or agents)
        self.units: list[Unit] = units_of(self.cells, execution.unit_seconds)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Check the directory and begin; what is not finished is left for a later run to go on with."""
        study, execution = self._study, self._execution
        with Output(self._home, self._overwrite or execution.joins, execution.joins) as self._output:
            if self._overwrite:
                self.store.remove()
            elif self.store.begun and not execution.joins:
                raise InputError(
                    f"out: {self._home} holds an unfinished {study.kind}; legal: resume, overwrite"
                )
            if execution.joins and self.store.begun:
                for identity in self._identities().values():
                    identity.require_seen("resume" if execution.resume else "shard")
            plan = self._described() | {
                "scenario": _without_code(without_paths(study.scenario)),
                "format": FORMAT,
                "unit_seconds": execution.unit_seconds,
                "code": code_version(),
                "versions": package_versions(),
                "depends_on": {name: each.to_dict() for name, each in self._identities().items()},
            }
            # Units are named after what their methods depend on, so that the others can be gone on with.
            self.store.begin(plan, execution.recompute, ("depends_on",) if execution.resume else ())
            if execution.resume:
                self._discard_others()
            for text in self._warnings:
                log.warning(text)
            yield

    def _described(self) -> dict[str, Any]:
        return self._study.describe() | {"metrics": described(columns_of(self._study.measured))}

    def _discard_others(self) -> None:
        """Remove units of other names, which are computed anew, and the results that were made of them."""
        if others := self.store.others([unit.id for unit in self.units]):
            log.warning(
                "resume: %d of %d units are computed anew, as what they depend on has changed",
                len(others), len(self.units),
            )  # fmt: skip
            self._idle = False
            (self._home / MANIFEST).unlink(missing_ok=True)
            for unit in others:
                self.store.discard(unit)

    def _identities(self) -> dict[str, Identity]:
        """What the rows depend on of the user's code, by method, and by process of one's own."""
        own = [c.scenario.arrivals for c in self.cells if isinstance(c.scenario.arrivals, ArrivalProcess)]
        return {f"{process.name} arrivals": identify(process) for process in own} | {
            cell.method.name: cell.identity for cell in self.cells
        }

    def todo(self) -> list[Work]:
        """The units of this shard that are not committed yet."""
        part, of = self._execution.part()
        mine = self.units[part::of]
        if self._execution.recompute:
            for unit in mine:
                self.store.discard_damaged(unit.id)
                self.agents.discard_damaged(unit.cells)
        todo = [Work(unit, self.store, self.agents) for unit in mine if not self.store.committed(unit.id)]
        self._idle = self._idle and not todo
        return todo

    def finish(self) -> Outcome:
        """Reduce the rows and write everything, if all units are committed."""
        study, where = self._study, self._home if self._written else None
        manifest = self._described()
        if missing := sum(not self.store.committed(unit.id) for unit in self.units):
            return Outcome(Reduced({}), manifest, missing, out=where)
        self.store.tidy([unit.id for unit in self.units])
        frames: list[pd.DataFrame] = []
        silent: dict[str, list[bool]] = {}

        def read() -> Iterator[pd.DataFrame]:
            for unit in self.units:
                frame = self.store.read(unit.id)
                learner = unit.cells[0].method.training
                steps = () if learner is None else learner.step_logs
                if steps and steps[0] in frame:
                    silent.setdefault(": ".join([*_where(unit.cells[0]), unit.method]), []).extend(
                        frame.groupby("seed")[steps[0]].count() == 0
                    )
                if not self._written:
                    frames.append(frame)
                yield frame

        reduced = study.reduce(read())
        if self._idle:  # what was written stays as it is, with the time that it took
            manifest = open_run(self._home, [study.kind]).manifest
            return Outcome(reduced, manifest, agents=self.agents, out=where)
        unlearned = [
            f"{name} made no learning step in {sum(seeds)} of {len(seeds)} seeds."
            for name, seeds in silent.items()
            if any(seeds)
        ]
        for text in unlearned:
            log.warning(text)
        manifest |= {
            "format": FORMAT,
            "units": len(self.units),
            "percentiles": accuracy(c.scenario.episode_positions for c in self.cells if c.has_quantiles),
            "warnings": self._warnings + unlearned,
        }
        standing = [study.rows]
        if study.kind == "train":
            names = [name for cell in self.cells for name in training_names(cell)]
            manifest["agents"] = names
            AgentStore(self._home / AGENTS).copy_from(self.agents, names)
            standing.append(AGENTS)
        swept = {id(cell.scenario): cell.scenario for cell in self.cells}
        manifest |= provenance(self._started, study.scenario, list(swept.values()))
        for name, table in reduced.tables.items():
            table.to_csv(self._output.path(name), index=False)
        for name, draw in reduced.figures.items():
            if self._written:
                self._output.draw(name, draw)
        self._output.finish(manifest, standing)
        rows = None if self._written else pd.concat(frames, ignore_index=True)
        return Outcome(reduced, manifest, rows=rows, agents=self.agents, out=where)


def _without_code(scenario: dict[str, Any]) -> dict[str, Any]:
    """A scenario without the digest of its own arrival process, which `depends_on` of a plan holds."""
    arrivals = scenario["arrivals"]
    if isinstance(arrivals, dict):
        arrivals = {name: value for name, value in arrivals.items() if name != "digest"}
    return scenario | {"arrivals": arrivals}


def _where(cell: Cell) -> list[str]:
    """The cell's place in the grid, in words."""
    labels = {name: value for name, value in cell.labels.items() if name != "method"}
    if "param" in labels:
        labels = {labels["param"]: labels["value"]}
    return [", ".join(f"{name} = {value}" for name, value in labels.items())] if labels else []


def _compute(runs: Sequence[_Run], execution: Execution, progress: bool) -> None:
    """Compute what this shard has left to do."""
    todo = [work for run in runs for work in run.todo()]
    if not todo:
        return
    with progress_bar(progress) as bar:
        tasks = {}
        for unit, _, _ in todo:
            if unit.method not in tasks:
                tasks[unit.method] = bar.add_task(unit.method, total=0)
            task = tasks[unit.method]
            bar.update(task, total=(bar.tasks[task].total or 0) + unit.episodes)
        engine = execution.start(lambda unit, done: bar.advance(tasks[unit.method], done))
        for work in todo:
            engine.submit(work)
        for _ in engine.as_completed():
            pass


def check_size(first_seed: object, seeds: object, episodes: object) -> None:
    """Raise InputError unless these are seeds and a number of episodes."""
    check_seeds(first_seed, seeds)
    check_whole("episodes", episodes)
