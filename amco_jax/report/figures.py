"""Figures for papers, in one style, with a fixed colour for each method and readable in greyscale."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import BOUND
from amco_jax.metrics import Column, Shown, shown_in
from amco_jax.report.names import shown_name
from amco_jax.report.style import BEHIND, BLACK, canvas, method_styles
from amco_jax.stats.summaries import learning_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROWTH_LABELS = {
    "seeds": ("seeds", "time for all seeds [s]"),
    "num_servers": ("edge servers", "time per decision [µs]"),
}

_RARE, _ROOM = 0.01, 0.02
"""The least upper limit of the axis of a rate, so that a few misses in a million tasks do not fill a figure,
and the margin that an axis leaves above its bound if higher is better"""


_MAX_CURVES = 6
"""The number of curves that one panel holds"""
_COMPACT: Any = {"handlelength": 1.6, "columnspacing": 1.0, "handletextpad": 0.5, "borderaxespad": 0.2}
"""Legends above panels, which must not be wider than these"""


def sweep_figure(
    summary: pd.DataFrame, column: Column, axis_label: str, among: Collection[str] | None = None
) -> Figure:
    """A metric over the swept values, with a line for each method and its 95 % interval as a band.

    The metric is shown per task if possible, and otherwise per episode. More methods than a reader can tell
    apart are shown in several panels, each with all others as thin grey lines behind its own. Values that are
    not numbers have a point each, with the interval as a bar. What is below a lower bound is grey. A rate
    without an event at any value has no band, which would hide those of others, and is in the background if
    neither direction is better.

    Args:
      summary: columns method, value, metric, per, estimate, ci_low, ci_high.
      axis_label: the label of the swept quantity, with its unit.
      among: the methods that are highlighted, by default all; the others are thin grey lines behind them.
    """
    per = column.weightings[0]
    rows = summary.loc[(summary["metric"] == column.name) & (summary["per"] == per)]
    names = dict.fromkeys(rows["method"])
    numbers = np.asarray(rows["value"]).dtype.kind in "if"
    if numbers:
        rows = rows.sort_values("value", kind="stable")
    # Before any row is left out, so that a category has the same place for all methods.
    rows = rows.assign(x=rows["value"] if numbers else pd.factorize(rows["value"])[0])
    lines = {method: rows.loc[rows["method"] == method] for method in names}
    floor = lines.pop(BOUND, rows.iloc[:0])
    methods = [method for method in lines if among is None or method in among]
    if column.is_rate and column.better is None:  # such as that of rejections, which most methods never make
        methods = [method for method in methods if _has_events(lines[method])]
    panels = _panels(methods) if numbers else [methods]
    with canvas(5.2 if len(panels) == 1 else 3.6 * len(panels), 3.4 + 0.4 * (len(panels) > 1)) as figure:
        every_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, shown in zip(every_axes, panels, strict=True):
            _draw_floor(axes, floor, numbers)
            _draw_behind(axes, [line for method, line in lines.items() if method not in shown])
            _draw_lines(axes, {method: lines[method] for method in shown}, numbers, column.is_rate)
            axes.set_xlabel(axis_label)
            if not numbers:
                axes.set_xticks(*zip(*dict(zip(rows["x"], rows["value"], strict=True)).items(), strict=True))
            if len(panels) > 1:
                axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1), ncols=2, fontsize=7, **_COMPACT)
        first = every_axes[0]
        first.set_ylabel(column.title(per))
        if column.bounds[0] < 0:
            for axes in every_axes:
                axes.axhline(0, color=BLACK, linewidth=0.6)
        else:
            least = _RARE if column.is_rate else 0.0
            highest = column.bounds[1] + _ROOM if column.better == "higher" else 0.0
            top = first.get_ylim()[1]
            first.set_ylim(0, max(top, least, highest if np.isfinite(highest) else 0.0))
        if len(panels) == 1:
            figure.legend(loc="outside right upper")
    return figure


def _draw_floor(axes: Any, rows: pd.DataFrame, numbers: bool) -> None:
    """Fill the area below a lower bound over the swept values, if it is above 0 at any of them."""
    x, mean = np.asarray(rows["x"]), np.asarray(rows["estimate"])
    if not np.any(mean > 0):
        return
    style = {"color": BEHIND, "alpha": 0.4, "linewidth": 0, "zorder": 0, "label": "lower bound"}
    if not numbers:
        axes.bar(x, mean, **style)
    elif len(x) == 1:
        axes.axhspan(0, mean[0], **style)
    else:
        axes.fill_between(x, 0, mean, **style)


def _has_events(line: pd.DataFrame) -> bool:
    """Whether a rate is above 0 at any value."""
    return bool(np.any(line["estimate"] > 0))


def _panels(methods: list[str]) -> list[list[str]]:
    """The methods in their order, as evenly divided into panels as possible."""
    count = -(-len(methods) // _MAX_CURVES)
    return [list(part) for part in np.array_split(np.asarray(methods, object), max(count, 1))]


def _draw_behind(axes: Any, lines: Sequence[pd.DataFrame]) -> None:
    """Draw methods as thin grey lines."""
    for place, line in enumerate(lines):
        label = None if place else "others"
        axes.plot(
            np.asarray(line["x"]),
            np.asarray(line["estimate"]),
            color=BEHIND,
            linewidth=0.8,
            zorder=1,
            label=label,
        )


def _draw_lines(axes: Any, lines: Mapping[str, pd.DataFrame], numbers: bool, is_rate: bool) -> None:
    """Draw methods in their colours, with their intervals."""
    for place, (method, style) in enumerate(method_styles([*lines]).items()):
        line = lines[method]
        x, low, mean, high = (np.asarray(line[c]) for c in ("x", "ci_low", "estimate", "ci_high"))
        if numbers:
            every = max(len(x) // 10, 1)
            axes.plot(x, mean, label=shown_name(method), linewidth=1.3, markevery=every, **style)
            if not is_rate or _has_events(line):
                axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
        else:  # categories have no order that a line could follow
            beside = x + 0.5 * ((place + 0.5) / len(lines) - 0.5)
            points: dict[str, Any] = style | {"linestyle": "none"}
            axes.errorbar(beside, mean, (mean - low, high - mean), label=shown_name(method), **points)


def ranking_figure(rows: pd.DataFrame, column: Column) -> Figure:
    """A metric as a point with its 95 % interval for each method, with the best at the top.

    Args:
      rows: columns method, estimate, ci_low, ci_high.
    """
    floor, rows = rows.loc[rows["method"] == BOUND], rows.loc[rows["method"] != BOUND]
    rows = rows.sort_values("estimate", ascending=column.better != "higher", kind="stable")
    with canvas(6.4, 0.9 + 0.26 * len(rows)) as figure:
        axes = figure.subplots()
        for bound in floor["estimate"][np.isfinite(floor["estimate"])]:
            axes.axvspan(0, bound, color=BEHIND, alpha=0.4, linewidth=0, zorder=0)
        for place, style in enumerate(method_styles(list(rows["method"])).values()):
            mean, low, high = (float(rows[c].iloc[place]) for c in ("estimate", "ci_low", "ci_high"))
            spread = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
            point: dict[str, Any] = style | {"linestyle": "none"}
            axes.errorbar(mean, place, xerr=spread, **point)
        axes.set_yticks(np.arange(len(rows)), list(map(shown_name, rows["method"])))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(column.title(column.weightings[0]))
    return figure


def convergence_figures(
    curves: pd.DataFrame, columns: Iterable[Column], variant: str = ""
) -> dict[str, Callable[[], Figure]]:
    """Functions that draw the metrics over the training episodes, by the names of the figures.

    Args:
      columns: the columns of the metrics; the figure of the first has no metric in its name.
      variant: a suffix of the names.
    """
    shown = shown_in(columns, Shown.EVERYWHERE)
    return {
        f"convergence{variant}{f'-{column.name}' if place else ''}": functools.partial(
            convergence_figure, curves, column
        )
        for place, column in enumerate(shown)
    }


def convergence_figure(curves: pd.DataFrame, column: Column) -> Figure:
    """A metric over the training episodes, with a line for each method.

    The darker band is the 95 % interval of the mean over seeds; the lighter one contains 80 % of the seeds.

    Args:
      curves: columns method, seed, episode, and those of metrics.
    """
    with canvas(5.2, 3.4) as figure:
        axes = figure.subplots()
        methods = list(dict.fromkeys(curves["method"]))
        for method, style in method_styles(methods).items():
            rows = curves.loc[curves["method"] == method]
            episode, by_seed, (mean, low, high) = learning_curve(rows, column)
            every, colour = max(len(episode) // 8, 1), style["color"]
            axes.plot(episode, mean, label=shown_name(method), linewidth=1.2, markevery=every, **style)
            axes.fill_between(episode, low, high, color=colour, alpha=0.35, linewidth=0)
            low, high = np.full((2, len(episode)), np.nan)
            some = ~np.all(np.isnan(by_seed), axis=0)
            low[some], high[some] = np.nanpercentile(by_seed[:, some], (10, 90), axis=0)
            axes.fill_between(episode, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_xlabel("episode")
        axes.set_ylabel(column.title(column.weightings[0]))
        figure.legend(loc="outside right upper")
    return figure


def slots_figure(rows: pd.DataFrame, column: Column, title: str, among: Collection[str]) -> Figure:
    """A metric over the slots of an episode, with the 95 % interval of each slot as a band.

    Args:
      rows: columns method, slot, estimate, ci_low, ci_high.
      among: the methods that are shown.
    """
    with canvas(5.2, 3.4) as figure:
        axes = figure.subplots()
        for method, style in method_styles([m for m in dict.fromkeys(rows["method"]) if m in among]).items():
            line = rows.loc[rows["method"] == method]
            slot, mean, low, high = (np.asarray(line[c]) for c in ("slot", "estimate", "ci_low", "ci_high"))
            every = max(len(slot) // 10, 1)
            axes.plot(slot, mean, label=shown_name(method), linewidth=1.2, markevery=every, **style)
            axes.fill_between(slot, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.set_xlabel("slot")
        axes.set_ylabel(column.title())
        if column.bounds[0] >= 0:
            axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize="medium")
        figure.legend(loc="outside right upper")
    return figure


def cdf_figure(quantiles: pd.DataFrame, column: Column, title: str) -> Figure:
    """The distribution function of a metric over tasks, from its quantiles, which are joined by lines.

    Args:
      quantiles: columns method, level (in (0, 1)), value.
      column: the metric that the quantiles belong to.
    """
    with canvas(5.2, 3.4) as figure:
        axes = figure.subplots()
        for method, style in method_styles(list(dict.fromkeys(quantiles["method"]))).items():
            rows = quantiles.loc[quantiles["method"] == method]
            every = max(len(rows) // 10, 1)
            axes.plot(
                rows["value"],
                rows["level"],
                label=shown_name(method),
                linewidth=1.3,
                markevery=every,
                **style,
            )
        axes.set_xlabel(column.title())
        axes.set_ylabel("share of the tasks")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        axes.set_title(title, fontsize="medium")
        figure.legend(loc="outside right upper")
    return figure


def profile_figure(profiles: pd.DataFrame, label: str, title: str, among: Collection[str]) -> Figure:
    """Performance profiles: shares of seeds and scenarios whose cost is at most a level, with intervals.

    The axis of the cost is logarithmic.

    Args:
      profiles: columns method, level, share, share_low, share_high.
      label: the label of the cost.
      title: what the cost is of.
      among: the methods that are highlighted; the others are thin grey lines behind them.
    """
    with canvas(5.2, 3.4) as figure:
        from matplotlib.ticker import LogLocator, MaxNLocator

        axes = figure.subplots()
        every = list(dict.fromkeys(profiles["method"]))
        styles = method_styles([method for method in every if method in among])
        others = [method for method in every if method not in styles]
        for method in others + list(styles):
            rows = profiles.loc[profiles["method"] == method]
            level, share, low, high = (
                np.asarray(rows[c]) for c in ("level", "share", "share_low", "share_high")
            )
            if method in others:
                name = "others" if method == others[0] else None
                axes.plot(level, share, color=BEHIND, linewidth=0.8, zorder=1, label=name)
                continue
            style = styles[method]
            axes.plot(level, share, label=shown_name(method), linewidth=1.3, markevery=10, **style)
            axes.fill_between(level, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.axvline(1, color=BLACK, linewidth=0.6)
        axes.set_xscale("log")
        levels = np.asarray(profiles["level"])
        is_wide = levels.max() > 5 * levels.min()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(6))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_title(title, fontsize="small")
        axes.set_ylabel("share of seeds and scenarios")
        axes.set_ylim(0, 1 + _ROOM)
        figure.legend(loc="outside right upper")
    return figure


def growth_figure(growth: pd.DataFrame) -> Figure:
    """Time and peak memory over the number of seeds and of servers, with a line for each method.

    All axes are logarithmic. Thin grey lines are proportional to the number, and bars show the range of the
    repeats.

    Args:
      growth: columns method, axis (`seeds` or `num_servers`), value, decisions, seconds, seconds_min,
        seconds_max, peak_memory_mb.
    """
    with canvas(7.2, 5.0) as figure:
        columns = [axis for axis in _GROWTH_LABELS if axis in set(growth["axis"])]
        panels = figure.subplots(2, len(columns), sharex="col", squeeze=False)
        styles = method_styles(list(dict.fromkeys(growth["method"])))
        for axis, (upper, lower) in zip(columns, panels.T, strict=True):
            lowest = np.inf
            for method, style in styles.items():
                rows = growth.loc[(growth["axis"] == axis) & (growth["method"] == method)]
                value, memory = (np.asarray(rows[c]) for c in ("value", "peak_memory_mb"))
                per = 1 if axis == "seeds" else np.asarray(rows["decisions"]) / 1e6
                low, median, high = (np.asarray(rows[f"seconds{end}"]) / per for end in ("_min", "", "_max"))
                style = style | {"markersize": 4, "linewidth": 1.3}
                spread = median - low, high - median
                label = None if axis != columns[0] else shown_name(method)
                upper.errorbar(value, median, spread, label=label, **style)
                lower.plot(value, memory, **style)
                if len(value):
                    lowest = min(lowest, low.min())
                    line = median[-1] * value / value[-1]
                    upper.plot(value, line, color=BEHIND, linewidth=0.6, zorder=1)
            x_label, y_label = _GROWTH_LABELS[axis]
            shown = growth.loc[growth["axis"] == axis]
            upper.set(xscale="log", yscale="log", ylabel=y_label)
            upper.set_ylim(bottom=0.6 * lowest)  # cuts off the grey lines below the measurements
            lower.set(xscale="log", yscale="log", ylabel="peak memory [MiB]", xlabel=x_label)
            memory = np.asarray(shown["peak_memory_mb"])
            lower.set_ylim(min(100, memory.min() / 2), max(2000, memory.max() * 2))
            lower.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
            lower.yaxis.set_major_formatter("{x:,.0f}")
            ticks = np.unique(shown["value"])
            lower.set_xticks(ticks, [f"{n // 1000}k" if n % 1000 == 0 else str(n) for n in ticks])
            lower.minorticks_off()
        figure.legend(loc="outside upper center", ncols=5)
    return figure
