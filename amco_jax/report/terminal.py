"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from amco_jax.report.speed import device_line
from amco_jax.report.tables import SHOWN, estimate_text, interval_text, seeds_text
from amco_jax.report.tables import Table as SpeedTable
from amco_jax.stats.summaries import TASK, Episodes, summarise
from amco_jax.traces import understood
from amco_jax.traces.times import shown

_ESTIMATES = "estimates with 95 % intervals"


def print_summary(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means per task with 95 % intervals, one row per method and value, to stdout."""
    table = Table(title=f"{manifest['param']}: {_ESTIMATES}, {manifest['physics']} physics")
    table.add_column(manifest["param"])
    table.add_column("method", overflow="fold")
    table.add_column("seeds")
    for title in ("tasks", *SHOWN.values()):
        table.add_column(title, justify="right")
    lookup = _per_task(summary, ("value", "method"))
    for value in manifest["values"]:
        for method in manifest["methods"]:
            rows = [lookup[value, method, metric] for metric in SHOWN]
            table.add_row(str(value), method, *_counts(rows[0]), *map(estimate_text, rows))
        table.add_section()
    training = manifest["training"]
    if training["settings"]:
        table.caption = (
            f"{', '.join(training['settings'])}: trained for {training['episodes']} episodes at each value, "
            f"{training['num_seeds']} seeds"
        )
    _print(table, manifest)


def print_training(curves: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means per task over seeds at a few episodes of a training, to stdout."""
    seeds, episodes = manifest["num_seeds"], manifest["episodes"]
    table = Table(
        title=f"{manifest['method']}: {_ESTIMATES} over {seeds} seeds, {manifest['physics']} physics"
    )
    for column in ("episode", *SHOWN.values(), *manifest["logs"], "servers used"):
        table.add_column(column, justify="right")
    for episode in sorted({round(i * (episodes - 1) / 8) for i in range(9)}):
        rows = curves.loc[curves["episode"] == episode]
        summary = summarise([((), Episodes.of(rows))], (), (*SHOWN, "mean_servers_used"))
        lookup = _per_task(summary, ())
        others = [np.mean(np.asarray(rows[name])) for name in manifest["logs"]]
        others.append(lookup["mean_servers_used",]["mean"])
        intervals = (estimate_text(lookup[metric,]) for metric in SHOWN)
        table.add_row(str(episode), *intervals, *(f"{value:.3g}" for value in others))
    _print(table, manifest)


def print_evaluation(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means per task with 95 % intervals of an evaluation, one row per method, to stdout."""
    table = Table(
        title=f"{_ESTIMATES}, {manifest['episodes']} unseen episodes, {manifest['physics']} physics"
    )
    titles = SHOWN | {"mean_servers_used": "servers used"}
    for column in ("method", "seeds", "tasks", *titles.values()):
        table.add_column(column, justify="left" if column in ("method", "seeds") else "right")
    lookup = _per_task(summary, ("method",))
    for method in dict.fromkeys(summary["method"]):
        rows = [lookup[method, metric] for metric in titles]
        table.add_row(method, *_counts(rows[0]), *map(estimate_text, rows))
    _print(table, manifest)


def print_comparison(final: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the final makespans and the reductions of a comparison, to stdout."""
    first, last = manifest["methods"][0], manifest["last"]
    table = Table(title=f"last {last} of {manifest['episodes']} episodes: {_ESTIMATES}")
    for column in ("physics", "method", "seeds"):
        table.add_column(column)
    for column in ("tasks", "makespan per task [s]", f"reduction by {first} [%]"):
        table.add_column(column, justify="right")
    for row in final.loc[final["per"] == TASK].to_dict("records"):
        reduction = [100 * row[name] for name in ("reduction", "reduction_low", "reduction_high")]
        table.add_row(
            row["physics"],
            row["method"],
            *_counts(row),
            interval_text(row["makespan_s"], row["ci_low"], row["ci_high"]),
            "" if row["method"] == first else interval_text(*reduction, digits=2),
        )
    _print(table, manifest)


def print_tuning(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print one row for each combination of settings, to stdout."""
    episodes, reference = manifest["episodes"], manifest["reference"]
    title = f"{manifest['method']}, {episodes} episodes: gap to {reference} in %, seed by seed"
    table = Table(title=title)
    shares = [name for name in summary.columns if name.startswith(("gap", "within"))]
    for column in (
        *manifest["settings"],
        "seeds",
        "makespan [s]",
        *(name.removeprefix("gap_") for name in shares),
    ):
        table.add_column(column, justify="right")
    for row in summary.to_dict("records"):
        settings = (str(row[name]) for name in manifest["settings"])
        table.add_row(
            *settings,
            seeds_text(row),
            f"{row['makespan_s']:.4f}",
            *(f"{100 * row[name]:.2f}" for name in shares),
        )
    _print(table, manifest)


def _print(table: Table, manifest: dict[str, Any]) -> None:
    console, device = Console(markup=False), manifest["device"]
    _print_whole(console, table)
    _print_trace(console, manifest)
    console.print(f"{manifest['wall_time_s']:.1f} s on {device['count']} × {device['kind']}")


def _print_whole(console: Console, table: Table) -> None:
    """Print a table without cutting its numbers off, however narrow the terminal says that it is."""
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def _print_trace(console: Console, manifest: dict[str, Any]) -> None:
    """What was used of a request log and what was not, and how it is split; nothing without a log."""
    if "trace" not in manifest:
        return
    report, splits = manifest["trace"], manifest["trace"]["splits"]
    counts = sorted({split["test"]["stretches"] for split in splits})
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    training = splits[0]["training"]
    trained = f"training before {shown(training['last'])}, " if training else ""
    tested = f"testing from {shown(splits[0]['test']['first'])} on, in {number} disjoint stretches"
    console.print(f"{understood(report)}\n{trained}{tested}", soft_wrap=True)


def _counts(row: Mapping[str, Any]) -> tuple[str, str]:
    """The seeds and the tasks behind an estimate."""
    return seeds_text(row), f"{row['n_tasks']:,}"


def _per_task(summary: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a summary per task, by keys and metric."""
    rows = summary.loc[summary["per"] == TASK].to_dict("records")
    return {(*(row[key] for key in keys), row["metric"]): row for row in rows}


def print_bench(manifest: dict[str, Any], tables: Mapping[str, SpeedTable]) -> None:
    """Print the tables of a benchmark to stdout."""
    console = Console(markup=False)
    for title, given in tables.items():
        table = Table(title=title)
        for place, column in enumerate(given.columns):
            table.add_column(column, justify="left" if place < given.texts else "right")
        for row in given.rows:
            table.add_row(*(cell.text for cell in row))
        _print_whole(console, table)
    _print_trace(console, manifest)
    console.print(f"{device_line(manifest)}, {manifest['wall_time_s']:.0f} s")
