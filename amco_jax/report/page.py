"""A report in files: one self-contained HTML page, Markdown, LaTeX with vector figures, CSV."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from amco_jax.errors import InputError, check_choice, check_list
from amco_jax.metrics import TASK, Column, Shown, shown_in
from amco_jax.report.analysis import comparisons, distinct, means, medians
from amco_jax.report.claims import CLAIMS_NOTE
from amco_jax.report.figures import cdf_figure, convergence_figures, save_pdf, svg, sweep_figure
from amco_jax.report.rankings import rankings
from amco_jax.report.studies import Study
from amco_jax.report.tables import Table, comparison_table, headline
from amco_jax.report.warnings import warnings_of
from amco_jax.results.files import FileNames, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a report shows; how it is written is another matter."""

    studies: Sequence[Study]
    estimated: Sequence[pd.DataFrame]
    """`analysis.means` of each study"""
    compared: pd.DataFrame
    """`analysis.comparisons` of all"""
    warnings: Sequence[str]
    title: str
    ranked: Sequence[Table | None] = ()
    """`rankings.rankings` of each study"""
    claims: Table | None = None
    """What others claim, and what these studies say of it"""

    def tables(self, study: int) -> dict[str, Table]:
        """The tables of a study by name."""
        of = self.studies[study]
        first, *others = shown_in(of.columns, Shown.EVERYWHERE)
        ranked = {"rankings": table} if (table := self.ranked[study]) is not None else {}
        return {
            "means": headline(of, self.estimated[study], self.compared),
            **ranked,
            "comparisons": comparison_table(of, first, self.compared),
            **{f"comparisons-{each.name}": comparison_table(of, each, self.compared) for each in others},
        }

    def figures(self, study: int) -> dict[str, tuple[Figure, str]]:
        """The figures of a study and their captions, by name."""
        of, estimated = self.studies[study], self.estimated[study]
        found = {}
        if len(of.conditions) > 1:
            rows = estimated.rename(columns={"condition": "value", "estimate": "mean"})
            for column in shown_in(of.columns, Shown.FIGURES):
                figure = sweep_figure(rows, column, of.axis_label)
                marks = "Bands" if _numeric(of.conditions) else "Bars"
                caption = column.caption or f"{column.label[0].upper()}{column.label[1:]}."
                found[column.name] = figure, f"{caption} {marks}: 95 % intervals over {of.cluster_name}."
        if of.curves is not None:
            for condition in of.conditions:
                curves = of.curves.loc[of.curves["condition"] == condition]
                for name, draw in convergence_figures(curves, of.columns, f"-{condition}").items():
                    found[name] = (
                        draw(),
                        f"Episodes of training, {condition} physics. Dark bands: 95 % intervals of the mean; "
                        "light bands: 80 % of the seeds.",
                    )
        lists = [column for column in of.columns if column.is_list]
        for condition, (place, column) in itertools.product(_spread(of.conditions), enumerate(lists)):
            levels = [each for each in of.columns if each.of == column.name]
            quantiles = _quantiles(estimated.loc[estimated["condition"] == condition], levels)
            if len(quantiles):
                title = f"{of.axis_label}: {condition}" if of.axis_label else ""
                names = ["cdf", *([column.name] if place else []), *([condition] if of.axis_label else [])]
                caption = column.caption or f"{column.label[0].upper()}{column.label[1:]}: quantiles."
                found["-".join(map(str, names))] = cdf_figure(quantiles, column, title), caption
        return found


def make_report(studies: Sequence[Study], baselines: Sequence[str] = ()) -> Report:
    """Analyse studies.

    Args:
      baselines: methods that the others are set against; by default the paper's.

    Raises:
      InputError: a study has none of the baselines.
    """
    compared = comparisons(studies, baselines)
    title = f"AMCo-JAX: {', '.join(s.name for s in studies)}"
    ranked = [rankings(s) for s in studies]
    return Report(
        studies, [means(s) for s in studies], compared, warnings_of(studies, compared), title, ranked
    )


