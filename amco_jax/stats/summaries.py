"""Summaries of episodes: the one way from rows of results to estimates with intervals.

An episode counts either by its tasks or as one. Per task, an estimate is a ratio of sums, as of all makespans
and all tasks, or a quantile of all tasks together; per episode, it is the mean over the episodes that have
such a number. An episode without tasks has none. Episodes of one seed, or of one stretch of a request log,
are one cluster, and intervals are over clusters.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.kernel.metrics import QUANTILES
from amco_jax.kernel.quantiles import LEVELS
from amco_jax.stats import (
    Interval,
    RatioMoments,
    cluster_totals,
    pooled_quantiles,
    probability_of_improvement,
    rate_difference_interval,
    rate_interval,
    rate_reduction_interval,
    ratio_interval,
    reduction_interval,
    seed_matrix,
)

RATES = ("miss_rate", "reject_rate")
PER_TASK = ("makespan_mean_s", *RATES, "mean_servers_used")
"""Metrics that are means over an episode's tasks"""
TASK, EPISODE = "task", "episode"
"""What counts as one in an estimate"""
COUNTS = ("n_seeds", "n_seeds_all", "n_tasks", "n_clusters")
"""Columns that say how much is behind an estimate: seeds that have such a number, all seeds, their tasks, and
independent clusters, which are seeds or stretches of a request log"""
SUMMARY = ("metric", "per", *COUNTS, "mean", "ci_low", "ci_high")
"""Columns of a summary; intervals are of 95 %"""

_KEYS = ("method", "param", "value", "condition", "physics", "seed", "episode", "stretch")
_SHARES = re.compile(r"utilisation.*|fairness")
_PERCENTILE = re.compile(r"makespan_p(\d+)_s")


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes of one method under one condition, in rising order of seed and episode.

    All arrays are `[episodes]` but for `quantiles`.
    """

    seed: np.ndarray
    episode: np.ndarray
    cluster: np.ndarray
    """The number of the stretch of a log, or of the seed; episodes of different ones are independent"""
    tasks: np.ndarray
    metrics: dict[str, np.ndarray]
    """By name; NaN where an episode has no such number"""
    quantiles: np.ndarray | None = None
    """`[episodes, levels]`, of the makespan, s, at `quantiles.LEVELS`"""

    @classmethod
    def of(cls, rows: pd.DataFrame, quantiles: np.ndarray | None = None) -> Episodes:
        """The episodes of some rows of results or curves.

        Args:
          quantiles: `[rows, levels]`, where they do not stand in a column of `rows`.

        Raises:
          InputError: the rows do not say how many tasks they have.
        """
        if "num_tasks" not in rows:
            raise InputError("num_tasks: no such column in the results; legal: results of this version")
        if quantiles is None and QUANTILES in rows:
            quantiles = np.stack(list(rows[QUANTILES]))
        columns = {str(name): np.asarray(rows[name]) for name in rows.columns if name != QUANTILES}
        seed = columns["seed"]
        episode = columns.get("episode", np.zeros_like(seed))
        metrics = {name: column for name, column in columns.items() if name not in _KEYS}
        episodes = cls(seed, episode, seed, columns["num_tasks"], metrics, quantiles)
        stretch = columns.get("stretch")
        # Seeds may play the same stretch, and a seed several of them: what there are fewer of is the cluster.
        if stretch is not None and _distinct(stretch) <= _distinct(seed):
            episodes = dataclasses.replace(episodes, cluster=stretch)
        order = np.lexsort((episode, seed))
        return episodes if np.all(order[1:] > order[:-1]) else episodes.take(order)

    def take(self, places: np.ndarray) -> Episodes:
        """Some of the episodes."""
        return Episodes(
            self.seed[places],
            self.episode[places],
            self.cluster[places],
            self.tasks[places],
            {name: column[places] for name, column in self.metrics.items()},
            None if self.quantiles is None else self.quantiles[places],
        )

    def sums(self, metrics: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators of metrics, each `[clusters, metrics]`; NaN in a cluster that has none.

        Args:
          metrics: names, each with `TASK` or `EPISODE`.
        """
        weights = {TASK: self.tasks.astype(np.float64), EPISODE: np.ones(len(self.tasks))}
        values = np.stack([self.metrics[name] for name, _ in metrics], axis=1).astype(np.float64)
        weight = np.stack([weights[per] for _, per in metrics], axis=1)
        weight = np.where(np.isnan(values), 0.0, weight)
        numerator = cluster_totals(np.where(weight > 0, values, 0.0) * weight, self.cluster)
        denominator = cluster_totals(weight, self.cluster)
        none = denominator == 0
        return np.where(none, np.nan, numerator), np.where(none, np.nan, denominator)

    def means(self, metric: str, per: str = TASK) -> np.ndarray:
        """The mean of each cluster that has one, `[clusters with tasks]`."""
        numerator, denominator = self.sums([(metric, per)])
        ratio = (numerator / denominator)[:, 0]
        return ratio[~np.isnan(ratio)]

    def counts(self, metric: str) -> tuple[int, int, int, int]:
        """`COUNTS` of an estimate of a metric."""
        some = ~np.isnan(self.metrics[metric])
        tasks = int(self.tasks[some].sum())
        seeds, every = _distinct(self.seed[some]), _distinct(self.seed)
        clusters = seeds if self.cluster is self.seed else _distinct(self.cluster[some])
        return seeds, every, tasks, clusters


