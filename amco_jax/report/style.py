"""The style of all figures: a fixed look for each method, and figures as files."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette and five more colours; markers and dashes distinguish methods of similar colour.
# All training variants of a method share its colour.
BLACK, GREY, BLUE, VERMILION, GREEN = "#000000", "#7F7F7F", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY, _BROWN, _INDIGO = "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#332288"
_RED = "#A50026"
BEHIND = "#BBBBBB"
"""The colour of curves in the background"""
_KNOWN = {
    "optimal": (BLACK, "*", "-"),
    "optimal-admission": (GREY, "X", "-"),
    "amco-priced": (_RED, "*", "--"),
    "amcoedge-plus": (_RED, "o", "-"),
    "amco-priced-trained": (_RED, "X", ":"),
    "planner": (BLACK, "P", ":"),
    "amcoedge": (BLUE, "o", "--"),
    "amcoedge-stable": (BLUE, "s", "-"),
    "amcoedge-regret": (BLUE, "p", "-."),
    "amcoedge-factorised": (BLUE, "h", ":"),
    "smcoedge": (VERMILION, "^", "--"),
    "smcoedge-stable": (VERMILION, "v", "-"),
    "smcoedge-regret": (VERMILION, "<", "-."),
    "drlcoedge": (GREEN, "D", "--"),
    "drlcoedge-stable": (GREEN, "d", "-"),
    "drlcoedge-regret": (GREEN, "H", "-."),
    "randcoedge": (PURPLE, "P", "-."),
    "all-servers": (ORANGE, "<", ":"),
    "least-wait": (SKY, ">", "-."),
    "two-choices": (_BROWN, "p", "--"),
    "local": (_INDIGO, "H", ":"),
}
_OTHERS = tuple(zip((_INDIGO, GREY, ORANGE, GREEN, SKY, _BROWN), "osD^vP", strict=True))
_DASHES = (":", "--", "-.", "-")

STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # embeds text as text
}


@contextlib.contextmanager
def _style(changes: Any = None) -> Iterator[None]:
    """Matplotlib's defaults with this style applied, regardless of the user's configuration."""
    try:
        import matplotlib
    except ValueError:  # the environment names a backend that does not exist, and none is needed here
        for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
        named = os.environ.pop("MPLBACKEND", None)
        import matplotlib

        if named is not None:
            os.environ["MPLBACKEND"] = named
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | (changes or {}))
        yield


@contextlib.contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A new figure in this style, of a size in inches, without a window; its layout is made at the end."""
    with _style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        # Once for all its files, as laying out takes longer than drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def svg(figure: Figure, salt: str) -> str:
    """The figure as an SVG element for a page, with text as text rather than paths.

    Args:
      salt: a text that makes the identifiers in the element differ from those of other figures.
    """
    text = io.StringIO()
    with _style({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    _, _, element = text.getvalue().partition("<svg")
    return f"<svg{element}".rstrip()


def save_figure(figure: Figure, stem: Path) -> None:
    """Write STEM.png and STEM.pdf; equal figures give equal bytes."""
    with _style():
        figure.savefig(stem.with_suffix(".png"))
    save_pdf(figure, stem.with_suffix(".pdf"))


def save_pdf(figure: Figure, path: Path) -> None:
    """Write a PDF of vectors and text; equal figures give equal bytes."""
    with _style():
        figure.savefig(path, format="pdf", metadata={"CreationDate": None})


def method_styles(methods: list[str]) -> dict[str, dict[str, Any]]:
    """The colour, marker, marker size and dashes of each method; known methods always have the same ones.

    Other methods first take the colours that no known method in the figure uses.
    """
    taken = {_KNOWN[method][0] for method in methods if method in _KNOWN}
    free_first = sorted(_OTHERS, key=lambda other: other[0] in taken)
    others = (
        (colour, marker, dashes)
        for dashes in itertools.cycle(_DASHES)
        for colour, marker in free_first
    )  # fmt: skip
    styles = {}
    for method in methods:
        colour, marker, dashes = _KNOWN[method] if method in _KNOWN else next(others)
        size = 8 if marker == "*" else 5  # the arms of a star are thin
        styles[method] = {"color": colour, "marker": marker, "markersize": size, "linestyle": dashes}
    return styles
