"""What a report says of studies: estimates, paired comparisons, warnings. Frames in, frames out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.report.studies import Study
from amco_jax.stats import (
    bootstrap_interval,
    holm,
    paired_p_value,
    probability_of_improvement,
    reduction_interval,
    seeds_needed,
    t_interval,
)

PAPER_BASELINES = ("randcoedge", "drlcoedge", "smcoedge", "optimal")
COMPARED = ("makespan_mean_s", "miss_rate")
SIGNIFICANT = 0.05
_SEED = 0
"""Of all resampling, so that the same results give the same tables"""


def baselines_of(study: Study, asked: Sequence[str] = ()) -> list[str]:
    """The methods that the others are set against: those asked for, else the paper's, in any variant of them.

    Without any of the paper's it is the first method.

    Raises:
      InputError: none of those asked for is in the study.
    """
    if asked:
        if not (found := [m for m in study.methods if m in asked]):
            legal = ", ".join(study.methods)
            raise InputError(f"baseline: {', '.join(asked)} is not in {study.name}; legal: {legal}")
        return found
    paper = [m for b in PAPER_BASELINES for m in study.methods if m.partition("+")[0] in (b, f"{b}-stable")]
    return paper or study.methods[:1]


def estimates(study: Study) -> pd.DataFrame:
    """Means of all metrics with t intervals, and median and interquartile mean of the makespan with BCa's.

    Returns:
      Columns condition, method, metric, statistic, n_seeds, estimate, ci_low, ci_high (95 %).
    """
    rows = []
    for method, metric in itertools.product(study.methods, study.metrics):
        table = study.by_seed(method, metric)
        if table.empty:
            continue
        values = table.to_numpy(np.float64)
        intervals = {"mean": t_interval(values)}
        if metric == "makespan_mean_s":
            for statistic in ("median", "iqm"):
                rng = np.random.default_rng(_SEED)
                intervals[statistic] = bootstrap_interval(values, rng, statistic)
        for statistic, interval in intervals.items():
            for place, condition in enumerate(study.conditions):
                numbers = (float(bound[place]) for bound in interval)
                rows.append((condition, method, metric, statistic, len(values), *numbers))
    columns = ["condition", "method", "metric", "statistic", "n_seeds", "estimate", "ci_low", "ci_high"]
    frame = pd.DataFrame(rows, columns=columns)
    order = {condition: place for place, condition in enumerate(study.conditions)}
    return frame.sort_values("condition", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def comparisons(studies: Sequence[Study], baselines: Sequence[str] = ()) -> pd.DataFrame:
    """Every method against every baseline on the seeds that both have, with p-values corrected over all rows.

    Returns:
      Columns study, condition, metric, method, baseline, n_seeds; reduction (1 − mean / baseline's mean),
      difference (method − baseline, in the metric's unit) and improvement (how probably the method is lower
      on a seed), each with _low and _high (95 %); p of the paired t-test, and p_holm. The same pair the other
      way round is the same test, and is counted once.

    Raises:
      InputError: no study has any of `baselines`.
    """
    frames = [_compare(study, baselines_of(study, baselines)) for study in studies]
    frame = pd.concat(frames, ignore_index=True)
    pair = _pairs(frame)
    first = ~pair.duplicated()
    corrected = dict(zip(pair[first], holm(frame.loc[first, "p"].to_numpy(np.float64)), strict=True))
    return frame.assign(p_holm=[corrected[p] for p in pair])


def distinct(compared: pd.DataFrame) -> pd.DataFrame:
    """The comparisons without those that are others the other way round."""
    return compared.loc[~_pairs(compared).duplicated()]


def _pairs(frame: pd.DataFrame) -> pd.Series:
    """What tells each comparison apart, whichever way round it is."""
    columns = (frame[c] for c in ("study", "condition", "metric", "method", "baseline"))
    pairs = [(*where, *sorted(names)) for *where, a, b in zip(*columns, strict=True) for names in [(a, b)]]
    return pd.Series(pairs, index=frame.index, dtype=object)


def _compare(study: Study, baselines: Sequence[str]) -> pd.DataFrame:
    rows = []
    for metric, baseline, method in itertools.product(COMPARED, baselines, study.methods):
        if method == baseline or metric not in study.metrics:
            continue
        tables = [study.by_seed(name, metric) for name in (method, baseline)]
        seeds = tables[0].index.intersection(tables[1].index)
        if seeds.empty:
            continue
        ours, theirs = (table.loc[seeds].to_numpy(np.float64) for table in tables)
        reduction = reduction_interval(ours, theirs, np.random.default_rng(_SEED))
        difference = t_interval(ours - theirs)
        improvement = probability_of_improvement(ours, theirs)
        p = paired_p_value(ours, theirs)
        for place, condition in enumerate(study.conditions):
            numbers = [float(x[place]) for interval in (reduction, difference, improvement) for x in interval]
            row = (study.name, condition, metric, method, baseline, len(seeds), *numbers, float(p[place]))
            rows.append((place, *row))
    columns = ["study", "condition", "metric", "method", "baseline", "n_seeds"]
    for name in ("reduction", "difference", "improvement"):
        columns += [name, f"{name}_low", f"{name}_high"]
    frame = pd.DataFrame(rows, columns=["place", *columns, "p"])
    return frame.sort_values("place", kind="stable", ignore_index=True).drop(columns="place")


def warnings_of(studies: Sequence[Study], compared: pd.DataFrame) -> list[str]:
    """What a reader must know before he believes the numbers, one sentence each."""
    found = [f"{study.name}: {text}" for study in studies for text in _study_warnings(study)]
    tests = distinct(compared.loc[compared["metric"] == "makespan_mean_s"])
    unclear = tests.loc[~(tests["p_holm"] < SIGNIFICANT)]
    if len(unclear):
        found.append(
            f"{len(unclear)} of {len(tests)} comparisons of makespan cannot be told from chance "
            f"(corrected p of {SIGNIFICANT} or more); their intervals say how large a difference may be."
        )
    for key in ("versions", "git_commit", "device"):
        if len({str(study.manifest.get(key)) for study in studies}) > 1:
            found.append(f"The runs differ in {key.replace('_', ' ')}.")
    return found


def _study_warnings(study: Study) -> list[str]:
    found = []
    counts = {m: len(study.by_seed(m, "makespan_mean_s")) for m in study.methods}
    few = {m: n for m, n in counts.items() if n < 10}
    if few:
        found.append(f"fewer than 10 seeds ({_listed(few)}): intervals of so few seeds are often too narrow.")
    if len(set(counts.values())) > 1:
        found.append(f"numbers of seeds differ ({_listed(counts)}); comparisons use the common ones.")
    skewed, wanted = [], 0
    for method in study.methods:
        values = study.by_seed(method, "makespan_mean_s").to_numpy(np.float64)
        if len(values) < 2:
            continue
        if len(values) < 100 and np.max(np.abs(_skewness(values)), initial=0) > 1:
            skewed.append(method)
        percent = np.maximum(0.01 * values.mean(axis=0), 1e-12)
        wanted = max(wanted, int(np.max(seeds_needed(values, percent))))
    if skewed:
        found.append(f"skewed over fewer than 100 seeds ({', '.join(skewed)}): intervals may be too narrow.")
    if wanted > min(counts.values()):
        fewest = min(counts.values())
        found.append(f"for means to ± 1 % it takes up to {wanted} seeds; the fewest here are {fewest}.")
    if "miss_rate" in study.metrics and not np.any(study.results["miss_rate"] > 0):
        found.append("no task missed its deadline, so the miss rate cannot separate the methods.")
    if "utilisation_max" in study.metrics:
        busiest = np.asarray(study.results["utilisation_max"], np.float64)
        of = np.asarray(study.results["condition"])
        full = [str(c) for c in study.conditions if np.mean(busiest[of == c]) > 0.99]
        if full:
            found.append(
                f"servers are saturated at {', '.join(full)}: queues grow to the end of the episode."
            )
    return found + _budget_warnings(study) + _convergence_warnings(study)


def _budget_warnings(study: Study) -> list[str]:
    training = study.manifest.get("training")
    if study.kind != "sweep" or not training or not training["settings"]:
        return []
    episodes, names = training["episodes"], ", ".join(training["settings"])
    text = f"{names} trained for {episodes} episodes at each value; their curves are not kept."
    if episodes < 300:
        text += " The paper trains for 300 to 500; with so few the learning methods may be undersold."
    return [text]


def _convergence_warnings(study: Study) -> list[str]:
    """Methods whose makespan still falls from the second to last tenth of the episodes to the last."""
    if study.curves is None:
        return []
    found, tenth = [], study.manifest["episodes"] // 10
    if tenth < 1:
        return ["fewer than 10 episodes of training: convergence cannot be judged."]
    groups: Any = study.curves.groupby(["condition", "method"], sort=False)
    for (condition, method), rows in groups:
        table = rows.pivot(index="seed", columns="episode", values="makespan_mean_s").to_numpy(np.float64)
        before, after = table[:, -2 * tenth : -tenth].mean(axis=1), table[:, -tenth:].mean(axis=1)
        change = t_interval(after / before - 1)
        if change.high < -0.01:
            gain = f"{-change.estimate:.1%} in the last tenth of the episodes"
            found.append(f"{method} ({condition}) is still improving, by {gain}.")
    return found


def _skewness(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((centred**3).mean(axis=0) / (centred**2).mean(axis=0) ** 1.5)


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
