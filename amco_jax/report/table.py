"""Tables for the terminal."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

_SHOWN = {"makespan_mean_s": "mean makespan [s]", "miss_rate": "miss rate"}


def print_summary(summary: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Print means with 95 % intervals, one row per method and value, to stdout."""
    seeds, physics = manifest["num_seeds"], manifest["physics"]
    table = Table(
        title=f"{manifest['param']}: mean ± half width of the 95 % interval, {seeds} seeds, {physics} physics"
    )
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
    console = Console()
    console.print(table)
    device = manifest["device"]
    console.print(f"{manifest['wall_time_s']:.1f} s on {device['count']} × {device['kind']}")


def _interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "no tasks"
    if math.isnan(low):
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {(high - low) / 2:.4f}"


def print_bench(result: dict[str, Any]) -> None:
    """Print the figures of a benchmark, medians with half the spread of the repeats, to stdout."""
    table = Table(title="million decisions per second")
    for column in ("method", "rollout", "sweep", "× published", "compile [s]", "peak [MB]"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in result["methods"]:
        ratio = row["ratio_to_published"]
        table.add_row(
            row["method"],
            *(_speed(row["decisions"], row[kind]) for kind in ("rollout_s", "sweep_s")),
            "" if ratio is None else f"{ratio:,.0f}",
            f"{row['compile_s']:.1f}",
            f"{row['peak_memory_mb']:.0f}",
        )
    device, host = result["device"], result["host"]
    console = Console()
    console.print(table)
    console.print(f"{device['count']} × {device['kind']} ({host['processor']}, {host['cores']} cores)")


def _speed(decisions: int, seconds: list[float]) -> str:
    half_spread = (max(seconds) - min(seconds)) / 2 / statistics.median(seconds)
    return f"{decisions / statistics.median(seconds) / 1e6:.1f} ± {half_spread:.0%}"
