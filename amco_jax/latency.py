"""Latency tables of image services: format, reader, fit and prediction.

A table is a long CSV file: each row holds one number, what it is, how it came about, and its source. See
docs/latency-tables.md.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError, check_number

VERSION = 1
SHIPPED = Path(__file__).parent / "data" / "latency"

ROW_KINDS = ("measured", "derived", "published", "estimated")
"""From the firmest to the weakest."""
WEIGHTS = ("trained", "random", "unstated")
COMPONENTS = (
    "load", "first_call", "text_encode", "vae_encode", "unet_step", "vae_decode", "total", "fixed", "per_step",
    "fit_residual", "peak",
)  # fmt: skip
QUANTITIES = {"wall": "s", "cpu": "s", "memory": "MB"}
STATISTICS = ("mean", "p50", "p95", "min", "max", "point", "low", "high")
LEAST_REPEATS_OF_P95 = 20

CONFIGURATION = ("device", "model", "weights", "dtype", "resolution", "guided")
"""What rows must share to be compared; with the batch, what a fit is of."""
COLUMNS = (
    "format_version", "row_kind", *CONFIGURATION, "batch", "steps", "component", "quantity", "statistic", "value",
    "repeats", "software", "source",
)  # fmt: skip
"""`steps` is empty where the component does not depend on it, `repeats` where nobody stated it."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """T(steps) = fixed + steps · per_step, s."""

    fixed: float
    per_step: float
    residual: float
    """Largest |T − fit| / T over the points; says nothing with fewer than three of them."""
    points: int
    steps: tuple[int, int] | None
    """Least and largest number of steps behind it; None for an estimate, behind which there are none."""
    row_kind: str

    def seconds(self, steps: float) -> float:
        return self.fixed + steps * self.per_step


@dataclasses.dataclass(frozen=True)
class Prediction:
    seconds: float
    extrapolated: bool
    """Outside the steps or batches behind the table, or an estimate to begin with."""
    row_kind: str


@dataclasses.dataclass(frozen=True)
class Service:
    """Latency of one configuration, with a fit for each batch size of the table."""

    configuration: Mapping[str, Any]
    fits: Mapping[int, Fit]

    def predict(self, steps: int, batch: int = 1) -> Prediction:
        """Seconds for one batch of images: the fit in steps, and straight lines between batch sizes.

        Beyond the batch sizes of the table the last line goes on; with a single size time is proportional to it.

        Raises:
          InputError: steps or batch are not at least 1.
        """
        steps = round(check_number("steps", steps, 1, 10_000))
        batch = round(check_number("batch", batch, 1, 10_000))
        sizes = sorted(self.fits)
        if batch in self.fits:
            used, weights = [batch], [1.0]
        elif len(sizes) == 1:
            used, weights = sizes, [batch / sizes[0]]
        else:
            above = min(max(int(np.searchsorted(sizes, batch)), 1), len(sizes) - 1)
            used = sizes[above - 1 : above + 1]
            share = (batch - used[0]) / (used[1] - used[0])
            weights = [1 - share, share]
        fits = [self.fits[size] for size in used]
        inside = sizes[0] <= batch <= sizes[-1] and all(
            fit.steps is not None and fit.steps[0] <= steps <= fit.steps[1] for fit in fits
        )
        seconds = sum(weight * fit.seconds(steps) for weight, fit in zip(weights, fits, strict=True))
        return Prediction(seconds, not inside, max((fit.row_kind for fit in fits), key=ROW_KINDS.index))


def fit_steps(steps: Sequence[int], seconds: Sequence[float], row_kind: str = "derived") -> Fit:
    """Least squares of T = fixed + steps · per_step, with fixed at least 0.

    Raises:
      InputError: fewer than two different numbers of steps, or time that does not grow with them.
    """
    x, y = np.asarray(steps, float), np.asarray(seconds, float)
    if len(set(steps)) < 2:
        raise InputError(f"steps: {sorted(set(steps))}; legal: at least two different numbers for a fit")
    per_step, fixed = np.polyfit(x, y, 1)
    if fixed < 0:
        fixed, per_step = 0.0, (x @ y) / (x @ x)
    if per_step <= 0:
        raise InputError("total: seconds that do not grow with the steps; measure with more repeats or steps")
    residual = float(np.max(np.abs(fixed + x * per_step - y) / y))
    return Fit(float(fixed), float(per_step), residual, len(x), (min(steps), max(steps)), row_kind)


def read_table(table: str | Path) -> pd.DataFrame:
    """The checked rows of a table: a file, or a shipped table by name.

    Raises:
      InputError: no such table, or a bad row, by its line in the file.
    """
    path = Path(table)
    if not path.is_file():
        path = SHIPPED / f"{table}.csv"
    if not path.is_file():
        raise InputError(f"table: there is no {table}; legal: a file, or {', '.join(shipped_tables())}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"table: {path} is no CSV file in UTF-8: {error}") from error
    return check_rows(rows, str(path))


def check_rows(rows: Sequence[Mapping[str, Any]], name: str = "table") -> pd.DataFrame:
    """The rows as a frame with typed columns.

    Raises:
      InputError: no rows, a missing or unknown column, a bad value, or two rows for the same number.
    """
    if not rows:
        raise InputError(f"table: {name} has no rows")
    checked: list[dict[str, Any]] = []
    seen: dict[tuple, int] = {}
    for line, row in enumerate(rows, start=2):
        try:
            values = _check_row(row)
            key = tuple(
                values[column] for column in COLUMNS if column not in ("value", "repeats", "software")
            )
            if key in seen:
                raise InputError(f"the same number as in line {seen[key]}")
        except InputError as error:
            raise InputError(f"table: {name}, line {line}: {error}") from error
        seen[key] = line
        checked.append(values)
    frame = pd.DataFrame(checked, columns=list(COLUMNS))
    return frame.astype({"steps": "Int64", "repeats": "Int64"})


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows, checked first, as `read_table` reads them."""
    frame = check_rows(rows, str(path))
    frame = frame.assign(guided=frame["guided"].map({True: "yes", False: "no"}))
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def shipped_tables() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.csv"))


