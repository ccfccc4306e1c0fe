"""Run studies.

This is the only way in which studies run: each is divided into units, which an engine computes and commits to
a store; the rows are then reduced to tables and figures, which are written.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amco_jax.compile.runtime import own_numerics
from amco_jax.errors import InputError
from amco_jax.identity import Identity, code_version, identify
from amco_jax.metrics import accuracy, column_entries
from amco_jax.progress import progress_bar
from amco_jax.results.provenance import package_versions, provenance
from amco_jax.results.saved import MANIFEST, open_run, read_table
from amco_jax.results.store import Store
from amco_jax.study.agents import AgentStore, trained_seeds, training_names
from amco_jax.study.base import Reduced, Study, StudyResult
from amco_jax.study.diagnostics import Diagnostics, place_of
from amco_jax.study.engines import Execution, LocalEngine, Work
from amco_jax.study.grid import Cell, check_users, without_paths
from amco_jax.study.output import AGENTS, Output
from amco_jax.study.pilot import check_warmup
from amco_jax.study.trainer import check_training
from amco_jax.study.units import Unit, units_of
from amco_jax.workload import ArrivalProcess

log = logging.getLogger(__name__)

FORMAT = 5
"""The version of the file format of a run, as recorded in its manifest"""

UNITS = "units"
"""Subdirectory of the results: the store of the units"""


@own_numerics()
def run_study(
    study: Study,
    out: str | Path | None = None,
    *,
    execution: Execution = Execution(),  # noqa: B008  # immutable
    overwrite: bool = False,
    progress: bool = False,
) -> StudyResult:
    """Run or resume a study.

    The work is divided into units, each of which is committed to disk when it is done, so that an interrupted
    study can be resumed.

    Args:
      study: a `Sweep`, `Training`, `Comparison`, `Tuning`, `Evaluation` or `Sensitivity`.
      out: a directory for the results, see docs/files.md; by default, they are only returned.
      execution: the engine, the shard, and whether to resume.
      overwrite: replace the results in `out`; not with resume or a shard, which keep what is there.
      progress: show a progress bar with the remaining time on stderr.

    Raises:
      InputError: `out` cannot be written, or contains other results, an unfinished study, or damaged files,
        or `overwrite` is set with resume or a shard.

    Example:
      >>> from amco_jax import Scenario, Sweep, run_study
      >>> small = Scenario(num_servers=2, num_tasks=5, num_slots=4)
      >>> study = Sweep("deadline", [0.5, 1], methods=["local", "optimal"], seeds=8, scenario=small)
      >>> run_study(study).rows[["method", "value", "seed"]].tail(2)
           method  value  seed
      30  optimal    1.0     6
      31  optimal    1.0     7
    """
    if overwrite and execution.joins:
        raise InputError("overwrite: true; legal: without resume and shard, which keep what others have done")
    with contextlib.ExitStack() as stack:
        home = Path(out) if out is not None else None
        if home is None:
            if execution.joins or execution.recompute:
                raise InputError("out: none; legal with resume, recompute or a shard: a directory")
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amco-jax-")))
        job = _Run(study, home, execution, overwrite, home / AGENTS, written=out is not None)
        stack.enter_context(job.opened())
        _compute([job], execution, progress)
        return job.finish()


@own_numerics()
def run_studies(
    studies: Mapping[str, Study], home: Path, execution: Execution, progress: bool = False
) -> dict[str, StudyResult]:
    """Run or resume several studies as one job, each in its subdirectory of `home`, with shared agents.

    Raises:
      InputError: see `run_study`.
    """
    with contextlib.ExitStack() as stack:
        jobs = {
            name: _Run(study, home / name, execution, False, home / AGENTS, written=True)
            for name, study in studies.items()
        }
        for job in jobs.values():
            stack.enter_context(job.opened())
        _compute(list(jobs.values()), execution, progress)
        results = {}
        for name, job in jobs.items():
            with _spending(job, jobs.values()):
                results[name] = job.finish()
        return results


class _Run:
    """One study in its directory."""

    def __init__(
        self, study: Study, home: Path, execution: Execution, overwrite: bool, agents: Path, written: bool
    ):
        self._started = time.time()
        self.elsewhere = 0.0  # seconds since then that went to other runs
        self._study, self._home, self._execution = study, home, execution
        self._overwrite, self._written = overwrite, written
        self._idle = execution.joins and not execution.recompute and (home / MANIFEST).exists()
        self.cells = study.cells()
        self._warnings = [
            ": ".join([*place_of(cell), text])
            for cell in self.cells
            if cell.train_episodes
            for text in check_training(cell)
        ]
        for cell in self.cells:
            check_warmup(cell)
            check_users(cell)
        self.store = Store(home / UNITS, home / study.file)
        self.agents, self._kept = AgentStore(execution.shared_agents or agents), AgentStore(home / AGENTS)
        self._unit_seconds = execution.seconds_per_unit(self.store.planned("unit_seconds"))
        self.units: list[Unit] = units_of(self.cells, self._unit_seconds)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Check the directory and begin the study; if the run is interrupted, a later run can resume it."""
        study, execution = self._study, self._execution
        with Output(self._home, self._overwrite or execution.joins, execution.joins) as self._output:
            if self._overwrite:
                (self._home / MANIFEST).unlink(missing_ok=True)  # first, as it vouches for the rows
                self.store.remove()
                self._discard_damaged(self.cells)
            elif self.store.begun and not execution.joins:
                raise InputError(
                    f"out: {self._home} holds an unfinished {study.kind}; legal: resume, overwrite"
                )
            if execution.joins and self.store.begun:
                for identity in self._identities().values():
                    identity.require_seen("resume" if execution.resume else "shard")
            plan = self._described() | {
                "scenario": _without_code(without_paths(study.base)),
                "format": FORMAT,
                "unit_seconds": self._unit_seconds,
                "code": code_version(),
                "versions": package_versions(),
                "depends_on": {name: each.to_dict() for name, each in self._identities().items()},
            }
            # The plan may differ in `depends_on`: the names of units show which of them are out of date.
            self.store.begin(plan, execution.recompute, ("depends_on",) if execution.resume else ())
            if execution.resume:
                self._discard_others()
            for text in self._warnings:
                log.warning(text)
            yield

    def _described(self) -> dict[str, Any]:
        return self._study.describe() | {"metrics": column_entries(self._study.columns)}

    def _discard_others(self) -> None:
        """Remove units with outdated names, which are computed anew, and the results derived from them."""
        if others := self.store.others([unit.id for unit in self.units]):
            log.warning(
                "resume: %d of %d units are computed anew, as what they depend on has changed",
                len(others), len(self.units),
            )  # fmt: skip
            self._idle = False
            (self._home / MANIFEST).unlink(missing_ok=True)
            for unit in others:
                self.store.discard(unit)

    def _discard_damaged(self, cells: Sequence[Cell]) -> None:
        """Remove damaged agents of these cells, which are then trained, or copied, again."""
        for agents in (self.agents, self._kept):
            agents.discard_damaged(cells)

    def _identities(self) -> dict[str, Identity]:
        """The identities of the user's code on which rows depend, by method and by user's arrival process."""
        own = [c.scenario.arrivals for c in self.cells if isinstance(c.scenario.arrivals, ArrivalProcess)]
        return {f"{process.name} arrivals": identify(process) for process in own} | {
            cell.method.name: cell.identity for cell in self.cells
        }

    def todo(self) -> list[Work]:
        """The units of this shard that are not yet committed."""
        part, of = self._execution.part()
        mine = self.units[part::of]
        if self._execution.recompute:
            for unit in mine:
                self.store.discard_damaged(unit.id)
                self._discard_damaged(unit.cells)
                # Their rows are of no use without the agents, which only a new training restores.
                if self._study.keeps_agents and not all(map(self.agents.has, _agents_of(unit.cells))):
                    self.store.discard(unit.id)
        todo = [Work(unit, self.store, self.agents) for unit in mine if not self.store.committed(unit.id)]
        self._idle = self._idle and not todo
        return todo

    def finish(self) -> StudyResult:
        """Reduce the rows and write the results, if all units are committed."""
        study, where = self._study, self._home if self._written else None
        manifest = self._described()
        if missing := sum(not self.store.committed(unit.id) for unit in self.units):
            return StudyResult(manifest, pd.DataFrame(), missing, out=where)
        self.store.tidy([unit.id for unit in self.units])
        diagnostics = Diagnostics()

        def read() -> Iterator[pd.DataFrame]:
            for unit in self.units:
                frame = self.store.read(unit.id)
                diagnostics.observe(unit, frame)
                yield frame

        reduced = study.reduce(read())
        if self._idle:  # keep the existing results and their recorded wall time
            manifest = open_run(self._home, [study.kind]).manifest
        else:
            manifest |= self._write(reduced, diagnostics)
        kept = reduced.rows
        if kept is None:
            file = self._home / study.file
            kept = file if self._written else read_table(file)
        summary = next(iter(reduced.tables.values()), pd.DataFrame())
        agents = trained_seeds(self.cells[0], self.agents).agents if study.keeps_agents else None
        return StudyResult(manifest, summary, agents=agents, out=where, kept=kept)

    def _write(self, reduced: Reduced, diagnostics: Diagnostics) -> dict[str, Any]:
        """Write tables, figures and the manifest; return the manifest's fields that only exist at the end."""
        study, found = self._study, diagnostics.warnings()
        for text in found:
            log.warning(text)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "units": len(self.units),
            "percentiles": accuracy(c.scenario.episode_positions for c in self.cells if c.has_quantiles),
            "warnings": self._warnings + found,
        } | diagnostics.manifest_entries()
        standing = [study.file]
        if study.keeps_agents:
            manifest["agents"] = names = _agents_of(self.cells)
            self._kept.copy_from(self.agents, names)
            standing.append(AGENTS)
        swept = {id(cell.scenario): cell.scenario for cell in self.cells}
        manifest |= provenance(self._started, study.base, list(swept.values()), self.elsewhere)
        for name, table in reduced.tables.items():
            table.to_csv(self._output.path(name), index=False)
        for name, draw in reduced.figures.items():
            if self._written:
                self._output.draw(name, draw)
        self._output.finish(self._described() | manifest, standing)
        return manifest


