"""Sweep one quantity over values × methods × seeds: the main job."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method
from amco_jax.errors import InputError
from amco_jax.experiment.engines import Execution
from amco_jax.experiment.output import Output
from amco_jax.experiment.progress import progress_bar
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.store import Store
from amco_jax.experiment.units import UNIT_SECONDS, Job, Unit, checked_job, units_of
from amco_jax.report.figures import save_figure, sweep_figure
from amco_jax.scenario import Scenario
from amco_jax.stats import Moments

DEFAULT_METHODS = (
    "optimal",
    "optimal-admission",
    "amcoedge-stable",
    "smcoedge-stable",
    "drlcoedge-stable",
    "randcoedge",
    "all-servers",
    "least-wait",
    "two-choices",
    "local",
)

TRAINED_SEEDS = 32
EPISODES = 50

FIGURES = {"makespan": "makespan_mean_s", "miss_rate": "miss_rate"}
"""Metrics by the name of the file that shows them."""

STORE = "units"
"""The directory of the units, in that of the results"""


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep."""

    summary: pd.DataFrame
    """Columns method, param, value, metric, n_seeds, mean, ci_low, ci_high (95 %)"""
    manifest: dict[str, Any]
    """Scenario, seeds, versions, device, wall time"""
    missing: int = 0
    """Units that other shards have not computed yet. Where there are some, the rest is empty."""
    rows: pd.DataFrame | None = dataclasses.field(repr=False, default=None)
    out: Path | None = None

    @property
    def results(self) -> pd.DataFrame:
        """One row per method, value and seed; read from `out` where results were written there."""
        return pd.read_parquet(self.out / "results.parquet") if self.rows is None and self.out else self.rows  # pyright: ignore[reportReturnType]


def sweep(
    param: str,
    *,
    values: Sequence[Any] | None = None,
    methods: Sequence[str | Method] = DEFAULT_METHODS,
    seeds: int = 1000,
    scenario: Scenario | None = None,
    physics: str = "unified",
    out: str | Path | None = None,
    first_seed: int = 0,
    trained_seeds: int = TRAINED_SEEDS,
    episodes: int = EPISODES,
    execution: Execution = Execution(),  # noqa: B008  # frozen
    unit_seconds: float = UNIT_SECONDS,
    overwrite: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Simulate every method at every value of one quantity, on the same arrivals seed by seed.

    Trained methods are trained anew for each value and seed, and then decide greedily the same episode as
    the other methods. The work is cut into units, each of which is committed to disk as it ends: an
    interrupted sweep goes on from there.

    Args:
      param: a scenario field or a scale, see `amco_jax.experiment.axes.AXES`.
      values: by default those of the axis.
      methods: names, or methods of your own, each a `Method`.
      seeds: number of seeds; seed k draws the same arrivals for every method and value.
      scenario: what is held fixed; by default the published setting.
      physics: `unified`, or `published` for each method's own published code.
      out: a directory for results.parquet, summary.csv, manifest.json and figures, which appear at the end,
        and for the units.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      trained_seeds: most seeds of a trained method, the first ones of `seeds`.
      episodes: of training, for each value and seed.
      execution: engine, shard, resume.
      unit_seconds: nominal duration of a unit on two CPU cores.
      overwrite: replace what stands in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: an unknown name, a value out of range, an empty list, an unwritable directory, or one that
        holds other results or damaged ones.

    Example:
      >>> small = Scenario(num_servers=2, num_tasks=5, num_slots=4)
      >>> found = sweep("deadline", values=[0.5, 1], methods=["local", "optimal"], seeds=8, scenario=small)
      >>> found.results[["method", "value", "seed"]].tail(2)
           method  value  seed
      30  optimal    1.0     6
      31  optimal    1.0     7
    """
    started = time.time()
    job = checked_job(
        param, values, methods, scenario, physics, first_seed, seeds, trained_seeds, episodes, unit_seconds
    )
    if out is None and execution != Execution(engine=execution.engine, address=execution.address):
        raise InputError("out: none; legal with resume, recompute or a shard: a directory")
    with contextlib.ExitStack() as stack:
        output = None
        if out is None:
            store = Store(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amco-jax-"))))
        else:
            store = Store(Path(out) / STORE)
            output = stack.enter_context(Output(out, overwrite or execution.joins))
            if overwrite:
                store.remove()
            elif store.begun and not execution.joins:
                raise InputError(f"out: {out} holds an unfinished sweep; legal: resume, overwrite")
        store.begin(job.plan(), execution.recompute)
        units = units_of(job)
        _compute(job, units, store, execution, progress)
        if missing := sum(not store.committed(unit.id) for unit in units):
            return SweepResult(pd.DataFrame(), job.describe(), missing, pd.DataFrame(), Path(out or ""))
        moments: dict[tuple[str, int, str], Moments] = {}
        frames = []
        for unit in units:
            frame = store.read(unit.id)
            _add(moments, job, unit, frame)
            if output is None:
                frames.append(frame)
            else:
                output.add_rows(frame)
        summary = _summary(moments, job)
        manifest = job.describe() | {"units": len(units)} | provenance(started, job.scenario)
        if output is not None:
            summary.to_csv(output.path("summary.csv"), index=False)
            for name, metric in FIGURES.items():
                save_figure(
                    sweep_figure(summary, metric, job.axis.label_for(job.scenario)), output.path(name)
                )
            output.finish(manifest)
    if out is None:
        return SweepResult(summary, manifest, rows=pd.concat(frames, ignore_index=True))
    return SweepResult(summary, manifest, out=Path(out))


def _compute(job: Job, units: Sequence[Unit], store: Store, execution: Execution, progress: bool) -> None:
    """Compute this shard's units that are not committed yet."""
    part, of = execution.part()
    mine = units[part::of]
    if execution.recompute:
        for unit in mine:
            store.discard_damaged(unit.id)
    todo = [unit for unit in mine if not store.committed(unit.id)]
    if not todo:
        return
    with progress_bar(progress) as bar:
        tasks = {}
        for unit in todo:
            name = job.methods[unit.method].name
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=0)
            bar.update(tasks[name], total=(bar.tasks[tasks[name]].total or 0) + unit.episodes)
        engine = execution.start(
            job, store, lambda unit, done: bar.advance(tasks[job.methods[unit.method].name], done)
        )
        for unit in todo:
            engine.submit(unit)
        for _ in engine.as_completed():
            pass


def _add(moments: dict[tuple[str, int, str], Moments], job: Job, unit: Unit, frame: pd.DataFrame) -> None:
    """Take in the rows of a unit, whose values stand one after the other."""
    method = job.methods[unit.method].name
    columns = {metric: np.asarray(frame[metric]) for metric in frame.columns[4:]}
    for place, index in enumerate(unit.values):
        rows = slice(place * unit.num_seeds, (place + 1) * unit.num_seeds)
        for metric, column in columns.items():
            moments.setdefault((method, index, metric), Moments()).add(column[rows])


def _summary(moments: dict[tuple[str, int, str], Moments], job: Job) -> pd.DataFrame:
    columns = ["method", "param", "value", "metric", "n_seeds", "mean", "ci_low", "ci_high"]
    rows = [
        (method, job.param, job.labels[index], metric, m.count, *m.interval())
        for (method, index, metric), m in moments.items()
    ]
    return pd.DataFrame(rows, columns=columns)
