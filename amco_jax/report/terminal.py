"""Tables for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

from amco_jax.metrics import REJECT_RATE, Column, Shown, columns_for_tables, columns_in, shown_in
from amco_jax.report.names import counted, in_words, shown_name, trained_for
from amco_jax.report.rounding import decimal
from amco_jax.report.speed import device_line
from amco_jax.report.tables import Table, derivatives_table, estimate_text, interval_text, seeds_text
from amco_jax.stats.summaries import Episodes, summarise
from amco_jax.traces import understood
from amco_jax.traces.times import shown

_ESTIMATES = "estimates with 95 % intervals"


def print_summary(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the means of a sweep with 95 % intervals to stdout, a row for each method and value."""
    columns = shown_in(_columns_of(summary, manifest), Shown.TABLES)
    lookup = _estimates(summary, columns, ("value", "method"))
    lines = []
    for value, method in itertools.product(manifest["values"], manifest["methods"]):
        rows = [lookup[value, method, column.name] for column in columns]
        lines.append([str(value), shown_name(method), *_counts(rows[0]), *_texts(rows)])
    title = f"{manifest['param']}: {_ESTIMATES}, {manifest['physics']} physics"
    heads = [manifest["param"], "method", "seeds", "tasks", *(column.title() for column in columns)]
    printed = _as_printed(title, Table.of_texts(heads, lines, texts=3), len(manifest["methods"]))
    printed.caption = trained_for(manifest["training"])
    _print(printed, manifest)


def _columns_of(summary: pd.DataFrame, manifest: dict[str, Any]) -> tuple[Column, ...]:
    """The columns of a study, given its summary."""
    rejected = summary.loc[summary["metric"] == REJECT_RATE.name, "estimate"]
    return columns_for_tables(columns_in(manifest), bool(np.any(rejected > 0)))


