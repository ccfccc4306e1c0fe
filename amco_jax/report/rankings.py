"""The ranking of methods by each measure of a report, and whether the measures agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from amco_jax.agents.methods import REFERENCES
from amco_jax.metrics import Column, Shown, is_usual, shown_in
from amco_jax.report.analysis import pairs_of
from amco_jax.report.names import in_words, joined, shown_name
from amco_jax.report.studies import SavedStudy
from amco_jax.report.tables import NONE, Cell, Table
from amco_jax.stats.summaries import Pairs

Ranks = Mapping[tuple[Any, str], int]
"""Ranks by condition and method, of those that have one; 1 is the best"""


def rankings(study: SavedStudy) -> Table | None:
    """The ranks of the methods by every measure of the first table that has a better direction.

    A method's rank is one more than the number of methods that are better on common episodes, in the sense
    that the 95 % interval of the paired difference excludes 0. Indistinguishable methods share a rank.

    Returns:
      A table with a row for each condition and method; None with fewer than two measures, or without ranks.
    """
    columns = ranked_by(study)
    ranks = {column: ranks_by(study, column) for column in columns}
    if len(columns) < 2 or not any(ranks.values()):
        return None
    rows = [
        [
            Cell(str(condition)),
            Cell(shown_name(method)),
            *(_rank(r, condition, method) for r in ranks.values()),
        ]
        for condition in study.conditions
        for method in _ranked(study)
        if (method, condition) in study.groups
    ]
    heads = [study.axis_label or "condition", "method", *(f"rank by {column.label}" for column in columns)]
    return Table(heads, rows, texts=2)


def ranked_by(study: SavedStudy) -> list[Column]:
    """The measures of the first table that have a better direction."""
    return [column for column in shown_in(study.columns, Shown.TABLES) if column.better is not None]


def ranks_by(study: SavedStudy, column: Column) -> Ranks:
    """The rank of each method under each condition by one metric.

    `REFERENCES` have no rank. Neither has a method without an interval of its difference from any other, as
    where it has no estimate, or where there is a single seed.
    """
    ranks: dict[tuple[Any, str], int] = {}
    for ours, theirs in itertools.combinations(_ranked(study), 2):
        found = pairs_of(study, ours, theirs)
        if not found:
            continue
        _, low, high = map(np.asarray, Pairs.of(column, [*found.values()], column.weightings[0]).difference())
        better, worse = (high < 0, low > 0) if column.better == "lower" else (low > 0, high < 0)
        for place in np.flatnonzero(~np.isnan(low) & ~np.isnan(high)):
            condition = [*found][place]
            for method, behind in ((theirs, better[place]), (ours, worse[place])):
                ranks[condition, method] = ranks.get((condition, method), 1) + int(behind)
    return ranks


def _ranked(study: SavedStudy) -> list[str]:
    """The methods that are ranked."""
    return [method for method in study.methods if method not in REFERENCES]


def _rank(ranks: Ranks, condition: Any, method: str) -> Cell:
    """The rank of a method, or a dash if it has none."""
    rank = ranks.get((condition, method))
    return Cell(NONE) if rank is None else Cell(str(rank), best=rank == 1)


def reversal_of(study: SavedStudy) -> str:
    """A sentence about the two methods whose ranks two measures reverse by the largest distance.

    The measures are the usual ones; if these agree, also those that were asked for. The sentence is empty if
    no two measures rank methods in opposite orders.
    """
    ranks = {column: ranks_by(study, column) for column in ranked_by(study)}
    usual = {column: of for column, of in ranks.items() if is_usual(column)}
    for among in (usual, ranks):
        widest = max(_reversals(study, among), key=lambda each: each[0], default=None)
        if widest is not None:
            break
    else:
        return ""
    _, condition, one, other = widest
    sides = _grouped({c: int(np.sign(lead)) for c, lead in _leads(among, condition, one, other).items()})
    return (
        f"Ranks depend on the measure{_at(study, condition)}: {in_words(one)} is ahead of "
        f"{in_words(other)} {sides[1]}, and behind {sides[-1]}."
    )


def _reversals(
    study: SavedStudy, ranks: Mapping[Column, Ranks]
) -> Iterator[tuple[tuple[int, int], Any, str, str]]:
    """Pairs of methods, the first ahead by one measure and behind by another, with the distance in ranks.

    Yields:
      The smaller of the two distances and their sum; the condition; the two methods.
    """
    for condition, (one, other) in itertools.product(
        study.conditions, itertools.combinations(_ranked(study), 2)
    ):
        lead = _leads(ranks, condition, one, other).values()
        if lead and min(lead) < 0 < max(lead):
            apart = min(max(lead), -min(lead)), max(lead) - min(lead)
            yield (apart, condition, one, other)


def _leads(ranks: Mapping[Column, Ranks], condition: Any, one: str, other: str) -> dict[Column, int]:
    """How many ranks one method is ahead of another, by each measure by which both have one."""
    keys = (condition, one), (condition, other)
    return {
        column: of[keys[1]] - of[keys[0]] for column, of in ranks.items() if all(key in of for key in keys)
    }


def _grouped(found: Mapping[Column, Any]) -> dict[Any, str]:
    """The labels of the measures with the same finding, in words."""
    groups: dict[Any, list[str]] = {}
    for column, said in found.items():
        groups.setdefault(said, []).append(column.label)
    return {said: f"by {joined(labels)}" for said, labels in groups.items()}


def _at(study: SavedStudy, condition: Any) -> str:
    return f" at {study.axis_label} = {condition}" if study.axis_label else ""
