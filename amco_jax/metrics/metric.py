"""The definition of a metric: plain data for tables and figures, and a function of a task or of a slot."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from amco_jax.errors import InputError
from amco_jax.identity import hashable
from amco_jax.metrics.outcomes import SlotOutcome, TaskOutcome

COUNT = "num_tasks"
"""The name of the metric over which means of tasks are taken by default"""

TASK, EPISODE = "task", "episode"
"""The units that an estimate may weight equally"""


class Reduction(enum.StrEnum):
    """How the values of tasks or slots are reduced to a number per episode, and episodes to an estimate.

    The first two have two estimates: the ratio of sums over all episodes, which weights tasks equally, and
    the mean over episodes. So do quantiles: those of all tasks together, and the mean over episodes. All
    others have only the mean over episodes.
    """

    MEAN_OF_TASKS = "mean over tasks"
    RATE = "share of tasks"
    """The values are booleans, and the intervals are those of proportions"""
    MEAN_OF_SLOTS = "mean over slots"
    SUM = "sum"
    QUANTILES = "quantiles of tasks"
    """The values are at least 0, all of them are sent to the host, and rows hold a list"""
    QUANTILES_OF_USERS = "quantiles over users"
    """Those of the mean value of each user of a request log; rows hold a list"""
    OVER_SLOTS = "over slots"
    """One number per slot, the sum over its tasks or the value of the slot; rows hold a list, NaN in the
    warm-up"""


class Shown(enum.IntEnum):
    """The places in which studies show a metric by default; each level includes those before it."""

    ASKED = 0
    """Nowhere; it is computed only if a user asks for it"""
    ROWS = 1
    """In the rows and summaries of sweeps and evaluations"""
    FIGURES = 2
    """In a figure of reports"""
    CURVES = 3
    """In the rows of trainings, and in the terminal output of trainings and evaluations"""
    TABLES = 4
    """In all tables, in paired comparisons, and in a figure of sweeps"""
    EVERYWHERE = 5
    """In a figure over the training episodes, and in a separate table of comparisons"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """The description of a column of results, which manifests store and reports read.

    Raises:
      InputError: a name that is not legal for a column, or another illegal value.
    """

    name: str
    """The name of the column: lower-case letters, digits and `_`, with the unit, if any, at the end"""
    label: str
    """The label of axes and table headers, without the unit"""
    unit: str = ""
    """Empty for shares and counts"""
    caption: str = ""
    """A sentence for figures; by default the label"""
    reduction: Reduction = Reduction.MEAN_OF_TASKS
    better: str | None = None
    """`lower` or `higher`; None if neither is better"""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """The smallest and the largest possible value, to which intervals are clipped"""
    shown: Shown = Shown.ASKED
    weight: str = COUNT
    """The column whose sum is the denominator of means"""
    complement_of: str = ""
    """If it counts tasks, the rate of those that it does not count: that of misses for the goodput. Methods
    with the same tasks are then compared as they are by that rate"""
    per_server: bool = False
    """Rows hold a column for each server or base station, `name_0`, `name_1`, ...; `name` is their mean"""
    of: str = ""
    """For a derived column, the metric from whose servers or quantiles it is computed"""
    how: str = ""
    """How servers are aggregated: `max`, `min` or `jain`, Jain's fairness index"""
    level: float | None = None
    """The level of the quantile, in [0, 1]"""
    figure: str = ""
    """The name of the files of its figure; by default the name of the column"""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(f"metrics: {self.name!r}; legal: a name of small letters, digits and _")
        if self.better not in ("lower", "higher", None):
            raise InputError(f"metrics: better = {self.better!r} in {self.name}; legal: lower, higher, None")
        low, high = (0.0, 1.0) if self.reduction == Reduction.RATE else self.bounds
        object.__setattr__(self, "bounds", (float(low), float(high)))

    @property
    def is_rate(self) -> bool:
        """Whether it is a proportion of tasks, or the mean proportion of base stations."""
        return self.reduction is Reduction.RATE

    @property
    def in_rows(self) -> bool:
        """Whether rows hold a column of this name, rather than columns per server from which it follows."""
        return not self.per_server and not self.how

    @property
    def is_list(self) -> bool:
        """Whether each entry of the column is a list, of quantiles or over slots, and not a number."""
        return self.is_over_slots or (self.has_quantiles and self.level is None)

    @property
    def has_quantiles(self) -> bool:
        """Whether it is a quantile, or a metric of which rows hold quantiles."""
        return self.reduction is Reduction.QUANTILES or self.is_of_users

    @property
    def is_of_users(self) -> bool:
        """Whether its quantiles are those over users rather than over tasks."""
        return self.reduction is Reduction.QUANTILES_OF_USERS

    @property
    def is_over_slots(self) -> bool:
        """Whether each entry of the column is a list with one number per slot."""
        return self.reduction is Reduction.OVER_SLOTS

    @property
    def weightings(self) -> tuple[str, ...]:
        """The available weightings of its estimates, the default first."""
        per_task = self.reduction in (Reduction.MEAN_OF_TASKS, Reduction.RATE) and not self.of_servers
        of_tasks = self.level is not None and not self.is_of_users
        return (TASK, EPISODE) if per_task or of_tasks else (EPISODE,)

    @property
    def of_servers(self) -> bool:
        """Whether it is computed from the columns of the servers."""
        return self.per_server or bool(self.how)

    def title(self, per: str = "") -> str:
        """The label with the unit, and for a quantile also with its weighting."""
        of = (
            {TASK: ", all tasks", EPISODE: ", mean of episodes"}.get(per, "")
            if self.level is not None
            else ""
        )
        return f"{self.label}{of} [{self.unit}]" if self.unit else f"{self.label}{of}"

    def server(self, number: int, weighted: bool = False) -> Column:
        """The column of one server, for a metric with a column per server."""
        return Column(
            name=f"{self.name}_{number}", label=f"{self.label}, {number}", unit=self.unit,
            caption=self.caption, reduction=self.reduction, better=self.better, bounds=self.bounds,
            shown=Shown.ROWS,
            weight=f"{self.weight}_{number}" if weighted else self.weight,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a manifest: all values that differ from the defaults."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(Column)}
        data = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        if "bounds" in data:
            data["bounds"] = [value if math.isfinite(value) else None for value in self.bounds]
        return data | {"reduction": str(self.reduction), "shown": self.shown.name.lower()}

    @classmethod
    def from_dict(cls, data: Any) -> Column:
        """Restore a column from the result of `to_dict`.

        Raises:
          InputError: the data does not describe a column.
        """
        try:
            low, high = data.get("bounds", (None, None))
            return cls(
                **data
                | {
                    "reduction": Reduction(data["reduction"]),
                    "shown": Shown[data["shown"].upper()],
                    "bounds": (-math.inf if low is None else low, math.inf if high is None else high),
                }
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                "run: the manifest describes no metrics; legal: results of this version"
            ) from error


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Column)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Column):
    """A column of results together with the function that computes it on the device.

    The values of the function are summed over an episode: `of_task` over all tasks that arrived, `of_slot`
    over all slots. Exactly one of the two must be given.

    Raises:
      InputError: no function or two, or an illegal value.

    Example:
      >>> import jax.numpy as jnp
      >>> late = Metric(
      ...     name="tardiness_s",
      ...     label="mean tardiness per task",
      ...     unit="s",
      ...     better="lower",
      ...     bounds=(0, math.inf),
      ...     of_task=lambda task: jnp.maximum(task.finish - task.params.deadline, 0),
      ... )
      >>> late.title()
      'mean tardiness per task [s]'
    """

    shown: Shown = Shown.EVERYWHERE
    of_task: Callable[[TaskOutcome], Any] | None = None
    """A function of a task, which returns a number or, with `per_server`, `[num_servers]`"""
    of_slot: Callable[[SlotOutcome], Any] | None = None
    """The same for a slot"""
    whole: bool = False
    """The values are integers or booleans, and their sums are exact; the sum over a slot must fit int32"""
    over: Metric | None = None
    """The metric over which means and quantiles are taken, such as the number of accepted tasks; by default
    all tasks that arrived. A task counts in quantiles if the function of `over` returns more than 0"""
    also: tuple[Column, ...] = ()
    """Further columns, computed from the servers or quantiles of this one"""

    def __post_init__(self):
        super().__post_init__()
        for field in ("of_task", "of_slot"):
            if (function := getattr(self, field)) is not None:
                object.__setattr__(self, field, hashable(field, function))
        if self.of or self.how or self.level is not None:
            raise InputError(f"metrics: {self.name} has of, how or level; legal: in columns of also")
        if (self.of_task is None) == (self.of_slot is None):
            raise InputError(f"metrics: {self.name} has of_task and of_slot, or neither; legal: one of them")
        if self.has_quantiles and (self.of_task is None or self.per_server):
            raise InputError(f"metrics: {self.name} has quantiles of what is no task's; legal: of_task")
        if self.is_over_slots and self.per_server:
            raise InputError(
                f"metrics: {self.name} is over slots and servers; legal: one number for each slot"
            )
        if self.over is not None:
            sums = Reduction.OVER_SLOTS if self.is_over_slots else Reduction.SUM
            if self.over.reduction is not sums or self.over.per_server > self.per_server:
                legal = "over slots too" if self.is_over_slots else "a sum"
                raise InputError(
                    f"metrics: {self.name} is over {self.over.name}; legal: a metric that is {legal}"
                )
            quantiles = self.has_quantiles
            if quantiles and self.over.of_task is None:
                raise InputError(f"metrics: {self.name} is over {self.over.name}; legal: a metric of tasks")
            object.__setattr__(self, "weight", self.over.name)
            also = (dataclasses.replace(c, weight=self.weight) if quantiles else c for c in self.also)
            object.__setattr__(self, "also", tuple(also))
        object.__setattr__(self, "whole", self.whole or self.reduction is Reduction.RATE)

    @property
    def function(self) -> Callable[[Any], Any]:
        """`of_task` or `of_slot`, whichever is given."""
        return self.of_task or self.of_slot  # pyright: ignore[reportReturnType]

    @property
    def is_sum(self) -> bool:
        """Whether it is summed over the episode on the device, rather than sent to the host in pieces."""
        return not self.is_list

    @property
    def is_summed_in_slots(self) -> bool:
        """Whether the values of the tasks of a slot are summed on the device."""
        return self.is_sum or self.is_over_slots

    @property
    def is_count(self) -> bool:
        """Whether its columns hold integers."""
        return self.whole and self.reduction is Reduction.SUM

    @property
    def column(self) -> Column:
        """The metric without its functions."""
        return Column(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Column)})