def _distinct(labels: np.ndarray) -> int:
    """How many different ones there are; much faster than `numpy.unique` where they are in order."""
    ordered = np.sort(labels)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + (len(labels) > 0)


def weightings(metric: str, quantiles: bool) -> tuple[str, ...]:
    """What may count as one in estimates of a metric, the first of them first."""
    both = metric in PER_TASK or (quantiles and _PERCENTILE.fullmatch(metric) is not None)
    return (TASK, EPISODE) if both else (EPISODE,)


def grouped(
    frames: Iterable[pd.DataFrame], labels: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], Episodes]]:
    """The episodes of each group of rows with the same labels, which come one after the other.

    Args:
      frames: parts of the rows, in order; a group may go on in the next part.
      labels: the columns that tell groups apart.
    """
    key: tuple[Any, ...] | None = None
    parts: list[pd.DataFrame] = []
    for frame in frames:
        columns = [np.asarray(frame[name]) for name in labels]
        changes = np.any([c[1:] != c[:-1] for c in columns], axis=0)
        edges = [0, *(np.flatnonzero(changes) + 1), len(frame)]
        for start, end in itertools.pairwise(edges):
            now = tuple(c[start].item() if isinstance(c[start], np.generic) else c[start] for c in columns)
            if now != key and key is not None:
                yield key, Episodes.of(pd.concat(parts, ignore_index=True))
                parts = []
            key = now
            parts.append(frame.iloc[start:end])
    if key is not None:
        yield key, Episodes.of(pd.concat(parts, ignore_index=True))


