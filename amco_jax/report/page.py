"""Reports as files: a self-contained HTML page, Markdown, LaTeX with vector figures, and CSV."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from amco_jax.errors import check_choice, check_list
from amco_jax.files import FileNames, made, replacing
from amco_jax.metrics import Shown, shown_in
from amco_jax.report.analysis import comparisons, distinct, means, medians
from amco_jax.report.answers import answer_of, question_of, summary_of
from amco_jax.report.claims import CLAIMS_NOTE
from amco_jax.report.names import capitalised, counted
from amco_jax.report.overall import OVERALL_NOTE, Overall, overall_of
from amco_jax.report.pictures import Pictures, all_figures, leading_figures
from amco_jax.report.rankings import rankings
from amco_jax.report.studies import SavedStudy, warmups_of
from amco_jax.report.style import save_pdf, svg
from amco_jax.report.tables import (
    Table,
    comparison_table,
    derivatives_table,
    latex_text,
    means_table,
    overview_tables,
)
from amco_jax.report.templates import HERE, rendered
from amco_jax.report.warnings import Caveat, by_kind, warnings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a report, in any format."""

    studies: Sequence[SavedStudy]
    estimated: Sequence[pd.DataFrame]
    """`analysis.means` of each study"""
    compared: pd.DataFrame
    """`analysis.comparisons` of all studies"""
    warnings: Sequence[Caveat]
    title: str
    ranked: Sequence[Table | None] = ()
    """`rankings.rankings` of each study"""
    baselines: Sequence[str] = ()
    """The baselines that the user asked for; empty for the default ones"""
    overall: Sequence[Overall] = ()
    """The aggregates over all scenarios of several studies"""
    claims: Table | None = None
    """The claims of the papers, and whether they hold in these studies"""
    note: str = ""
    """A note at the top of the report"""

    def question(self, study: int) -> str:
        """The name of a study and the question that it asks."""
        return f"{self.studies[study].name}: {question_of(self.studies[study])}"

    def answer(self, study: int) -> str:
        """The answer to that question in words."""
        of = self.studies[study]
        return answer_of(of, self.estimated[study], self.baselines)

    def overview(self, study: int) -> dict[str, Table]:
        """The small tables of the answer, by their titles."""
        ranked = {"rankings": table} if (table := self.ranked[study]) is not None else {}
        of, estimated = self.studies[study], self.estimated[study]
        found = [column for columns in of.derivatives.values() for column in columns]
        derivatives = {"derivatives": derivatives_table(found, estimated)} if found else {}
        return overview_tables(of, estimated) | derivatives | ranked

    def leading_figures(self, study: int) -> Pictures:
        """The figures of the answer."""
        of = self.studies[study]
        return leading_figures(of, self.estimated[study], self.compared, self.baselines)

    def tables(self, study: int) -> dict[str, Table]:
        """The full tables of a study by name."""
        of = self.studies[study]
        first, *others = shown_in(of.columns, Shown.EVERYWHERE)
        named = {"comparisons": first} | {f"comparisons-{each.name}": each for each in others}
        compared = {name: comparison_table(of, each, self.compared) for name, each in named.items()}
        return {"means": means_table(of, self.estimated[study])} | {
            name: table for name, table in compared.items() if table.rows
        }

    def figures(self, study: int) -> Pictures:
        """All figures of a study."""
        return all_figures(self.studies[study], self.estimated[study], self.baselines)


def make_report(studies: Sequence[SavedStudy], baselines: Sequence[str] = ()) -> Report:
    """Analyse some studies.

    Args:
      baselines: the methods that the others are compared with, by default those of `baselines_of`.

    Raises:
      InputError: a study has none of the baselines.
    """
    compared = comparisons(studies, baselines)
    title = f"AMCo-JAX: {', '.join(s.name for s in studies)}"
    caveats = warnings_of(studies, compared)
    return Report(
        studies, [means(s) for s in studies], compared, caveats, title, [rankings(s) for s in studies],
        baselines, overall_of(studies, baselines),
    )  # fmt: skip