Metrics = tuple[Metric, ...]
"""The metrics of an episode, static under jit"""


def columns_of(metrics: Iterable[Metric]) -> tuple[Column, ...]:
    """All columns of some metrics."""
    return tuple(column for metric in metrics for column in (metric.column, *metric.also))


def row_names(columns: Iterable[Column], num_servers: int) -> tuple[str, ...]:
    """The names of the columns in rows, for a fleet of the given size."""
    found: list[str] = []
    for column in columns:
        if column.per_server:
            found += [f"{column.name}_{i}" for i in range(num_servers)]
        elif column.in_rows:
            found.append(column.name)
    return tuple(found)


def counts_among(names: Collection[str], metrics: Iterable[Metric]) -> set[str]:
    """The names of the columns that hold integers, for a fleet of any size."""
    counts = (metric.column for metric in metrics if metric.is_count)
    return {*names} & {*row_names(counts, len(names))}  # there are no more servers than columns


def estimated_columns(columns: Iterable[Column], num_servers: int = 0) -> list[Column]:
    """The columns for which estimates are made.

    Args:
      num_servers: the number of servers that get a column each, in addition to the means over servers.
    """
    columns = list(columns)
    per_server = {column.name for column in columns if column.per_server}
    found: list[Column] = []
    for column in columns:
        if column.per_server:
            found += [column.server(i, column.weight in per_server) for i in range(num_servers)]
        if not column.is_list:
            found.append(column)
    return found


def shown_in(columns: Iterable[Column], least: Shown) -> list[Column]:
    """The columns that are shown at a level, without lists."""
    return [column for column in columns if column.shown >= least and not column.is_list]


def column_entries(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """Columns as plain data, for a manifest."""
    return [column.to_dict() for column in columns]


def columns_in(manifest: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of the metrics of a saved run.

    Raises:
      InputError: the manifest does not describe metrics.
    """
    if not isinstance(entries := manifest["metrics"], list):
        raise InputError("run: the manifest describes no metrics; legal: results of this version")
    return tuple(map(Column.from_dict, entries))
