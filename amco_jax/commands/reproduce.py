"""Reproduce the paper: all studies, one page, and a table of its claims."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from amco_jax.cli.arguments import MetricsArguments, ProgramArguments, load_metrics, to_continue
from amco_jax.errors import InputError
from amco_jax.report.page import write_report
from amco_jax.study.engines import Execution
from amco_jax.study.reproduce import reproduce


@dataclasses.dataclass(frozen=True)
class Arguments(MetricsArguments, ProgramArguments):
    out: Path | None = None
    """Directory for all results; existing ones are not computed again. By default, results/paper, or
    results/paper-quick with --quick."""
    quick: bool = False
    """Use few episodes and values, to see how it works; no conclusions can be drawn from the results."""
    format: tuple[str, ...] = ("html", "md")
    """Formats of the report: html, md, latex, csv."""
    execution: Execution = dataclasses.field(default_factory=functools.partial(Execution, resume=True))
    quiet: bool = False
    """Show no progress bars."""


def main(args: Arguments) -> None:
    if not args.execution.resume:
        raise InputError("resume: false; legal: true, as results that exist are not computed again")
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
        stop.add_note(to_continue(f"--out {out}"))
        raise
    if report is None:
        print("some units are not computed yet; the last shard to finish writes the report")
        return
    for path in write_report(report, out / "report", args.format):
        print(path)
