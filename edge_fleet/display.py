"""Tables for the terminal: the workers during a run, and its results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from amco_jax.progress import progress_bar
from edge_fleet.results import times_in_words, undisturbed
from edge_fleet.scheduler import Scheduler

_SECONDS = 0.5


async def show_progress(scheduler: Scheduler, images: int, shown: bool) -> None:
    """Show a table of the workers with a progress bar on stderr, until cancelled.

    Args:
      images: the number of images of the run that are still to be repaired.
    """
    if not shown:
        return
    bar = progress_bar(True, "images")
    task = bar.add_task("fleet", total=images)
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        while True:
            bar.update(task, completed=scheduler.committed)
            live.update(Group(_members(scheduler), bar.get_renderable()))
            await asyncio.sleep(_SECONDS)


def _members(scheduler: Scheduler) -> Table:
    table = Table()
    for title in ("server", "worker", "state", "queue, s", "done", "overruns"):
        table.add_column(title)
    for member, seconds in zip(scheduler.members, scheduler.backlog(), strict=True):
        report = member.report
        table.add_row(
            str(member.index), member.name, "alive" if member.alive else f"lost: {member.trouble}",
            f"{seconds:.1f}", str(report.get("done", "")), str(report.get("overruns", "")),
        )  # fmt: skip
    return table


def print_results(requests: pd.DataFrame, images: pd.DataFrame, summary: pd.DataFrame, facts: Any) -> None:
    """Print what was measured beside what was predicted to stdout."""
    table = Table(title="measured against predicted, with 95 % intervals over episodes")
    for title in ("prediction", "mean measured / predicted", "median error", "95th percentile of errors"):
        table.add_column(title)
    for words, rows in summary.groupby("prediction", sort=False):
        cells = [_estimate(row, percent=str(row["measure"]) != "mean_ratio") for _, row in rows.iterrows()]
        table.add_row(str(words), *cells)
    console = Console()
    console.print(table)
    rejected, missed = (np.count_nonzero(requests[name]) for name in ("rejected", "missed"))
    print(
        f"{len(requests)} requests, {rejected} of them rejected and {missed - rejected} too late; "
        f"{times_in_words(undisturbed(requests))}"
    )
    quality = f"PSNR {images['psnr_db'].mean():.1f} dB, SSIM {images['ssim'].mean():.3f} over the holes; "
    print(
        f"{len(images)} images{': ' + quality if len(images) else '; '}"
        f"{facts['disturbed']} requests disturbed, workers lost {facts['losses']} times"
    )
    if facts["overruns"]:
        print(
            f"invalid: {facts['overruns']} of {len(images)} images took their worker longer than its pace; "
            "what was measured is not a fleet of these devices"
        )


def _estimate(row: Any, percent: bool) -> str:
    if pd.isna(row["estimate"]):
        return "–"

    def shown(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else f"{value:.3f}"

    if pd.isna(row["low"]):
        return shown(row["estimate"])
    return f"{shown(row['estimate'])} ({shown(row['low'])} to {shown(row['high'])})"


def print_status(rows: Sequence[dict[str, Any]]) -> None:
    """Print what workers are doing to stdout, a row for each, and why some do not answer."""
    table = Table()
    titles = ("address", "worker", "state", "queue", "done", "s per item", "overruns")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(str(row.get(title, "")) for title in titles))
    Console().print(table)
    for row in rows:
        if "trouble" in row:
            print(f"{row['address']}: no answer: {row['trouble']}")
