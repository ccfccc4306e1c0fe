"""What a report says of studies: estimates, paired comparisons, warnings. Frames in, frames out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.report.studies import Study
from amco_jax.report.tables import bracket
from amco_jax.stats import (
    Interval,
    bootstrap_interval,
    holm,
    mean_interval,
    paired_p_value,
    probability_of_improvement,
    reduction_interval,
    seed_matrix,
    seeds_needed,
)

PAPER_BASELINES = ("randcoedge", "drlcoedge", "smcoedge", "optimal")
COMPARED = ("makespan_mean_s", "miss_rate")
SIGNIFICANT = 0.05
PAPER_EPISODES = 300
"""Of training, the least in the paper's runs"""
_ESTIMATE_COLUMNS = (
    "condition", "method", "metric", "statistic", "n_seeds", "estimate", "ci_low", "ci_high",
)  # fmt: skip
_SEED = 0
"""Of the resampling, so that the same results give the same tables"""


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
    """Means over seeds of all metrics, with their intervals.

    Returns:
      Columns condition, method, metric, statistic, n_seeds, estimate, ci_low, ci_high (95 %).
    """
    rows = []
    for method, metric in itertools.product(study.methods, study.metrics):
        for places, (values,) in study.matched([method], metric):
            rows += _estimate_rows(
                study, places, (method, metric, "mean", len(values)), mean_interval(values)
            )
    return _in_order(pd.DataFrame(rows, columns=["place", *_ESTIMATE_COLUMNS]))


def medians(study: Study) -> pd.DataFrame:
    """Median and interquartile mean over seeds of the makespan, with BCa bootstrap intervals; as `means`."""
    parts: dict[int, list[tuple[str, np.ndarray, np.ndarray]]] = {}
    for method in study.methods:
        for places, (values,) in study.matched([method], "makespan_mean_s"):
            parts.setdefault(len(values), []).append((method, places, values))
    rows = []
    for seeds, of in parts.items():  # the same resamples serve all
        columns = np.concatenate([values for _, _, values in of], axis=1)
        ends = np.cumsum([len(places) for _, places, _ in of])[:-1]
        for statistic in ("median", "iqm"):
            interval = bootstrap_interval(columns, np.random.default_rng(_SEED), statistic)
            split = zip(*(np.split(bound, ends) for bound in interval), strict=True)
            for (method, places, _), bounds in zip(of, split, strict=True):
                names = method, "makespan_mean_s", statistic, seeds
                rows += _estimate_rows(study, places, names, Interval(*bounds))
    return _in_order(pd.DataFrame(rows, columns=["place", *_ESTIMATE_COLUMNS]))


