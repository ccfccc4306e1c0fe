"""Comparisons of methods over many scenarios: the values of a sweep, or all runs with the same methods."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import REFERENCES
from amco_jax.metrics import Column, Shown, shown_in
from amco_jax.report.analysis import BOOTSTRAP_SEED, baselines_of, pairs_of
from amco_jax.report.figures import profile_figure
from amco_jax.report.names import all_of, capitalised, in_words, joined, shown_name
from amco_jax.report.pictures import DISTINCT_CURVES
from amco_jax.report.studies import SavedStudy
from amco_jax.report.tables import Cell, Table, bracket
from amco_jax.stats import (
    Interval,
    aggregate_interval,
    improvement,
    interquartile_mean,
    mean_cost,
    mean_of_seeds,
    performance_profile,
)
from amco_jax.stats.aggregates import Aggregate
from amco_jax.stats.summaries import Episodes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = ("sweep", "evaluate")
"""Studies in which no method is still learning, so that their conditions are scenarios"""
_RESAMPLES = 1000
_LEVELS = 61
"""The number of points of a performance profile"""


OVERALL_NOTE = (
    "The cost of a method on a seed in a scenario is its metric relative to the reference's on the same seed "
    "in the same scenario, so that less than 1 is better. The interquartile mean is that of the middle half "
    "of all costs, and a tie counts half in a probability. All methods are measured on the seeds that each "
    "has in every scenario. 95 % intervals by the percentile bootstrap, which resamples whole seeds."
)


@dataclasses.dataclass(frozen=True)
class Overall:
    """The costs of methods relative to a reference, over all scenarios of some studies.

    The cost of a method on a seed in a scenario is its metric divided by the reference's on the same seed in
    the same scenario, or the inverse ratio if higher is better, so that less than 1 is better.
    """

    column: Column
    """The metric"""
    reference: str
    """The first baseline of the studies"""
    studies: tuple[str, ...]
    """Their names"""
    num_scenarios: int
    methods: pd.DataFrame
    """The methods except the reference, the best first, with columns method, n_seeds, iqm (the interquartile
    mean of the costs) and p (the probability that the method is better than the reference on the same seed in
    the same scenario), the latter two each with _low and _high (95 %)"""
    profiles: pd.DataFrame
    """The performance profiles, with columns method, level, share (of the seeds and scenarios whose cost is
    at most the level), share_low and share_high (95 %)"""
    costs: dict[str, np.ndarray]
    """The costs of each of them, `[seeds, scenarios]`, on the seeds that all have in every scenario"""
    left_out: tuple[str, ...] = ()
    """The methods that have no cost, as no seed has one in every scenario"""

    @property
    def title(self) -> str:
        """The heading, which says what the aggregates are over."""
        of = f"{all_of(self.num_scenarios, 'scenario')} of {', '.join(self.studies)}"
        return f"{capitalised(self.column.label)} over {of}"

    @property
    def answer(self) -> str:
        """Sentences about the best methods, and about those that are left out."""
        rows: list[dict[str, Any]] = self.methods.to_dict("records")
        rows = [row for row in rows if row["method"] not in REFERENCES]
        if not rows:
            return f"There is no method to compare with {in_words(self.reference)}."
        best = [
            row
            for row in rows
            if _number(row, "iqm") == _number(rows[0], "iqm") and _is_better(row) == _is_better(rows[0])
        ]
        iqm, p = (joined(dict.fromkeys(_text(row, name) for row in best)) for name in ("iqm", "p"))
        numbers = (
            f"the interquartile mean of the cost is {iqm}, and the probability of being better on the same "
            f"seed is {p}."
        )
        return " ".join([f"{self._best(best)}: {numbers}", *self._next_best(rows, best), *self._without()])

    def _next_best(self, rows: Sequence[dict[str, Any]], best: Sequence[dict[str, Any]]) -> list[str]:
        """A sentence that compares the next best method with the best, if there is one, and intervals."""
        others = [row["method"] for row in rows if row not in best]
        if not others or math.isnan(rows[0]["iqm_low"]):
            return []
        value, low, high = _interval(_difference, self.costs[others[0]], self.costs[rows[0]["method"]])
        size = bracket(float(value), float(low), float(high), digits=3)
        how = f"{size} higher" if low > 0 else f"not clearly different ({size})"
        return [f"The interquartile mean with {in_words(others[0])}, the next best, is {how}."]

    def _best(self, best: Sequence[dict[str, Any]]) -> str:
        """A sentence without its end: the best methods, which are better than the reference or not."""
        reference, names = in_words(self.reference), joined(in_words(row["method"]) for row in best)
        if _is_better(best[0]):
            return f"Relative to {reference}, the {self.column.label} is best with {names}"
        none = f"no method has a clearly better {self.column.label} than {reference}, the reference"
        if math.isnan(best[0]["iqm_low"]):
            none = f"with fewer than two seeds there are no intervals, so that {none}"
        if all(row["iqm_low"] == row["iqm_high"] == 1 and row["p"] == 0.5 for row in best):
            return f"{capitalised(none)}, which is equalled by {names}"
        return f"{capitalised(none)}. The best of the others {'is' if len(best) == 1 else 'are'} {names}"

    def _without(self) -> list[str]:
        """A sentence about the methods that are left out, if there are any."""
        if not self.left_out:
            return []
        names, them = joined(map(in_words, self.left_out)), "it" if len(self.left_out) == 1 else "them"
        return [
            f"The table leaves out {names}, as no seed has a value with {them} and with the reference in "
            "every scenario."
        ]

    @property
    def caption(self) -> str:
        """The caption of the figure."""
        more = " Grey curves may go on beyond the axis." if len(self.methods) > DISTINCT_CURVES else ""
        return (
            "Performance profiles: the share of seeds and scenarios whose cost is at most a level, so that "
            f"higher is better. Bands: 95 % intervals.{more}"
        )

    def to_frame(self) -> pd.DataFrame:
        """The columns of `methods`, after studies, metric, reference and n_scenarios."""
        names = {"studies": ", ".join(self.studies), "metric": self.column.name, "reference": self.reference}
        labels = pd.DataFrame(names | {"n_scenarios": self.num_scenarios}, index=self.methods.index)
        return pd.concat([labels, self.methods], axis=1)

    def to_table(self) -> Table:
        """A table with a row for each method."""
        rows = [
            [
                Cell(shown_name(r["method"])),
                Cell(str(r["n_seeds"])),
                *(Cell(_text(r, name), r[name]) for name in ("iqm", "p")),
            ]
            for r in self.methods.to_dict("records")
        ]
        columns = [
            "method",
            "seeds",
            f"{self.column.label} relative to {in_words(self.reference)}, interquartile mean",
            f"probability of improvement over {in_words(self.reference)}",
        ]
        return Table(columns, rows, texts=2)

    def to_figure(self) -> Figure:
        """The performance profiles, with the best methods highlighted."""
        reference = in_words(self.reference)
        label = f"relative to {reference}"
        if self.column.better == "higher":
            label = f"{reference} relative to the method"
        among = list(self.methods["method"])[:DISTINCT_CURVES]
        return profile_figure(self.profiles, label, capitalised(self.column.label), among)


def overall_of(studies: Sequence[SavedStudy], baselines: Sequence[str] = ()) -> list[Overall]:
    """Aggregates over the scenarios of all studies of one kind that have the same methods and physics.

    Each metric of the tables that has a better direction is aggregated if there are at least two scenarios
    and two methods, intervals are over seeds, and all ratios exist. They do not exist if a rate is 0 for the
    reference.
    """
    groups: dict[Any, list[SavedStudy]] = {}
    for study in studies:
        if study.kind in _KINDS and study.cluster_name == "seeds":
            key = study.kind, str(study.manifest["physics"]), frozenset(study.methods)
            groups.setdefault(key, []).append(study)
    found = []
    for group in groups.values():
        scenarios = sum(len(study.conditions) for study in group)
        if scenarios > 1 and len(group[0].methods) > 1:
            names = set.intersection(*({c.name for c in study.columns} for study in group))
            reference = baselines_of(group[0], baselines)[0]
            for column in shown_in(group[0].columns, Shown.TABLES):
                if column.better and column.bounds[0] >= 0 and column.name in names:
                    found.append(_overall(group, column, reference, scenarios))
    return [overall for overall in found if overall is not None]


def _overall(group: Sequence[SavedStudy], column: Column, reference: str, scenarios: int) -> Overall | None:
    others = [method for method in group[0].methods if method != reference]
    found = {method: _costs(group, column, method, reference) for method in others}
    found = {method: cost for method, cost in found.items() if cost.shape[1] == scenarios and len(cost)}
    if not found:
        return None
    seeds = functools.reduce(pd.Index.intersection, [cost.index for cost in found.values()])
    costs = {method: cost.loc[seeds].to_numpy(np.float64) for method, cost in found.items()}
    if not len(seeds) or not all(np.all(np.isfinite(cost)) for cost in costs.values()):
        return None
    best_first = sorted(costs, key=lambda method: float(interquartile_mean(costs[method])))
    levels = _levels(np.stack([costs[method] for method in best_first[:DISTINCT_CURVES]]))
    rows, profiles = [], []
    for method in best_first:
        cost = costs[method]
        # Means over seeds, which are faster to resample than the costs: of the share of the scenarios in
        # which a seed is better than the reference, whose own costs are all 1, and of the profiles.
        better = improvement(cost[:, None, :], np.ones((1, scenarios)))[:, None]
        of_seeds = performance_profile(levels)(cost[:, None, :])
        rows.append((method, len(cost), *_interval(interquartile_mean, cost), *_interval(mean_cost, better)))
        numbers = dict(
            zip(("share", "share_low", "share_high"), _interval(mean_of_seeds, of_seeds), strict=True)
        )
        profiles.append(pd.DataFrame({"method": method, "level": levels} | numbers))
    left_out = tuple(method for method in others if method not in costs)
    names = ["method", "n_seeds", "iqm", "iqm_low", "iqm_high", "p", "p_low", "p_high"]
    methods = pd.DataFrame(rows, columns=names)
    studies = tuple(study.name for study in group)
    return Overall(column, reference, studies, scenarios, methods, pd.concat(profiles), costs, left_out)


def _levels(costs: np.ndarray) -> np.ndarray:
    """The levels of profiles, evenly spaced on a logarithmic axis, from and to nearly all costs and 1."""
    some = costs[costs > 0] if np.any(costs > 0) else np.ones(1)  # costs of 0 are at most any level
    least, most = np.quantile(some, (0.005, 0.995))
    return np.geomspace(min(least, 1.0), max(most, 1.0), _LEVELS)


def _difference(cost: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference of the interquartile means of two methods."""
    return interquartile_mean(cost) - interquartile_mean(other)


