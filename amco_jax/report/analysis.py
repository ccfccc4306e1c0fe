"""The numbers of a report: estimates with intervals, and paired comparisons, as data frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import BOUND, REFERENCES
from amco_jax.errors import InputError
from amco_jax.metrics import TASK, Column, Shown, shown_in
from amco_jax.report.names import paper_name
from amco_jax.report.rounding import shown_digits
from amco_jax.report.studies import SavedStudy
from amco_jax.stats import (
    Interval,
    bootstrap_interval,
    cluster_totals,
    holm,
    mean_interval,
    rate_interval,
    ratio_interval,
)
from amco_jax.stats.summaries import COUNTS, Episodes, Pairs, common, learning_sums, summarise

PAPER_BASELINES = ("randcoedge", "drlcoedge", "smcoedge", "optimal")
_ESTIMATES = ("condition", "method", "metric", "per", "statistic", *COUNTS, "estimate", "ci_low", "ci_high")
BOOTSTRAP_SEED = 0
"""The seed of the bootstrap, fixed so that the same results always give the same tables"""
_LEVELS = np.linspace(0, 1, 101)
"""The levels at which distributions are drawn, so dense that lines between them show jumps as such"""


def baselines_of(study: SavedStudy, asked: Sequence[str] = ()) -> list[str]:
    """The methods that the others are compared with.

    These are the ones that the user asked for or, by default, the paper's baselines in any of their variants.
    If the study has none of those, its first method is the only baseline.

    Raises:
      InputError: the study has none of the methods that the user asked for.
    """
    if asked:
        if not (found := [m for m in study.methods if m in asked]):
            legal = ", ".join(study.methods)
            raise InputError(f"baseline: {', '.join(asked)} is not in {study.name}; legal: {legal}")
        return found
    paper = [m for b in PAPER_BASELINES for m in study.methods if paper_name(m.partition("+")[0]) == b]
    return paper or study.methods[:1]


def means(study: SavedStudy) -> pd.DataFrame:
    """The means and percentiles of all metrics, with their intervals.

    Returns:
      Columns condition, method, metric, per, statistic, `summaries.COUNTS`, estimate, ci_low, ci_high (95 %).
    """
    found = summarise(study.groups.items(), ("method", "condition"), study.estimated_columns)
    levels = [column.name for column in study.estimated_columns if column.level is not None]
    pooled = (found["per"] == TASK) & found["metric"].isin(levels)
    return _in_order(study, found.assign(statistic=np.where(pooled, "percentile", "mean")))


def medians(study: SavedStudy) -> pd.DataFrame:
    """The median and the interquartile mean of the first metric over clusters, with BCa bootstrap intervals.

    Returns:
      The columns of `means`.
    """
    first = study.first
    per = first.weightings[0]
    parts: dict[int, list[tuple[tuple[str, Any], np.ndarray]]] = {}
    for key, episodes in study.groups.items():
        if len(values := episodes.means(first, per)):
            parts.setdefault(len(values), []).append((key, values))
    rows = []
    for of in parts.values():  # groups with equally many clusters share their resamples
        columns = np.stack([values for _, values in of], axis=1)
        for statistic in ("median", "iqm"):
            intervals = bootstrap_interval(columns, np.random.default_rng(BOOTSTRAP_SEED), statistic)
            for ((method, condition), _), *numbers in zip(of, *intervals, strict=True):
                counts = study.groups[method, condition].counts(first)
                rows.append((condition, method, first.name, per, statistic, *counts, *numbers))
    return _in_order(study, pd.DataFrame(rows, columns=list(_ESTIMATES)))


def comparisons(studies: Sequence[SavedStudy], baselines: Sequence[str] = ()) -> pd.DataFrame:
    """Comparisons of every method with every baseline on common episodes.

    Returns:
      Columns study, condition, metric, method, baseline, n_seeds and n_clusters; reduction (1 − the mean per
      task / that of the baseline), difference (method − baseline, in the unit of the metric) and improvement
      (the probability that the method is better in a cluster, or lower if the metric has no better
      direction), each with _low and _high (95 %); p, which is below 0.05 where the interval of the
      difference excludes 0; and p_holm, which is corrected over all rows. A pair that also appears in reverse
      order counts as one test.

    Raises:
      InputError: a study has none of `baselines`.
    """
    frames = [_compare(study, baselines_of(study, baselines)) for study in studies]
    # The empty frame of a study with one method would turn the counts of the others into objects.
    frame = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
    pair = _pairs(frame)
    first = ~pair.duplicated()
    corrected = dict(zip(pair[first], holm(frame.loc[first, "p"].to_numpy(np.float64)), strict=True))
    return frame.assign(p_holm=np.array([corrected[p] for p in pair], np.float64))


def distinct(compared: pd.DataFrame) -> pd.DataFrame:
    """The comparisons without reversed duplicates: each pair of methods appears only once."""
    return compared.loc[~_pairs(compared).duplicated()]


def _pairs(frame: pd.DataFrame) -> pd.Series:
    """A key for each comparison, the same for both orders of the pair."""
    columns = (frame[c] for c in ("study", "condition", "metric", "method", "baseline"))
    pairs = [(*where, *sorted(names)) for *where, a, b in zip(*columns, strict=True) for names in [(a, b)]]
    return pd.Series(pairs, index=frame.index, dtype=object)


def _compare(study: SavedStudy, baselines: Sequence[str]) -> pd.DataFrame:
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
        p = pairs.p_value()
        for place, condition in enumerate(found):
            if pairs.clusters[place]:
                names = (study.name, condition, column.name, method, baseline)
                counts = (int(pairs.seeds[place]), int(pairs.clusters[place]))
                rows.append((*names, *counts, *numbers[place], p[place]))
    names = ["study", "condition", "metric", "method", "baseline", "n_seeds", "n_clusters"]
    measured = []
    for name in ("reduction", "difference", "improvement"):
        measured += [name, f"{name}_low", f"{name}_high"]
    measured += ["p"]
    frame = pd.DataFrame(rows, columns=[*names, *measured])  # without rows, of objects
    return _in_order(study, frame.astype(dict.fromkeys(measured, np.float64)), names)


def pairs_of(
    study: SavedStudy, method: str, baseline: str, conditions: Sequence[Any] | None = None
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


def comparable(study: SavedStudy, column: Column, estimated: pd.DataFrame) -> dict[Any, dict[str, float]]:
    """The estimates of a metric by condition and method, as if all methods had played the same episodes.

    By default, trained methods have fewer seeds than rules, and the means of any method over some of the
    seeds and over all of them differ. The estimate of a method that lacks episodes is therefore that of the
    best method with the most episodes, plus the paired difference from it on common episodes. `REFERENCES`
    and methods without an estimate keep what they have.

    Args:
      estimated: `means` of the study.

    Returns:
      Estimates in the unit of the metric.
    """
    return {
        condition: _on_same_episodes(study, column, condition, rows)
        for condition, rows in estimates_of(estimated, column).items()
    }


def _on_same_episodes(
    study: SavedStudy, column: Column, condition: Any, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The estimates of one condition as `comparable` gives them."""
    values = {method: row["estimate"] for method, row in rows.items()}
    known = [method for method, value in values.items() if method not in REFERENCES and not math.isnan(value)]
    sizes = {method: len(study.groups[method, condition].seed) for method in known}
    complete = [method for method in known if sizes[method] == max(sizes.values())]
    best = (best_of(column, {method: values[method] for method in complete}, rows) or complete)[:1]
    changed = dict(values)
    for method, anchor in itertools.product([method for method in known if method not in complete], best):
        if found := pairs_of(study, method, anchor, [condition]):
            gap = float(Pairs.of(column, list(found.values()), column.weightings[0]).gap[0])
            changed[method] = values[method] if math.isnan(gap) else values[anchor] + gap
    return changed


