"""Latency tables of image services: format, reader, fit and prediction.

A table is a CSV file in long form: each row holds one number, its meaning, how it was obtained, and its
source. See docs/latency-tables.md.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError, check_choice, check_number, check_whole
from amco_jax.files import replacing, text_of

VERSION = 1
SHIPPED = Path(__file__).parents[1] / "data" / "latency"

ROW_KINDS = ("measured", "derived", "published", "estimated")
"""The kinds of rows, from the most to the least reliable."""
COMPONENTS = {
    "load": "time", "first_call": "time", "text_encode": "time", "vae_encode": "time", "unet_step": "time",
    "vae_decode": "time", "total": "time", "fixed": "time", "per_step": "time", "fit_residual": "share",
    "peak": "memory", "idle": "power", "busy": "power",
}  # fmt: skip
"""The components, and the kind of quantity given for each."""
WITH_STEPS = ("first_call", "total")
QUANTITIES = {"time": ("wall", "cpu"), "share": ("share",), "memory": ("memory",), "power": ("power",)}
"""The quantities of each kind: wall and CPU time in s, memory in MB, power in W."""
STATISTICS = ("p50", "mean", "point", "low", "high", "min", "max", "p95")
CENTRAL = STATISTICS[:3]
"""The statistics used as the value, in order of preference; an estimate may have `low` and `high` as well."""
MIN_REPEATS_OF_P95 = 20

CONFIGURATION = ("device", "model", "weights", "dtype", "resolution", "guided", "software")
"""The columns that rows must share to be comparable; a fit is for one configuration and batch size."""
COLUMNS = (
    "format_version", "row_kind", *CONFIGURATION, "batch", "steps", "component", "quantity", "statistic",
    "value", "repeats", "source",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fit:
    """T(steps) = fixed + steps · per_step, s."""

    fixed: float
    per_step: float
    residual: float
    """Largest `|T − fit| / T` over the points; meaningless with fewer than three points."""
    points: int
    steps: tuple[int, int] | None
    """Smallest and largest number of steps in the data; None if the table gives only the line."""
    row_kind: str

    def seconds(self, steps: float) -> float:
        return self.fixed + steps * self.per_step


@dataclasses.dataclass(frozen=True)
class BatchFit:
    """T(images, steps) = start.seconds(steps) + images · each.seconds(steps), s, of one batch."""

    start: Fit
    each: Fit
    batches: tuple[int, int]
    """Smallest and largest batch in the data"""
    residual: float
    """Largest `|T − fit| / T` over the batch sizes, at the smallest and largest number of steps"""


@dataclasses.dataclass(frozen=True)
class Power:
    """The power of a device, W; None where the table does not give it."""

    idle: float | None
    busy: float | None
    """While it computes a batch"""


@dataclasses.dataclass(frozen=True)
class Load:
    """The time to load a model."""

    seconds: float
    """s"""
    row_kind: str


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted time of one batch."""

    seconds: float
    """s"""
    extrapolated: bool
    """Whether steps or batch are outside the range of the table's data, or that range is unknown."""
    row_kind: str


@dataclasses.dataclass(frozen=True)
class Service:
    """The latency and power of one configuration, for each batch size in the table."""

    configuration: Mapping[str, Any]
    fits: Mapping[int, Fit]
    powers: Mapping[int, Power]
    load: Load | None = None
    """The time to load the model; None if the table does not give it"""

    def predict(self, steps: int, batch: int = 1) -> Prediction:
        """Predict the time of one batch: a linear fit in steps, interpolated linearly between batch sizes.

        Outside the batch sizes of the table, time is proportional to the batch size.

        Raises:
          InputError: steps or batch is not a whole number from 1 to 1000000.
        """
        check_whole("steps", steps, 1, 1_000_000)
        check_whole("batch", batch, 1, 1_000_000)
        sizes = sorted(self.fits)
        inner = min(max(batch, sizes[0]), sizes[-1])
        below = max(size for size in sizes if size <= inner)
        above = min(size for size in sizes if size >= inner)
        share = (inner - below) / max(above - below, 1)
        fits = [self.fits[below], self.fits[above]]
        seconds = (1 - share) * fits[0].seconds(steps) + share * fits[1].seconds(steps)
        return Prediction(
            seconds * batch / inner,
            batch != inner or not all(fit.steps and fit.steps[0] <= steps <= fit.steps[1] for fit in fits),
            max((fit.row_kind for fit in fits), key=ROW_KINDS.index),
        )


