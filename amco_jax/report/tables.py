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

from amco_jax.report.studies import Study

_HEAD_WIDTH = 20
"""Of the lines of a column's title in LaTeX, characters"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a table shows in one place."""

    text: str
    value: Any = None
    """To sort by; the text where None"""
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

    def to_html(self) -> str:
        """A table element; sorting and filters are the page's."""
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
        """A pipe table."""
        lines = [self.columns, ["---"] * self.texts + ["---:"] * (len(self.columns) - self.texts)]
        for row in self.rows:
            texts = [f"{c.text}, {c.below}" if c.below else c.text for c in row]
            lines.append([f"**{t}**" if c.best else t for t, c in zip(texts, row, strict=True)])
        return "".join(f"| {' | '.join(x.replace('|', chr(92) + '|') for x in line)} |\n" for line in lines)

    def to_latex(self) -> str:
        """A booktabs tabular."""
        layout = "l" * self.texts + "r" * (len(self.columns) - self.texts)
        heads = [
            _stacked("b", side, [_latex(line) for line in textwrap.wrap(title, _HEAD_WIDTH)])
            for side, title in zip(layout, self.columns, strict=True)
        ]
        lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", rf"{' & '.join(heads)} \\", r"\midrule"]
        for row in self.rows:
            cells = []
            for side, cell in zip(layout, row, strict=True):
                text = rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text)
                small = [rf"\scriptsize {_latex(cell.below)}"] if cell.below else []
                cells.append(_stacked("t", side, [text, *small]))
            lines.append(rf"{' & '.join(cells)} \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def headline(study: Study, estimated: pd.DataFrame, compared: pd.DataFrame) -> Table:
    """Means of each method at each condition, and its reduction of makespan against each baseline."""
    lookup = {(r["condition"], r["method"], r["metric"]): r for r in estimated.to_dict("records")}
    compared = compared.loc[(compared["study"] == study.name) & (compared["metric"] == "makespan_mean_s")]
    pairs = {(r["condition"], r["method"], r["baseline"]): r for r in compared.to_dict("records")}
    baselines = list(dict.fromkeys(compared["baseline"]))
    shown = {"makespan_mean_s": "mean makespan [s]", "miss_rate": "miss rate"}
    columns = [study.axis_label or "condition", "method", "seeds", *shown.values()]
    columns += [f"reduction against {b} [%]" for b in baselines]
    rows = []
    for condition in study.conditions:
        for method in study.methods:
            if (condition, method, "makespan_mean_s") not in lookup:
                continue
            row = [Cell(str(condition), _number(condition)), Cell(method)]
            row.append(Cell(str(lookup[condition, method, "makespan_mean_s"]["n_seeds"])))
            for metric in shown:
                found = lookup[condition, method, metric]
                text = _interval(found["estimate"], found["ci_low"], found["ci_high"])
                shown_as = {
                    f"{r['estimate']:.4f}"
                    for (c, _, name), r in lookup.items()
                    if (c, name) == (condition, metric)
                }
                best = f"{found['estimate']:.4f}" == min(shown_as, key=float) and len(shown_as) > 1
                row.append(Cell(text, found["estimate"], best))
            for baseline in baselines:
                pair = pairs.get((condition, method, baseline))
                row.append(Cell("") if pair is None else _reduction(pair))
            rows.append(row)
    return Table(columns, rows, texts=2)


def comparison_table(study: Study, compared: pd.DataFrame) -> Table:
    """Every comparison of makespan in full."""
    rows = []
    of_study = compared.loc[(compared["study"] == study.name) & (compared["metric"] == "makespan_mean_s")]
    for r in of_study.to_dict("records"):
        share = f"{r['improvement']:.3f} [{abs(r['improvement_low']):.3f}, {r['improvement_high']:.3f}]"
        milliseconds = [1e3 * r[k] for k in ("difference", "difference_low", "difference_high")]
        percent = [100 * r[k] for k in ("reduction", "reduction_low", "reduction_high")]
        rows.append(
            [
                Cell(str(r["condition"]), _number(r["condition"])), Cell(r["method"]), Cell(r["baseline"]),
                Cell(str(r["n_seeds"])), Cell(bracket(*percent), percent[0]),
                Cell(bracket(*milliseconds), milliseconds[0]), Cell(share, r["improvement"]),
                Cell(_p(r["p_holm"]), r["p_holm"]),
            ]
        )  # fmt: skip
    columns = [
        study.axis_label or "condition", "method", "baseline", "seeds", "reduction of makespan [%]",
        "difference [ms]", "lower in a share of seeds", "corrected p",
    ]  # fmt: skip
    return Table(columns, rows, texts=3, filters=3)


def _reduction(pair: dict[str, Any]) -> Cell:
    percent = [100 * pair[k] for k in ("reduction", "reduction_low", "reduction_high")]
    return Cell(bracket(*percent, digits=1), pair["reduction"], below=f"p {_p(pair['p_holm'], True)}")


def _interval(mean: float, low: float, high: float) -> str:
    """Mean ± half the interval, or with its bounds where it is lopsided."""
    if math.isnan(low):
        return f"{mean:.4f}"
    sides = sorted((mean - low, high - mean))
    if sides[1] > 1.5 * sides[0] + 1e-4:
        return bracket(mean, low, high, digits=4)
    return f"{mean:.4f} ± {(high - low) / 2:.4f}"


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
