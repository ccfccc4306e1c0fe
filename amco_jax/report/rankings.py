"""The ranking of methods by each measure of a report, and whether the measures agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from amco_jax.metrics import Column, Shown, is_usual, shown_in
from amco_jax.report.analysis import pairs_of
from amco_jax.report.names import in_words, joined, shown_name
from amco_jax.report.studies import SavedStudy
from amco_jax.report.tables import Cell, Table
from amco_jax.stats.summaries import Pairs

Ranks = Mapping[tuple[Any, str], int]
"""Ranks by condition and method; 1 is the best"""


def rankings(study: SavedStudy) -> Table | None:
    """The ranks of the methods by every measure of the first table that has a better direction.

    A method's rank is one more than the number of methods that are better on common episodes, in the sense
    that the 95 % interval of the paired difference excludes 0. Indistinguishable methods share a rank.

    Returns:
      A table with a row for each condition and method; None with fewer than two methods or measures.
    """
    columns = ranked_by(study)
    if len(study.methods) < 2 or len(columns) < 2:
        return None
    ranks = {column: ranks_by(study, column) for column in columns}
    places = [(c, m) for c in study.conditions for m in study.methods if (m, c) in study.groups]
    rows = [
        [Cell(str(condition)), Cell(shown_name(method))]
        + [Cell(str(r[condition, method]), best=r[condition, method] == 1) for r in ranks.values()]
        for condition, method in places
    ]
    heads = [study.axis_label or "condition", "method", *(f"rank by {column.label}" for column in columns)]
    return Table(heads, rows, texts=2)


def ranked_by(study: SavedStudy) -> list[Column]:
    """The measures of the first table that have a better direction."""
    return [column for column in shown_in(study.columns, Shown.TABLES) if column.better is not None]


def ranks_by(study: SavedStudy, column: Column) -> Ranks:
    """The rank of each method under each condition by one metric."""
    ranks = {(condition, method): 1 for method, condition in study.groups}
    for ours, theirs in itertools.combinations(study.methods, 2):
        found = pairs_of(study, ours, theirs)
        if not found:
            continue
        difference = Pairs.of(column, list(found.values()), column.weightings[0]).difference()
        lower, higher = np.asarray(difference.high) < 0, np.asarray(difference.low) > 0
        better, worse = (lower, higher) if column.better == "lower" else (higher, lower)
        for place, condition in enumerate(found):
            ranks[condition, theirs] += int(better[place])
            ranks[condition, ours] += int(worse[place])
    return ranks


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
    sides = _grouped({c: int(np.sign(of[condition, other] - of[condition, one])) for c, of in among.items()})
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
    for condition in study.conditions:
        methods = [m for m in study.methods if (m, condition) in study.groups]
        for one, other in itertools.combinations(methods, 2):
            lead = [of[condition, other] - of[condition, one] for of in ranks.values()]
            if lead and min(lead) < 0 < max(lead):
                apart = min(max(lead), -min(lead)), max(lead) - min(lead)
                yield (apart, condition, one, other)


def _grouped(found: Mapping[Column, Any]) -> dict[Any, str]:
    """The labels of the measures with the same finding, in words."""
    groups: dict[Any, list[str]] = {}
    for column, said in found.items():
        groups.setdefault(said, []).append(column.label)
    return {said: f"by {joined(labels)}" for said, labels in groups.items()}


def _at(study: SavedStudy, condition: Any) -> str:
    return f" at {study.axis_label} = {condition}" if study.axis_label else ""