def write_report(report: Report, out: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
    """Write a report as one or more files for each format; the same results always give the same bytes.

    Returns:
      The first file of each format.

    Raises:
      InputError: an unknown format, or `out` cannot be written.
    """
    for name in check_list("format", formats):
        check_choice("format", name, FORMATS)
    made(out)
    return [FORMATS[name](report, out) for name in dict.fromkeys(formats)]


def _write_html(report: Report, out: Path) -> Path:
    studies, anchors = [], FileNames()
    for number, study in enumerate(report.studies):
        tables = {name: Markup(table.to_html()) for name, table in report.tables(number).items()}
        leading = report.leading_figures(number)
        others = {name: each for name, each in report.figures(number).items() if name not in leading}
        studies.append(
            {
                "name": study.name,
                "question": report.question(number),
                "answer": _unbroken(report.answer(number)),
                "leading": _in_html(f"{study.name}/leading", leading),
                "overview": {
                    title: Markup(table.to_html()) for title, table in report.overview(number).items()
                },
                "clusters": study.cluster_name,
                "anchor": anchors.take(study.name),
                "summary": summary_of(study),
                "scenario": _scenario(study.manifest),
                "means": tables["means"],
                "comparisons": [table for name, table in tables.items() if name.startswith("comparisons")],
                "figures": _in_html(study.name, others),
                "provenance_line": _provenance(study.manifest),
                "manifest": json.dumps(study.manifest, indent=2),
            }
        )
    tests = distinct(report.compared)
    tests = tests.loc[~tests["p"].isna()]  # those without p do not count in the correction
    page = rendered(
        HERE / "page.html.jinja",
        title=report.title,
        note=report.note,
        studies=studies,
        overall=[
            {
                "title": overall.title,
                "answer": _unbroken(overall.answer),
                "figure": Markup(svg(overall.to_figure(), f"overall/{number}")),
                "caption": overall.caption,
                "table": Markup(overall.to_table().to_html()),
            }
            for number, overall in enumerate(report.overall)
        ],
        overall_note=OVERALL_NOTE,
        caveats=by_kind(report.warnings),
        num_caveats=len(report.warnings),
        claims=None if report.claims is None else Markup(report.claims.to_html()),
        claims_note=CLAIMS_NOTE,
        num_tests=len(tests),
        num_measures=counted(tests["metric"].nunique(), "metric"),
    )
    return _write(out / "report.html", page)


def _unbroken(text: str) -> str:
    """The text with non-breaking spaces between a number and its interval or sign."""
    return re.sub(r" (?=[±%])|(?<=±) ", "\u00a0", text)


def _in_html(salt: str, figures: Pictures) -> list[dict[str, str]]:
    return [
        {"svg": Markup(svg(figure, f"{salt}/{name}")), "caption": caption}
        for name, (figure, caption) in figures.items()
    ]


def _write_markdown(report: Report, out: Path) -> Path:
    parts = [f"# {report.title}\n"]
    if report.note:
        parts.append(f"\n{report.note}\n")
    if report.claims is not None:
        parts.append(f"\n## Claims\n\n{CLAIMS_NOTE}\n\n{report.claims.to_markdown()}\n")
    for number in range(len(report.studies)):
        parts.append(f"\n## {report.question(number)}\n\n{report.answer(number)}\n")
        for title, table in report.overview(number).items():
            parts.append(f"\n### {capitalised(title)}\n\n{table.to_markdown()}")
    for overall in report.overall:
        parts.append(f"\n## {overall.title}\n\n{overall.answer}\n\n{overall.to_table().to_markdown()}")
    if report.overall:
        parts.append(f"\n{OVERALL_NOTE}\n")
    if report.warnings:
        parts.append("\n## Before you believe the numbers\n\n")
    for kind, caveats in by_kind(report.warnings).items():
        parts += [f"- **{kind} ({len(caveats)})**\n", *(f"  - {caveat}\n" for caveat in caveats)]
    for number, study in enumerate(report.studies):
        parts.append(f"\n## {study.name} in full\n\n{summary_of(study)} {_scenario(study.manifest)}\n")
        for name, table in report.tables(number).items():
            parts.append(f"\n### {name.capitalize()}\n\n{table.to_markdown()}")
        parts.append(f"\n{_provenance(study.manifest)}\n")
    return _write(out / "report.md", "".join(parts))


def _write_latex(report: Report, out: Path) -> Path:
    names = FileNames()
    paths = []
    if report.claims is not None:
        paths.append(_write(out / f"{names.take('claims')}.tex", report.claims.to_latex()))
    for name, overall in zip(_numbered("overall"), report.overall, strict=False):
        stem = names.take(name)
        paths.append(_write(out / f"{stem}.tex", overall.to_table().to_latex()))
        _save(overall.to_figure(), out / f"{stem}.pdf")
    for number, study in enumerate(report.studies):
        overview = report.overview(number).values()
        tables = dict(zip(_numbered("overview"), overview, strict=False)) | report.tables(number)
        texts = {"answer": f"{latex_text(report.answer(number))}\n"}
        texts |= {name: table.to_latex() for name, table in tables.items()}
        for name, text in texts.items():
            paths.append(_write(out / f"{names.take(f'{study.name}-{name}')}.tex", text))
        for name, (figure, _) in (report.leading_figures(number) | report.figures(number)).items():
            _save(figure, out / f"{names.take(f'{study.name}-{name}')}.pdf")
    return paths[0]


def _numbered(name: str) -> Iterator[str]:
    """The name itself, and then the name with the numbers 2, 3, and so on."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _write_csv(report: Report, out: Path) -> Path:
    frames = []
    for study, frame in zip(report.studies, report.estimated, strict=True):
        frames.append(pd.concat([frame, medians(study)]))
        frames[-1].insert(0, "study", study.name)
    _write_rows(out / "comparisons.csv", report.compared)
    if report.overall:
        _write_rows(out / "overall.csv", pd.concat([overall.to_frame() for overall in report.overall]))
    return _write_rows(out / "estimates.csv", pd.concat(frames))


def _write_rows(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as CSV, with few enough digits not to depend on the order of a summation."""
    return _write(path, frame.to_csv(index=False, lineterminator="\n", float_format="%.10g"))


FORMATS: dict[str, Callable[[Report, Path], Path]] = {
    "html": _write_html,
    "md": _write_markdown,
    "latex": _write_latex,
    "csv": _write_csv,
}


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as draft:
        save_pdf(figure, draft)


def _write(path: Path, text: str) -> Path:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def _provenance(manifest: dict[str, Any]) -> str:
    device, versions = manifest["device"], manifest["versions"]
    commit, dirty, _ = (manifest["git_commit"] or "unknown").partition("-dirty")
    return (
        f"{manifest['started']}, {manifest['wall_time_s']:.0f} s on {device['count']} × {device['kind']}, "
        f"AMCo-JAX {versions['amco-jax']} (commit {commit[:12]}{dirty}), JAX {versions['jax']}, "
        f"Python {versions['python']}"
    )


def _scenario(manifest: dict[str, Any]) -> str:
    """A short description of the scenario, which the manifest describes in full."""
    scenario, swept = manifest["scenario"], manifest.get("param")
    fleet = scenario["capacity"]
    of = "" if fleet is None else f" of {min(fleet):g} to {max(fleet):g} Gcycles/s"
    parts = [
        f"{scenario['num_servers']} servers{of}",
        f"{scenario['num_slots']} slots of {scenario['slot_duration']:g} s",
        manifest["arrivals"],
        *([f"offered load {load:.3g}"] if (load := manifest.get("offered_load")) is not None else []),
        f"deadline {scenario['deadline']:g} s",
        *([f"{_range(found)} slots of warm-up excluded"] if any(found := warmups_of(manifest)) else []),
    ]
    return f"Scenario{'' if swept is None else f', where {swept} is not swept'}: {'; '.join(parts)}."


def _range(numbers: Sequence[int]) -> str:
    """Ascending numbers by their first and last."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
