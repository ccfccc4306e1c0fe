"""Compare methods as the paper does: makespan over the episodes of training, and what is left at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amco_jax.agents.methods import PHYSICS, Method, get_methods
from amco_jax.errors import check_choice, check_list, check_whole
from amco_jax.experiment.output import Output
from amco_jax.experiment.progress import progress_bar
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.simulate import simulate
from amco_jax.experiment.train import train
from amco_jax.metrics import EPISODE_METRICS
from amco_jax.random import check_seeds
from amco_jax.report.figures import convergence_figure, save_figure
from amco_jax.scenario import Scenario
from amco_jax.stats import mean_interval, reduction_interval, seed_matrix
from amco_jax.training import FIRST_TRAINING_EPISODE

PAPER_METHODS = ("amcoedge", "smcoedge", "drlcoedge", "randcoedge", "optimal")


@dataclasses.dataclass(frozen=True)
class CompareResult:
    """The outcome of a comparison."""

    curves: pd.DataFrame
    """Columns physics, method, seed, episode and `metrics.EPISODE_METRICS`; those of training beside them"""
    final: pd.DataFrame
    """One row per physics and method: n_seeds, makespan_s, ci_low, ci_high over the last episodes; and the
    reduction of the first method's makespan against this one, seed by seed: reduction, reduction_low,
    reduction_high"""
    manifest: dict[str, Any]
    out: Path | None = None


def compare(
    methods: Sequence[str | Method] = PAPER_METHODS,
    *,
    seeds: int = 32,
    episodes: int = 300,
    last: int = 50,
    scenario: Scenario | None = None,
    physics: Sequence[str] = ("published", "unified"),
    out: str | Path | None = None,
    first_seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> CompareResult:
    """Train and run all methods on the same densities and arrivals, seed by seed and episode by episode.

    Args:
      methods: the first is the one whose makespan is set against the others'.
      seeds: number of seeds.
      episodes: of training; rules run through the same ones.
      last: episodes at the end whose mean counts as the final makespan.
      scenario: by default the published setting.
      physics: variants to compare under, each on its own.
      out: a directory for curves.parquet, final.csv, manifest.json and a convergence figure per variant.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      overwrite: replace the results that stand in `out`.
      progress: show bars with the remaining time on stderr.

    Raises:
      InputError: an unknown name, a value out of range, an unwritable directory.
    """
    started = time.time()
    chosen = get_methods(methods)
    for variant in check_list("physics", physics):
        check_choice("physics", variant, PHYSICS)
    scenario = scenario or Scenario()
    check_seeds(first_seed, seeds)
    check_whole("last", last, 1, check_whole("episodes", episodes))
    for method in chosen:
        method.check(scenario.num_servers)
    with contextlib.ExitStack() as stack:
        output = None if out is None else stack.enter_context(Output(out, overwrite))
        frames = []
        for variant in physics:
            for method in chosen:
                if method.training is not None:
                    frame = train(
                        method, seeds=seeds, episodes=episodes, scenario=scenario, physics=variant,
                        first_seed=first_seed, progress=progress,
                    ).curves  # fmt: skip
                else:
                    frame = _rule_curves(method, seeds, episodes, scenario, variant, first_seed, progress)
                frame.insert(0, "physics", variant)
                frames.append(frame)
        curves = pd.concat(frames, ignore_index=True)
        final = _final(curves, chosen[0].name, episodes - last)
        manifest = {
            "kind": "compare",
            "methods": [m.name for m in chosen],
            "settings": {m.name: m.training.settings.to_dict() for m in chosen if m.training is not None},
            "physics": list(physics),
            "first_seed": first_seed,
            "num_seeds": seeds,
            "episodes": episodes,
            "last": last,
            "scenario": scenario.to_dict(),
        } | provenance(started, scenario)
        if output is not None:
            output.add_rows(curves, "curves.parquet")
            final.to_csv(output.path("final.csv"), index=False)
            for variant in physics:
                figure = convergence_figure(curves.loc[curves["physics"] == variant])
                save_figure(figure, output.path(f"convergence-{variant}"))
            output.finish(manifest)
    return CompareResult(curves, final, manifest, None if out is None else Path(out))


def _rule_curves(
    method: Method,
    seeds: int,
    episodes: int,
    scenario: Scenario,
    physics: str,
    first_seed: int,
    progress: bool,
) -> pd.DataFrame:
    """What a rule makes of the episodes that the others train on."""
    frames, row = [], method.physics(physics)
    with progress_bar(progress) as bar:
        task = bar.add_task(method.name, total=episodes * seeds)
        for episode in range(episodes):
            number = FIRST_TRAINING_EPISODE + episode
            for batch in simulate([scenario], method, row, first_seed, seeds, episode=number):
                metrics = {name: batch.metrics[name] for name in EPISODE_METRICS}
                columns = {"method": method.name, "seed": batch.seeds, "episode": episode} | metrics
                frames.append(pd.DataFrame(columns))
            bar.advance(task, seeds)
    return pd.concat(frames, ignore_index=True)


def _final(curves: pd.DataFrame, reference: str, start: int) -> pd.DataFrame:
    tail, rows = curves.loc[curves["episode"] >= start], []
    for variant in dict.fromkeys(tail["physics"]):
        of_variant = tail.loc[tail["physics"] == variant]
        by_method = {
            method: seed_matrix(of_variant.loc[of_variant["method"] == method], "makespan_mean_s").mean(
                axis=1
            )
            for method in dict.fromkeys(of_variant["method"])
        }
        for method, makespan in by_method.items():
            reduction = reduction_interval(by_method[reference], makespan)
            rows.append((variant, method, len(makespan), *mean_interval(makespan), *reduction))
    columns = ["physics", "method", "n_seeds", "makespan_s", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=[*columns, "reduction", "reduction_low", "reduction_high"])