def services(table: pd.DataFrame) -> list[Service]:
    """One service per configuration of a table that says anything about whole images.

    For each batch size the first that is there: a fit to totals of two or more numbers of steps; rows `fixed` and
    `per_step`; the one total, as proportional to its steps. The firmest kind of row is used.
    """
    found = []
    for key, rows in table.groupby(list(CONFIGURATION), sort=False, dropna=False):
        fits = {
            int(batch): fit for batch, group in rows.groupby("batch") if (fit := _fit_of(group)) is not None
        }
        if fits:
            found.append(Service(dict(zip(CONFIGURATION, key, strict=True)), fits))
    return found


def find_service(table: pd.DataFrame, **configuration: Any) -> Service:
    """The one service of a table with these values.

    Raises:
      InputError: an unknown column, or none or several services; the message lists them.
    """
    for column in configuration:
        if column not in CONFIGURATION:
            raise InputError(f"table: no column '{column}'; legal: {', '.join(CONFIGURATION)}")
    every = services(table)
    found = [s for s in every if all(s.configuration[name] == value for name, value in configuration.items())]
    if len(found) != 1:
        wanted = ", ".join(f"{name}={value}" for name, value in configuration.items()) or "nothing said"
        listed = "; ".join(" ".join(map(str, s.configuration.values())) for s in found or every)
        raise InputError(f"table: {len(found) or 'no'} configurations for {wanted}; it has {listed}")
    return found[0]


def _fit_of(rows: pd.DataFrame) -> Fit | None:
    wall = rows[rows["quantity"] == "wall"]
    for kind in ROW_KINDS:
        totals = _central(wall[(wall["component"] == "total") & (wall["row_kind"] == kind)], "steps")
        if len(totals) >= 2:
            return fit_steps(
                [int(s) for s in totals.index], totals.to_list(), "derived" if kind == "measured" else kind
            )
        lines = _central(wall[wall["row_kind"] == kind], "component")
        if {"fixed", "per_step"} <= set(lines.index):
            return Fit(lines["fixed"], lines["per_step"], math.nan, 0, None, kind)
        if len(totals) == 1:
            steps = int(totals.index[0])
            return Fit(0.0, totals.iloc[0] / steps, math.nan, 1, (steps, steps), kind)
    return None


def _central(rows: pd.DataFrame, by: str) -> pd.Series:
    """One value per `by`: the median where there is one, else the mean, else the point estimate."""
    order = ["p50", "mean", "point"]
    rows = rows[rows["statistic"].isin(order)]
    rows = rows.assign(order=rows["statistic"].map(order.index)).sort_values("order", kind="stable")
    return rows.groupby(by)["value"].first()


def _check_row(row: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in row if name is not None]
    for column in COLUMNS:
        if column not in names:
            raise InputError(f"no column '{column}'")
    if None in row or set(names) != set(COLUMNS):
        extra = sorted(set(names) - set(COLUMNS)) or ["more cells than columns"]
        raise InputError(f"unknown: {', '.join(extra)}; legal: {', '.join(COLUMNS)}")
    if any(row[column] is None for column in COLUMNS):
        raise InputError("fewer cells than columns")
    cells = {column: str(row[column]).strip() for column in COLUMNS}
    for column in ("device", "model", "dtype", "software", "source"):
        if not cells[column] or cells[column].isspace():
            raise InputError(f"{column}: empty; legal: some text")
    legal = {
        "format_version": (str(VERSION),), "row_kind": ROW_KINDS, "weights": WEIGHTS, "component": COMPONENTS,
        "quantity": QUANTITIES, "statistic": STATISTICS, "guided": ("yes", "no", "True", "False"),
    }  # fmt: skip
    for column, choices in legal.items():
        if cells[column] not in choices:
            raise InputError(f"{column}: '{cells[column]}'; legal: {', '.join(choices)}")
    values: dict[str, Any] = dict(cells) | {
        "format_version": VERSION,
        "guided": cells["guided"] in ("yes", "True"),
        "resolution": _whole(cells, "resolution", 1),
        "batch": _whole(cells, "batch", 1),
        "steps": _whole(cells, "steps", 1, optional=cells["component"] not in ("total", "first_call")),
        "repeats": _whole(cells, "repeats", 1, optional=cells["row_kind"] != "measured"),
        "value": _number(cells, zero=cells["component"] in ("fixed", "fit_residual")),
    }
    if values["statistic"] == "p95" and values["row_kind"] == "measured":
        repeats = values["repeats"]
        if repeats < LEAST_REPEATS_OF_P95:
            raise InputError(f"repeats: {repeats}; legal: at least {LEAST_REPEATS_OF_P95} for a p95")
    return values


def _whole(cells: Mapping[str, str], column: str, low: int, optional: bool = False) -> int | None:
    text = cells[column]
    if optional and text in ("", "None", "<NA>", "nan"):
        return None
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= 10**6:
        raise InputError(f"{column}: '{text}'; legal: a whole number from {low} to 1000000")
    return int(text)


def _number(cells: Mapping[str, str], zero: bool) -> float:
    text = cells["value"]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value <= 1e9 or (zero and value == 0)):
        raise InputError(f"value: '{text}'; legal: a number above 0 to 1e+09")
    return value
