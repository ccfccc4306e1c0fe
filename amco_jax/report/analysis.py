"""What a report says of studies: estimates, paired comparisons, warnings. Frames in, frames out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.metrics import TASK, Column, Shown, shown_in
from amco_jax.report.studies import Study
from amco_jax.stats import (
    Interval,
    bootstrap_interval,
    cluster_totals,
    holm,
    mean_interval,
    paired_p_value,
    rate_interval,
    ratio_interval,
)
from amco_jax.stats.summaries import COUNTS, Episodes, Pairs, common, learning_sums, summarise

PAPER_BASELINES = ("randcoedge", "drlcoedge", "smcoedge", "optimal")
_ESTIMATES = ("condition", "method", "metric", "per", "statistic", *COUNTS, "estimate", "ci_low", "ci_high")
_SEED = 0
"""The seed of the resampling: the same results give the same tables"""


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


def means(study: Study) -> pd.DataFrame:
    """Means and percentiles of all metrics, with their intervals.

    Returns:
      Columns condition, method, metric, per, statistic, `summaries.COUNTS`, estimate, ci_low, ci_high (95 %).
    """
    found = summarise(study.groups.items(), ("method", "condition"), study.estimated)
    levels = [column.name for column in study.estimated if column.level is not None]
    pooled = (found["per"] == TASK) & found["metric"].isin(levels)
    found = found.rename(columns={"mean": "estimate"})
    return _in_order(study, found.assign(statistic=np.where(pooled, "percentile", "mean")))


def medians(study: Study) -> pd.DataFrame:
    """Median and interquartile mean over clusters of the first metric, with BCa bootstrap intervals.

    Returns:
      As `means`.
    """
    first = study.first
    per = first.weightings[0]
    parts: dict[int, list[tuple[tuple[str, Any], np.ndarray]]] = {}
    for key, episodes in study.groups.items():
        if len(values := episodes.means(first, per)):
            parts.setdefault(len(values), []).append((key, values))
    rows = []
    for of in parts.values():  # the same resamples serve all
        columns = np.stack([values for _, values in of], axis=1)
        for statistic in ("median", "iqm"):
            intervals = bootstrap_interval(columns, np.random.default_rng(_SEED), statistic)
            for ((method, condition), _), *numbers in zip(of, *intervals, strict=True):
                counts = study.groups[method, condition].counts(first)
                rows.append((condition, method, first.name, per, statistic, *counts, *numbers))
    return _in_order(study, pd.DataFrame(rows, columns=list(_ESTIMATES)))


def comparisons(studies: Sequence[Study], baselines: Sequence[str] = ()) -> pd.DataFrame:
    """Every method against every baseline on common episodes, with p-values corrected over all rows.

    Returns:
      Columns study, condition, metric, method, baseline, n_seeds, n_clusters; reduction (1 − mean per task /
      baseline's), difference (method − baseline, in the metric's unit) and improvement (how probably the
      method is better in a cluster, or lower where neither is better), each with _low and _high (95 %); p of
      the paired t-test over clusters, and p_holm. The same pair the other way round is the same test, and is
      counted once.

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
    columns = shown_in(study.columns, Shown.TABLES)
    for column, baseline, method in itertools.product(columns, baselines, study.methods):
        if method == baseline:
            continue
        found = pairs_of(study, method, baseline)
        if not found:
            continue
        pairs = Pairs.of(column, list(found.values()), column.weightings[0])
        intervals = pairs.reduction(), pairs.difference(), pairs.improvement()
        numbers = np.stack([x for interval in intervals for x in interval], axis=1)
        p = paired_p_value(pairs.ours, pairs.theirs)
        for place, condition in enumerate(found):
            if pairs.clusters[place]:
                names = (study.name, condition, column.name, method, baseline)
                counts = (int(pairs.seeds[place]), int(pairs.clusters[place]))
                rows.append((*names, *counts, *numbers[place], p[place]))
    names = ["study", "condition", "metric", "method", "baseline", "n_seeds", "n_clusters"]
    for name in ("reduction", "difference", "improvement"):
        names += [name, f"{name}_low", f"{name}_high"]
    return _in_order(study, pd.DataFrame(rows, columns=[*names, "p"]), names)


