"""The tables of a report, each once as text by column, for every format to write out."""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.metrics import EPISODE, Column, Shown, shown_in
from amco_jax.report.studies import Study

_MOST_DIGITS = 9
_SMALL = {"s": ("ms", 1e3)}
"""Units of differences, and how many of them make one of the metric's"""
_HEAD_WIDTH = 20
"""Width of a column's title in LaTeX, in characters"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a table shows in one place."""

    text: str
    value: Any = None
    """The key to sort by; the text if None"""
    best: bool = False
    below: str = ""
    """A second line, in small"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns by title, and rows of cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 0
    """How many of the first columns hold text"""
    filters: int = 0
    """How many of the first columns a reader may want to choose a value of"""
    note: str = ""
    """A sentence below it, if there is something to say"""

    def to_html(self) -> str:
        """A table element, and the note below it; sorting and filters are the page's."""
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
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>{body}</tbody></table>{note}"

    def to_markdown(self) -> str:
        """A pipe table, and the note below it."""
        lines = [self.columns, ["---"] * self.texts + ["---:"] * (len(self.columns) - self.texts)]
        for row in self.rows:
            texts = [f"**{c.text}**" if c.best else c.text for c in row]
            lines.append([f"{t}, {c.below}" if c.below else t for t, c in zip(texts, row, strict=True)])
        rows = "".join(f"| {' | '.join(x.replace('|', chr(92) + '|') for x in line)} |\n" for line in lines)
        return f"{rows}\n{self.note}\n" if self.note else rows

    def to_latex(self) -> str:
        """A booktabs tabular; the note is a comment above it."""
        layout = "l" * self.texts + "r" * (len(self.columns) - self.texts)
        heads = [
            _stacked("b", side, [_latex(line) for line in textwrap.wrap(title, _HEAD_WIDTH)])
            for side, title in zip(layout, self.columns, strict=True)
        ]
        note = [f"% {self.note}"] if self.note else []
        lines = [
            *note,
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            rf"{' & '.join(heads)} \\",
            r"\midrule",
        ]
        for row in self.rows:
            cells = []
            for side, cell in zip(layout, row, strict=True):
                text = rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text)
                small = [rf"\scriptsize {_latex(cell.below)}"] if cell.below else []
                cells.append(_stacked("t", side, [text, *small]))
            lines.append(rf"{' & '.join(cells)} \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def headline(study: Study, estimated: pd.DataFrame, compared: pd.DataFrame) -> Table:
    """Means of each method at each condition, and its reductions of the first metric."""
    first = study.first
    lookup = {(r["condition"], r["method"], r["metric"], r["per"]): r for r in estimated.to_dict("records")}
    compared = compared.loc[(compared["study"] == study.name) & (compared["metric"] == first.name)]
    pairs = {(r["condition"], r["method"], r["baseline"]): r for r in compared.to_dict("records")}
    baselines = list(dict.fromkeys(compared["baseline"]))
    shown = shown_in(study.columns, Shown.TABLES)
    columns = [study.axis_label or "condition", "method", "seeds", *(each.title() for each in shown)]
    columns += [f"reduction against {b} [%]" for b in baselines]
    rows = []
    for condition in study.conditions:
        methods = [m for m in study.methods if (condition, m, first.name, first.weightings[0]) in lookup]
        best = {each.name: _best(each, [lookup[condition, m, each.name, each.weightings[0]] for m in methods])
                for each in shown}  # fmt: skip
        for method in methods:
            row = [Cell(str(condition), _number(condition)), Cell(method)]
            counted = lookup[condition, method, first.name, first.weightings[0]]
            row.append(Cell(seeds_text(counted), below=f"{counted['n_tasks']:,} tasks"))
            for each in shown:
                found, *others = (lookup[condition, method, each.name, per] for per in each.weightings)
                is_best = f"{found['estimate']:.4f}" == best[each.name]
                below = "".join(f"per {EPISODE} {estimate_text(other)}" for other in others)
                row.append(Cell(estimate_text(found), found["estimate"], is_best, below))
            for baseline in baselines:
                pair = pairs.get((condition, method, baseline))
                row.append(Cell("") if pair is None else _reduction(pair))
            rows.append(row)
    return Table(columns, rows, texts=3)


def _best(column: Column, rows: Sequence[dict[str, Any]]) -> str | None:
    """The text of the best estimate; None where all are alike, or neither is better."""
    texts = {f"{row['estimate']:.4f}" for row in rows} - {"nan"}
    if len(texts) < 2 or column.better is None:
        return None
    return (min if column.better == "lower" else max)(texts, key=float)


def comparison_table(study: Study, column: Column, compared: pd.DataFrame) -> Table:
    """Every comparison of a metric in full."""
    rows = []
    of_study = compared.loc[(compared["study"] == study.name) & (compared["metric"] == column.name)]
    unit, scale = _SMALL.get(column.unit, (column.unit, 1.0))
    for r in of_study.to_dict("records"):
        share = f"{r['improvement']:.3f} [{abs(r['improvement_low']):.3f}, {r['improvement_high']:.3f}]"
        difference = (scale * r["difference"], scale * r["difference_low"], scale * r["difference_high"])
        percent = [100 * r[k] for k in ("reduction", "reduction_low", "reduction_high")]
        rows.append(
            [
                Cell(str(r["condition"]), _number(r["condition"])), Cell(r["method"]), Cell(r["baseline"]),
                Cell(_clusters(r)), Cell(bracket(*percent), percent[0]),
                Cell(bracket(*difference, digits=2 if unit else 4), difference[0]),
                Cell(share, r["improvement"]), Cell(_p(r["p_holm"]), r["p_holm"]),
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


def _reduction(pair: dict[str, Any]) -> Cell:
    percent = [100 * pair[k] for k in ("reduction", "reduction_low", "reduction_high")]
    return Cell(bracket(*percent, digits=1), pair["reduction"], below=f"p {_p(pair['p_holm'], True)}")


def interval_text(mean: float, low: float, high: float, digits: int = 4) -> str:
    """Mean ± half the interval, or with its bounds where it is lopsided; "no tasks" for NaN."""
    if math.isnan(mean):
        return "no tasks"
    if math.isnan(low) or math.isnan(high):
        return f"{mean:.{digits}f}"
    sides = sorted((mean - low, high - mean))
    if sides[1] > 0:  # rare events are not to look as if they never happened, nor for certain
        digits = max(digits, min(math.ceil(-math.log10(sides[1])), _MOST_DIGITS))
    if sides[1] > 1.5 * sides[0] + 10.0**-digits:
        return bracket(mean, low, high, digits)
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def estimate_text(row: Any) -> str:
    """The estimate of a row of a summary with its interval."""
    value = row["estimate"] if "estimate" in row else row["mean"]
    return interval_text(value, row["ci_low"], row["ci_high"])


def seeds_text(row: Any) -> str:
    """How many seeds an estimate is of, out of how many, and on how many stretches of a log or in how many
    batches of one episode."""
    some, every, clusters = (row[name] for name in ("n_seeds", "n_seeds_all", "n_clusters"))
    text = str(every) if some == every else f"{some} of {every}"
    if clusters > some:
        return f"{text} in {clusters} batches"
    return text if clusters == some else f"{text} on {clusters} stretches"


def bracket(value: float, low: float, high: float, digits: int = 2) -> str:
    """A number and its interval, if there is one, with proper minus signs and none at zero."""
    number, *bounds = (f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "−") for x in (value, low, high))
    return number if math.isnan(low) else f"{number} [{', '.join(bounds)}]"


def _p(p: float, relation: bool = False) -> str:
    if math.isnan(p):
        return "unknown"
    if p < 1e-4:
        return "< 0.0001"
    return f"= {p:.4f}" if relation else f"{p:.4f}"


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number) else None


def _latex(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash "),
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("#", r"\#"),
    ):
        text = text.replace(plain, escaped)
    for plain, escaped in (("±", r"$\pm$"), ("−", "$-$"), ("< ", "$<$ ")):
        text = text.replace(plain, escaped)
    return text


def _stacked(align: str, side: str, lines: Sequence[str]) -> str:
    stack = r"\\{}".join(lines)  # braces, as what follows may begin with a bracket
    return (
        stack if len(lines) == 1 else rf"\begin{{tabular}}[{align}]{{@{{}}{side}@{{}}}}{stack}\end{{tabular}}"
    )
