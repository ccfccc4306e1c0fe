"""The figures of a study in a report: the few that answer its question, and all others."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import BOUND
from amco_jax.metrics import Column, Reduction, Shown, shown_in
from amco_jax.report.analysis import baselines_of, distributions, estimates_of, over_slots, winners_of
from amco_jax.report.figures import (
    cdf_figure,
    convergence_figures,
    ranking_figure,
    slots_figure,
    sweep_figure,
)
from amco_jax.report.names import capitalised, in_words
from amco_jax.report.studies import SavedStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pictures = dict[str, "tuple[Figure, str]"]
"""Figures with their captions, by name"""

DISTINCT_CURVES = 5
"""The number of curves that a reader can distinguish"""


def leading_figures(
    study: SavedStudy, estimated: pd.DataFrame, compared: pd.DataFrame, baselines: Sequence[str] = ()
) -> Pictures:
    """The few figures that answer the question of a study.

    For a sweep, they show its first metric and the improvement of that metric on the first baseline, with the
    most relevant methods highlighted. For a study with training episodes, they show the learning curves of
    that metric, and for any other the ranked methods.

    Args:
      estimated: `analysis.means` of the study.
      compared: `analysis.comparisons` of the report.
      baselines: see `analysis.baselines_of`.
    """
    first = study.first
    if study.curves is not None:
        found = _learning_curves(study)
        return {name: found[name] for name in (f"convergence-{c}" for c in study.conditions)}
    if len(study.conditions) == 1:
        (condition,) = study.conditions
        rows = pd.DataFrame(estimates_of(estimated, first)[condition].values())
        caption = f"{_sentence(first)} Bars: 95 % intervals over {study.cluster_name}."
        return {"leading": (ranking_figure(rows, first), caption)}
    baseline = baselines_of(study, baselines)[0]
    among = _standing_out(study, estimated, baseline)
    others = " Grey: the other methods." if len(among) < len(study.methods) else ""
    figure, caption = _over_values(study, estimated, first, among)
    found: Pictures = {"leading": (figure, caption + others)}
    rows, gain = _gains(study, compared, baseline)
    if len(rows):
        caption = f"{gain.caption} Above 0 a method is better. {_marks(study)}: paired 95 % intervals."
        found["leading-gain"] = sweep_figure(rows, gain, study.axis_label, among), caption + others
    return found


def all_figures(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str] = ()) -> Pictures:
    """All figures of a study: metrics over conditions, learning curves, and distributions over tasks.

    Args:
      estimated, baselines: as in `leading_figures`.
    """
    found = {}
    if len(study.conditions) > 1:
        for column in shown_in(study.columns, Shown.FIGURES):
            found[column.name] = _over_values(study, estimated, column, study.methods)
    if study.curves is not None:
        found |= _learning_curves(study)
    return found | _slot_by_slot(study, estimated, baselines) | _distributions(study)


def _standing_out(study: SavedStudy, estimated: pd.DataFrame, baseline: str) -> list[str]:
    """The methods to highlight in a figure: all if they are few, and otherwise the best and a baseline."""
    if len(study.methods) <= DISTINCT_CURVES + 1:
        return study.methods
    columns = shown_in(study.columns, Shown.TABLES)
    best, *others = (
        [method for names in winners_of(study, column, estimated).values() for method in names]
        for column in columns
    )
    ranks = pd.DataFrame(
        {
            str(place): pd.Series({m: row["estimate"] for m, row in rows.items()}).rank(
                ascending=study.first.better != "higher"
            )
            for place, rows in enumerate(estimates_of(estimated, study.first).values())
        }
    )
    by_rank = ranks.mean(axis=1).sort_values(kind="stable").index
    by_rank = [method for method in by_rank if method in study.methods]
    wanted = [*best, baseline, *by_rank, *itertools.chain(*others)]
    return list(dict.fromkeys(wanted))[:DISTINCT_CURVES]


def _over_values(
    study: SavedStudy, estimated: pd.DataFrame, column: Column, among: Sequence[str]
) -> tuple[Figure, str]:
    rows = estimated.rename(columns={"condition": "value"})
    caption = f"{_sentence(column)} {_marks(study)}: 95 % intervals over {study.cluster_name}."
    of_column = rows.loc[rows["metric"] == column.name]
    largest = of_column.groupby("method")["estimate"].max()
    how = "are grey" if column.better is None else "have no band" * (_marks(study) == "Bands")
    if how and column.is_rate and np.any(largest.reindex(study.methods) == 0):
        caption += f" Methods without such tasks at any value {how}."
    if study.has_bound and largest[BOUND] > 0:
        caption += " Grey area: below the lower bound on all methods."
    return sweep_figure(rows, column, study.axis_label, among), caption


def _gains(study: SavedStudy, compared: pd.DataFrame, baseline: str) -> tuple[pd.DataFrame, Column]:
    """Rows for a figure of each method's improvement on a baseline by the first metric, in %."""
    first = study.first
    sign, what = (-100, "increase") if first.better == "higher" else (100, "reduction")
    chosen = compared.loc[
        (compared["study"] == study.name)
        & (compared["metric"] == first.name)
        & (compared["baseline"] == baseline)
        & np.isfinite(compared["reduction"])
    ]
    caption = f"{what.capitalize()} of the {first.label} against {in_words(baseline)}."
    gain = Column(name="gain", label=f"{what} against {in_words(baseline)}", unit="%", caption=caption)
    bounds = sign * chosen[["reduction_low", "reduction_high"]].to_numpy(np.float64)
    rows = chosen.rename(columns={"condition": "value"})[["method", "value"]].assign(
        metric=gain.name,
        per=gain.weightings[0],
        estimate=sign * chosen["reduction"],
        ci_low=bounds.min(axis=1),
        ci_high=bounds.max(axis=1),
    )
    return rows, gain


