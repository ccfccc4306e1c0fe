"""The scenario of a simulation, which is validated here, once; all other modules rely on that."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from amco_jax.errors import InputError, check_choice, check_fields, check_number, check_whole
from amco_jax.params import ORDERS, TIMINGS, Params, ServiceParams, Shape, Starts
from amco_jax.scenario.fleet import (
    ENERGY_PER_MBIT,
    busy_power,
    check_length,
    check_powers,
    hourly_price,
    idle_power,
    numbers,
)
from amco_jax.service import ALL, MAX_ITEMS, ImageService, as_service
from amco_jax.workload import PROCESSES, ArrivalProcess, Parameters, offered_load, process_of

MBIT_DENSITY = 1.024e-3
"""Gcycles/Mbit per cycle/bit in the published code, with 1 Mbit = 1024 kbit and 1 Gcycle = 1000 Mcycles."""

MAX_POSITIONS = 1_000_000
_MAX_COUNTED = 2**31 - 1
"""The largest total number of servers that the tasks of a slot may use, which is counted in 32 bits."""

_ENERGY = ("power_idle", "power_busy", "price_per_hour")
"""The fields of servers that only energy and cost depend on"""
_MAX_POWER = 1e12
"""More than what follows from the largest capacity, so that a scenario can be written out and read"""

AUTO = "auto"
"""The warm-up that a pilot run determines"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario(Parameters):
    """A fleet of edge servers, each at its base station, and the tasks that arrive there.

    The defaults are the published setting. If `num_servers` is left out, it is the number of capacities
    given, or else 5. A single number as `capacity` or `link_rate` applies to all servers. If these are left
    out, they are spread evenly over 10-50 Gcycles/s and 400-500 Mbit/s, which for 5 servers is the published
    fleet. Powers and prices that are left out follow from the capacities, or from the latency tables of a
    service; nothing but energy and cost depends on them.

    Raises:
      InputError: a field of the wrong type or length, not finite, or out of its legal range.

    Source: AMCoEdge (ICDCS 2024), simulation settings, and the published code; for power and price, see
    `amco_jax.scenario.fleet`.

    Example:
      >>> scenario = Scenario(num_servers=3, deadline=0.8)
      >>> scenario.capacities
      array([10., 30., 50.])
      >>> Scenario(arrival_prob=2)
      Traceback (most recent call last):
      amco_jax.errors.InputError: arrival_prob: 2; legal: a number from 0 to 1
    """

    num_servers: int = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """B, number of edge servers, which is also that of base stations"""
    num_tasks: int = 50
    """N, task positions per base station and slot"""
    num_slots: int = 60
    """T, time slots per episode"""
    slot_duration: float = 1.0
    """Δ, s"""
    warmup: int | str | None = None
    """Slots at the start of an episode that are simulated but excluded from metrics, since servers and links
    start empty; or `auto` for the number that the rule MSER-5 finds in a pilot run of each method. Studies
    test whether the rest is stationary, also with 0 slots; None for neither"""
    capacity: float | tuple[float, ...] | None = None
    """f_i, Gcycles/s: one number, or one per server"""
    link_rate: float | tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    """r, Mbit/s: one number, one per receiving server (r_i), or a matrix (r_{b,i}, from BS b to ES i)"""
    power_idle: float | tuple[float, ...] | None = None
    """P_idle, W of an idle server: one number, or one per server"""
    power_busy: float | tuple[float, ...] | None = None
    """P_busy, W of a busy server, at least that of the idle one: one number, or one per server"""
    energy_per_mbit: float = ENERGY_PER_MBIT
    """ε, J/Mbit of what base stations send to other servers"""
    price_per_hour: float | tuple[float, ...] | None = None
    """c, USD per hour of a server, busy or idle: one number, or one per server"""
    arrival_prob: float = 0.3
    """p, probability that a position holds a task; with Poisson and bursty arrivals, N·p is the mean number
    of tasks, and p may exceed 1"""
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
    arrivals: str | ArrivalProcess = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """A name in `PROCESSES` of `amco_jax.workload`, or a user-defined process, as an object or as
    module:attribute; by default `trace` if a log is given, and otherwise `bernoulli`. The parameters of the
    named processes are fields of the scenario, whichever process it has; an object has its own parameters"""
    order: str = "stations"
    """Order in which the tasks of a slot are served: `stations` (one base station after another, as
    published), `turns` (position by position) or `random`"""
    timing: str = "slotted"
    """Arrivals within a slot: `slotted` (all at its start, as published), or `continuous` (at individual
    times, while servers and links keep working)"""
    service: ImageService | None = None
    """An image service, or a table of the fields of `ImageService`. Sizes are then whole numbers of image
    batches, densities are whole numbers of denoising steps, and the capacity is counted in steps/s"""

    _left_out: ClassVar[tuple[str, ...]] = ()
    """The names of the fields that were left out, of each scenario; no field of its own"""

    def __post_init__(self):
        self._name_arrivals()
        left_out = tuple(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is None)
        object.__setattr__(self, "_left_out", left_out)  # before they are inferred, for `replace`

        def clean(name: str, check: Callable[..., Any], *bounds: float) -> None:
            object.__setattr__(self, name, check(name, getattr(self, name), *bounds))

        if self.service is not None:
            object.__setattr__(self, "service", as_service(self.service))
        for name in ("capacity", "link_rate"):
            if getattr(self, name) is not None:
                clean(name, numbers)
        for name in _ENERGY:
            if getattr(self, name) is not None:
                clean(name, numbers, 0, _MAX_POWER)
        if self.num_servers is None:
            fleet = self.service.devices if self.service is not None else self.capacity
            object.__setattr__(self, "num_servers", len(fleet) or 5 if isinstance(fleet, tuple) else 5)
        for name in ("num_servers", "num_tasks", "num_slots"):
            clean(name, check_whole, 1, 1_000_000)
        if self.warmup is not None and not (isinstance(self.warmup, str) and self.warmup == AUTO):
            clean("warmup", _check_warmup, self.num_slots)
        check_length("capacity", self.capacity, self.num_servers, max_depth=1)
        check_length("link_rate", self.link_rate, self.num_servers, max_depth=2)
        for name in _ENERGY:
            check_length(name, getattr(self, name), self.num_servers, max_depth=1)
        clean("energy_per_mbit", check_number, 0)
        for name in ("slot_duration", "deadline", "task_size_min", "density_min"):
            clean(name, check_number)
        check_number("arrival_prob", self.arrival_prob, 0)
        clean("task_size_max", check_number, self.task_size_min)
        clean("density_max", check_number, self.density_min)
        check_choice("order", self.order, ORDERS)
        check_choice("timing", self.timing, TIMINGS)
        if self.timing != TIMINGS[0] and self.order != ORDERS[0]:
            raise InputError(
                f"order: {self.order}; legal with timing = {self.timing}: {ORDERS[0]}, as tasks are then "
                "served in the order in which they arrive"
            )
        if self.service is not None:
            _check_items(self, self.service)
        check_powers(self.powers_idle, self.powers_busy)
        self._settle_arrivals()
        clean("arrival_prob", check_number, 0, self.process.max_arrival_prob)
        if self.num_positions > MAX_POSITIONS:
            raise InputError(
                f"arrivals: up to {self.num_positions} tasks at a base station in a slot; "
                f"legal: {MAX_POSITIONS} at most"
            )
        if self.num_servers**2 * self.num_positions > _MAX_COUNTED:
            raise InputError(
                f"num_servers: {self.num_servers} with up to {self.num_positions} tasks at a base station "
                f"in a slot; legal: at most {math.isqrt(_MAX_COUNTED // self.num_positions)} servers"
            )

    def _name_arrivals(self) -> None:
        """Take the parameters of a shipped process that is given as an object, and refer to it by name."""
        arrivals = None if self.arrivals is None else process_of(self.arrivals)
        if isinstance(arrivals, ArrivalProcess) and PROCESSES.get(arrivals.name) is type(arrivals):
            self._take(arrivals)
            arrivals = arrivals.name
        object.__setattr__(self, "arrivals", arrivals)

    def _settle_arrivals(self) -> None:
        """Check the parameters of all processes, fill them in, and check the scenario with its process."""
        arrivals = self.arrivals
        if isinstance(arrivals, ArrivalProcess):
            for name in sorted((_names(self) - _names(Parameters)) & _names(arrivals)):
                raise InputError(f"arrivals: {arrivals.name} has the parameter {name}; legal: another name")
        processes = {name: self._built(kind) for name, kind in PROCESSES.items()}
        if arrivals is None:
            implied = (name for name, process in processes.items() if process.implied)
            arrivals = next(implied, next(iter(PROCESSES)))
        object.__setattr__(self, "arrivals", arrivals)
        for process in processes.values():
            self._take(process.settled(self))
        self.process.check(self)

    def _built(self, kind: type[ArrivalProcess]) -> ArrivalProcess:
        """A process whose parameters are fields of the scenario."""
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(kind)})

    def _take(self, process: ArrivalProcess) -> None:
        """Set the fields that are parameters of a process."""
        for field in dataclasses.fields(process):
            object.__setattr__(self, field.name, getattr(process, field.name))

    @property
    def capacities(self) -> np.ndarray:
        """`[num_servers]`, Gcycles/s."""
        if self.capacity is not None:
            return self._per_server(self.capacity)
        default = np.linspace(10.0, 50.0, self.num_servers) if self.service is None else self.service.capacity
        return self._per_server(default)

    @property
    def link_rates(self) -> np.ndarray:
        """`[num_servers, num_servers]`, Mbit/s, from BS b (row) to ES i (column)."""
        default = np.linspace(400.0, 500.0, self.num_servers)
        rates = np.asarray(default if self.link_rate is None else self.link_rate, float)
        return np.broadcast_to(rates, (self.num_servers, self.num_servers))

    @property
    def powers_idle(self) -> np.ndarray | None:
        """`[num_servers]`, W; None if the latency tables of a service do not give it."""
        if self.power_idle is not None:
            return self._per_server(self.power_idle)
        found = idle_power(self.capacities) if self.service is None else self.service.power_idle
        return None if found is None else self._per_server(found)

    @property
    def powers_busy(self) -> np.ndarray | None:
        """`[num_servers]`, W; None if the latency tables of a service do not give it."""
        if self.power_busy is not None:
            return self._per_server(self.power_busy)
        found = busy_power(self.capacities) if self.service is None else self.service.power_busy
        return None if found is None else self._per_server(found)

    @property
    def prices_per_hour(self) -> np.ndarray | None:
        """`[num_servers]`, USD per hour; None with a service whose devices have no given price."""
        if self.price_per_hour is not None:
            return self._per_server(self.price_per_hour)
        return hourly_price(self.capacities) if self.service is None else None

    def _per_server(self, values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, float), self.num_servers)

    @property
    def process(self) -> ArrivalProcess:
        """The arrival process, with its parameters."""
        return self._process

    @functools.cached_property
    def _process(self) -> ArrivalProcess:
        if isinstance(self.arrivals, ArrivalProcess):
            return self.arrivals.settled(self)
        return self._built(PROCESSES[self.arrivals])

    @functools.cached_property
    def num_positions(self) -> int:
        """The largest possible number of tasks per base station and slot."""
        return self.process.num_positions(self)

    @property
    def counted_slots(self) -> int:
        """Slots of an episode that metrics count: those after the warm-up.

        A warm-up of `auto` counts as none here; studies determine it in a pilot run.
        """
        return self.num_slots - (self.warmup if isinstance(self.warmup, int) else 0)

    @property
    def episode_positions(self) -> int:
        """The number of task positions of an episode, over all base stations and slots."""
        return self.num_servers * self.num_positions * self.num_slots

    @functools.cached_property
    def count_moments(self) -> tuple[float, float]:
        """Mean and variance of the tasks per base station and slot, see `ArrivalProcess.moments`."""
        return self.process.moments(self)

    @property
    def offered_load(self) -> float:
        """ρ, the mean work that arrives per second, divided by the capacity of the whole fleet."""
        return offered_load(self.process, self)

    def check_training(self) -> None:
        """Raise InputError if agents cannot be trained in this scenario."""
        self.process.check_training(self)

    def check_warmup(self) -> None:
        """Raise InputError if the warm-up is one that a pilot run would have to find."""
        if self.warmup == AUTO:
            raise InputError(f"warmup: {AUTO}; legal for gradients and bounds: a number of slots")

    def shape(self, max_tasks: int | None = None) -> Shape:
        """The static part; `max_tasks` pads the task positions, so that scenarios can share one program."""
        max_tasks = max(self.num_positions, max_tasks or 0)
        return Shape(self.num_servers, max_tasks, self.num_slots, type(self.process), self.order, self.timing)

    def params(self, dtype: Any = np.float32) -> Params:
        """The traced part, as NumPy arrays of one dtype."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Params)}
        service, _ = values.pop("service"), values.pop("warmup")
        values |= self._fleet()
        if service is not None:
            values["link_rate"] = self.link_rates / service.batch_mbit
            values["energy_per_mbit"] = self.energy_per_mbit * service.batch_mbit
        leaves: dict[str, Any] = {
            name: None if value is None else np.asarray(value, dtype) for name, value in values.items()
        }
        leaves["num_tasks"] = np.asarray(self.num_tasks, np.int32)
        leaves["warmup"] = np.asarray(self.num_slots - self.counted_slots, np.int32)
        if service is not None:
            overhead: Any = np.asarray(service.overhead, dtype)
            parts: Any = None if service.starts is None else np.asarray(service.starts, dtype)
            starts = None if parts is None else Starts(*parts)
            result_share: Any = np.asarray(service.result_share, dtype)
            leaves["service"] = ServiceParams(
                overhead, service.split == "whole", service.batch == ALL, result_share, starts
            )
        return Params(**leaves)

    def replace(self, **changes: Any) -> Scenario:
        """A copy with some fields changed; what was left out follows from the fields of the copy.

        So a default fleet adapts to the number of servers, a request log becomes the arrivals, and its time
        scale adapts to the number of slots.

        Raises:
          InputError: an unknown field, a value that `Scenario` refuses, or a request log where other arrivals
            were given.

        Example:
          >>> Scenario(num_servers=3).replace(num_servers=2).capacities
          array([10., 50.])
        """
        fields = as_fields(changes, self.arrivals)
        changed = dataclasses.replace(self, **dict.fromkeys(self._left_out) | fields)
        if fields.get("trace") is not None and "arrivals" not in fields:
            changed.check_played()
        return changed

    def check_played(self) -> None:
        """Raise InputError if the request log would not be played, as the arrivals are others."""
        if not self.process.implied:
            raise InputError(
                f"trace: one that would not be played, as arrivals = {self.process.name}; legal: together "
                "with arrivals = trace"
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields with the fleet written out, as plain numbers and lists."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tables = {
            name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # pyright: ignore[reportArgumentType]
            for name, value in values.items()
            if not isinstance(value, ArrivalProcess)
        }
        own = {"arrivals": self.arrivals.to_dict()} if isinstance(self.arrivals, ArrivalProcess) else {}
        fleet = {name: None if value is None else value.tolist() for name, value in self._fleet().items()}
        return tables | own | fleet

    def _fleet(self) -> dict[str, np.ndarray | None]:
        """What servers and links are like, by the names of the fields; None where it is not known."""
        return {
            "capacity": self.capacities,
            "link_rate": self.link_rates,
            "power_idle": self.powers_idle,
            "power_busy": self.powers_busy,
            "price_per_hour": self.prices_per_hour,
        }


def vary(scenario: Scenario, **changes: Any) -> Scenario:
    """A copy with some fields changed and all others as they are, even those that follow from other fields.

    Raises:
      InputError: an unknown field, or a value that `Scenario` refuses.
    """
    return dataclasses.replace(scenario, **as_fields(changes, scenario.arrivals))


def as_fields(given: Mapping[str, Any], arrivals: Any = None) -> dict[str, Any]:
    """Fields of `Scenario` from given fields and parameters of a user-defined arrival process.

    Args:
      given: values by name.
      arrivals: the process, if `given` does not name one.

    Raises:
      InputError: a name is neither a field nor a parameter.
    """
    fields, arrivals = dict(given), given.get("arrivals", arrivals)
    process = None if arrivals is None else process_of(arrivals)
    legal = [f.name for f in dataclasses.fields(Scenario)]
    if isinstance(process, ArrivalProcess):
        legal += [f.name for f in dataclasses.fields(process)]
        parameters = {name: fields.pop(name) for name in _names(process) & fields.keys()}
        if parameters or "arrivals" in fields:
            fields["arrivals"] = dataclasses.replace(process, **parameters)
    check_fields("scenario", fields, legal)
    return fields


def _names(kind: Any) -> set[str]:
    """The names of the fields of a dataclass."""
    return {field.name for field in dataclasses.fields(kind)}


def _check_warmup(name: str, value: Any, num_slots: int) -> int:
    """A whole number that leaves at least one slot."""
    try:
        return check_whole(name, value, 0, num_slots - 1)
    except InputError as error:
        raise InputError(f"{error}, or {AUTO}") from None


def _check_items(scenario: Scenario, service: ImageService) -> None:
    """Raise InputError unless there is one device per server, and batches and steps are whole numbers."""
    if len(service.devices) != scenario.num_servers:
        raise InputError(
            f"num_servers: {scenario.num_servers}; legal: {len(service.devices)}, "
            "one for each of service.devices"
        )
    for name in ("task_size_min", "task_size_max", "density_min", "density_max"):
        value = getattr(scenario, name)
        if not value.is_integer() or not 1 <= value <= MAX_ITEMS:
            raise InputError(
                f"{name}: {value:g}; legal with a service: a whole number from 1 to {MAX_ITEMS}, "
                f"of {'image batches' if name.startswith('task') else 'steps'}"
            )