def _estimate_rows(study: Study, places: np.ndarray, names: tuple[Any, ...], of: Interval) -> list[tuple]:
    return [
        (place, study.conditions[place], *names, *numbers)
        for place, *numbers in zip(places, *of, strict=True)
    ]


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
        for places, (ours, theirs) in study.matched((method, baseline), metric):
            intervals = (
                reduction_interval(ours, theirs),
                mean_interval(ours - theirs),
                probability_of_improvement(ours, theirs),
            )
            p = paired_p_value(ours, theirs)
            for column, place in enumerate(places):
                numbers = [float(x[column]) for interval in intervals for x in interval]
                names = (study.name, study.conditions[place], metric, method, baseline)
                rows.append((place, *names, len(ours), *numbers, float(p[column])))
    columns = ["study", "condition", "metric", "method", "baseline", "n_seeds"]
    for name in ("reduction", "difference", "improvement"):
        columns += [name, f"{name}_low", f"{name}_high"]
    return _in_order(pd.DataFrame(rows, columns=["place", *columns, "p"]))


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by the place of their condition, which is dropped."""
    return frame.sort_values("place", kind="stable", ignore_index=True).drop(columns="place")


def warnings_of(studies: Sequence[Study], compared: pd.DataFrame) -> list[str]:
    """What a reader must know before he believes the numbers, one sentence each."""
    of: dict[str, list[str]] = {}
    for study in studies:
        for text in _study_warnings(study):
            of.setdefault(text, []).append(study.name)
    found = [f"{', '.join(names)}: {text}" for text, names in of.items()]
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
    own = study.manifest.get("warnings", [])
    return own + _seed_warnings(study) + _workload_warnings(study) + _training_warnings(study)


def _seed_warnings(study: Study) -> list[str]:
    found, counts, skewed, wanted = [], {}, [], 0
    for method in study.methods:
        counts[method] = len(study.by_seed(method, "makespan_mean_s"))
        for _, (values,) in study.matched([method], "makespan_mean_s"):
            n = len(values)
            if n < 2:
                continue
            # Cochran's rule: Student's interval would miss in more than 6 % of samples.
            if n < 100 and np.any(n < 25 * _skewness(values) ** 2) and method not in skewed:
                skewed.append(method)
            percent = np.maximum(0.01 * values.mean(axis=0), 1e-12)
            wanted = max(wanted, int(np.max(seeds_needed(values, percent))))
    few = {m: n for m, n in counts.items() if n < 10}
    if few:
        found.append(f"fewer than 10 seeds ({_listed(few)}): intervals of so few seeds are often too narrow.")
    if len(set(counts.values())) > 1:
        found.append(f"numbers of seeds differ ({_listed(counts)}); comparisons use the common ones.")
    if skewed:
        found.append(f"skewed, and fewer than 100 seeds ({', '.join(skewed)}): intervals may be too narrow.")
    if wanted > (fewest := min(counts.values())):
        found.append(f"for means to ± 1 % it takes up to {wanted} seeds; the fewest here are {fewest}.")
    return found


def _workload_warnings(study: Study) -> list[str]:
    found = []
    if "miss_rate" in study.metrics and not np.any(study.results["miss_rate"] > 0):
        found.append("no task missed its deadline, so the miss rate cannot separate the methods.")
    if "utilisation_max" in study.metrics:
        busiest = [study.by_seed(m, "utilisation_max").mean() for m in study.methods]
        full = [str(c) for c in study.conditions if any(means[c] > 0.99 for means in busiest)]
        if full:
            found.append(
                f"a server is saturated at {', '.join(full)}: queues grow to the end of the episode."
            )
    return found


def _training_warnings(study: Study) -> list[str]:
    """Trainings shorter than the paper's, and those that had not come to rest."""
    manifest, found = study.manifest, []
    if study.kind == "sweep":
        trained = list(manifest["training"]["settings"])
        if trained:
            found.append("methods are trained anew at each value, and their curves are not kept.")
        episodes = manifest["training"]["episodes"]
    else:
        trained = list(manifest.get("settings", ())) if study.kind == "compare" else study.methods
        episodes = manifest["episodes"]
    if study.kind != "evaluate" and trained and episodes < PAPER_EPISODES:
        found.append(
            f"{episodes} episodes of training, where the paper's runs have {PAPER_EPISODES} to 500: "
            "learning methods may do better than here."
        )
    if study.curves is None:
        return found
    fifth = episodes // 5
    if fifth < 2:
        return [*found, "fewer than 10 episodes of training: convergence cannot be judged."]
    moving: list[str] = []
    groups: Any = study.curves.groupby(["condition", "method"], sort=False)
    for (condition, method), rows in groups:
        if method not in trained:
            continue
        table = seed_matrix(rows, "makespan_mean_s")
        before, after = table[:, -2 * fifth : -fifth].mean(axis=1), table[:, -fifth:].mean(axis=1)
        change = mean_interval(after / before - 1)
        if max(change.low, -change.high) > 0.005:
            percent = bracket(*(100 * float(x) for x in change), digits=1)
            moving.append(f"{percent} % ({method}, {condition})")
    if moving:
        found.append(
            "training has not converged: from the last but one fifth of the episodes to the last "
            f"the makespan changes by {', '.join(moving)}."
        )
    return found


def _skewness(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((centred**3).mean(axis=0) / (centred**2).mean(axis=0) ** 1.5)


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