def write_report(report: Report, out: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
    """Write the report, one or more files a format; the same results give the same bytes.

    Returns:
      The first file of each format.

    Raises:
      InputError: an unknown format, or `out` cannot be written.
    """
    for name in check_list("format", formats):
        check_choice("format", name, FORMATS)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {out} cannot be written: {error.strerror}") from error
    return [FORMATS[name](report, out) for name in dict.fromkeys(formats)]


def _write_html(report: Report, out: Path) -> Path:
    studies, anchors = [], FileNames()
    for number, study in enumerate(report.studies):
        tables = {name: Markup(table.to_html()) for name, table in report.tables(number).items()}
        figures = [
            {"svg": Markup(svg(figure, f"{study.name}/{name}")), "caption": caption}
            for name, (figure, caption) in report.figures(number).items()
        ]
        studies.append(
            {
                "name": study.name,
                "clusters": study.cluster_name,
                "anchor": anchors.take(study.name),
                "summary": _summary(study),
                "scenario": _scenario(study.manifest),
                "headline": tables["means"],
                "rankings": tables.get("rankings"),
                "comparisons": [table for name, table in tables.items() if name.startswith("comparisons")],
                "figures": figures,
                "provenance_line": _provenance(study.manifest),
                "manifest": json.dumps(study.manifest, indent=2),
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.jinja").render(
        title=report.title,
        studies=studies,
        warnings=report.warnings,
        claims=None if report.claims is None else Markup(report.claims.to_html()),
        claims_note=CLAIMS_NOTE,
        num_tests=len(distinct(report.compared)),
    )
    return _write(out / "report.html", page)


def _write_markdown(report: Report, out: Path) -> Path:
    parts = [f"# {report.title}\n\n", *(f"- {warning}\n" for warning in report.warnings)]
    if report.claims is not None:
        parts.append(f"\n## Claims\n\n{CLAIMS_NOTE}\n\n{report.claims.to_markdown()}\n")
    for number, study in enumerate(report.studies):
        parts.append(f"\n## {study.name}\n\n{_summary(study)} {_scenario(study.manifest)}\n")
        for name, table in report.tables(number).items():
            parts.append(f"\n### {name.capitalize()}\n\n{table.to_markdown()}")
        parts.append(f"\n{_provenance(study.manifest)}\n")
    return _write(out / "report.md", "".join(parts))


def _write_latex(report: Report, out: Path) -> Path:
    names = FileNames()
    paths = []
    if report.claims is not None:
        paths.append(_write(out / f"{names.take('claims')}.tex", report.claims.to_latex()))
    for number, study in enumerate(report.studies):
        for name, table in report.tables(number).items():
            paths.append(_write(out / f"{names.take(f'{study.name}-{name}')}.tex", table.to_latex()))
        for name, (figure, _) in report.figures(number).items():
            path = out / f"{names.take(f'{study.name}-{name}')}.pdf"
            with replacing(path) as draft:
                save_pdf(figure, draft)
    return paths[0]


def _write_csv(report: Report, out: Path) -> Path:
    frames = []
    for study, frame in zip(report.studies, report.estimated, strict=True):
        frames.append(pd.concat([frame, medians(study)]))
        frames[-1].insert(0, "study", study.name)
    _write_rows(out / "comparisons.csv", report.compared)
    return _write_rows(out / "estimates.csv", pd.concat(frames))


def _write_rows(path: Path, frame: pd.DataFrame) -> Path:
    """The table as CSV, in digits that do not depend on the order in which a processor sums."""
    return _write(path, frame.to_csv(index=False, lineterminator="\n", float_format="%.10g"))


FORMATS: dict[str, Callable[[Report, Path], Path]] = {
    "html": _write_html,
    "md": _write_markdown,
    "latex": _write_latex,
    "csv": _write_csv,
}


def _write(path: Path, text: str) -> Path:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def _summary(study: Study) -> str:
    manifest, episodes = study.manifest, study.manifest.get("episodes")
    what = {
        "sweep": f"{study.axis_label}, {len(study.conditions)} value{'s' * (len(study.conditions) > 1)}",
        "compare": f"{episodes} episodes of training, means of the last {manifest.get('last')}",
        "train": f"{episodes} episodes of training, means of the last ones",
        "evaluate": f"trained agents on {episodes} unseen episodes",
    }[study.kind]
    physics = manifest["physics"]
    physics = physics if isinstance(physics, str) else " and ".join(physics)
    return f"{what}; {manifest['num_seeds']} seeds from {manifest['first_seed']} on; {physics} physics."


def _provenance(manifest: dict[str, Any]) -> str:
    device, versions = manifest["device"], manifest["versions"]
    commit, dirty, _ = (manifest["git_commit"] or "unknown").partition("-dirty")
    return (
        f"{manifest['started']}, {manifest['wall_time_s']:.0f} s on {device['count']} × {device['kind']}, "
        f"AMCo-JAX {versions['amco-jax']} (commit {commit[:12]}{dirty}), JAX {versions['jax']}, "
        f"Python {versions['python']}"
    )


def _scenario(manifest: dict[str, Any]) -> str:
    """The setting in a sentence; all of it is in the manifest."""
    scenario, swept = manifest["scenario"], manifest.get("param")
    fleet = scenario["capacity"]
    of = "" if fleet is None else f" of {min(fleet):g} to {max(fleet):g} Gcycles/s"
    parts = [
        f"{scenario['num_servers']} servers{of}",
        f"{scenario['num_slots']} slots of {scenario['slot_duration']:g} s",
        manifest["arrivals"],
        *([f"offered load {load:.3g}"] if (load := manifest.get("offered_load")) is not None else []),
        f"deadline {scenario['deadline']:g} s",
    ]
    return f"Scenario{'' if swept is None else f', where {swept} is not swept'}: {'; '.join(parts)}."


def _numeric(conditions: Sequence[Any]) -> bool:
    return all(isinstance(condition, int | float) for condition in conditions)


def _spread(conditions: Sequence[Any]) -> Iterable[Any]:
    """The first, the middle and the last."""
    places = {0, (len(conditions) - 1) // 2, len(conditions) - 1}
    return [conditions[place] for place in sorted(places)]


def _quantiles(estimated: pd.DataFrame, columns: Iterable[Column]) -> pd.DataFrame:
    """The pooled percentiles of each method that are columns of one metric."""
    levels = {column.name: column.level for column in columns}
    rows = estimated.loc[(estimated["per"] == TASK) & estimated["metric"].isin(list(levels))]
    rows = rows.assign(level=rows["metric"].map(levels), value=rows["estimate"])
    return rows.loc[np.isfinite(rows["value"]), ["method", "level", "value"]]
