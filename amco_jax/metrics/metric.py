"""What a metric is: plain data that tables and figures read, and a function of a task or of a slot."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amco_jax.errors import InputError
from amco_jax.identity import hashable
from amco_jax.metrics.outcomes import SlotOutcome, TaskOutcome

COUNT = "num_tasks"
"""The name of the metric over which means of tasks are taken unless another is given"""

TASK, EPISODE = "task", "episode"
"""What counts as one in an estimate"""


class Reduction(enum.StrEnum):
    """How the values of an episode's tasks or slots become its number, and those of episodes an estimate.

    Estimates of the first two are ratios of sums over all episodes, in which each task counts as one, and
    means over the episodes beside these. Quantiles are those of all tasks together, and means over the
    episodes. All others are means over the episodes.
    """

    MEAN_OF_TASKS = "mean over tasks"
    RATE = "share of tasks"
    """Its values are true or false; intervals are those of proportions"""
    MEAN_OF_SLOTS = "mean over slots"
    SUM = "sum"
    QUANTILES = "quantiles of tasks"
    """Its values are at least 0, each is sent to the host, and rows hold a list"""
    OVER_SLOTS = "over slots"
    """A number for each slot, which is the sum over its tasks or the value of the slot; rows hold a list"""


class Shown(enum.IntEnum):
    """The places in which studies show a metric by default; each level includes those before it."""

    ASKED = 0
    """Nowhere; it is computed only where a user asks for it"""
    ROWS = 1
    """In the rows and summaries of sweeps and evaluations"""
    FIGURES = 2
    """In a figure of reports"""
    CURVES = 3
    """In the rows of training, and in what the terminal shows of trainings and evaluations"""
    TABLES = 4
    """In all tables, in paired comparisons, and in a figure of sweeps"""
    EVERYWHERE = 5
    """In a figure over the episodes of training, and in a table of comparisons of its own"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """What is known of a column of results without its function; manifests hold it, and reports read it.

    Raises:
      InputError: a name that cannot be a column's, or a value that is not legal.
    """

    name: str
    """The name of the column: small letters, digits and `_`; it ends with the unit, if there is one"""
    label: str
    """The words on axes and in the heads of tables, without the unit"""
    unit: str = ""
    """Empty for shares and counts"""
    caption: str = ""
    """A sentence for figures; by default the label"""
    reduction: Reduction = Reduction.MEAN_OF_TASKS
    better: str | None = None
    """`lower` or `higher`; None where neither is better"""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """The least and the largest value that it can have; intervals end there"""
    shown: Shown = Shown.ASKED
    weight: str = COUNT
    """The column whose sums means are taken over"""
    per_server: bool = False
    """Rows hold a column for each server or base station, `name_0`, `name_1`, ...; `name` is their mean"""
    of: str = ""
    """The metric whose servers or quantiles the column is made of, where it is not a metric of its own"""
    how: str = ""
    """How it is made of servers: `max`, `min` or `jain`, Jain's index of fairness"""
    level: float | None = None
    """The level of the quantile, in [0, 1]"""
    figure: str = ""
    """The name of the files of its figure; by default that of the column"""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(f"metrics: {self.name!r}; legal: a name of small letters, digits and _")
        if self.better not in ("lower", "higher", None):
            raise InputError(f"metrics: better = {self.better!r} in {self.name}; legal: lower, higher, None")
        low, high = (0.0, 1.0) if self.reduction == Reduction.RATE else self.bounds
        object.__setattr__(self, "bounds", (float(low), float(high)))

    @property
    def is_rate(self) -> bool:
        """Whether it is a share of tasks that something happened to."""
        return self.reduction is Reduction.RATE and not self.of_servers

    @property
    def in_rows(self) -> bool:
        """Whether rows hold a column of its name, and it is not made of others."""
        return not self.per_server and not self.how

    @property
    def is_list(self) -> bool:
        """Whether an entry of the column is no number but a list, of quantiles or over slots."""
        return self.is_over_slots or (self.reduction is Reduction.QUANTILES and self.level is None)

    @property
    def is_over_slots(self) -> bool:
        """Whether an entry of the column is a list with a number for each slot."""
        return self.reduction is Reduction.OVER_SLOTS

    @property
    def weightings(self) -> tuple[str, ...]:
        """What may count as one in its estimates, the first of them first."""
        per_task = self.reduction in (Reduction.MEAN_OF_TASKS, Reduction.RATE) and not self.of_servers
        return (TASK, EPISODE) if per_task or self.level is not None else (EPISODE,)

    @property
    def of_servers(self) -> bool:
        """Whether it is made of the columns of the servers."""
        return self.per_server or bool(self.how)

    def title(self, per: str = "") -> str:
        """The label with the unit, and of a quantile with what counts as one."""
        of = (
            {TASK: ", all tasks", EPISODE: ", mean of episodes"}.get(per, "")
            if self.level is not None
            else ""
        )
        return f"{self.label}{of} [{self.unit}]" if self.unit else f"{self.label}{of}"

    def server(self, number: int, weighted: bool = False) -> Column:
        """The column of one server of a metric that has one for each."""
        return Column(
            name=f"{self.name}_{number}", label=f"{self.label}, {number}", unit=self.unit,
            caption=self.caption, reduction=self.reduction, better=self.better, bounds=self.bounds,
            shown=Shown.ROWS,
            weight=f"{self.weight}_{number}" if weighted else self.weight,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a manifest: all that is not as by default."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(Column)}
        data = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        if "bounds" in data:
            data["bounds"] = [value if math.isfinite(value) else None for value in self.bounds]
        return data | {"reduction": str(self.reduction), "shown": self.shown.name.lower()}

    @classmethod
    def from_dict(cls, data: Any) -> Column:
        """The column that `to_dict` described.

        Raises:
          InputError: it is no description of a column.
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
    """A column of results with the function that computes it on the device, in one place.

    The values of the function are summed over an episode: those of tasks over all that arrived, those of
    slots over all slots. Give one of `of_task` and `of_slot`.

    Raises:
      InputError: no function or two, or a value that is not legal.

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
    """A function of a task, which returns a number, or with `per_server` `[num_servers]`"""
    of_slot: Callable[[SlotOutcome], Any] | None = None
    """The same as a function of a slot"""
    whole: bool = False
    """The values are whole numbers or booleans, and their sums are exact; that of a slot must fit int32"""
    over: Metric | None = None
    """What means and quantiles are taken over, such as the tasks that were accepted; by default all that
    arrived. A task counts in quantiles where the function of `over` gives more than 0"""
    also: tuple[Column, ...] = ()
    """Further columns that are made of this one's servers or quantiles"""

    def __post_init__(self):
        super().__post_init__()
        for field in ("of_task", "of_slot"):
            if (function := getattr(self, field)) is not None:
                object.__setattr__(self, field, hashable(field, function))
        if (self.of_task is None) == (self.of_slot is None):
            raise InputError(f"metrics: {self.name} has of_task and of_slot, or neither; legal: one of them")
        if self.reduction is Reduction.QUANTILES and (self.of_task is None or self.per_server):
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
            quantiles = self.reduction is Reduction.QUANTILES
            if quantiles and self.over.of_task is None:
                raise InputError(f"metrics: {self.name} is over {self.over.name}; legal: a metric of tasks")
            object.__setattr__(self, "weight", self.over.name)
            also = (dataclasses.replace(c, weight=self.weight) if quantiles else c for c in self.also)
            object.__setattr__(self, "also", tuple(also))
        object.__setattr__(self, "whole", self.whole or self.reduction is Reduction.RATE)

    @property
    def function(self) -> Callable[[Any], Any]:
        """`of_task` or `of_slot`."""
        return self.of_task or self.of_slot  # pyright: ignore[reportReturnType]

    @property
    def is_sum(self) -> bool:
        """Whether it is summed over the episode on the device, and not sent to the host piece by piece."""
        return self.reduction not in (Reduction.QUANTILES, Reduction.OVER_SLOTS)

    @property
    def is_summed_in_slots(self) -> bool:
        """Whether the values of the tasks of a slot are summed on the device."""
        return self.is_sum or self.is_over_slots

    @property
    def is_count(self) -> bool:
        """Whether its column holds whole numbers."""
        return self.whole and self.reduction is Reduction.SUM and not self.per_server

    @property
    def column(self) -> Column:
        """The metric without its functions."""
        return Column(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Column)})


Metrics = tuple[Metric, ...]
"""What an episode sums up, static under jit"""


def columns_of(metrics: Iterable[Metric]) -> tuple[Column, ...]:
    """All columns of some metrics."""
    return tuple(column for metric in metrics for column in (metric.column, *metric.also))


def row_names(columns: Iterable[Column], num_servers: int) -> tuple[str, ...]:
    """The names of the columns in rows, of a fleet of that size."""
    found: list[str] = []
    for column in columns:
        if column.per_server:
            found += [f"{column.name}_{i}" for i in range(num_servers)]
        elif column.in_rows:
            found.append(column.name)
    return tuple(found)


def estimated(columns: Iterable[Column], num_servers: int = 0) -> list[Column]:
    """The columns that estimates are made of.

    Args:
      num_servers: how many columns there are for the servers of a fleet, beside the means over servers.
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
    """The columns that are shown at a level."""
    return [column for column in columns if column.shown >= least and not column.is_list]


def described(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """Columns as plain data, for a manifest."""
    return [column.to_dict() for column in columns]


def columns_in(manifest: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of the metrics of a saved run.

    Raises:
      InputError: the manifest does not describe them.
    """
    return tuple(Column.from_dict(data) for data in manifest["metrics"])