def fit_steps(steps: Sequence[int], seconds: Sequence[float], row_kind: str = "derived") -> Fit:
    """Least-squares fit of T = fixed + steps · per_step, with fixed ≥ 0.

    Raises:
      InputError: there are fewer than two different numbers of steps, or time does not grow with them.
    """
    if len(set(steps)) < 2:
        raise InputError(f"steps: {sorted(set(steps))}; legal: at least two different numbers for a fit")
    fixed, per_step = _line(steps, seconds)
    if per_step <= 0:
        raise InputError("total: seconds do not grow with the steps; legal: totals of more repeats or steps")
    x, y = np.asarray(steps, float), np.asarray(seconds, float)
    residual = float(np.max(np.abs(fixed + x * per_step - y) / y))
    return Fit(fixed, per_step, residual, len(x), (min(steps), max(steps)), row_kind)


def fit_batches(fits: Mapping[int, Fit]) -> BatchFit:
    """Least-squares fit of the time of a batch, linear in its size, to the fits of some batch sizes.

    Both parts of T = fixed + steps · per_step are lines in the batch size with coefficients of at least 0.

    Raises:
      InputError: there are fewer than two batch sizes, or time does not grow with them.
    """
    if len(fits) < 2:
        raise InputError(f"batch: {sorted(fits)}; legal: at least two batch sizes for a fit")
    sizes, found = zip(*sorted(fits.items()), strict=True)
    ranges = [fit.steps for fit in found]
    common = [steps for steps in ranges if steps is not None]
    steps = None
    if len(common) == len(ranges):
        steps = max(low for low, _ in common), min(high for _, high in common)
    kind = max((fit.row_kind for fit in found), key=ROW_KINDS.index)
    fixed, per_step = _line(sizes, [f.fixed for f in found]), _line(sizes, [f.per_step for f in found])
    if per_step[1] <= 0:
        raise InputError("total: seconds do not grow with the batch; legal: totals of more batch sizes")
    start, each = (
        Fit(*line, math.nan, len(found), steps, kind) for line in zip(fixed, per_step, strict=True)
    )
    residual = max(
        abs(start.seconds(s) + size * each.seconds(s) - fit.seconds(s)) / fit.seconds(s)
        for size, fit in zip(sizes, found, strict=True)
        for s in fit.steps or (1,)
    )
    return BatchFit(start, each, (sizes[0], sizes[-1]), residual)