def winners_of(study: SavedStudy, column: Column, estimated: pd.DataFrame) -> dict[Any, list[str]]:
    """The best methods by a metric under each condition, see `best_of`, judged on the same episodes."""
    values, rows = comparable(study, column, estimated), estimates_of(estimated, column)
    return {c: best_of(column, values.get(c, {}), rows.get(c, {})) for c in study.conditions}


def best_of(
    column: Column, estimates: Mapping[str, float], rows: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The methods whose estimates are the best when rounded to what tables show of them.

    If tables show two of them with different numbers of digits, the larger number counts.

    Args:
      estimates: the estimate of each method, see `comparable`; `REFERENCES` do not count.
      rows: the rows of `means` of the methods, whose intervals determine the digits.

    Returns:
      An empty list if all estimates are equal, or if the metric has no better direction.
    """
    some = {m: value for m, value in estimates.items() if m not in REFERENCES and not math.isnan(value)}
    if not some or column.better is None:
        return []
    digits = {m: shown_digits(*(rows[m][name] for name in ("estimate", "ci_low", "ci_high"))) for m in some}
    first = (min if column.better == "lower" else max)(some, key=lambda method: some[method])
    best = []
    for method, value in some.items():
        finer = max(digits[method], digits[first])
        if round(value, finer) == round(some[first], finer):
            best.append(method)
    return best if len(best) < len(some) else []


def above_bound(study: SavedStudy, column: Column) -> dict[str, dict[Any, Interval]]:
    """By how much each method exceeds the lower bound under each condition, relative to the bound.

    The optimum is nowhere below the bound, so no method exceeds it by more. Conditions where the bound is 0
    are left out.
    """
    found: dict[str, dict[Any, Interval]] = {}
    for method in study.methods if study.has_bound else []:
        if both := pairs_of(study, method, BOUND):
            pairs = Pairs.of(column, list(both.values()), column.weightings[0])
            value, low, high = (-np.asarray(x) for x in pairs.reduction())
            found[method] = {
                condition: Interval(value[place], high[place], low[place])
                for place, condition in enumerate(both)
                if np.isfinite(value[place])
            }
    return found


def change_in_training(rows: pd.DataFrame, column: Column, before: slice, after: slice) -> Interval:
    """The relative change of a metric between two parts of a training, with its interval over seeds.

    Args:
      rows: the curves of one method under one condition.
      before: the earlier episodes.
      after: the later episodes.
    """
    sums, tasks = learning_sums(rows, column)
    with np.errstate(invalid="ignore"):
        earlier, later = (sums[:, part].sum(axis=1) / tasks[:, part].sum(axis=1) for part in (before, after))
    return mean_interval(later / earlier - 1)


def over_slots(study: SavedStudy, column: Column, condition: Any) -> pd.DataFrame:
    """The values of a metric over slots for each method under one condition, with intervals over clusters.

    The intervals are pointwise: each of them holds for its own slot, but not all of them at once.

    Returns:
      Columns method, slot (from 0), estimate, ci_low, ci_high (95 %).
    """
    parts = []
    for method in study.methods:
        if (episodes := study.groups.get((method, condition))) is None:
            continue
        values = np.stack([*episodes.lists[column.name]]).astype(np.float64)
        weight = np.ones_like(values)
        if column.weight in episodes.lists:
            weight = np.stack([*episodes.lists[column.weight]]).astype(np.float64)
        known = ~np.isnan(values)  # neither in the warm-up, nor in slots without what the metric is over
        counted = (np.where(known, each, 0) for each in (values * weight, weight))
        sums, weights = (cluster_totals(each, episodes.cluster) for each in counted)
        weights = np.where(weights > 0, weights, np.nan)
        is_rate = column.bounds == (0.0, 1.0) and column.weight in episodes.lists
        estimate, low, high = (rate_interval if is_rate else ratio_interval)(sums, weights)
        low, high = np.maximum(low, column.bounds[0]), np.minimum(high, column.bounds[1])
        numbers = {"slot": np.arange(len(low)), "estimate": estimate, "ci_low": low, "ci_high": high}
        parts.append(pd.DataFrame({"method": method} | numbers))
    return pd.concat(parts, ignore_index=True)


def distributions(study: SavedStudy, column: Column, condition: Any) -> pd.DataFrame:
    """Quantiles over all tasks of each method under one condition, at `_LEVELS`.

    Args:
      column: one whose rows hold lists of quantiles.

    Returns:
      Columns method, level, value; without methods that have no tasks.
    """
    parts = []
    for method in study.methods:
        if (episodes := study.groups.get((method, condition))) is not None:
            values = episodes.pooled(column, _LEVELS).estimate
            parts.append(pd.DataFrame({"method": method, "level": _LEVELS, "value": values}))
    return pd.concat(parts).dropna()


def estimates_of(estimated: pd.DataFrame, column: Column) -> dict[Any, dict[str, dict[str, Any]]]:
    """The rows of `means` for one metric by condition and then by method, per task if possible."""
    chosen = (estimated["metric"] == column.name) & (estimated["per"] == column.weightings[0])
    found: dict[Any, dict[str, dict[str, Any]]] = {}
    for row in estimated.loc[chosen].to_dict("records"):
        found.setdefault(row["condition"], {})[row["method"]] = row  # pyright: ignore[reportArgumentType]
    return found


def _in_order(study: SavedStudy, frame: pd.DataFrame, columns: Sequence[str] = _ESTIMATES) -> pd.DataFrame:
    """The rows, sorted in the order of the study's conditions."""
    columns = [*columns, *(c for c in frame.columns if c not in columns)]
    place = pd.Index(study.conditions).get_indexer(pd.Index(frame["condition"]))
    return frame.iloc[np.argsort(place, kind="stable")][columns].reset_index(drop=True)
