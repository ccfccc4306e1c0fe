"""The tables of a report as cells of text, which each format renders."""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.metrics import EPISODE, TASK, Column, Shown, is_usual, shown_in
from amco_jax.report.analysis import above_bound, estimates_of, winners_of
from amco_jax.report.names import shown_name
from amco_jax.report.rounding import decimal, digits_of_interval, shown_digits
from amco_jax.report.studies import SavedStudy
from amco_jax.stats import Interval

_MAX_CONDITIONS = 10
"""The largest number of conditions with which an overview fits a screen of 1,280 pixels"""
_MAX_MEASURES = 5
"""The largest number of metrics that a user asked for in one table, for the same reason"""
_SMALL = {"s": ("ms", 1e3)}
"""Smaller units for differences, and the factors that convert the metric's unit to them"""
_HEAD_WIDTH = 20
"""The width of a column's title in LaTeX, in characters"""
_EVEN = 1.1
"""The largest ratio of the two sides of an interval that is written with ±"""
_NO_TASKS = "no tasks"
NONE = "–"
"""The text in place of a number that does not exist, such as most of a lower bound"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """The content of one cell."""

    text: str
    value: Any = None
    """The sort key of the cell; None for its text"""
    best: bool = False
    below: str = ""
    """A second line in small print"""
    between: str = ", "
    """The separator of the two lines in formats that put them side by side"""

    def in_one_line(self, text: str) -> str:
        """The text of the cell, as formatted by the caller, followed by its second line if it has one."""
        return f"{text}{self.between}{self.below}" if self.below else text


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: the titles of its columns, and rows of cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 0
    """The number of leading columns that hold text"""
    filters: int = 0
    """The number of leading columns that a reader can filter by value"""

    @classmethod
    def of_texts(cls, columns: Sequence[str], rows: Iterable[Iterable[str]], texts: int) -> Table:
        """A table whose cells are nothing but texts."""
        return cls(columns, [[Cell(text) for text in row] for row in rows], texts)

    def to_html(self) -> str:
        """The table as an HTML element; the page adds sorting and filters."""
        heads = []
        for place, title in enumerate(self.columns):
            names = [name for name, n in (("text", self.texts), ("filter", self.filters)) if place < n]
            heads.append(f'<th scope="col" class="{" ".join(names)}">{html.escape(title)}</th>')
        lines = []
        for row in self.rows:
            cells = []
            for place, cell in enumerate(row):
                text = html.escape(cell.text)
                value = "" if cell.value is None else f' data-sort="{cell.value!r}"'
                text = f"<strong>{text}</strong>" if cell.best else text
                text += f"<small>{html.escape(cell.below)}</small>" if cell.below else ""
                cells.append(f'<td class="{"text" if place < self.texts else ""}"{value}>{text}</td>')
            lines.append(f"<tr>{''.join(cells)}</tr>")
        body = "\n".join(lines)
        return f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>{body}</tbody></table>"

    def to_markdown(self) -> str:
        """The table as a pipe table."""
        lines = [self.columns, ["---"] * self.texts + ["---:"] * (len(self.columns) - self.texts)]
        for row in self.rows:
            lines.append([c.in_one_line(f"**{c.text}**" if c.best else c.text) for c in row])
        return "".join(f"| {' | '.join(x.replace('|', chr(92) + '|') for x in line)} |\n" for line in lines)

    def to_latex(self) -> str:
        """The table as a booktabs tabular."""
        layout = "l" * self.texts + "r" * (len(self.columns) - self.texts)
        heads = [
            _stacked("b", side, [latex_text(line) for line in textwrap.wrap(title, _HEAD_WIDTH)])
            for side, title in zip(layout, self.columns, strict=True)
        ]
        lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", rf"{' & '.join(heads)} \\", r"\midrule"]
        for row in self.rows:
            cells = []
            for side, cell in zip(layout, row, strict=True):
                text = rf"\textbf{{{latex_text(cell.text)}}}" if cell.best else latex_text(cell.text)
                small = [rf"\scriptsize {latex_text(cell.below)}"] if cell.below else []
                cells.append(_stacked("t", side, [text, *small]))
            lines.append(rf"{' & '.join(cells)} \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def means_table(study: SavedStudy, estimated: pd.DataFrame) -> Table:
    """The means of each method under each condition, per task and per episode, with seeds and tasks."""
    shown = shown_in(study.columns, Shown.TABLES)
    lookup = {(r["condition"], r["method"], r["metric"], r["per"]): r for r in estimated.to_dict("records")}
    best = {each.name: winners_of(study, each, estimated) for each in shown}
    rows = []
    for condition, of_first in estimates_of(estimated, study.first).items():
        for method, counted in of_first.items():
            row = [Cell(str(condition), _number(condition)), Cell(shown_name(method))]
            row.append(Cell(seeds_text(counted), below=f"{counted['n_tasks']:,} tasks"))
            for each in shown:
                found, *others = (lookup[condition, method, each.name, per] for per in each.weightings)
                below = "".join(f"per {EPISODE} {estimate_text(other, counted)}" for other in others)
                is_best = method in best[each.name][condition]
                row.append(Cell(estimate_text(found, counted), found["estimate"], is_best, below))
            rows.append(row)
    columns = [study.axis_label or "condition", "method", "seeds", *(each.title() for each in shown)]
    return Table(columns, rows, texts=3)


def overview_tables(study: SavedStudy, estimated: pd.DataFrame) -> dict[str, Table]:
    """Small tables of means, the first of which has the usual metrics side by side; those asked for follow.

    If the study has several conditions, the first table shows the one that the answer quotes. It is followed
    by a table for each metric with a column for each condition, at most `_MAX_CONDITIONS`, evenly spread.

    Returns:
      The tables by title.
    """
    shown = shown_in(study.columns, Shown.TABLES)
    usual, asked = [c for c in shown if is_usual(c)], [c for c in shown if not is_usual(c)]
    where = f"at {study.axis_label} = {study.example}" if study.axis_label else f"{study.example}"
    title = "means" if len(study.conditions) == 1 else where
    tables = {title: _side_by_side(study, estimated, study.example, usual)}
    for place in range(0, len(asked), _MAX_MEASURES):
        more = "also asked for" if not place else f"also asked for, {place // _MAX_MEASURES + 1}"
        part = asked[place : place + _MAX_MEASURES]
        tables[f"{title}, {more}"] = _side_by_side(study, estimated, study.example, part)
    if len(study.conditions) == 1:
        return tables
    count = min(len(study.conditions), _MAX_CONDITIONS)
    places = np.unique(np.linspace(0, len(study.conditions) - 1, count).round().astype(int))
    conditions = [study.conditions[place] for place in places]
    heads = [f"{study.axis_label} {conditions[0]}", *map(str, conditions[1:])]
    counted = estimates_of(estimated, study.first)
    for each in shown:
        found = estimates_of(estimated, each)
        best = winners_of(study, each, estimated)
        rows = [
            [
                Cell(shown_name(method)),
                *(
                    _mean(found[c][method], method in best[c], counted[c][method])
                    if method in found.get(c, {})
                    else Cell("")
                    for c in conditions
                ),
            ]
            for method in study.every
        ]
        tables[each.title(each.weightings[0])] = Table(["method", *heads], rows, texts=1)
        if each == study.first and study.has_bound:
            rows = [
                [Cell(shown_name(method)), *(_percent(by_condition.get(c)) for c in conditions)]
                for method, by_condition in above_bound(study, each).items()
            ]
            tables[f"{each.label}: above the lower bound [%]"] = Table(["method", *heads], rows, texts=1)
    return tables


def _percent(share: Interval | None) -> Cell:
    """A share with its interval in percent; empty if there is none."""
    if share is None:
        return Cell("")
    value, low, high = (100 * float(x) for x in share)
    number, _, interval = bracket(value, low, high, digits=1).partition(" ")
    return Cell(number, value, below=interval, between=" ")


def derivatives_table(derivatives: Sequence[Column], estimates: pd.DataFrame) -> Table:
    """The derivatives of metrics in parameters, a row each, with a column for each method.

    Args:
      derivatives: their columns.
      estimates: rows of a summary or of `analysis.means`.
    """
    per_task = estimates.loc[estimates["per"] == TASK].to_dict("records")
    found = {(row["metric"], row["method"]): row for row in per_task}
    methods = list(dict.fromkeys(row["method"] for row in per_task))
    rows = []
    for column in derivatives:
        scale, unit = small_unit(column)
        cells = [
            _mean({key: scale * row[key] for key in ("estimate", "ci_low", "ci_high")})
            for row in (found[column.name, method] for method in methods)
        ]
        rows.append([Cell(column.label), Cell(unit), *cells])
    return Table(["derivative", "unit", *map(shown_name, methods)], rows, texts=2)


def small_unit(derivative: Column) -> tuple[float, str]:
    """The factor from the unit of a derivative to that in which it is shown, and the latter."""
    of, _, per = derivative.unit.partition(" ")
    unit, scale = _SMALL.get(of, (of, 1.0))
    return scale, f"{unit} {per}"


def _side_by_side(
    study: SavedStudy, estimated: pd.DataFrame, condition: Any, shown: Sequence[Column]
) -> Table:
    """The means under one condition, with a column for each metric."""
    best = {each.name: winners_of(study, each, estimated)[condition] for each in shown}
    found = {each.name: estimates_of(estimated, each)[condition] for each in shown}
    rows = [
        [
            Cell(shown_name(method)),
            Cell(seeds_text(counted)),
            *(_mean(found[each.name][method], method in best[each.name], counted) for each in shown),
        ]
        for method, counted in estimates_of(estimated, study.first)[condition].items()
    ]
    return Table(["method", "seeds", *(each.title() for each in shown)], rows, texts=2)


def _mean(row: dict[str, Any], best: bool = False, counted: dict[str, Any] | None = None) -> Cell:
    """An estimate with its interval below, which takes less width than next to it."""
    text = estimate_text(row, counted)
    number, _, interval = (text, "", "") if math.isnan(row["estimate"]) else text.partition(" ")
    return Cell(number, row["estimate"], best, interval, between=" ")


def comparison_table(study: SavedStudy, column: Column, compared: pd.DataFrame) -> Table:
    """The table of all comparisons of one metric."""
    rows = []
    of_study = compared.loc[(compared["study"] == study.name) & (compared["metric"] == column.name)]
    unit, scale = _SMALL.get(column.unit, (column.unit, 1.0))
    for r in of_study.to_dict("records"):
        share, difference, percent = (
            [factor * r[f"{name}{end}"] for end in ("", "_low", "_high")]
            for name, factor in (("improvement", 1), ("difference", scale), ("reduction", 100))
        )
        digits = digits_of_interval(*difference, digits=2 if unit else 4)
        rows.append(
            [
                Cell(str(r["condition"]), _number(r["condition"])),
                Cell(shown_name(r["method"])), Cell(shown_name(r["baseline"])),
                Cell(_clusters(r)), Cell(bracket(*percent), percent[0]),
                Cell(bracket(*difference, digits=digits), difference[0]),
                Cell(bracket(*share, digits=3), share[0]), Cell(_p(r["p_holm"]), r["p_holm"]),
            ]
        )  # fmt: skip
    columns = [
        study.axis_label or "condition", "method", "baseline", "seeds", f"reduction of {column.label} [%]",
        f"difference [{unit}]" if unit else "difference",
        f"{column.better or 'lower'} in a share of {study.cluster_name}", "corrected p",
    ]  # fmt: skip
    return Table(columns, rows, texts=4, filters=3)


def _clusters(pair: dict[str, Any]) -> str:
    return seeds_text(pair | {"n_seeds_all": pair["n_seeds"]})


def interval_text(mean: float, low: float, high: float, digits: int = 4) -> str:
    """The mean ± half its interval, or with both bounds if the interval is asymmetric; `NONE` for NaN."""
    if math.isnan(mean):
        return NONE
    digits = shown_digits(mean, low, high, digits)
    if math.isnan(low) or math.isnan(high):
        return decimal(mean, digits)
    # With ±, each bound looks as if it were half the interval away, so it must be almost there.
    sides = sorted((mean - low, high - mean))
    if sides[1] > _EVEN * sides[0] + 10.0**-digits:
        return bracket(mean, low, high, digits)
    return f"{decimal(mean, digits)} ± {decimal((high - low) / 2, digits)}"


def estimate_text(row: Any, counted: Any = None) -> str:
    """The estimate in a row of a summary, with its interval.

    Args:
      counted: the row of the first metric, which every task has. If there are none, the text says so.
    """
    if math.isnan(row["estimate"]) and counted is not None and counted["n_tasks"] == 0:
        return _NO_TASKS
    return interval_text(row["estimate"], row["ci_low"], row["ci_high"])


def seeds_text(row: Any) -> str:
    """The number of seeds behind an estimate, their total number, and the number of stretches of a log or of
    batches of one episode, if those are the clusters."""
    some, every, clusters = (row[name] for name in ("n_seeds", "n_seeds_all", "n_clusters"))
    text = str(every) if some == every else f"{some} of {every}"
    if clusters > some:
        return f"{text} in {clusters} batches"
    return text if clusters == some else f"{text} on {clusters} stretches"


def bracket(value: float, low: float, high: float, digits: int = 2) -> str:
    """A number with its interval, if it has one.

    An interval that would have no width has more digits than asked for. The text is `NONE` for NaN.
    """
    if math.isnan(value):
        return NONE
    if round(low, digits) == round(high, digits):
        digits = digits_of_interval(value, low, high, digits)
    number, *bounds = (decimal(x, digits) for x in (value, low, high))
    return number if math.isnan(low) else f"{number} [{', '.join(bounds)}]"


def _p(p: float) -> str:
    if math.isnan(p):
        return "unknown"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number) else None


def latex_text(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash "),
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("#", r"\#"),
    ):
        text = text.replace(plain, escaped)
    for plain, escaped in (("±", r"$\pm$"), ("−", "$-$"), ("–", "--"), ("< ", "$<$ ")):
        text = text.replace(plain, escaped)
    return text


def _stacked(align: str, side: str, lines: Sequence[str]) -> str:
    stack = r"\\{}".join(lines)  # with braces, because what follows may begin with a bracket
    return (
        stack if len(lines) == 1 else rf"\begin{{tabular}}[{align}]{{@{{}}{side}@{{}}}}{stack}\end{{tabular}}"
    )
