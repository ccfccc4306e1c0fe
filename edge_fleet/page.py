"""The page of a run of real workers: measured against predicted, who did what and when, repaired images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from amco_jax.files import made, replacing
from amco_jax.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    canvas,
    svg,
)
from amco_jax.report.tables import Cell, Table
from amco_jax.report.templates import rendered
from amco_jax.results.saved import SavedRun, open_run
from edge_fleet.columns import KIND, PREDICTIONS
from edge_fleet.results import compared, errors_by_episode, summary_table, times_in_words, undisturbed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN = {"simulated": (BLUE, "o"), "predicted": (VERMILION, "^")}
"""The predictions on the page, with colour and marker"""
_STATIONS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)
_SHEET = 12
"""The number of repaired images on the page"""


def write_page(directory: Path, out: Path) -> Path:
    """Write the page of a run as one self-contained HTML file, and return its path.

    Raises:
      InputError: the run is not finished or damaged, or `out` cannot be written.
    """
    run = open_run(directory, [KIND])
    requests, images = run.table("requests.parquet"), run.table("images.parquet")
    counted = undisturbed(requests)
    figures = {
        "scatter": (scatter_figure(counted), "Requests, measured over predicted; on the line, both agree."),
        "errors": (errors_figure(counted), "The share of requests with at most a relative error."),
        "gantt": (
            gantt_figure(images, run.manifest),
            "The first episode: what each worker did, and below, for the link of each base station, the "
            "images that it carried to other servers (upper half) and their results (lower half). A transfer "
            "that is shorter than a line is wide is drawn as a line. Colours are the base stations of the "
            "requests.",
        ),
    }  # fmt: skip
    page = rendered(
        Path(__file__).with_name("page.html.jinja"),
        title=f"AMCo-JAX: {directory.resolve().name}",
        manifest=run.manifest,
        facts=run.manifest["facts"],
        answer=answer(requests),
        tables={
            "Errors of the predictions, means over episodes": Markup(errors_table(counted).to_html()),
            "Who served what": Markup(workers_table(images, run.manifest).to_html()),
            "What failures cost": Markup(failures_table(requests).to_html()),
        },
        losses=run.manifest["losses"],
        figures=[
            {"svg": Markup(svg(figure, name)), "caption": caption}
            for name, (figure, caption) in figures.items()
        ],
        sheet=_sheet(run, images),
    )
    with replacing(made(out) / "fleet.html") as draft:
        draft.write_text(page, encoding="utf-8")
    return out / "fleet.html"


def answer(requests: pd.DataFrame) -> str:
    """How far predictions and measurements differ, in the numbers of the summary."""
    summary = summary_table(requests).set_index(["prediction", "measure"])["estimate"]
    parts = []
    for name in _DRAWN:
        ratio, error = (summary[PREDICTIONS[name], measure] for measure in ("mean_ratio", "median_error"))
        if not np.isnan(ratio):
            parts.append(f"{PREDICTIONS[name]} {ratio:.3f} (median error {100 * error:.1f} %)")
    found = f"Of {len(requests)} requests, {times_in_words(undisturbed(requests))}."
    return f"{found} Measured over predicted: {'; '.join(parts)}." if parts else found


def errors_table(counted: pd.DataFrame) -> Table:
    """Quantiles of the errors of each prediction in percent, as means over episodes."""
    levels = (0.5, 0.75, 0.9, 0.95, 1.0)
    rows = []
    for name in _DRAWN:
        errors = errors_by_episode(counted, name, levels)
        found = errors.mean(axis=0) if len(errors) else np.full(len(levels), np.nan)
        cells = (Cell("–" if np.isnan(each) else f"{100 * each:.1f} %", float(each)) for each in found)
        rows.append([Cell(PREDICTIONS[name]), *cells])
    return Table(["prediction", "median", "75th percentile", "90th", "95th", "largest"], rows, texts=1)


def workers_table(images: pd.DataFrame, manifest: dict[str, Any]) -> Table:
    """What each worker did: images, time per item and image, overruns, share of the time that it was busy."""
    speed = manifest["settings"]["speed"]
    length = sum(np.max(np.asarray(one["ended"], float)) for _, one in images.groupby("episode"))
    rows = []
    for server, of in images.groupby("server"):
        alone = items(of)
        took, target = (np.asarray(alone[name], float) for name in ("took_s", "target_s"))
        each, total = float(np.mean(took)) * speed, float(np.sum(took)) * speed
        busy = total / length
        rows.append([
            Cell(str(server)), Cell(", ".join(sorted(set(of["worker"])))), Cell(str(len(of)), len(of)),
            Cell(f"{each:.3g}", each), Cell(f"{np.mean(target):.3g}"),
            Cell(f"{total / len(of):.3g}", total / len(of)),
            Cell(str(np.count_nonzero(of["overrun_s"] > 0))), Cell(f"{100 * busy:.0f} %", busy),
        ])  # fmt: skip
    titles = ["server", "worker", "images", "s per item", "by its table", "s per image", "overruns", "busy"]
    return Table(titles, rows, texts=2)


def failures_table(requests: pd.DataFrame) -> Table:
    """Requests that failures disturbed beside the others: how long they took, over the prediction."""
    rows = []
    served = requests.loc[~requests["rejected"]]
    again = served["attempts"] > 1
    for words, of in (
        ("undisturbed", served.loc[~served["disturbed"]]),
        ("disturbed, decided once", served.loc[served["disturbed"] & ~again]),
        ("decided again", served.loc[again]),
    ):
        measured, predicted = (np.asarray(of[name], float) for name in ("measured_s", "predicted_s"))
        mean = f"{measured.mean():.3g}" if len(of) else "–"
        ratio = f"{measured.mean() / predicted.mean():.3f}" if len(of) else "–"
        more = int(np.asarray(of["attempts"], int).sum() - len(of))
        rows.append([Cell(words), Cell(str(len(of))), Cell(mean), Cell(ratio), Cell(str(more))])
    return Table(
        ["requests", "number", "mean, s", "measured / predicted", "further decisions"], rows, texts=1
    )


def items(images: pd.DataFrame) -> pd.DataFrame:
    """A row for each item, whose images were sent, repaired and received together, and share their times."""
    return images.drop_duplicates(["episode", "server", "received"])


def _pooled(counted: pd.DataFrame, prediction: str) -> np.ndarray:
    """Measured and predicted times of the requests of all episodes, `[2, requests]`."""
    return np.concatenate([np.empty((2, 0)), *map(np.array, compared(counted, prediction))], axis=1)


def scatter_figure(counted: pd.DataFrame) -> Figure:
    """Measured over predicted time of each request, for both predictions."""
    with canvas(5.0, 4.2) as figure:
        axes = figure.add_subplot()
        for name, (colour, marker) in _DRAWN.items():
            measured, predicted = _pooled(counted, name)
            label = PREDICTIONS[name]
            axes.scatter(predicted, measured, s=14, color=colour, marker=marker, alpha=0.6, label=label)
        names = "measured_s", *(f"{name}_s" for name in _DRAWN)
        limit = 1.05 * max((value for name in names for value in counted[name]), default=1.0)
        axes.plot([0, limit], [0, limit], color=GREY, linewidth=1)
        axes.set(xlabel="predicted time [s]", ylabel="measured time [s]", xlim=(0, limit), ylim=(0, limit))
        axes.legend()
        return figure


def errors_figure(counted: pd.DataFrame) -> Figure:
    """The distribution of the relative errors of both predictions."""
    with canvas(5.0, 4.2) as figure:
        axes = figure.add_subplot()
        for name, (colour, _) in _DRAWN.items():
            measured, predicted = _pooled(counted, name)
            errors = np.sort(np.abs(measured / predicted - 1))
            shares = np.arange(1, len(errors) + 1) / max(len(errors), 1)
            axes.step(100 * errors, shares, where="post", color=colour, label=PREDICTIONS[name])
        axes.set(xlabel="relative error [%]", ylabel="share of requests", ylim=(0, 1.02))
        axes.set_xlim(left=0)
        axes.legend()
        return figure


def gantt_figure(images: pd.DataFrame, manifest: dict[str, Any]) -> Figure:
    """The items of each worker, and both ways of each link, over the time of the first episode."""
    speed, num_servers = manifest["settings"]["speed"], manifest["scenario"]["num_servers"]
    with canvas(10.0, 0.3 * 2 * num_servers + 1.2) as figure:
        axes = figure.add_subplot()
        first = images.loc[images["episode"] == images["episode"].min()]
        for row in items(first).to_dict("records"):
            colour = _STATIONS[row["station"] % len(_STATIONS)]
            length = row["took_s"] * speed
            axes.barh(
                row["server"], length, left=row["received"] - length, height=0.7, color=colour,
                edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            for way, offset in (("there", -0.18), ("back", 0.18)):
                if not np.isnan(began := row[f"{way}_began"]):
                    # With an edge of its own colour, as many transfers are shorter than a line is wide.
                    axes.barh(
                        num_servers + row["station"] + offset, row[f"{way}_ended"] - began, left=began,
                        height=0.34, color=colour, edgecolor=colour, linewidth=0.6,
                    )  # fmt: skip
        servers = range(num_servers)
        axes.set_yticks(
            range(2 * num_servers), [f"worker {i}" for i in servers] + [f"link {b}" for b in servers]
        )
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="time [s]")
        axes.set_xlim(left=0)
        return figure


def _sheet(run: SavedRun, images: pd.DataFrame) -> Sequence[dict[str, str]]:
    """Some repaired images, evenly chosen, as data that a page can hold."""
    count = min(_SHEET, len(images))
    chosen = np.unique(np.linspace(0, max(len(images) - 1, 0), count).astype(int))
    found = []
    for row in images.iloc[chosen].to_dict("records"):
        data = base64.b64encode(run.content(row["file"])).decode()
        caption = (
            f"request {row['request']}, by {row['worker']}: {row['psnr_db']:.1f} dB, SSIM {row['ssim']:.2f}"
        )
        found.append({"source": f"data:image/png;base64,{data}", "caption": caption})
    return found
