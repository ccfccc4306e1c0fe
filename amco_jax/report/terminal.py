"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from amco_jax.report.speed import device_line
from amco_jax.report.tables import Table as SpeedTable
from amco_jax.stats import mean_interval
from amco_jax.traces import understood
from amco_jax.traces.times import shown

_MEANS = "mean ± half width of the 95 % interval"
_SHOWN = {"makespan_mean_s": "mean makespan [s]", "miss_rate": "miss rate"}


def print_summary(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means with 95 % intervals, one row per method and value, to stdout."""
    title = f"{manifest['param']}: {_MEANS}, {manifest['num_seeds']} seeds, {manifest['physics']} physics"
    table = Table(title=title)
    table.add_column(manifest["param"])
    table.add_column("method")
    for title in _SHOWN.values():
        table.add_column(title, justify="right")
    intervals = {
        (row["value"], row["method"], row["metric"]): _interval(row["mean"], row["ci_low"], row["ci_high"])
        for row in summary.to_dict("records")
    }
    for value in manifest["values"]:
        for method in manifest["methods"]:
            table.add_row(str(value), method, *(intervals[value, method, metric] for metric in _SHOWN))
        table.add_section()
    training = manifest["training"]
    if training["settings"]:
        table.caption = (
            f"{', '.join(training['settings'])}: trained for {training['episodes']} episodes at each value, "
            f"{training['num_seeds']} seeds"
        )
    _print(table, manifest)


def print_training(curves: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means over seeds at a few episodes of a training, to stdout."""
    seeds, episodes = manifest["num_seeds"], manifest["episodes"]
    table = Table(title=f"{manifest['method']}: {_MEANS} over {seeds} seeds, {manifest['physics']} physics")
    for column in ("episode", *_SHOWN.values(), "loss", "ε", "servers used"):
        table.add_column(column, justify="right")
    for episode in sorted({round(i * (episodes - 1) / 8) for i in range(9)}):
        rows = curves.loc[curves["episode"] == episode]
        intervals = []
        for metric in _SHOWN:
            mean, low, high = mean_interval(np.asarray(rows[metric]))
            intervals.append(_interval(float(mean), float(low), float(high)))
        others = (np.mean(np.asarray(rows[name])) for name in ("loss", "epsilon", "mean_servers_used"))
        table.add_row(str(episode), *intervals, *(f"{value:.3g}" for value in others))
    _print(table, manifest)


def print_evaluation(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means with 95 % intervals of an evaluation, one row per method, to stdout."""
    seeds, episodes = manifest["num_seeds"], manifest["episodes"]
    table = Table(
        title=f"{_MEANS}, {seeds} seeds × {episodes} unseen episodes, {manifest['physics']} physics"
    )
    titles = _SHOWN | {"mean_servers_used": "servers used"}
    for column in ("method", *titles.values()):
        table.add_column(column, justify="left" if column == "method" else "right")
    intervals = {
        (row["method"], row["metric"]): _interval(row["mean"], row["ci_low"], row["ci_high"])
        for row in summary.to_dict("records")
    }
    for method in dict.fromkeys(summary["method"]):
        table.add_row(method, *(intervals[method, metric] for metric in titles))
    _print(table, manifest)


def print_comparison(final: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print the final makespans and the reductions of a comparison, to stdout."""
    first, last, seeds = manifest["methods"][0], manifest["last"], manifest["num_seeds"]
    table = Table(title=f"last {last} of {manifest['episodes']} episodes: {_MEANS} over {seeds} seeds")
    table.add_column("physics")
    table.add_column("method")
    for column in ("makespan [s]", f"reduction by {first} [%]"):
        table.add_column(column, justify="right")
    for row in final.to_dict("records"):
        reduction = [100 * row[name] for name in ("reduction", "reduction_low", "reduction_high")]
        table.add_row(
            row["physics"],
            row["method"],
            _interval(row["makespan_s"], row["ci_low"], row["ci_high"]),
            "" if row["method"] == first else _interval(*reduction, digits=2),
        )
    _print(table, manifest)


def print_tuning(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print one row for each combination of settings, to stdout."""
    seeds, episodes, reference = (manifest[key] for key in ("num_seeds", "episodes", "reference"))
    title = f"{manifest['method']}, {episodes} episodes, {seeds} seeds: gap to {reference} in %"
    table = Table(title=title)
    shares = [name for name in summary.columns if name.startswith(("gap", "within"))]
    for column in (*manifest["settings"], "makespan [s]", *(name.removeprefix("gap_") for name in shares)):
        table.add_column(column, justify="right")
    for row in summary.to_dict("records"):
        settings = (str(row[name]) for name in manifest["settings"])
        table.add_row(*settings, f"{row['makespan_s']:.4f}", *(f"{100 * row[name]:.2f}" for name in shares))
    _print(table, manifest)


def _print(table: Table, manifest: dict[str, Any]) -> None:
    console, device = Console(markup=False), manifest["device"]
    console.print(table)
    _print_trace(console, manifest)
    console.print(f"{manifest['wall_time_s']:.1f} s on {device['count']} × {device['kind']}")


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


def _interval(mean: float, low: float, high: float, digits: int = 4) -> str:
    if math.isnan(mean):
        return "no tasks"
    if math.isnan(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def print_bench(manifest: dict[str, Any], tables: Mapping[str, SpeedTable]) -> None:
    """Print the tables of a benchmark to stdout."""
    console = Console(markup=False)
    for title, given in tables.items():
        table = Table(title=title)
        for place, column in enumerate(given.columns):
            table.add_column(column, justify="left" if place < given.texts else "right")
        for row in given.rows:
            table.add_row(*(cell.text for cell in row))
        console.print(table)
    _print_trace(console, manifest)
    console.print(f"{device_line(manifest)}, {manifest['wall_time_s']:.0f} s")
