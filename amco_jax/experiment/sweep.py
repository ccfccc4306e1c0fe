"""Sweep one quantity over values × methods × seeds: the main job."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.errors import InputError, check_whole
from amco_jax.experiment.axes import get_axis, value_labels
from amco_jax.experiment.output import Output
from amco_jax.experiment.progress import progress_bar
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.simulate import Batch, simulate
from amco_jax.experiment.trainer import Cell, OnTheSpot
from amco_jax.random import check_seeds
from amco_jax.report.figures import save_figure, sweep_figure
from amco_jax.scenario import Scenario
from amco_jax.stats import Moments

DEFAULT_METHODS = (
    "optimal",
    "optimal-admission",
    "randcoedge",
    "all-servers",
    "least-wait",
    "two-choices",
    "local",
)


TRAINED_SEEDS = 32
EPISODES = 80

FIGURES = {"makespan": "makespan_mean_s", "miss_rate": "miss_rate"}
"""Metrics by the name of the file that shows them."""


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep."""

    summary: pd.DataFrame
    """Columns method, param, value, metric, n_seeds, mean, ci_low, ci_high (95 %, Student t)"""
    manifest: dict[str, Any]
    """Scenario, seeds, versions, device, wall time"""
    frames: list[pd.DataFrame] = dataclasses.field(repr=False, default_factory=list)
    out: Path | None = None

    @property
    def results(self) -> pd.DataFrame:
        """One row per method, value and seed; read from `out` where results were written there."""
        if self.out is not None:
            return pd.read_parquet(self.out / "results.parquet")
        return pd.concat(self.frames, ignore_index=True)


def sweep(
    param: str,
    values: Sequence[Any] | None = None,
    methods: Sequence[str | Method] = DEFAULT_METHODS,
    seeds: int = 1000,
    scenario: Scenario | None = None,
    physics: str = "unified",
    out: str | Path | None = None,
    first_seed: int = 0,
    trained_seeds: int = TRAINED_SEEDS,
    episodes: int = EPISODES,
    overwrite: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Simulate every method at every value of one quantity, on the same arrivals seed by seed.

    Trained methods are trained anew for each value and seed, and then decide greedily the same episode as
    the other methods.

    Args:
      param: a scenario field or a scale, see `amco_jax.experiment.axes.AXES`.
      values: by default those of the axis.
      methods: names, or `Method`s of your own.
      seeds: number of seeds; seed k draws the same arrivals for every method and value.
      scenario: what is held fixed; by default the published setting.
      physics: `unified`, or `published` for each method's own published code.
      out: a directory for results.parquet, summary.csv, manifest.json and figures; with it, rows go to
        disk as they come, and memory does not grow with the seeds. Nothing is written before the end.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      trained_seeds: most seeds of a trained method, the first ones of `seeds`.
      episodes: of training, for each value and seed.
      overwrite: replace the results that stand in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: an unknown name, a value out of range, an empty list, an unwritable directory.
    """
    started = time.time()
    axis = get_axis(param)
    values = _checked_list("values", axis.values if values is None else values)
    chosen = [get_method(m) for m in _checked_list("methods", methods)]
    if len({m.name for m in chosen}) < len(chosen):
        raise InputError(f"methods: {', '.join(m.name for m in chosen)}; legal: each method once")
    check_seeds(first_seed, seeds)
    check_whole("trained_seeds", trained_seeds)
    check_whole("episodes", episodes)
    rows = [m.physics(physics) for m in chosen]
    base = scenario or Scenario()
    scenarios = [axis.apply(base, value) for value in values]
    labels = value_labels(values)
    if len(set(labels)) < len(labels):
        raise InputError(f"values: {', '.join(map(str, labels))}; legal: each value once")
    for method in chosen:
        for each in scenarios:
            method.check(each.num_servers)

    moments: dict[tuple[str, int, str], Moments] = {}
    frames: list[pd.DataFrame] = []
    most_servers = max(s.num_servers for s in scenarios)
    with contextlib.ExitStack() as stack:
        output = None if out is None else stack.enter_context(Output(out, overwrite))
        bar = stack.enter_context(progress_bar(progress))
        for method, row in zip(chosen, rows, strict=True):
            count, source, rounds = seeds, None, 1
            if method.training is not None:
                count, rounds = min(seeds, trained_seeds), episodes + 1
            task = bar.add_task(method.name, total=len(scenarios) * count * rounds)
            if method.training is not None:
                cells = [Cell(each, method.training.settings) for each in scenarios]
                source = OnTheSpot(method, row, cells, episodes, partial(bar.advance, task))
            for batch in simulate(scenarios, method, row, first_seed, count, source):
                frame = _frame(batch, method.name, param, labels[batch.index], most_servers)
                for metric in frame.columns[4:]:
                    key = method.name, batch.index, metric
                    moments.setdefault(key, Moments()).add(frame[metric].to_numpy())
                if output is None:
                    frames.append(frame)
                else:
                    output.add_rows(frame)
                bar.advance(task, len(frame))
        summary = _summary(moments, param, labels)
        manifest = {
            "kind": "sweep",
            "param": param,
            "values": labels,
            "methods": [m.name for m in chosen],
            "physics": physics,
            "first_seed": first_seed,
            "num_seeds": seeds,
            "training": {
                "episodes": episodes,
                "num_seeds": min(seeds, trained_seeds),
                "settings": {m.name: m.training.settings.to_dict() for m in chosen if m.training is not None},
            },
            "scenario": base.to_dict(),
        } | provenance(started)
        if output is not None:
            summary.to_csv(output.path("summary.csv"), index=False)
            for name, metric in FIGURES.items():
                save_figure(sweep_figure(summary, metric, axis.label), output.path(name))
            output.finish(manifest)
    return SweepResult(summary, manifest, frames, None if out is None else Path(out))


def _checked_list(name: str, items: Sequence[Any]) -> list[Any]:
    if isinstance(items, str) or not len(items):
        raise InputError(f"{name}: {items!r}; legal: a list of at least one entry")
    return list(items)


def _frame(batch: Batch, method: str, param: str, label: Any, most_servers: int) -> pd.DataFrame:
    """Tidy rows of a batch; where fleets differ in size, missing servers are NaN."""
    columns = {"method": method, "param": param, "value": label, "seed": batch.seeds} | batch.metrics
    missing = {f"utilisation_{i}": np.nan for i in range(most_servers)}
    return pd.DataFrame(columns | {k: v for k, v in missing.items() if k not in columns})


def _summary(moments: dict[tuple[str, int, str], Moments], param: str, labels: Sequence[Any]) -> pd.DataFrame:
    columns = ["method", "param", "value", "metric", "n_seeds", "mean", "ci_low", "ci_high"]
    rows = [
        (method, param, labels[index], metric, m.count, *m.interval())
        for (method, index, metric), m in moments.items()
    ]
    return pd.DataFrame(rows, columns=columns)
