"""Make a page, tables and figures from saved results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from amco_jax.errors import InputError, check_list
from amco_jax.report.others import page_writer
from amco_jax.report.page import make_report, write_report
from amco_jax.report.published import write_published
from amco_jax.report.studies import load_studies


@dataclasses.dataclass(frozen=True)
class Arguments:
    directories: tyro.conf.Positional[tuple[Path, ...]]
    """One or more output directories of sweep, compare, train, evaluate, tune or sensitivity, or one of
    fleet, which has a page of its own."""
    format: tuple[str, ...] = ("html",)
    """Any of html (one self-contained page), md, latex (booktabs tables, PDF figures) and csv."""
    baseline: tuple[str, ...] = ()
    """Methods that the others are compared with; by default, the paper's baselines."""
    out: Path | None = None
    """Directory for the report; by default, report/ in the first directory of results."""
    published_csv: bool = False
    """Also write the learning curves to files in the authors' format, with the authors' file names."""


def main(args: Arguments) -> None:
    first, *_ = check_list("run", args.directories)
    out = args.out or first / "report"
    found = [(directory, page_writer(directory)) for directory in args.directories]
    others = [(directory, write) for directory, write in found if write is not None]
    if len(others) > 1:
        raise InputError(f"run: {len(others)} runs with a page of their own; legal: one of them at a time")
    if len(others) == len(found):
        _check_of_studies(args)
    paths = [write(directory, out) for directory, write in others]
    if others and len(args.directories) == 1:
        print(paths[0])
        return
    studies = load_studies([directory for directory, write in found if write is None])
    paths += write_report(make_report(studies, args.baseline), out, args.format)
    if args.published_csv:
        paths.append(write_published(studies, out)[0].parent)
    for path in paths:
        print(path)


def _check_of_studies(args: Arguments) -> None:
    """Raise InputError if an option is given that only reports of studies have."""
    for field in dataclasses.fields(Arguments):
        value = getattr(args, field.name)
        if field.name in ("format", "baseline", "published_csv") and value != field.default:
            raise InputError(
                f"{field.name}: {value}; legal for studies, not for runs with pages of their own"
            )