def print_training(curves: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the means over seeds at selected episodes of a training to stdout."""
    columns = shown_in(columns_in(manifest), Shown.CURVES)
    seeds, episodes = counted(manifest["num_seeds"], "seed"), manifest["episodes"]
    logged, lines = manifest["logs"], []
    for episode in sorted({round(i * (episodes - 1) / 8) for i in range(9)}):
        rows = curves.loc[curves["episode"] == episode]
        lookup = _estimates(summarise([((), Episodes.of(rows))], (), columns), columns, ())
        intervals = _texts([lookup[column.name,] for column in columns])
        others = (np.mean(np.asarray(rows[name])) for name in logged)
        lines.append([str(episode), *intervals, *(f"{value:.3g}" for value in others)])
    title = f"{manifest['method']}: {_ESTIMATES} over {seeds}, {manifest['physics']} physics"
    heads = ["episode", *(column.title() for column in columns), *logged]
    _print(_as_printed(title, Table.of_texts(heads, lines, texts=0)), manifest)


def print_evaluation(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the means of an evaluation with 95 % intervals to stdout, a row for each method."""
    columns = shown_in(_columns_of(summary, manifest), Shown.CURVES)
    lookup, lines = _estimates(summary, columns, ("method",)), []
    for method in dict.fromkeys(summary["method"]):
        rows = [lookup[method, column.name] for column in columns]
        lines.append([shown_name(method), *_counts(rows[0]), *_texts(rows)])
    title = f"{_ESTIMATES}, {counted(manifest['episodes'], 'unseen episode')}, {manifest['physics']} physics"
    heads = ["method", "seeds", "tasks", *(column.title() for column in columns)]
    _print(_as_printed(title, Table.of_texts(heads, lines, texts=2)), manifest)


def print_sensitivity(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the derivatives of a study with 95 % intervals to stdout, a row each, and a column per method."""
    columns = {column.name: column for column in columns_in(manifest)}
    derivatives = [columns[name] for names in manifest["derivatives"].values() for name in names]
    given = derivatives_table(derivatives, summary)
    seeds = counted(manifest["num_seeds"], "seed")
    title = f"{_ESTIMATES} over {seeds}, {manifest['physics']} physics"
    _print(_as_printed(title, given), manifest)


def print_comparison(final: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the final means and the reductions of a comparison to stdout."""
    columns = shown_in(columns_in(manifest), Shown.EVERYWHERE)
    first, last = manifest["methods"][0], manifest["last"]
    lookup, lines = _estimates(final, columns, ("physics", "method")), []
    for physics, method in dict.fromkeys(zip(final["physics"], final["method"], strict=True)):
        rows = [lookup[physics, method, column.name] for column in columns]
        texts = []
        for row, text in zip(rows, _texts(rows), strict=True):
            reduction = [100 * row[name] for name in ("reduction", "reduction_low", "reduction_high")]
            texts += [text, "" if method == first else interval_text(*reduction, digits=2)]
        lines.append([physics, shown_name(method), *_counts(rows[0]), *texts])
    title = f"last {last} of {counted(manifest['episodes'], 'episode')}: {_ESTIMATES}"
    measures = (t for column in columns for t in (column.title(), f"reduction by {in_words(first)} [%]"))
    heads = ["physics", "method", "seeds", "tasks", *measures]
    _print(_as_printed(title, Table.of_texts(heads, lines, texts=3)), manifest)


def print_tuning(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print a row for each combination of settings to stdout."""
    columns = shown_in(columns_in(manifest), Shown.EVERYWHERE)
    episodes, reference = counted(manifest["episodes"], "episode"), manifest["reference"]
    title = f"{manifest['method']}, {episodes}: gap to {in_words(reference)} in %, by tuning seed"
    shares = [name for name in summary.columns if name.startswith(("gap", "within"))]
    heads = [
        *manifest["settings"],
        "seeds",
        *(column.title() for column in columns),
        *(name.removeprefix("gap_") for name in shares),
    ]
    lines = [
        [
            *(str(row[name]) for name in manifest["settings"]),
            seeds_text(row),
            *(decimal(row[column.name], 4) for column in columns),
            *(decimal(100 * row[name], 2) for name in shares),
        ]
        for row in summary.to_dict("records")
    ]
    _print(_as_printed(title, Table.of_texts(heads, lines, texts=0)), manifest)


def _as_printed(title: str, given: Table, section: int = 0) -> RichTable:
    """The table of a report as one for the terminal.

    Args:
      section: the number of rows after which a line is drawn; 0 for no lines.
    """
    table = RichTable(title=title)
    for place, column in enumerate(given.columns):
        table.add_column(column, justify="left" if place < given.texts else "right")
    for number, row in enumerate(given.rows, 1):
        ends = section > 0 and number % section == 0
        table.add_row(*(cell.in_one_line(cell.text) for cell in row), end_section=ends)
    return table


def _print(table: RichTable, manifest: dict[str, Any]) -> None:
    console, device = Console(markup=False), manifest["device"]
    _print_whole(console, table)
    _print_trace(console, manifest)
    console.print(f"{manifest['wall_time_s']:.1f} s on {device['count']} × {device['kind']}")


def _print_whole(console: Console, table: RichTable) -> None:
    """Print a table without truncating its numbers, even if the terminal is narrow."""
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def _print_trace(console: Console, manifest: dict[str, Any]) -> None:
    """Print which part of a request log was used and how it was split, if there is a log."""
    if "trace" not in manifest:
        return
    report, splits = manifest["trace"], manifest["trace"]["splits"]
    counts = sorted({split["test"]["stretches"] for split in splits})
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    training = splits[0]["training"]
    trained = f"training before {shown(training['last'])}, " if training else ""
    tested = f"testing from {shown(splits[0]['test']['first'])} on, in {number} disjoint stretches"
    console.print(f"{understood(report)}\n{trained}{tested}", soft_wrap=True)


def _texts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The estimates of the metrics of one method, the first of which every task has."""
    return [estimate_text(row, rows[0]) for row in rows]


def _counts(row: Mapping[str, Any]) -> tuple[str, str]:
    """The numbers of seeds and of tasks behind an estimate."""
    return seeds_text(row), f"{row['n_tasks']:,}"


def _estimates(
    summary: pd.DataFrame, columns: Sequence[Column], keys: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a summary by keys and metric, per task if possible."""
    per = {column.name: column.weightings[0] for column in columns}
    rows = summary.loc[summary["per"] == [per.get(name) for name in summary["metric"]]].to_dict("records")
    return {(*(row[key] for key in keys), row["metric"]): row for row in rows}


def print_bench(manifest: dict[str, Any], tables: Mapping[str, Table]) -> None:
    """Print the tables of a benchmark to stdout."""
    console = Console(markup=False)
    for title, given in tables.items():
        _print_whole(console, _as_printed(title, given))
    _print_trace(console, manifest)
    console.print(f"{device_line(manifest)}, {manifest['wall_time_s']:.0f} s")