def _marks(study: SavedStudy) -> str:
    """The form in which a figure over the conditions shows intervals."""
    return "Bands" if all(isinstance(c, int | float) for c in study.conditions) else "Bars"


def _learning_curves(study: SavedStudy) -> Pictures:
    found: Pictures = {}
    assert study.curves is not None
    for condition in study.conditions:
        curves = study.curves.loc[study.curves["condition"] == condition]
        for name, draw in convergence_figures(curves, study.columns, f"-{condition}").items():
            found[name] = (
                draw(),
                f"Episodes of training, {condition} physics. Dark bands: 95 % intervals of the mean; "
                "light bands: 80 % of the seeds.",
            )
    return found


def _slot_by_slot(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> Pictures:
    """Metrics over the slots of an episode under the first, the middle and the last condition."""
    found: Pictures = {}
    chosen = [c for c in study.columns if c.is_over_slots and c.shown >= Shown.FIGURES]
    among = _standing_out(study, estimated, baselines_of(study, baselines)[0]) if chosen else []
    for condition, column in itertools.product(_spread(study.conditions), chosen):
        title = f"{study.axis_label}: {condition}" if study.axis_label else ""
        name = f"{column.name}-{condition}" if study.axis_label else column.name
        figure = slots_figure(over_slots(study, column, condition), column, title, among)
        caption = f"{_sentence(column)} Bands: 95 % intervals of each slot over {study.cluster_name}."
        found[name] = figure, caption
    return found


def _distributions(study: SavedStudy) -> Pictures:
    """Distribution functions over all tasks under the first, the middle and the last condition."""
    found: Pictures = {}
    lists = [column for column in study.columns if column.is_list and column.reduction is Reduction.QUANTILES]
    for condition, (place, column) in itertools.product(_spread(study.conditions), enumerate(lists)):
        quantiles = distributions(study, column, condition)
        if len(quantiles):
            title = f"{study.axis_label}: {condition}" if study.axis_label else ""
            names = ["cdf", *([column.name] if place else []), *([condition] if study.axis_label else [])]
            caption = f"{_sentence(column)} Interpolated between the quantiles of each episode."
            found["-".join(map(str, names))] = cdf_figure(quantiles, column, title), caption
    return found


def _sentence(column: Column) -> str:
    return column.caption or f"{capitalised(column.label)}."


def _spread(conditions: Sequence[Any]) -> Iterable[Any]:
    """The first, the middle and the last condition."""
    places = {0, (len(conditions) - 1) // 2, len(conditions) - 1}
    return [conditions[place] for place in sorted(places)]
