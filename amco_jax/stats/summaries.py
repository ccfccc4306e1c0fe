"""Summaries of episodes: the one way from rows of results to estimates with intervals.

An episode counts either by its tasks or as one. Per task, an estimate is a ratio of sums, as of all makespans
and all tasks, or a quantile of all tasks together; per episode, it is the mean over the episodes that have
such a number. An episode without tasks has none. Episodes of one seed, or of one stretch of a request log,
are one cluster, and intervals are over clusters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.metrics import EPISODE, KEYS, LEVELS, NUM_TASKS, TASK, Column, Reduction
from amco_jax.stats import (
    Interval,
    RatioMoments,
    beyond_bounds,
    cluster_totals,
    jain_index,
    paired_p_value,
    pooled_quantiles,
    probability_of_improvement,
    rate_difference_interval,
    rate_difference_p_value,
    rate_interval,
    rate_reduction_interval,
    ratio_interval,
    reduction_interval,
    seed_matrix,
)

COUNTS = ("n_seeds", "n_seeds_all", "n_tasks", "n_clusters")
"""Columns that say how much is behind an estimate: seeds that have such a number, all seeds, their tasks, and
independent clusters, which are seeds, stretches of a request log, or batches of a single episode"""
SUMMARY = ("metric", "per", *COUNTS, "estimate", "ci_low", "ci_high")
"""Columns of a summary; intervals are of 95 %"""

_OVER_SERVERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda values: _mean(values),
    "max": lambda values: np.fmax.reduce(values, axis=-1),
    "min": lambda values: np.fmin.reduce(values, axis=-1),
    "jain": jain_index,
}
"""How a column is made of those of the servers, `[episodes, servers]`; NaNs, such as of base stations without
tasks, do not count"""


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean on the last axis of what is not NaN; NaN without any."""
    count = np.count_nonzero(~np.isnan(values), axis=-1)
    return np.divide(np.nansum(values, axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes of one method under one condition, in rising order of seed and episode.

    All arrays are `[episodes]` but for `lists`.
    """

    seed: np.ndarray
    episode: np.ndarray
    cluster: np.ndarray
    """The number of the stretch of a log, of the batch, or of the seed; different ones are independent"""
    tasks: np.ndarray
    metrics: dict[str, np.ndarray]
    """The columns of rows by name; NaN where an episode has no such number"""
    lists: dict[str, np.ndarray]
    """By the name of the metric: quantiles `[episodes, levels]` at `LEVELS`, or values over slots"""

    @classmethod
    def of(cls, rows: pd.DataFrame, lists: dict[str, np.ndarray] | None = None) -> Episodes:
        """The episodes of some rows of results or curves.

        Args:
          lists: with a first axis over rows; by default, the columns of `rows` that hold lists.

        Raises:
          InputError: the rows do not say how many tasks they have.
        """
        if NUM_TASKS.name not in rows:
            raise InputError(
                f"{NUM_TASKS.name}: no such column in the results; legal: results of this version"
            )
        columns = {str(name): _values(rows[name]) for name in rows.columns}
        holding = [name for name, values in columns.items() if _holds_lists(values)]
        taken = {name: np.stack(list(columns.pop(name))) for name in holding}
        lists = taken if lists is None else lists
        seed = columns["seed"]
        episode = columns.get("episode", np.zeros_like(seed))
        metrics = {name: column for name, column in columns.items() if name not in KEYS}
        episodes = cls(seed, episode, seed, columns[NUM_TASKS.name], metrics, lists)
        stretch = columns.get("stretch")
        # Seeds may play the same stretch, and a seed several of them: what there are fewer of is the cluster.
        if stretch is not None and _distinct(stretch) <= _distinct(seed):
            episodes = dataclasses.replace(episodes, cluster=stretch)
        batch = columns.get("batch")
        if batch is not None:  # of a single episode
            episodes = dataclasses.replace(episodes, episode=batch, cluster=batch)
        order = np.lexsort((episodes.episode, seed))
        return episodes if np.all(order[1:] > order[:-1]) else episodes.take(order)

    def take(self, places: np.ndarray) -> Episodes:
        """Some of the episodes."""
        return Episodes(
            self.seed[places],
            self.episode[places],
            self.cluster[places],
            self.tasks[places],
            {name: column[places] for name, column in self.metrics.items()},
            {name: table[places] for name, table in self.lists.items()},
        )

    def values(self, column: Column) -> np.ndarray:
        """The number of each episode, `[episodes]`; NaN where it has none.

        Raises:
          InputError: the rows have no such column.
        """
        if column.of_servers:
            prefix = f"{column.of or column.name}_"
            servers = [
                values for name, values in self.metrics.items() if name.removeprefix(prefix).isdecimal()
            ]
            if servers:
                return _OVER_SERVERS[column.how](np.stack(servers, axis=1).astype(np.float64))
        elif column.name in self.metrics:
            return self.metrics[column.name]
        raise InputError(f"{column.name}: no such column in the results; legal: results of this version")

    def weight(self, column: Column, per: str) -> np.ndarray:
        """How much each episode counts in an estimate, `[episodes]`."""
        if per == EPISODE:
            return np.ones(len(self.tasks))
        weight = self.tasks if column.weight == NUM_TASKS.name else self.metrics[column.weight]
        return np.nan_to_num(weight.astype(np.float64))

    def sums(self, columns: Sequence[tuple[Column, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators of means, each `[clusters, columns]`; NaN in a cluster that has none.

        Args:
          columns: each with `TASK` or `EPISODE`.
        """
        values = np.stack([self.values(column) for column, _ in columns], axis=1).astype(np.float64)
        weight = np.stack([self.weight(column, per) for column, per in columns], axis=1)
        weight = np.where(np.isnan(values), 0.0, weight)
        numerator = cluster_totals(np.where(weight > 0, values, 0.0) * weight, self.cluster)
        denominator = cluster_totals(weight, self.cluster)
        none = denominator == 0
        return np.where(none, np.nan, numerator), np.where(none, np.nan, denominator)

    def means(self, column: Column, per: str = TASK) -> np.ndarray:
        """The mean of each cluster that has one, `[clusters with tasks]`."""
        numerator, denominator = self.sums([(column, per)])
        ratio = (numerator / denominator)[:, 0]
        return ratio[~np.isnan(ratio)]

    def pooled(self, column: Column, at: np.ndarray) -> Interval:
        """Quantiles over the tasks of all episodes, `[len(at)]`.

        Args:
          column: one whose rows hold lists of quantiles, or a quantile of such a column.
          at: the levels.
        """
        table = self.lists[column.of or column.name]
        tasks = np.where(np.isnan(table[:, 0]), 0.0, self.weight(column, TASK))
        return pooled_quantiles(table, LEVELS, tasks, clusters=self.cluster, at=at)

    def counts(self, column: Column) -> tuple[int, int, int, int]:
        """`COUNTS` of an estimate."""
        some = ~np.isnan(self.values(column))
        tasks = int(self.tasks[some].sum())
        seeds, every = _distinct(self.seed[some]), _distinct(self.seed)
        clusters = seeds if self.cluster is self.seed else _distinct(self.cluster[some])
        return seeds, every, tasks, clusters


def _distinct(labels: np.ndarray) -> int:
    """The number of different labels; much faster than `numpy.unique` where they are in order."""
    ordered = np.sort(labels)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + (len(labels) > 0)


def _values(column: Any) -> np.ndarray:
    """A column of a data frame as an array, with NaN where a count is missing."""
    if isinstance(column.dtype, pd.Int64Dtype):
        return column.to_numpy(np.float64, na_value=np.nan)
    return np.asarray(column)


def _holds_lists(values: np.ndarray) -> bool:
    return values.dtype == object and len(values) > 0 and isinstance(values[0], list | np.ndarray)


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
    columns: Sequence[Column],
) -> pd.DataFrame:
    """Estimates of metrics with 95 % intervals, group by group.

    Args:
      groups: what tells a group, a value for each of `keys`, and its episodes.
      keys: names of columns that tell groups apart.
      columns: what to estimate, see `metrics.estimated_columns`.

    Returns:
      Columns `keys` and `SUMMARY`; per task before per episode. A metric that is a mean over tasks has a row
      for either; so do percentiles of the makespan: that of all tasks together, and the mean of those of the
      episodes.
    """
    names, moments, direct = [], [], []
    pairs = [(column, per) for column in columns for per in column.weightings]
    is_direct = np.array([_is_direct(*pair) for pair in pairs], bool)
    for key, episodes in groups:
        for column in columns:
            counts = episodes.counts(column)
            names += [(*key, column.name, per, *counts) for per in column.weightings]
        means = [pair for pair in pairs if not _is_direct(*pair)]
        moments.append(RatioMoments.of(*episodes.sums(means)) if means else None)
        direct.append(_direct(episodes, [pair for pair in pairs if _is_direct(*pair)]))
    if not names:
        return pd.DataFrame(columns=[*keys, *SUMMARY])
    numbers = np.empty((len(direct), len(pairs), 3))
    numbers[:, is_direct] = np.stack(direct)
    if not np.all(is_direct):
        numbers[:, ~is_direct] = np.stack(RatioMoments.stack(moments).interval(), axis=-1)
    least, most = (np.array([column.bounds[end] for column, _ in pairs]) for end in (0, 1))
    numbers[..., 1] = np.maximum(numbers[..., 1], least)
    numbers[..., 2] = np.minimum(numbers[..., 2], most)
    frame = pd.DataFrame(names, columns=[*keys, *SUMMARY[:-3]])
    clusters = frame["n_clusters"].to_numpy().reshape(numbers.shape[:2])
    interval = beyond_bounds(Interval(*np.moveaxis(numbers, -1, 0)), clusters, least=least, most=most)
    return frame.assign(**{name: each.reshape(-1) for name, each in zip(SUMMARY[-3:], interval, strict=True)})


def learning_sums(rows: pd.DataFrame, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of a metric in the episodes of training, `[seeds, episodes]`; 0 where none.

    Args:
      rows: of one method: columns seed, episode, and those of metrics.
    """
    episodes = Episodes.of(rows)
    per = column.weightings[0]
    table = pd.DataFrame({"seed": episodes.seed, "episode": episodes.episode})
    table = table.assign(value=episodes.values(column), weight=episodes.weight(column, per))
    values, weights = (seed_matrix(table, name) for name in ("value", "weight"))
    weights = np.where(np.isnan(values), 0.0, weights)
    return np.where(weights > 0, values * weights, 0.0), weights


def learning_curve(rows: pd.DataFrame, column: Column) -> tuple[np.ndarray, np.ndarray, Interval]:
    """A metric over the episodes of training of one method, with intervals over its seeds.

    It is per task where that is possible.

    Args:
      rows: columns seed, episode, and those of metrics.

    Returns:
      The numbers of the episodes `[episodes]`; the values `[seeds, episodes]`, NaN where there is none; and
      estimates and bounds, `[episodes]` each.
    """
    sums, weights = learning_sums(rows, column)
    weights = np.where(weights > 0, weights, np.nan)
    interval = rate_interval if column.is_rate and not column.of_servers else ratio_interval
    estimates = interval(np.where(np.isnan(weights), np.nan, sums), weights)
    return np.unique(np.asarray(rows["episode"])), sums / weights, estimates


def _is_direct(column: Column, per: str) -> bool:
    """Whether an estimate is not that of `ratio_interval`."""
    return column.is_rate or (per == TASK and column.level is not None)


def _direct(episodes: Episodes, columns: Sequence[tuple[Column, str]]) -> np.ndarray:
    """Rates and pooled percentiles: estimates and bounds, `[columns, 3]`."""
    found = np.empty((len(columns), 3))
    rates = np.array([column.is_rate for column, _ in columns], bool)
    if np.any(rates):
        found[rates] = np.stack(
            rate_interval(*_events(episodes, [pair for pair in columns if pair[0].is_rate])), axis=-1
        )
    for name in dict.fromkeys(column.of for column, _ in columns if column.level is not None):
        of_name = np.array([column.level is not None and column.of == name for column, _ in columns])
        levels = [column for column, _ in columns if column.level is not None and column.of == name]
        pooled = episodes.pooled(levels[0], np.array([column.level for column in levels]))
        found[of_name] = np.stack(pooled, axis=-1)
    return found


def _events(episodes: Episodes, columns: Sequence[tuple[Column, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Events and tasks of rates; where an episode counts as one, as if all had their mean number of tasks."""

    def scale(column: Column, per: str) -> float:
        if per == TASK:
            return 1.0
        tasks = episodes.tasks if column.of_servers else episodes.weight(column, TASK)
        return tasks[tasks > 0].mean() if np.any(tasks > 0) else 1.0

    events, tasks = episodes.sums(columns)
    scales = np.array([scale(*pair) for pair in columns])
    return events * scales, tasks * scales


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Clusters of a method and a baseline on the episodes that both have; arrays `[clusters, pairs]`.

    Where the two count the same tasks, `ours` and `theirs` are sums, and `tasks` their number. Where each has
    tasks of its own, such as those that it accepts, `theirs` is set on our tasks: what it deviates from the
    baseline's mean is scaled to them. So the mean stays, and intervals are those of the delta method.
    """

    column: Column
    ours: np.ndarray
    theirs: np.ndarray
    tasks: np.ndarray
    scale: np.ndarray
    """The mean of the metric over that of the values, `[pairs]`: 1 unless the values are events"""
    of_events: bool
    """Whether the values are numbers of events among the same tasks, in all pairs"""
    seeds: np.ndarray
    """Seeds with tasks, `[pairs]`"""

    @classmethod
    def of(cls, column: Column, pairs: Sequence[tuple[Episodes, Episodes]], per: str) -> Pairs:
        """The values of several pairs side by side; shorter columns are filled up with NaNs."""
        columns, scales, of_events, seeds = [], [], [], []
        for ours, theirs in pairs:
            a, b = common(ours, theirs)
            values, scale, are_events = _pair(column, per, a, dataclasses.replace(b, cluster=a.cluster))
            columns.append(values)
            scales.append(scale)
            of_events.append(are_events)
            seeds.append(a.counts(column)[0])
        full = np.full((max(map(len, columns)), len(pairs), 3), np.nan)
        for place, each in enumerate(columns):
            full[: len(each), place] = each
        full[np.isnan(full).any(axis=-1)] = np.nan
        return cls(
            column,
            full[..., 0],
            full[..., 1],
            full[..., 2],
            np.array(scales),
            all(of_events),
            np.array(seeds),
        )

    @property
    def clusters(self) -> np.ndarray:
        """Clusters with tasks, `[pairs]`."""
        return np.count_nonzero(~np.isnan(self.tasks), axis=0)

    def reduction(self) -> Interval:
        """1 - mean / baseline's mean."""
        if self.of_events:
            return rate_reduction_interval(self.ours, self.theirs, self.tasks)
        return reduction_interval(self.ours, self.theirs)

    def difference(self) -> Interval:
        """Mean - baseline's mean."""
        if self.of_events:
            found = rate_difference_interval(self.ours, self.theirs, self.tasks)
        else:
            found = ratio_interval(self.ours - self.theirs, self.tasks)
        return Interval(*(self.scale * bound for bound in found))

    def p_value(self) -> np.ndarray:
        """Two-sided p-value of no difference: below 0.05 where the interval of `difference` excludes 0."""
        if self.of_events:
            return rate_difference_p_value(self.ours, self.theirs, self.tasks)
        return paired_p_value(self.ours, self.theirs)

    @property
    def gap(self) -> np.ndarray:
        """The estimate of `difference` alone, `[pairs]`, without the cost of its interval."""
        with np.errstate(invalid="ignore"):
            return self.scale * np.nansum(self.ours - self.theirs, axis=0) / np.nansum(self.tasks, axis=0)

    def improvement(self) -> Interval:
        """How probably the method is better than the baseline on a cluster, or lower where neither is."""
        if self.column.better == "higher":
            return probability_of_improvement(self.theirs, self.ours)
        return probability_of_improvement(self.ours, self.theirs)


def _pair(column: Column, per: str, ours: Episodes, theirs: Episodes) -> tuple[np.ndarray, float, bool]:
    """Both values and the tasks of a pair, `[clusters, 3]`, with its `scale` and `of_events`, see `Pairs`."""
    of = _events if column.is_rate else Episodes.sums
    (x, tasks), (y, others) = of(ours, [(column, per)]), of(theirs, [(column, per)])
    same = np.array_equal(tasks, others, equal_nan=True)
    if not same:
        y = _on_tasks(y, others, np.where(np.isnan(others), np.nan, tasks))
    elif column.complement_of in ours.metrics and column.complement_of in theirs.metrics:
        (p, counted), (q, beside) = _complement(ours, column), _complement(theirs, column)
        if np.array_equal(counted, beside, equal_nan=True):
            total, events = (np.nansum(a) + np.nansum(b) for a, b in ((x, y), (p, q)))
            scale = total / events * np.nansum(counted) / np.nansum(tasks) if events else 0.0
            return np.concatenate([p, q, counted], axis=1), scale, True
    return np.concatenate([x, y, tasks], axis=1), 1.0, column.is_rate and same


def _complement(episodes: Episodes, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """The tasks that a metric counts and all tasks, `[clusters, 1]` each, from the rate of the others."""
    rate = Column(name=column.complement_of, label="", reduction=Reduction.RATE)
    events, tasks = episodes.sums([(rate, TASK)])
    return tasks - events, tasks


def _on_tasks(sums: np.ndarray, own: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Sums over a method's own tasks, scaled to other numbers of tasks, `[clusters, 1]` each; means stay."""
    some = ~np.isnan(tasks)
    if not np.any(some):
        return sums
    mean = sums[some].sum() / own[some].sum()
    return mean * tasks + (sums - mean * own) * (tasks[some].sum() / own[some].sum())


def common(ours: Episodes, theirs: Episodes) -> tuple[Episodes, Episodes]:
    """The episodes that both have."""
    if np.array_equal(ours.seed, theirs.seed) and np.array_equal(ours.episode, theirs.episode):
        return ours, theirs
    keys = [e.seed.astype(np.int64) << 31 | e.episode for e in (ours, theirs)]
    _, a, b = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    return ours.take(a), theirs.take(b)