def _text(row: dict[str, Any], name: str) -> str:
    """A number of a row of `Overall.methods` with its interval."""
    return bracket(*(row[f"{name}{end}"] for end in ("", "_low", "_high")), digits=3)


def _number(row: dict[str, Any], name: str) -> str:
    """The number without its interval."""
    return _text(row, name).partition(" ")[0]


def _is_better(row: dict[str, Any]) -> bool:
    """Whether the cost of a method is clearly less than that of the reference."""
    return row["iqm_high"] < 1


def _costs(group: Sequence[SavedStudy], column: Column, method: str, reference: str) -> pd.DataFrame:
    """The costs on the seeds that both methods have in every scenario, with a column for each scenario."""
    scenarios = []
    for study in group:
        for both in pairs_of(study, method, reference).values():
            # Seeds that only one of them has are left out, but not those with 0 / 0, which is no cost.
            ours, theirs = _means(both[0], column).align(_means(both[1], column), join="inner")
            scenarios.append(ours / theirs if column.better == "lower" else theirs / ours)
    return pd.concat(scenarios, axis=1, join="inner") if scenarios else pd.DataFrame()


def _means(episodes: Episodes, column: Column) -> pd.Series:
    """The mean of each seed that has one, indexed by seed."""
    numerator, denominator = episodes.sums([(column, column.weightings[0])])
    return pd.Series((numerator / denominator)[:, 0], index=np.unique(episodes.cluster)).dropna()


def _interval(aggregate: Aggregate, *costs: np.ndarray) -> Interval:
    """The aggregate with its interval, from the same resamples for all methods."""
    return aggregate_interval(
        aggregate, *costs, rng=np.random.default_rng(BOOTSTRAP_SEED), resamples=_RESAMPLES
    )
