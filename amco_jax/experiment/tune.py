"""Sweep the settings of a trained method: every combination and seed in one program."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.errors import InputError, check_list, check_whole
from amco_jax.experiment.output import Output
from amco_jax.experiment.progress import progress_bar
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.simulate import simulate
from amco_jax.experiment.trainer import Cell, OnTheSpot
from amco_jax.random import check_seeds
from amco_jax.scenario import Scenario

QUANTILES = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """The outcome of a sweep over settings."""

    results: pd.DataFrame
    """One row per combination and seed: the settings, seed, makespan_mean_s, miss_rate, gap"""
    summary: pd.DataFrame
    """One row per combination: the settings, n_seeds, makespan_s, miss_rate, and of the gap its mean,
    quantiles over seeds (gap_p50, ...), largest value, and the share of seeds within `within`"""
    manifest: dict[str, Any]
    out: Path | None = None


def tune(
    method: str | Method,
    settings: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 64,
    episodes: int = 300,
    within: float = 0.03,
    scenario: Scenario | None = None,
    physics: str = "unified",
    reference: str | Method = "optimal",
    out: str | Path | None = None,
    first_seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> TuneResult:
    """Train under all combinations of some settings, and evaluate each seed greedily on an unseen episode.

    Combinations that agree in widths and batch size share one program.

    Args:
      method: a trained method, whose other settings stay as they are.
      settings: values by the name of a field of `amco_jax.Settings`.
      seeds: number of seeds for each combination.
      episodes: of training.
      within: a seed counts as good where its gap is at most this.
      scenario: by default the published setting.
      physics: `unified`, or `published` for the methods' own published codes.
      reference: a rule. The gap of a seed is makespan / makespan of the reference - 1 in the same episode.
      out: a directory for results.parquet, summary.csv and manifest.json.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      overwrite: replace the results that stand in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: a rule as method, an unknown setting, a value out of range, an unwritable directory.
    """
    started = time.time()
    method, best = get_method(method), get_method(reference)
    if best.training is not None:
        raise InputError(f"reference: {best.name} is trained; legal: a rule")
    scenario = scenario or Scenario()
    check_seeds(first_seed, seeds)
    check_whole("episodes", episodes)
    method.check(scenario.num_servers)
    row, best_row = method.physics(physics), best.physics(physics)
    choices = [check_list(name, values) for name, values in settings.items()]
    grid = [dict(zip(settings, values, strict=True)) for values in itertools.product(*choices)]
    variants = [method.with_settings(**changes) for changes in grid]

    with contextlib.ExitStack() as stack:
        output = None if out is None else stack.enter_context(Output(out, overwrite))
        bar = stack.enter_context(progress_bar(progress))
        task = bar.add_task(method.name, total=len(grid) * seeds * episodes)
        parts = simulate([scenario], best, best_row, first_seed, seeds)
        target = np.concatenate([part.metrics["makespan_mean_s"] for part in parts])
        frames = {}
        by_shape = sorted(range(len(grid)), key=lambda i: str(variants[i].dqn))
        for _, group in itertools.groupby(by_shape, key=lambda i: variants[i].dqn):
            members = list(group)
            one = variants[members[0]]
            cells = [Cell(scenario, variants[i].require_training().settings) for i in members]
            source = OnTheSpot(one, row, cells, episodes, partial(bar.advance, task))
            for batch in simulate([scenario] * len(cells), one, row, first_seed, seeds, source):
                makespan = batch.metrics["makespan_mean_s"]
                start = batch.seeds[0] - first_seed
                gap = makespan / target[start : start + len(makespan)] - 1
                number = members[batch.index]
                columns = {name: str(value) for name, value in grid[number].items()} | {
                    "seed": batch.seeds,
                    "makespan_mean_s": makespan,
                    "miss_rate": batch.metrics["miss_rate"],
                    "gap": gap,
                }
                frames.setdefault(number, []).append(pd.DataFrame(columns))
        tables = [pd.concat(frames[number], ignore_index=True) for number in range(len(grid))]
        summary = pd.DataFrame(
            [_summarise(changes, table, within) for changes, table in zip(grid, tables, strict=True)]
        )
        results = pd.concat(tables, ignore_index=True)
        manifest = {
            "kind": "tune",
            "method": method.name,
            "base_settings": method.require_training().settings.to_dict(),
            "settings": {name: list(map(str, values)) for name, values in settings.items()},
            "physics": physics,
            "reference": best.name,
            "first_seed": first_seed,
            "num_seeds": seeds,
            "episodes": episodes,
            "scenario": scenario.to_dict(),
        } | provenance(started, scenario)
        if output is not None:
            output.add_rows(results)
            summary.to_csv(output.path("summary.csv"), index=False)
            output.finish(manifest)
    return TuneResult(results, summary, manifest, None if out is None else Path(out))


def _summarise(changes: Mapping[str, Any], table: pd.DataFrame, within: float) -> dict[str, Any]:
    gap = np.asarray(table["gap"])
    quantiles = {f"gap_p{q}": np.percentile(gap, q) for q in QUANTILES}
    return {
        **{name: str(value) for name, value in changes.items()},
        "n_seeds": len(table),
        "makespan_s": np.mean(table["makespan_mean_s"]),
        "miss_rate": np.mean(table["miss_rate"]),
        "gap_mean": np.mean(gap),
        **quantiles,
        "gap_max": np.max(gap),
        f"within_{within:g}": np.mean(gap <= within),
    }
