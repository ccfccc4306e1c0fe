"""What a reader must know before believing the numbers of studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import METHODS
from amco_jax.metrics import MISS_RATE, SATURATION
from amco_jax.report.analysis import distinct
from amco_jax.report.studies import Study
from amco_jax.report.tables import bracket
from amco_jax.stats import mean_interval, seeds_needed
from amco_jax.stats.summaries import learning_sums

PUBLISHED = ("amcoedge", "smcoedge", "drlcoedge")
"""Methods with a published training"""
SIGNIFICANT = 0.05
FEW = 10
"""Clusters, fewer than which give intervals that are often too narrow"""


def warnings_of(studies: Sequence[Study], compared: pd.DataFrame) -> list[str]:
    """What limits the numbers of the studies, one sentence each."""
    of: dict[str, list[str]] = {}
    for study in studies:
        for text in _study_warnings(study):
            of.setdefault(text, []).append(study.name)
    found = [f"{', '.join(names)}: {text}" for text, names in of.items()]
    first = {(study.name, study.first.name) for study in studies}
    names = zip(compared["study"], compared["metric"], strict=True)
    tests = distinct(compared.loc[[pair in first for pair in names]])
    unclear = tests.loc[~(tests["p_holm"] < SIGNIFICANT)]
    if len(unclear):
        found.append(
            f"{len(unclear)} of {len(tests)} comparisons of {studies[0].first.label} "
            "cannot be told from chance "
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
    found, skewed, wanted, unit = [], [], 0, study.cluster_name
    first, per = study.first, study.first.weightings[0]
    seeds, clusters, carried = {}, {}, {}
    empty: dict[Any, str] = {}
    for (method, condition), episodes in study.groups.items():
        some, every, _, n = episodes.counts(first)
        seeds[method] = max(seeds.get(method, 0), every)
        clusters[method] = min(clusters.get(method, n), n)
        if some < every:
            where = f" at {condition}" if study.axis_label else ""
            empty.setdefault(condition, f"{some} of {every} seeds had tasks{where}")
        if n < 2:
            continue
        tasks = episodes.sums([(first, per)])[1]
        carried[method] = min(carried.get(method, np.inf), np.nansum(tasks) ** 2 / np.nansum(tasks**2))
        values = episodes.means(first, per)
        # Cochran's rule: Student's interval would miss in more than 6 % of samples.
        if n < 100 and n < 25 * _skewness(values) ** 2 and method not in skewed:
            skewed.append(method)
        wanted = max(wanted, int(seeds_needed(values, max(0.01 * values.mean(), 1e-12))))
    fewest = min(clusters.values())
    if empty:
        found.append(f"{_joined(empty.values())}; the others count for nothing.")
    if unit != "seeds":
        found.append(f"its numbers come from {fewest} distinct {unit}, which seeds share.")
    few = {m: n for m, n in clusters.items() if n < FEW}
    if few:
        found.append(f"fewer than {FEW} {unit} ({_listed(few)}): intervals of so few are often too narrow.")
    uneven = {m: round(n, 1) for m, n in carried.items() if n < FEW and m not in few}
    if uneven:
        found.append(
            f"few {unit} have most of the tasks, as if there were {_listed(uneven)} equal ones: intervals "
            "per task are often too narrow."
        )
    if len(set(seeds.values())) > 1:
        found.append(f"numbers of seeds differ ({_listed(seeds)}); comparisons use the common ones.")
    if skewed:
        found.append(f"skewed, and fewer than 100 {unit} ({', '.join(skewed)}): intervals may be too narrow.")
    if wanted > fewest:
        found.append(f"for means to ± 1 % it takes up to {wanted} {unit}; the fewest here are {fewest}.")
    if study.kind in ("train", "compare") and study.manifest.get("trace"):
        found.append(
            "the episodes of training are stretches of one log that overlap, so seeds share requests."
        )
    return found


def _workload_warnings(study: Study) -> list[str]:
    found = []
    names = [column.name for column in study.columns]
    if MISS_RATE.name in names and not np.any(study.results[MISS_RATE.name] > 0):
        found.append("no task missed its deadline, so the miss rate cannot separate the methods.")
    if SATURATION.name in names:
        full = [
            condition
            for condition in study.conditions
            if any(
                c == condition and np.nanmean(episodes.values(SATURATION)) > 0.99
                for (_, c), episodes in study.groups.items()
            )
        ]
        if full:
            found.append(f"a server is saturated at {_joined(full)}: queues grow to the end of the episode.")
    return found


def _training_warnings(study: Study) -> list[str]:
    """Trainings shorter than the published ones, and those that had not come to rest."""
    found = []
    trained, episodes = trainings_of(study)
    if study.kind == "sweep" and trained:
        found.append("methods are trained anew at each value, and their curves are not kept.")
    longer = {m: n for m in trained if (n := published_episodes(m)) is not None and n > episodes}
    if longer:
        found.append(
            f"{episodes} episodes of training, where the published runs have more ({_listed(longer)}): "
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
        sums, tasks = learning_sums(rows, study.first)
        with np.errstate(invalid="ignore"):
            before, after = (
                sums[:, part].sum(axis=1) / tasks[:, part].sum(axis=1)
                for part in (slice(-2 * fifth, -fifth), slice(-fifth, None))
            )
        change = mean_interval(after / before - 1)
        if max(change.low, -change.high) > 0.005:
            percent = bracket(*(100 * float(x) for x in change), digits=1)
            moving.append(f"{percent} % ({method}, {condition})")
    if moving:
        found.append(
            "training has not converged: from the last but one fifth of the episodes to the last "
            f"the {study.first.label} changes by {', '.join(moving)}."
        )
    return found


def trainings_of(study: Study) -> tuple[list[str], int]:
    """The trained methods of a study, and for how many episodes they were trained."""
    manifest = study.manifest
    if study.kind == "evaluate":
        return [manifest["method"]], manifest["trained"]["episodes"]
    if study.kind == "sweep":
        return list(manifest["training"]["settings"]), manifest["training"]["episodes"]
    return list(manifest["settings"]) if study.kind == "compare" else study.methods, manifest["episodes"]


def published_episodes(method: str) -> int | None:
    """How many episodes the published run of a method was trained for; None where none was published."""
    base = method.partition("+")[0].removesuffix("-stable")
    return METHODS[base].require_training().episodes if base in PUBLISHED else None


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num((centred**3).mean() / (centred**2).mean() ** 1.5))


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _joined(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))