@contextlib.contextmanager
def _spending(run: _Run, runs: Collection[_Run]) -> Iterator[None]:
    """Leave the time of the block out of the wall time of all runs but one."""
    began = time.time()
    yield
    for other in runs:
        if other is not run:
            other.elsewhere += time.time() - began


def _without_code(scenario: dict[str, Any]) -> dict[str, Any]:
    """A scenario without the digest of a user's arrival process, which is in the `depends_on` of a plan."""
    arrivals = scenario["arrivals"]
    if isinstance(arrivals, dict):
        arrivals = {name: value for name, value in arrivals.items() if name != "digest"}
    return scenario | {"arrivals": arrivals}


def _agents_of(cells: Sequence[Cell]) -> list[str]:
    """The names of the blocks with the agents of these cells."""
    return [name for cell in cells for name in training_names(cell)]


def _compute(runs: Sequence[_Run], execution: Execution, progress: bool) -> None:
    """Compute the remaining units of this shard."""
    shares = [(run, run.todo()) for run in runs]
    todo = [work for _, of_run in shares for work in of_run]
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
        if not isinstance(engine, LocalEngine):  # which computes units of several runs at a time
            engine.run(todo)
            return
        for run, of_run in shares:
            with _spending(run, runs):
                engine.run(of_run)