def _line(xs: Sequence[int], ys: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope, both at least 0, of the least-squares line through numbers of at least 0."""
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    centred = x - x.mean()
    slope = (centred @ y) / (centred @ centred)
    intercept = y.mean() - slope * x.mean()
    if slope < 0:
        intercept, slope = y.mean(), 0.0
    if intercept < 0:
        intercept, slope = 0.0, (x @ y) / (x @ x)
    return float(intercept), float(slope)


def read_table(table: str | Path) -> pd.DataFrame:
    """The checked rows of a table, which is a file or the name of a shipped table.

    Raises:
      InputError: the table does not exist, or a row is bad; the message gives its line.
    """
    path = table_path(table)
    try:
        reader = csv.reader(io.StringIO(text_of(path.read_bytes())), strict=True)
        header = [cell.strip() for cell in next(reader, [])]
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, or an invalid file name
        reason = error.strerror if isinstance(error, OSError) else f"not CSV in UTF-8 or UTF-16, {error}"
        legal = f"a CSV file, or one of {', '.join(shipped_tables())}"
        raise InputError(f"table: {path}: {reason}; legal: {legal}") from error
    wrong = sorted({*COLUMNS} ^ {*header}) or sorted({name for name in header if header.count(name) > 1})
    if wrong:
        shown = ", ".join(name[:40] for name in wrong[:5])
        raise InputError(
            f"table: {path}: missing, unknown or repeated columns: {shown!r}; legal: {', '.join(COLUMNS)}"
        )
    for line, cells in lines:
        if len(cells) != len(header):
            raise InputError(f"table: {path}, line {line}: {len(cells)} cells; legal: {len(header)}")
    return check_rows(
        [dict(zip(header, cells, strict=True)) for _, cells in lines], str(path), [n for n, _ in lines]
    )


def check_rows(
    rows: Sequence[Mapping[str, Any]], name: str = "rows", lines: Sequence[int] | None = None
) -> pd.DataFrame:
    """The rows, each with all columns, as a frame with typed columns.

    Args:
      name, lines: the name of the table and the line of each row, for messages.

    Raises:
      InputError: there are no rows, a value is bad, or two rows give the same number.
    """
    if not rows:
        raise InputError(f"table: {name} has no rows")
    checked: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    for line, row in zip(lines or range(1, len(rows) + 1), rows, strict=True):
        try:
            values = _check_row(row)
            key = tuple(values[column] for column in COLUMNS if column not in ("value", "repeats", "source"))
            if key in seen:
                raise InputError(f"the same number as in line {seen[key]}; legal: each number once")
        except InputError as error:
            raise InputError(f"table: {name}, line {line}: {error}") from error
        seen[key] = line
        checked.append(values)
    return pd.DataFrame(checked, columns=list(COLUMNS)).astype({"steps": "Int64", "repeats": "Int64"})


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Check rows and write them, all or none, in the format that `read_table` reads."""
    table = check_rows(rows, str(path))
    with replacing(path) as draft:
        table.to_csv(draft, index=False, float_format="%.6g", lineterminator="\n")


def is_shipped(table: str | Path) -> bool:
    """Whether this is the name of a table that comes with the package."""
    return table in shipped_tables()


def table_path(table: str | Path) -> Path:
    """The path of a table, which is a file or the name of a shipped table."""
    return SHIPPED / f"{table}.csv" if is_shipped(table) else Path(table)


def shipped_tables() -> list[str]:
    """The names of the tables that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.csv"))


def services(table: pd.DataFrame, bound: str = "point") -> list[Service]:
    """One service for each configuration of a table that has data about whole images.

    For each batch size, the most reliable kind of row with any of the following is used, and of these the
    first: a fit to totals for two or more numbers of steps; the rows `fixed` and `per_step`; a single total,
    taken as proportional to its steps.

    Args:
      bound: low and high use these bounds of estimates instead of the point.

    Raises:
      InputError: the bound is unknown, or totals do not grow with the steps; the message says of which
        configuration and batch.
    """
    check_choice("bound", bound, ("point", "low", "high"))
    groups: dict[tuple[Any, ...], dict[int, list[Any]]] = {}
    for row in table.to_dict("records"):
        by_batch = groups.setdefault(tuple(row[column] for column in CONFIGURATION), {})
        by_batch.setdefault(row["batch"], []).append(row)
    found = []
    for key, by_batch in groups.items():
        fits = {batch: fit for batch, rows in by_batch.items() if (fit := _fit_of(rows, bound)) is not None}
        if fits:
            powers = {batch: _power_of(by_batch[batch], bound) for batch in fits}
            load = _load_of([row for rows in by_batch.values() for row in rows], bound)
            found.append(Service(dict(zip(CONFIGURATION, key, strict=True)), fits, powers, load))
    return found


def find_service(table: pd.DataFrame, bound: str = "point", **configuration: Any) -> Service:
    """The only service of a table with these values, whatever the rows of others are.

    Raises:
      InputError: a column is unknown, no service or several match, which the message lists, or its totals do
        not grow with the steps.
    """
    matches = np.ones(len(table), bool)
    for column, value in configuration.items():
        check_choice("column", column, CONFIGURATION)
        matches &= (table[column] == value).to_numpy()
    found = services(table.loc[matches], bound)
    if len(found) != 1:
        wanted = ", ".join(f"{name}={value}" for name, value in configuration.items()) or "no selection"
        every = [row for row in table.to_dict("records") if row["component"] in ("total", "per_step")]
        legal = map(_described, [service.configuration for service in found] or every)
        listed = "; ".join(dict.fromkeys(legal)) or "none"
        raise InputError(f"table: {len(found) or 'no'} services for {wanted}; legal: one of {listed}")
    return found[0]


def _described(row: Mapping[str, Any]) -> str:
    return ", ".join(str(row[column]) for column in CONFIGURATION)


def _fit_of(rows: Sequence[Mapping[str, Any]], bound: str) -> Fit | None:
    for kind, of_kind in _by_kind(rows, "wall", bound):
        totals = {row["steps"]: row["value"] for row in of_kind if row["component"] == "total"}
        line = {row["component"]: row["value"] for row in of_kind}
        if len(totals) > 1:
            kind_of_fit = "derived" if kind == "measured" else kind
            try:
                return fit_steps([*totals], [*totals.values()], kind_of_fit)
            except InputError as error:
                where = f"{_described(rows[0])}, batch {rows[0]['batch']}"
                raise InputError(f"table: {where}, {error}") from None
        if {"fixed", "per_step"} <= {*line}:
            return Fit(line["fixed"], line["per_step"], math.nan, 0, None, kind)
        for steps, value in totals.items():
            return Fit(0.0, value / steps, math.nan, 1, (steps, steps), kind)
    return None


def _power_of(rows: Sequence[Mapping[str, Any]], bound: str) -> Power:
    found: dict[str, float] = {}
    for _, of_kind in _by_kind(rows, "power", bound):
        found = {row["component"]: row["value"] for row in of_kind} | found
    return Power(found.get("idle"), found.get("busy"))


def _load_of(rows: Sequence[Mapping[str, Any]], bound: str) -> Load | None:
    for kind, of_kind in _by_kind(rows, "wall", bound):
        for row in reversed(of_kind):
            if row["component"] == "load":
                return Load(row["value"], kind)
    return None


def _by_kind(
    rows: Sequence[Mapping[str, Any]], quantity: str, bound: str
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """The rows with a value of a quantity, the most reliable kind first; later rows override earlier ones."""
    order = [*reversed(CENTRAL), bound]
    values = [row for row in rows if row["quantity"] == quantity and row["statistic"] in order]
    values.sort(key=lambda row: order.index(row["statistic"]))
    for kind in ROW_KINDS:
        yield kind, [row for row in values if row["row_kind"] == kind]


def _check_row(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {column: " ".join(str(row[column]).split()) for column in COLUMNS}
    for column in ("device", "model", "dtype", "software", "source"):
        text = cells[column]
        if not text or len(text) > 1000 or not text.isprintable():
            raise InputError(f"{column}: {text[:40]!r}; legal: 1 to 1000 printable characters")
    kind = COMPONENTS.get(cells["component"], "time")
    legal = {
        "format_version": (str(VERSION),), "row_kind": ROW_KINDS,
        "weights": ("trained", "random", "unstated"), "guided": ("yes", "no", "unstated"),
        "component": COMPONENTS, "quantity": QUANTITIES[kind], "statistic": STATISTICS,
    }  # fmt: skip
    for column, choices in legal.items():
        check_choice(column, cells[column][:40], choices)
    values: dict[str, Any] = cells | {"format_version": VERSION, "steps": None, "repeats": None}
    whole = ["resolution", "batch"]
    whole += ["repeats"] * (cells["row_kind"] == "measured" or cells["repeats"] != "")
    if cells["component"] in WITH_STEPS:
        whole.append("steps")
    elif cells["steps"]:
        raise InputError(f"steps: {cells['steps'][:40]!r}; legal: empty for {cells['component']}")
    for column in whole:
        values[column] = check_whole(column, _number(cells[column], int), 1, 1_000_000)
    may_be_zero = cells["component"] in ("fixed", "fit_residual")
    values["value"] = check_number("value", _number(cells["value"], float), 0 if may_be_zero else 1e-9)
    if cells["statistic"] == "p95" and cells["row_kind"] == "measured":
        check_whole("repeats of a p95", values["repeats"], MIN_REPEATS_OF_P95)
    return values


def _number(text: str, kind: Callable[[str], float]) -> Any:
    """The number in a cell, or the text itself if it is not a number, for use in a message."""
    try:
        return kind(text) if text.isascii() and "_" not in text and len(text) <= 40 else text
    except ValueError:
        return text
