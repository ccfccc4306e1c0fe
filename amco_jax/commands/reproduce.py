"""Reproduce the paper: all studies, one page, and a table of its claims."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from amco_jax.cli.arguments import ProgramArguments
from amco_jax.report.page import write_report
from amco_jax.study.engines import Execution
from amco_jax.study.reproduce import reproduce


@dataclasses.dataclass(frozen=True)
class Arguments(ProgramArguments):
    out: Path | None = None
    """Directory for all results; what stands in it already is not run again. By default results/paper, with
    --quick results/paper-quick."""
    quick: bool = False
    """Few episodes and values, to see how it works; no basis for conclusions."""
    format: tuple[str, ...] = ("html", "md")
    """Of the report: html, md, latex, csv."""
    execution: Execution = dataclasses.field(default_factory=Execution)
    quiet: bool = False
    """No progress bars."""


def main(args: Arguments) -> None:
    out = args.out or Path("results", "paper-quick" if args.quick else "paper")
    try:
        report = reproduce(out, quick=args.quick, execution=args.execution, progress=not args.quiet)
    except KeyboardInterrupt as stop:
        stop.add_note(f"the same command with --out {out} goes on")
        raise
    if report is None:
        print("some units are not computed yet; the shard that ends last writes the report")
        return
    for path in write_report(report, out / "report", args.format):
        print(path)
