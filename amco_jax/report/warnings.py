"""The caveats that a reader must know before relying on the results of studies."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import METHODS, PAPER_METHODS
from amco_jax.metrics import MISS_RATE, SATURATION
from amco_jax.report.analysis import change_in_training, distinct
from amco_jax.report.names import counted, in_words, joined, shown_name
from amco_jax.report.studies import SavedStudy, has_uneven_windows, warmups_of
from amco_jax.report.tables import bracket
from amco_jax.stats import seeds_needed

SIGNIFICANT = 0.05
SATURATED = 0.99
"""The utilisation above which a server counts as saturated"""
FEW = 10
"""The number of clusters below which intervals are often too narrow"""


_PATHS = (
    "derivatives hold the sets of servers fixed. With rules whose sets jump, such as least-wait, or that "
    "reject tasks, they are not those of the mean; with the greedy optimum they are (docs/gradients.md)."
)


class Kind(enum.StrEnum):
    """The kinds of caveats as headings, in the order in which a report lists them."""

    RUN = "What the runs themselves report"
    SEEDS = "Few or uneven seeds: intervals may be too narrow"
    PRECISION = "More seeds are needed for a precision of 1 %"
    LOAD = "Load: saturated servers, or no task that misses its deadline"
    WARMUP = "Warm-up: methods are measured over different slots"
    TRAINING = "Training: shorter than published, or not converged"
    PATHS = "Derivatives: where they are not those of the mean"
    CHANCE = "Differences that cannot be told from chance"
    DIFFERENT = "Runs that differ in more than their settings"


@dataclasses.dataclass(frozen=True)
class Caveat:
    """One sentence that limits the numbers of a report."""

    kind: Kind
    text: str
    studies: tuple[str, ...] = ()
    """The names of the studies that it concerns; empty if it concerns all of them together"""

    def __str__(self) -> str:
        return f"{', '.join(self.studies)}: {self.text}" if self.studies else self.text


def warnings_of(studies: Sequence[SavedStudy], compared: pd.DataFrame) -> list[Caveat]:
    """The caveats of studies; one that several studies share is listed once."""
    of: dict[tuple[Kind, str], list[str]] = {}
    for study in studies:
        for kind, texts in _study_warnings(study).items():
            for text in texts:
                of.setdefault((kind, text), []).append(study.name)
    found = [Caveat(kind, text, tuple(names)) for (kind, text), names in of.items()]
    found += [Caveat(Kind.CHANCE, text) for text in _unclear(studies, compared)]
    for key in ("versions", "git_commit", "device"):
        if len({str(study.manifest.get(key)) for study in studies}) > 1:
            found.append(Caveat(Kind.DIFFERENT, f"The runs differ in {key.replace('_', ' ')}."))
    return found


def _unclear(studies: Sequence[SavedStudy], compared: pd.DataFrame) -> list[str]:
    """Caveats about comparisons by the first metric that show no difference between two methods."""
    first = {(study.name, study.first.name) for study in studies}
    names = zip(compared["study"], compared["metric"], strict=True)
    tests = distinct(compared.loc[[pair in first for pair in names]])
    alone = tests["n_clusters"] < 2
    same = ~alone & (tests[["difference", "difference_low", "difference_high"]] == 0).all(axis=1)
    chance = ~alone & ~same & ~(tests["p_holm"] < SIGNIFICANT)
    label = joined(dict.fromkeys(study.first.label for study in studies))
    found = {
        f"cannot be told from chance (corrected p of {SIGNIFICANT} or more); their intervals say how large a "
        "difference may be.": chance,
        "found no difference at all: both methods have the same result on every seed.": same,
        "could use only a single seed, or stretch of a log, which gives no interval.": alone,
    }
    number = counted(len(tests), "comparison")
    counts = {ending: int(np.count_nonzero(which)) for ending, which in found.items()}
    return [f"{count} of {number} of {label} {ending}" for ending, count in counts.items() if count]


def by_kind(caveats: Iterable[Caveat]) -> dict[Kind, list[Caveat]]:
    """The caveats by kind in the order of `Kind`, without empty kinds."""
    given = list(caveats)
    found = {kind: [caveat for caveat in given if caveat.kind is kind] for kind in Kind}
    return {kind: of_kind for kind, of_kind in found.items() if of_kind}


def _study_warnings(study: SavedStudy) -> dict[Kind, list[str]]:
    return {
        Kind.RUN: study.manifest.get("warnings", []),
        **_seed_warnings(study),
        Kind.LOAD: _workload_warnings(study),
        Kind.WARMUP: _warmup_warnings(study),
        Kind.TRAINING: _training_warnings(study),
        Kind.PATHS: [_PATHS] if study.derivatives else [],
    }


def _seed_warnings(study: SavedStudy) -> dict[Kind, list[str]]:
    """Caveats about the number of seeds, and about the number that the means need."""
    found, skewed, unit = [], [], study.cluster_name
    first, per = study.first, study.first.weightings[0]
    seeds, clusters, carried, wanted = {}, {}, {}, {}
    empty: dict[Any, str] = {}
    for (method, condition), episodes in study.groups.items():
        some, every, _, n = episodes.counts(first)
        seeds[method] = max(seeds.get(method, 0), every)
        clusters[method] = min(clusters.get(method, n), n)
        if some < every:
            where = f" at {condition}" if study.axis_label else ""
            empty.setdefault(condition, f"{some} of {counted(every, 'seed')} had tasks{where}")
        if n < 2:
            continue
        tasks = episodes.sums([(first, per)])[1]
        carried[method] = min(carried.get(method, np.inf), np.nansum(tasks) ** 2 / np.nansum(tasks**2))
        values = episodes.means(first, per)
        # By Cochran's rule, Student's interval would miss the mean in more than 6 % of samples.
        if n < 100 and n < 25 * _skewness(values) ** 2 and method not in skewed:
            skewed.append(method)
        needed = int(seeds_needed(values, max(0.01 * abs(values.mean()), 1e-12)))
        if needed > n:
            wanted[method] = max(wanted.get(method, (0, 0)), (needed, n))
    fewest = min(clusters.values())
    if empty:
        found.append(f"{', '.join(empty.values())}; the other seeds do not contribute.")
    if unit != "seeds" and "batch" not in study.results:
        found.append(f"its numbers come from {fewest} distinct {unit}, which seeds share.")
    few = {m: n for m, n in clusters.items() if n < FEW}
    if alone := {m: n for m, n in few.items() if n < 2}:
        found.append(f"fewer than two {unit} ({_listed(alone)}), which give no intervals.")
    if few := {m: n for m, n in few.items() if m not in alone}:
        found.append(f"fewer than {FEW} {unit} ({_listed(few)}): intervals of so few are often too narrow.")
    uneven = {m: round(n, 1) for m, n in carried.items() if n < FEW and clusters[m] >= FEW}
    if uneven:
        found.append(
            f"few {unit} have most of the tasks, as if there were {_listed(uneven)} equal ones: intervals "
            "per task are often too narrow."
        )
    if len(set(seeds.values())) > 1:
        found.append(f"numbers of seeds differ ({_listed(seeds)}); comparisons use the common ones.")
    if skewed:
        names = ", ".join(map(shown_name, skewed))
        found.append(f"skewed, and fewer than 100 {unit} ({names}): intervals may be too narrow.")
    if study.kind in ("train", "compare") and study.manifest.get("trace"):
        found.append(
            "the episodes of training are stretches of one log that overlap, so seeds share requests."
        )
    short = (f"{needed} with {in_words(method)} (here {n})" for method, (needed, n) in wanted.items())
    precision = f"for means to ± 1 % it takes more {unit}: up to {joined(short)}."
    return {Kind.SEEDS: found, Kind.PRECISION: [precision] if wanted else []}


def _workload_warnings(study: SavedStudy) -> list[str]:
    """Caveats about loads at which methods cannot differ or no steady state exists."""
    found = []
    names = [column.name for column in study.columns]
    if MISS_RATE.name in names and np.fmax.reduce(np.asarray(study.results[MISS_RATE.name])) == 0:
        found.append("no task missed its deadline, so the miss rate cannot separate the methods.")
    if SATURATION.name in names and (where := _saturated(study)):
        found.append(
            f"a server is busy for more than {100 * SATURATED:.0f} % of the time {where}: unless these "
            "methods reject tasks, their results depend on the length of the episode."
        )
    return found


def _saturated(study: SavedStudy) -> str:
    """Where and with which methods a server is saturated; empty if none is."""
    full: dict[str, list[Any]] = {}
    for (method, condition), episodes in study.groups.items():
        if method in study.methods and np.nanmean(episodes.values(SATURATION)) > SATURATED:
            full.setdefault(method, []).append(condition)
    alike: dict[str, list[str]] = {}
    for method, conditions in full.items():
        where = f"at {joined(map(str, conditions))} " if study.axis_label else ""
        alike.setdefault(where, []).append(in_words(method))
    return "; ".join(f"{where}with {joined(methods)}" for where, methods in alike.items())


def _warmup_warnings(study: SavedStudy) -> list[str]:
    """A caveat about methods whose warm-ups differ."""
    if not has_uneven_windows(study.manifest):
        return []
    least, *_, most = warmups_of(study.manifest)
    return [
        f"from {least} to {most} slots are excluded, which pilot runs have found for each method, so that "
        "means are over different parts of an episode, and methods have no ranks by sums over it."
    ]


def _training_warnings(study: SavedStudy) -> list[str]:
    """Caveats about trainings that are shorter than the published ones or have not converged."""
    found = []
    trained = study.training_episodes
    if study.kind == "sweep" and trained:
        found.append("methods are trained anew at each value, and their curves are not kept.")
    short = [
        f"{m} {n} in place of {longer}"
        for m, n in trained.items()
        if (longer := published_episodes(m)) is not None and longer > n
    ]
    if short:
        found.append(
            f"fewer episodes of training than in the published runs ({', '.join(short)}): learning methods "
            "may do better than here."
        )
    if study.curves is None:
        return found
    fifth = study.manifest["episodes"] // 5
    if fifth < 2:
        return [*found, "fewer than 10 episodes of training: convergence cannot be judged."]
    moving: list[str] = []
    groups: Any = study.curves.groupby(["condition", "method"], sort=False)
    for (condition, method), rows in groups:
        if method not in trained:
            continue
        change = change_in_training(rows, study.first, slice(-2 * fifth, -fifth), slice(-fifth, None))
        if max(change.low, -change.high) > 0.005:
            percent = bracket(*(100 * float(x) for x in change), digits=1)
            moving.append(f"{percent} % ({shown_name(method)}, {condition})")
    if moving:
        found.append(
            "training has not converged: from the last but one fifth of the episodes to the last "
            f"the {study.first.label} changes by {', '.join(moving)}."
        )
    return found


def published_episodes(method: str) -> int | None:
    """The number of episodes in the published training of a method; None if none was published."""
    base = method.partition("+")[0].removesuffix("-stable")
    training = METHODS[base].training if base in PAPER_METHODS else None
    return None if training is None else training.episodes


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num((centred**3).mean() / (centred**2).mean() ** 1.5))


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{shown_name(name)} {count}" for name, count in counts.items())
