"""Reproduce the paper: all studies, one page, and a table of its claims."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from amco_jax.cli.arguments import ProgramArguments, load_metrics
from amco_jax.report.page import write_report
from amco_jax.study.engines import Execution
from amco_jax.study.reproduce import reproduce


@dataclasses.dataclass(frozen=True)
class Arguments(ProgramArguments):
    out: Path | None = None
    """Directory for all results; existing ones are not computed again. By default, results/paper, or
    results/paper-quick with --quick."""
    quick: bool = False
    """Use few episodes and values, to see how it works; no conclusions can be drawn from the results."""
    format: tuple[str, ...] = ("html", "md")
    """Formats of the report: html, md, latex, csv."""
    metrics: tuple[str, ...] = ()
    """Metrics in addition to the usual ones: names, or module:attribute for your own amco_jax.Metric."""
    execution: Execution = dataclasses.field(default_factory=Execution)
    quiet: bool = False
    """Show no progress bars."""


def main(args: Arguments) -> None:
    out = args.out or Path("results", "paper-quick" if args.quick else "paper")
    try:
        report = reproduce(
            out,
            quick=args.quick,
            metrics=load_metrics(args.metrics),
            execution=args.execution,
            progress=not args.quiet,
        )
    except KeyboardInterrupt as stop:
        stop.add_note(f"to continue, run the same command with --out {out}")
        raise
    if report is None:
        print("some units are not computed yet; the last shard to finish writes the report")
        return
    for path in write_report(report, out / "report", args.format):
        print(path)