def summarise(
    groups: Iterable[tuple[tuple[Any, ...], Episodes]],
    keys: Sequence[str],
    metrics: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Estimates of all metrics with 95 % intervals, group by group.

    Args:
      groups: what tells a group, a value for each of `keys`, and its episodes. All have the same metrics.
      keys: names of columns.
      metrics: those to summarise, by default all.

    Returns:
      Columns `keys` and `SUMMARY`; per task before per episode. A metric that is a mean over tasks has a row
      for either; so do percentiles of the makespan: that of all tasks together, and the mean of those of the
      episodes.
    """
    names, moments, direct = [], [], []
    columns: list[tuple[str, str]] = []
    for key, episodes in groups:
        chosen = list(episodes.metrics) if metrics is None else list(metrics)
        columns = [(m, per) for m in chosen for per in weightings(m, episodes.quantiles is not None)]
        counts = {metric: episodes.counts(metric) for metric in chosen}
        names += [(*key, metric, per, *counts[metric]) for metric, per in columns]
        means = [column for column in columns if not _is_direct(*column)]
        moments.append(RatioMoments.of(*episodes.sums(means)))
        direct.append(_direct(episodes, [column for column in columns if _is_direct(*column)]))
    if not names:
        return pd.DataFrame(columns=[*keys, *SUMMARY])
    ratios = np.stack(RatioMoments.stack(moments).interval(), axis=-1)
    is_direct = np.array([_is_direct(*column) for column in columns])
    numbers = np.empty((len(moments), len(columns), 3))
    numbers[:, ~is_direct], numbers[:, is_direct] = ratios, np.stack(direct)
    most = np.array([1.0 if _SHARES.fullmatch(metric) else np.inf for metric, _ in columns])
    numbers[..., 1] = np.maximum(numbers[..., 1], 0.0)
    numbers[..., 2] = np.minimum(numbers[..., 2], most)
    frame = pd.DataFrame(names, columns=[*keys, *SUMMARY[:-3]])
    return frame.assign(**dict(zip(SUMMARY[-3:], numbers.reshape(-1, 3).T, strict=True)))


def learning_curve(rows: pd.DataFrame, metric: str = "makespan_mean_s") -> tuple[np.ndarray, Interval]:
    """A metric per task over the episodes of training of one method, with intervals over its seeds.

    Args:
      rows: columns seed, episode, num_tasks and the metric.

    Returns:
      The numbers of the episodes, and estimates and bounds, `[episodes]` each.
    """
    values, tasks = (seed_matrix(rows, name) for name in (metric, "num_tasks"))
    tasks = np.where(tasks > 0, tasks, np.nan)
    interval = rate_interval if metric in RATES else ratio_interval
    return np.unique(np.asarray(rows["episode"])), interval(values * tasks, tasks)


def _is_direct(metric: str, per: str) -> bool:
    """Whether an estimate is not that of `ratio_interval`."""
    return metric in RATES or (per == TASK and metric not in PER_TASK)


def _direct(episodes: Episodes, columns: Sequence[tuple[str, str]]) -> np.ndarray:
    """Rates and pooled percentiles: estimates and bounds, `[columns, 3]`."""
    found = np.empty((len(columns), 3))
    rates = np.array([metric in RATES for metric, _ in columns], bool)
    if np.any(rates):
        found[rates] = np.stack(
            rate_interval(*_events(episodes, [c for c in columns if c[0] in RATES])), axis=-1
        )
    if not np.all(rates):
        assert episodes.quantiles is not None
        at = [int(match[1]) / 100 for metric, _ in columns if (match := _PERCENTILE.fullmatch(metric))]
        pooled = pooled_quantiles(episodes.quantiles, LEVELS, episodes.tasks, episodes.cluster, np.array(at))
        found[~rates] = np.stack(pooled, axis=-1)
    return found


def _events(episodes: Episodes, columns: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Events and tasks of rates; where an episode counts as one, as if all had their mean number of tasks."""
    events, tasks = episodes.sums(columns)
    some = episodes.tasks > 0
    alike = episodes.tasks[some].mean() if np.any(some) else 1.0
    scale = np.array([1.0 if per == TASK else alike for _, per in columns])
    return events * scale, tasks * scale


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Clusters of a method and a baseline on the episodes that both have; arrays `[clusters, pairs]`."""

    metric: str
    ours: np.ndarray
    theirs: np.ndarray
    tasks: np.ndarray
    seeds: np.ndarray
    """Seeds with tasks, `[pairs]`"""

    @classmethod
    def of(cls, metric: str, pairs: Sequence[tuple[Episodes, Episodes]], per: str = TASK) -> Pairs:
        """Those of several pairs, with NaNs below the shorter ones."""
        columns, seeds = [], []
        for ours, theirs in pairs:
            a, b = common(ours, theirs)
            b = dataclasses.replace(b, cluster=a.cluster)
            of = _events if metric in RATES else Episodes.sums
            (x, tasks), (y, _) = of(a, [(metric, per)]), of(b, [(metric, per)])
            columns.append(np.concatenate([x, y, tasks], axis=1))
            seeds.append(a.counts(metric)[0])
        full = np.full((max(map(len, columns)), len(pairs), 3), np.nan)
        for place, column in enumerate(columns):
            full[: len(column), place] = column
        return cls(metric, full[..., 0], full[..., 1], full[..., 2], np.array(seeds))

    @property
    def clusters(self) -> np.ndarray:
        """Clusters with tasks, `[pairs]`."""
        return np.count_nonzero(~np.isnan(self.tasks), axis=0)

    def reduction(self) -> Interval:
        """1 - mean / baseline's mean."""
        if self.metric in RATES:
            return rate_reduction_interval(self.ours, self.theirs, self.tasks)
        return reduction_interval(self.ours, self.theirs)

    def difference(self) -> Interval:
        """Mean - baseline's mean."""
        if self.metric in RATES:
            return rate_difference_interval(self.ours, self.theirs, self.tasks)
        return ratio_interval(self.ours - self.theirs, self.tasks)

    def improvement(self) -> Interval:
        """How probably the method is below the baseline on a cluster."""
        return probability_of_improvement(self.ours, self.theirs)


def common(ours: Episodes, theirs: Episodes) -> tuple[Episodes, Episodes]:
    """The episodes that both have."""
    if np.array_equal(ours.seed, theirs.seed) and np.array_equal(ours.episode, theirs.episode):
        return ours, theirs
    keys = [e.seed.astype(np.int64) << 31 | e.episode for e in (ours, theirs)]
    _, a, b = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    return ours.take(a), theirs.take(b)
