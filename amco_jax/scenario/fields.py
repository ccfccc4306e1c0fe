"""The scenario: what is simulated. Validated here, once; everything downstream trusts it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from amco_jax.counts import burst_rates, burst_share, positions_for
from amco_jax.errors import InputError, check_choice, check_number, check_whole
from amco_jax.params import Params, ServiceParams, Shape
from amco_jax.service import ImageService, as_service
from amco_jax.traces import Trace, as_trace
from amco_jax.traces.stretches import Stretches, longest_slot

MBIT_DENSITY = 1.024e-3
"""Gcycles/Mbit per cycle/bit in the published code, which counts 1024 kbit and 1000 Mcycles."""

ARRIVALS = ("bernoulli", "poisson", "bursty", "trace")
"""The arrival processes, see docs/model.md"""

MOST_POSITIONS = 1_000_000
_MOST_ITEMS = 1_000_000
_MOST_COUNTED = 2**31 - 1
"""Servers that the tasks of a slot may be given, all in all: these are counted in 32 bits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A fleet of edge servers, each at its base station, and the tasks that arrive there.

    The defaults are the published setting. `num_servers` may be left out: it is then the number of
    capacities given, or else 5. A single number as `capacity` or `link_rate` holds for all servers; left
    out, they are spread evenly over 10-50 Gcycles/s and 400-500 Mbit/s, which for 5 servers is the
    published fleet.

    Raises:
      InputError: a field of the wrong type or length, not finite, or out of its legal range.

    Source: AMCoEdge (ICDCS 2024), simulation settings, and the published code.

    Example:
      >>> scenario = Scenario(num_servers=3, deadline=0.8)
      >>> scenario.capacities
      array([10., 30., 50.])
      >>> Scenario(arrival_prob=2)
      Traceback (most recent call last):
      amco_jax.errors.InputError: arrival_prob: 2; legal: a number from 0 to 1
    """

    num_servers: int = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """B, edge servers = base stations"""
    num_tasks: int = 50
    """N, task positions per base station and slot"""
    num_slots: int = 60
    """T, time slots of an episode"""
    slot_duration: float = 1.0
    """Δ, s"""
    capacity: float | tuple[float, ...] | None = None
    """f_i, Gcycles/s: one number, or one per server"""
    link_rate: float | tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    """r, Mbit/s: one number, one per receiving server (r_i), or a matrix (r_{b,i}, from BS b to ES i)"""
    arrival_prob: float = 0.3
    """p, probability that a position holds a task"""
    deadline: float = 1.0
    """D, s"""
    task_size_min: float = 2.0
    """Mbit"""
    task_size_max: float = 5.0
    """Mbit"""
    density_min: float = 100 * MBIT_DENSITY
    """Gcycles/Mbit"""
    density_max: float = 300 * MBIT_DENSITY
    """Gcycles/Mbit"""
    arrivals: str = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """One of `ARRIVALS`; by default trace where one is given, else bernoulli"""
    burst_intensity: float = 5.0
    """κ, rate in a burst as a multiple of that in calm"""
    burst_slots: float = 5.0
    """Mean duration of a burst"""
    calm_slots: float = 15.0
    """Mean duration of calm"""
    trace: Trace | None = None
    """A request log, or a table of the fields of `Trace`"""
    time_scale: float = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """Seconds of the trace in a second of the simulation; by default 1, or less if the trace is short"""
    service: ImageService | None = None
    """An image service, or a table of the fields of `ImageService`. Sizes are then whole numbers of image
    batches, densities are whole numbers of denoising steps, and the capacity is counted in steps/s"""

    def __post_init__(self):
        def clean(name: str, check: Callable[..., Any], *bounds: float) -> None:
            object.__setattr__(self, name, check(name, getattr(self, name), *bounds))

        if self.service is not None:
            object.__setattr__(self, "service", as_service(self.service))
        for name in ("capacity", "link_rate"):
            if getattr(self, name) is not None:
                clean(name, _numbers)
        if self.num_servers is None:
            fleet = self.service.devices if self.service is not None else self.capacity
            object.__setattr__(self, "num_servers", len(fleet) or 5 if isinstance(fleet, tuple) else 5)
        for name in ("num_servers", "num_tasks", "num_slots"):
            clean(name, check_whole, 1, 1_000_000)
        _check_length("capacity", self.capacity, self.num_servers, max_depth=1)
        _check_length("link_rate", self.link_rate, self.num_servers, max_depth=2)
        for name in ("slot_duration", "deadline", "task_size_min", "density_min"):
            clean(name, check_number)
        clean("arrival_prob", check_number, 0, 1)
        clean("task_size_max", check_number, self.task_size_min)
        clean("density_max", check_number, self.density_min)
        if self.trace is not None:
            object.__setattr__(self, "trace", as_trace(self.trace))
        if self.arrivals is None:
            object.__setattr__(self, "arrivals", "bernoulli" if self.trace is None else "trace")
        check_choice("arrivals", self.arrivals, ARRIVALS)
        for name in ("burst_intensity", "burst_slots", "calm_slots"):
            clean(name, check_number, 1, 1e6)
        if self.time_scale is None:
            object.__setattr__(self, "time_scale", min(1.0, largest_time_scale(self)))
        clean("time_scale", check_number)
        if self.arrivals == "trace":
            _check_slots(self)
        if self.service is not None:
            _check_items(self, self.service)
        if self.num_positions > MOST_POSITIONS:
            raise InputError(
                f"arrivals: up to {self.num_positions} tasks at a base station in a slot; "
                f"legal: {MOST_POSITIONS} at most"
            )
        if self.num_servers**2 * self.num_positions > _MOST_COUNTED:
            raise InputError(
                f"num_servers: {self.num_servers} with up to {self.num_positions} tasks at a base station "
                f"in a slot; legal: at most {math.isqrt(_MOST_COUNTED // self.num_positions)} servers"
            )

    @property
    def capacities(self) -> np.ndarray:
        """`[num_servers]`, Gcycles/s."""
        default = np.linspace(10.0, 50.0, self.num_servers) if self.service is None else self.service.capacity
        capacity = np.asarray(default if self.capacity is None else self.capacity, float)
        return np.broadcast_to(capacity, self.num_servers)

    @property
    def link_rates(self) -> np.ndarray:
        """`[num_servers, num_servers]`, Mbit/s, from BS b (row) to ES i (column)."""
        default = np.linspace(400.0, 500.0, self.num_servers)
        rates = np.asarray(default if self.link_rate is None else self.link_rate, float)
        return np.broadcast_to(rates, (self.num_servers, self.num_servers))

    @functools.cached_property
    def num_positions(self) -> int:
        """Positions of a base station in a slot that may hold a task; no more than so many ever come."""
        if self.arrivals == "bernoulli":
            return self.num_tasks
        if self.arrivals == "trace":
            return int(self._trace_counts.max())
        return positions_for(max(self._rates))

    @property
    def episode_positions(self) -> int:
        """Positions of an episode, over its base stations and slots."""
        return self.num_servers * self.num_positions * self.num_slots

    @functools.cached_property
    def count_moments(self) -> tuple[float, float]:
        """Mean and variance of the tasks of a base station in a slot.

        Of bursty arrivals and of traces, the variance is that of a sum over many slots, per slot.
        """
        mean = self.num_tasks * self.arrival_prob
        if self.arrivals == "bernoulli":
            return mean, mean * (1 - self.arrival_prob)
        if self.arrivals == "trace":
            counts, slots = self._trace_counts, float(self.trace_slots[-1]) + 1
            total = float(counts.sum()) / slots
            spread = float(np.square(counts).sum()) / slots - total**2
            share = 1 / self.num_servers
            return total * share, total * share * (1 - share) + spread * share**2
        if self.arrivals == "poisson":
            return mean, mean
        calm, burst = self._rates
        share = burst_share(self.burst_slots, self.calm_slots)
        switches = 1 / self.burst_slots + 1 / self.calm_slots
        return mean, mean + share * (1 - share) * (burst - calm) ** 2 * (2 - switches) / switches

    @property
    def _rates(self) -> tuple[float, ...]:
        """Tasks of a base station in a slot, in each state of the arrival process."""
        mean = self.num_tasks * self.arrival_prob
        if self.arrivals == "poisson":
            return (mean,)
        return burst_rates(mean, self.burst_intensity, burst_share(self.burst_slots, self.calm_slots))

    def require_trace(self) -> Trace:
        """The trace, of a scenario that has one."""
        assert self.trace is not None
        return self.trace

    @functools.cached_property
    def stretches(self) -> Stretches:
        """Where the episodes of training and of testing lie on the trace."""
        return self.require_trace().stretches(self.slot_duration * self.time_scale, self.num_slots)

    @property
    def split(self) -> dict[str, Any]:
        """The stretches of the trace as plain data, for a manifest."""
        return self.require_trace().split(self.slot_duration * self.time_scale, self.num_slots)

    def check_training(self) -> None:
        """Raise InputError where nothing of the trace is left to train on."""
        if self.arrivals == "trace" and not self.stretches.starts(self.num_slots):
            trace = self.require_trace()
            raise InputError(
                f"trace.train_share: {trace.train_share:g} of {trace.log.span:g} s holds no episode of "
                f"{self.num_slots} slots of {self.slot_duration * self.time_scale:g} s; legal for training: "
                "a larger share, fewer slots, or a smaller time_scale"
            )

    @property
    def offered_load(self) -> float:
        """The mean work that arrives in a second, over the work that the whole fleet can do in one."""
        size: Any = (self.task_size_min + self.task_size_max) / 2
        density: Any = (self.density_min + self.density_max) / 2
        work = size * density
        if self.arrivals == "trace":
            log = self.require_trace().log
            size = size if log.size is None else log.size
            density = density if log.density is None else log.density
            work = float(np.mean(size * density if log.work is None else log.work))
        capacities = self.capacities
        if self.service is not None:  # whose images cost some steps beside their own
            steps = work / float(np.mean(size))
            capacities = capacities * steps / (steps + self.service.overhead)
        arriving = self.count_moments[0] * self.num_servers / self.slot_duration
        return arriving * work / float(np.sum(capacities))

    @property
    def trace_slots(self) -> np.ndarray:
        """`[requests]`, whole floats: the slot of each request of the trace, from 0."""
        return self.require_trace().log.slots(self.slot_duration * self.time_scale)

    @property
    def _trace_counts(self) -> np.ndarray:
        """Requests of each slot of the trace that has some."""
        starts = np.flatnonzero(np.diff(self.trace_slots, prepend=-1.0))
        return np.diff(starts, append=len(self.trace_slots)).astype(float)

    def shape(self, max_tasks: int | None = None) -> Shape:
        """The static part; `max_tasks` pads the task positions, so that their number can be swept."""
        max_tasks = max(self.num_positions, max_tasks or 0)
        return Shape(self.num_servers, max_tasks, self.num_slots, self.arrivals)

    def params(self, dtype: Any = np.float32) -> Params:
        """The traced part, as NumPy arrays of one dtype."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Params)}
        service = values.pop("service")
        values |= {"capacity": self.capacities, "link_rate": self.link_rates}
        if service is not None:
            values["link_rate"] = self.link_rates / service.batch_mbit
        leaves: dict[str, Any] = {name: np.asarray(value, dtype) for name, value in values.items()}
        leaves["num_tasks"] = np.asarray(self.num_tasks, np.int32)
        if service is not None:
            overhead: Any = np.asarray(service.overhead, dtype)
            leaves["service"] = ServiceParams(overhead, whole=service.split == "whole")
        return Params(**leaves)

    def replace(self, **changes: Any) -> Scenario:
        """A copy with some fields changed; another number of servers takes the default fleet along.

        Raises:
          InputError: an unknown field, or a value that `Scenario` refuses.
        """
        check_fields(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields with the fleet written out, as plain numbers and lists."""
        return dataclasses.asdict(self) | {
            "capacity": self.capacities.tolist(),
            "link_rate": self.link_rates.tolist(),
        }


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise InputError if one of the names is no field of `Scenario`."""
    legal = [f.name for f in dataclasses.fields(Scenario)]
    for name in fields:
        if name not in legal:
            raise InputError(f"scenario: unknown field '{name}'; legal fields: {', '.join(legal)}")


def _numbers(name: str, value: Any) -> Any:
    """Positive numbers, nested to any depth, as tuples."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_numbers(name, v) for v in value)
    return check_number(name, value)


def _check_items(scenario: Scenario, service: ImageService) -> None:
    """A server for each device, and whole numbers of batches and steps."""
    if len(service.devices) != scenario.num_servers:
        raise InputError(
            f"num_servers: {scenario.num_servers}; legal: {len(service.devices)}, "
            "one for each of service.devices"
        )
    for name in ("task_size_min", "task_size_max", "density_min", "density_max"):
        value = getattr(scenario, name)
        if not value.is_integer() or not 1 <= value <= _MOST_ITEMS:
            raise InputError(
                f"{name}: {value:g}; legal with a service: a whole number from 1 to {_MOST_ITEMS}, "
                f"of {'image batches' if name.startswith('task') else 'steps'}"
            )
    if scenario.arrivals == "trace":
        log = scenario.require_trace().log
        for name, column in (("size", log.size), ("density", log.density)):
            if column is not None and (np.any(column % 1) or column.max() > _MOST_ITEMS):
                raise InputError(
                    f"trace.{name}: some are no whole numbers up to {_MOST_ITEMS}; "
                    "legal with a service: these alone"
                )


def _check_slots(scenario: Scenario) -> None:
    """The trace must hold an episode, and its slots be few enough to be counted."""
    if scenario.trace is None:
        raise InputError(
            "arrivals: 'trace'; legal with a trace: --trace FILE, or a table [trace] with its file"
        )
    length, span = scenario.slot_duration * scenario.time_scale, scenario.trace.log.seconds[-1]
    if span / length >= 2**30:
        raise InputError(
            f"time_scale: {scenario.time_scale:g}; legal for this trace: from {span / 2**30 / length:g}"
        )
    if not scenario.stretches.num_stretches:
        trace, scale = scenario.trace, largest_time_scale(scenario)
        share = f", of which {1 - trace.train_share:g} is for testing" if trace.train_share else ""
        raise InputError(
            f"num_slots: {scenario.num_slots} of {length:g} s of the trace, which covers {span:g} s{share}; "
            f"legal: fewer, {f'a time_scale up to {scale:g}' if scale else 'a longer trace'}, or another "
            "train_share"
        )


def largest_time_scale(scenario: Scenario, num_stretches: int = 1) -> float:
    """The largest with which an episode of training and so many of testing fit on the trace, to 3 digits."""
    if scenario.arrivals != "trace" or scenario.trace is None:
        return math.inf
    trace = scenario.trace
    slot = longest_slot(trace.log.span, scenario.num_slots, trace.train_share, trace.gap, num_stretches)
    scale = slot / scenario.slot_duration
    digits = 10.0 ** (math.floor(math.log10(scale)) - 2) if scale else 1.0
    return math.floor(scale / digits) * digits


def _check_length(name: str, value: Any, num_servers: int, max_depth: int) -> None:
    """One number, or one entry per server at every depth."""
    legal_shapes = [(num_servers,) * depth for depth in range(max_depth + 1)]
    try:
        shape = () if value is None else np.shape(value)
    except ValueError:  # rows of unequal lengths
        shape = None
    if shape not in legal_shapes:
        found = "rows of unequal lengths" if shape is None else f"shape {shape}"
        raise InputError(
            f"{name}: {found}; legal: one number or shape {' or '.join(map(str, legal_shapes[1:]))}"
        )