def pairs_of(
    study: Study, method: str, baseline: str, conditions: Sequence[Any] | None = None
) -> dict[Any, tuple[Episodes, Episodes]]:
    """The episodes that two methods have in common, by condition; conditions without any are left out.

    Args:
      conditions: by default all.
    """
    found = {}
    for condition in study.conditions if conditions is None else conditions:
        both = (method, condition), (baseline, condition)
        if all(key in study.groups for key in both):
            ours, theirs = common(*(study.groups[key] for key in both))
            if len(ours.seed):
                found[condition] = ours, theirs
    return found


def best_of(column: Column, estimates: Mapping[str, float]) -> list[str]:
    """The methods with the best estimate, to the four digits of tables.

    Args:
      estimates: by method.

    Returns:
      None of them where all estimates are alike, or where neither lower nor higher is better.
    """
    rounded = {method: round(value, 4) for method, value in estimates.items() if not math.isnan(value)}
    if len(set(rounded.values())) < 2 or column.better is None:
        return []
    best = (min if column.better == "lower" else max)(rounded.values())
    return [method for method, value in rounded.items() if value == best]


def change_in_training(rows: pd.DataFrame, column: Column, before: slice, after: slice) -> Interval:
    """The relative change of a metric between two parts of a training, with its interval over seeds.

    Args:
      rows: the curves of one method under one condition.
      before: the places of the earlier episodes.
      after: the places of the later ones.
    """
    sums, tasks = learning_sums(rows, column)
    with np.errstate(invalid="ignore"):
        earlier, later = (sums[:, part].sum(axis=1) / tasks[:, part].sum(axis=1) for part in (before, after))
    return mean_interval(later / earlier - 1)


def over_slots(study: Study, column: Column, condition: Any) -> pd.DataFrame:
    """A metric over slots of each method under a condition, slot by slot, with intervals over clusters.

    Every interval is that of its own slot; they do not hold for all slots together.

    Returns:
      Columns method, slot (from 0), estimate, ci_low, ci_high (95 %).
    """
    parts = []
    for method in study.methods:
        if (episodes := study.groups.get((method, condition))) is None:
            continue
        values = np.stack([*episodes.quantiles[column.name]]).astype(np.float64)
        weight = np.ones_like(values)
        if column.weight in episodes.quantiles:
            weight = np.stack([*episodes.quantiles[column.weight]]).astype(np.float64)
        sums, weights = (cluster_totals(each, episodes.cluster) for each in (values, weight))
        weights = np.where(weights > 0, weights, np.nan)
        is_rate = column.bounds == (0.0, 1.0) and column.weight in episodes.quantiles
        estimate, low, high = (rate_interval if is_rate else ratio_interval)(sums, weights)
        low, high = np.maximum(low, column.bounds[0]), np.minimum(high, column.bounds[1])
        numbers = {"slot": np.arange(len(low)), "estimate": estimate, "ci_low": low, "ci_high": high}
        parts.append(pd.DataFrame({"method": method} | numbers))
    return pd.concat(parts, ignore_index=True)


def estimates_of(estimated: pd.DataFrame, column: Column) -> dict[Any, dict[str, dict[str, Any]]]:
    """The rows of `means` of one metric, by condition and then by method, per task where that is possible."""
    chosen = (estimated["metric"] == column.name) & (estimated["per"] == column.weightings[0])
    found: dict[Any, dict[str, dict[str, Any]]] = {}
    for row in estimated.loc[chosen].to_dict("records"):
        found.setdefault(row["condition"], {})[row["method"]] = row  # pyright: ignore[reportArgumentType]
    return found


def _in_order(study: Study, frame: pd.DataFrame, columns: Sequence[str] = _ESTIMATES) -> pd.DataFrame:
    """Rows in the order of the study's conditions."""
    columns = [*columns, *(c for c in frame.columns if c not in columns)]
    place = pd.Index(study.conditions).get_indexer(pd.Index(frame["condition"]))
    return frame.iloc[np.argsort(place, kind="stable")][columns].reset_index(drop=True)
