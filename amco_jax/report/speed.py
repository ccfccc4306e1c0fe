"""The tables of a benchmark, for the terminal and in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from amco_jax.report.tables import Table

_GROWTH = {"seeds": "seeds", "num_servers": "servers, per decision"}


def speed_tables(manifest: dict[str, Any], exponents: pd.DataFrame) -> dict[str, Table]:
    """The non-empty tables of a benchmark, by title.

    Speeds are medians over the repeats, with half their range in percent.
    """
    tables = {
        "Million decisions per second": Table.of_texts(
            (
                "method",
                "kernel",
                "sweep without percentiles",
                "whole sweep",
                "kernel / plain loop",
                "compile [s]",
                "peak memory [MiB]",
            ),
            (
                (
                    row["method"],
                    _speed(row["decisions"] / 1e6, row["rollout_s"], 1),
                    _speed(row["decisions"] / 1e6, row["means_s"], 1),
                    _speed(row["decisions"] / 1e6, row["sweep_s"], 1),
                    "" if row["ratio_to_plain"] is None else f"{row['ratio_to_plain']:,.0f}",
                    f"{row['compile_s']:.1f}",
                    f"{row['peak_memory_mb']:.0f}",
                )
                for row in manifest["methods"]
            ),
            texts=1,
        ),
        "Decisions per second of the plain loop, on one core": Table.of_texts(
            ("method", "decisions/s"),
            ((row["method"], _speed(row["decisions"], row["seconds"])) for row in manifest["plain"]),
            texts=1,
        ),
        "Episodes of training per second": Table.of_texts(
            ("method", "seeds", "episodes/s", "1,000 × 500 episodes [s]", "peak memory [MiB]"),
            (
                (
                    row["method"],
                    str(row["seeds"]),
                    _speed(row["seeds"] * row["episodes"], row["train_s"]),
                    f"{row['job_s']:,.0f}",
                    f"{row['peak_memory_mb']:.0f}",
                )
                for row in manifest["training"]
            ),
            texts=1,
        ),
        "Growth with n: exponents": Table.of_texts(
            ("method", "n", "time", "memory"),
            (
                (row["method"], _GROWTH[row["axis"]], f"{row['time']:.2f}", f"{row['memory']:.2f}")
                for row in exponents.to_dict("records")
            ),
            texts=1,
        ),
    }
    return {title: table for title, table in tables.items() if table.rows}


def device_line(manifest: dict[str, Any]) -> str:
    """The devices and the processor of a benchmark."""
    device, host = manifest["device"], manifest["host"]
    return f"{device['count']} × {device['kind']} ({host['processor']}, {host['cores']} cores)"


def to_markdown(manifest: dict[str, Any], tables: dict[str, Table]) -> str:
    """The tables as a Markdown page."""
    versions = manifest["versions"]
    lines = [f"# {device_line(manifest)}\n\n"]
    lines += [f"JAX {versions['jax']}, Python {versions['python']}, NumPy {versions['numpy']}; "]
    lines += [f"{manifest['started']}, commit {manifest['git_commit']}.\n"]
    lines += [f"\n## {title}\n\n{table.to_markdown()}" for title, table in tables.items()]
    return "".join(lines)


def _speed(count: float, seconds: Sequence[float], digits: int = 0) -> str:
    median = statistics.median(seconds)
    return f"{count / median:,.{digits}f} ± {(max(seconds) - min(seconds)) / 2 / median:.0%}"
