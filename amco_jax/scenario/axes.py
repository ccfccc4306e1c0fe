"""The axes of sweeps and settings.

They are the fields of a scenario, except `warmup` and the tables `trace` and `service`, and scales of
quantities that come in groups.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from amco_jax.errors import InputError, check_choice, check_number
from amco_jax.params import ORDERS, TIMINGS
from amco_jax.scenario import Scenario, vary
from amco_jax.scenario.offered_load import default_loads, with_load, with_slot_duration
from amco_jax.scenario.presets import load_scenario
from amco_jax.workload import PROCESSES, ArrivalProcess

_SERVICE_UNITS = {"Mbit": "image batches", "Gcycles/Mbit": "steps", "Gcycles/s": "steps/s"}


Values = Callable[[Scenario], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Axis:
    """A quantity that a sweep varies."""

    label: str
    """The label in figures, with the unit"""
    values: Values
    """The values swept by default around a scenario, some of which may be illegal there"""
    apply: Callable[[Scenario, Any], Scenario]

    def label_for(self, scenario: Scenario) -> str:
        """The label in the units of the scenario: with a service, image batches and denoising steps."""
        if scenario.service is None:
            return self.label
        for unit, of_service in _SERVICE_UNITS.items():
            label = self.label.replace(f"[{unit}]", f"[{of_service}]")
            if label != self.label:
                return label
        return self.label


# Functions that make the values of an axis from a scenario.


def _always(*values: Any) -> Values:
    return lambda scenario: values


def _times(of: str, *factors: float) -> Values:
    """Multiples of a field."""
    return lambda scenario: [_rounded(getattr(scenario, of) * factor) for factor in factors]


def _whole(values: Values, always: bool = False) -> Values:
    """Values rounded to whole numbers, always or only if the scenario has a service."""

    def rounded(scenario: Scenario) -> Sequence[Any]:
        if scenario.service is None and not always:
            return values(scenario)
        numbers = [max(round(value), 1) for value in values(scenario)]
        return numbers if always else [float(number) for number in numbers]

    return rounded


def _rounded(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _capacities(scenario: Scenario) -> Sequence[Any]:
    """The published sets, spread over fleets of any size; with a service, multiples of the scenario's set."""
    if scenario.service is None:
        tops = (30.0, 50.0, 70.0, 90.0)
        return [
            tuple(_rounded(c) for c in np.linspace(top, 10.0, scenario.num_servers)[::-1]) for top in tops
        ]
    return [tuple(_rounded(c * factor, 3) for c in scenario.capacities) for factor in (0.5, 1.0, 1.5, 2.0)]


def _powers(name: str, *factors: float) -> Values:
    """Multiples of the powers of the servers, by the name of the property."""

    def values(scenario: Scenario) -> Sequence[Any]:
        powers = getattr(scenario, name)
        if powers is None:
            raise InputError(
                f"param: {name.replace('powers', 'power')} is not known of all devices of the service; "
                "legal: values of your own, or latency tables with rows of power"
            )
        return [tuple(_rounded(p * factor) for p in powers) for factor in factors]

    return values


def _processes(scenario: Scenario) -> Sequence[Any]:
    """The processes with a mean of N·p tasks per base station and slot, including the scenario's."""
    names: list[Any] = [name for name, kind in PROCESSES.items() if "arrival_prob" in kind.varied]
    own = isinstance(scenario.arrivals, ArrivalProcess) and "arrival_prob" in scenario.process.varied
    return [*names, scenario.arrivals] if own else names


def _field(name: str, label: str, values: Values) -> tuple[str, Axis]:
    return name, Axis(label, values, lambda scenario, value: vary(scenario, **{name: value}))


def _slot_durations(label: str, apply: Callable[[Scenario, Any], Scenario]) -> Axis:
    return Axis(label, _times("slot_duration", 0.25, 0.5, 1.0, 2.0), apply)


def _scale(
    name: str, label: str, *read: tuple[str, Callable[[Scenario], Any]], whole: bool = False
) -> tuple[str, Axis]:
    """An axis that multiplies fields.

    Args:
      read: the name of each field, and a function that returns it as numbers.
      whole: with a service, the fields are small whole numbers.
    """

    def apply(scenario: Scenario, value: Any) -> Scenario:
        factor = check_number(name, value)
        return vary(scenario, **{field: np.multiply(get(scenario), factor).tolist() for field, get in read})

    def values(scenario: Scenario) -> Sequence[float]:
        return (1.0, 2.0, 3.0, 4.0) if whole and scenario.service else (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)

    return name, Axis(label, values, apply)


_TENTHS = tuple(k / 10 for k in range(1, 11))

AXES: dict[str, Axis] = dict(
    [
        _field("deadline", "deadline [s]", _times("deadline", *_TENTHS)),
        _field(
            "num_tasks",
            "task positions per base station and slot",
            _whole(_times("num_tasks", *(k / 5 for k in range(1, 11))), always=True),
        ),
        _field("num_servers", "edge servers", _always(2, 3, 4, 5, 6, 8, 10)),
        _field("num_slots", "time slots", _whole(_times("num_slots", 0.25, 0.5, 1.0, 2.0), always=True)),
        ("load", Axis("offered load ρ", default_loads, with_load)),
        ("slot_duration", _slot_durations("slot duration at constant load [s]", with_slot_duration)),
        (
            "slot_duration_only",
            _slot_durations(
                "slot duration at the same arrivals per slot [s]",
                lambda scenario, value: vary(scenario, slot_duration=value),
            ),
        ),
        _field("capacity", "capacities [Gcycles/s]", _capacities),
        _field("link_rate", "link rate [Mbit/s]", _always(50.0, 100.0, 200.0, 400.0, 800.0)),
        _field("power_idle", "idle power [W]", _powers("powers_idle", 0.0, 0.25, 0.5, 0.75, 1.0)),
        _field("power_busy", "busy power [W]", _powers("powers_busy", 1.0, 1.25, 1.5, 1.75, 2.0)),
        _field("energy_per_mbit", "energy of links [J/Mbit]", _always(0.0, 0.01, 0.1, 1.0, 10.0)),
        _field("price_per_hour", "price of a server [USD/h]", _always(0.1, 0.2, 0.5, 1.0, 2.0)),
        _field(
            "task_size_min",
            "smallest task [Mbit]",
            _whole(_times("task_size_max", 0.2, 0.4, 0.6, 0.8, 1.0)),
        ),
        _field(
            "task_size_max",
            "largest task [Mbit]",
            _whole(_times("task_size_min", 1.0, 1.75, 2.5, 3.25, 4.0)),
        ),
        _field(
            "density_min",
            "least density [Gcycles/Mbit]",
            _whole(_times("density_max", *(k / 6 for k in range(1, 7)))),
        ),
        _field(
            "density_max",
            "largest density [Gcycles/Mbit]",
            _whole(_times("density_min", 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)),
        ),
        _field("arrivals", "arrivals", _processes),
        _field("order", "order of service", _always(*ORDERS)),
        _field("timing", "arrivals within a slot", _always(*TIMINGS)),
        _scale("capacity_scale", "capacity scale", ("capacity", lambda s: s.capacities)),
        _scale("link_rate_scale", "link rate scale", ("link_rate", lambda s: s.link_rates)),
        _scale(
            "task_size_scale",
            "task size scale",
            ("task_size_min", lambda s: s.task_size_min),
            ("task_size_max", lambda s: s.task_size_max),
            whole=True,
        ),
        _scale(
            "density_scale",
            "density scale",
            ("density_min", lambda s: s.density_min),
            ("density_max", lambda s: s.density_max),
        ),
    ]
)
"""The axes of any scenario"""


def axes_of(process: ArrivalProcess) -> dict[str, Axis]:
    """The axes with an arrival process: those of any scenario, and those of the process."""
    own = {
        name: _field(name, quantity.label, lambda s, quantity=quantity: quantity.values_for(s.process, s))[1]
        for name, quantity in process.varied.items()
    }
    return own | AXES


def get_axis(param: str, scenario: Scenario) -> Axis:
    """The axis with the given name around a scenario.

    Raises:
      InputError: there is no such axis, or the scenario's arrivals do not have it.
    """
    axes = axes_of(scenario.process)
    _check_means("param", param, scenario.process)
    check_choice("param", param, axes)
    return axes[param]


def _check_means(option: str, name: str, process: ArrivalProcess) -> None:
    """Raise InputError if a name is that of a quantity of other arrivals alone."""
    others = [other for other, kind in PROCESSES.items() if name in kind.varied]
    if name not in process.varied and others:
        raise InputError(
            f"{option}: {name} means nothing to arrivals = {process.name}; "
            f"legal: arrivals = {' or '.join(others)}"
        )


def default_values(param: str, scenario: Scenario, check: Callable[[Scenario], None]) -> list[Any]:
    """The default values of a sweep around a scenario: those of the axis that are legal.

    Args:
      check: raises InputError if a scenario cannot be simulated.

    Raises:
      InputError: the scenario does not have this axis, or at most one of several values is legal.
    """
    axis, legal, refusal = get_axis(param, scenario), [], None
    for value in dict.fromkeys(axis.values(scenario)):
        try:
            check(axis.apply(scenario, value))
        except InputError as error:
            refusal = error
        else:
            legal.append(value)
    if refusal is not None and len(legal) < 2:
        raise InputError(
            f"param: {param} has no values to sweep by default around this scenario, as {refusal}"
        )
    return legal


def parse_value(text: str) -> Any:
    """A value as written on a command line: one in TOML, or a vector of numbers as 10-20-30 or 10,20,30.

    Anything else stays text, so that the check of the field reports the error.
    """
    number = r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
    if re.fullmatch(rf"{number}(?:(?:-{number})+|(?:,{number})+)", text):
        return tuple(float(x) for x in re.findall(number, text))
    try:
        document = tomllib.loads(f"value = {text}")
        tomllib.loads(f"value = [{text}]")  # behind a comment, there would be no end of the list
    except (ValueError, RecursionError):  # not TOML, a number with too many digits, or too deep nesting
        return text
    return document["value"]


def parse_assignments(option: str, assignments: Sequence[str]) -> dict[str, str]:
    """Parse `["deadline=0.5", ...]` as texts by name.

    Raises:
      InputError: an entry that does not have this form, or a repeated name.
    """
    parsed: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"{option}: {assignment!r}; legal: field=value")
        if name in parsed:
            raise InputError(f"{option}: {name} is given twice; legal: each field once")
        parsed[name] = value
    return parsed


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse `["deadline=0.5", ...]` as values by name.

    Raises:
      InputError: see `parse_assignments`.
    """
    return {name: parse_value(value) for name, value in parse_assignments("set", settings).items()}


def apply_settings(scenario: Scenario, settings: Mapping[str, Any]) -> Scenario:
    """The scenario with all fields replaced together and then all scales applied in the given order.

    Raises:
      InputError: an unknown name, a value that `Scenario` refuses, or what means nothing to the arrivals.
    """
    fields, scales = _split(settings)
    scenario = scenario.replace(**fields)
    _check_used(scenario, fields)
    return _apply_scales(scenario, scales)


def load_with_settings(
    source: str,
    settings: Mapping[str, Any],
    trace: str | Mapping[str, Any] | None = None,
    swept: str = "",
) -> Scenario:
    """The scenario of `load_scenario`, with settings applied as in `apply_settings`.

    Args:
      swept: the quantity that will be varied; among several arrivals, some may use what others do not.

    Raises:
      InputError: an illegal source or value.
    """
    fields, scales = _split(settings)
    scenario = load_scenario(source, fields, trace)
    if swept != "arrivals":
        _check_used(scenario, fields)
        if scenario.trace is not None:
            scenario.check_played()
    return _apply_scales(scenario, scales)


def _check_used(scenario: Scenario, fields: Mapping[str, Any]) -> None:
    """Raise InputError if one of these fields means nothing to the arrivals."""
    for name in fields:
        _check_means("set", name, scenario.process)


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into fields and scales, which are the axes that are not fields."""
    names = AXES.keys() - {f.name for f in dataclasses.fields(Scenario)}
    fields = {name: value for name, value in settings.items() if name not in names}
    return fields, {name: value for name, value in settings.items() if name in names}


def _apply_scales(scenario: Scenario, scales: Mapping[str, Any]) -> Scenario:
    for name, value in scales.items():
        scenario = AXES[name].apply(scenario, value)
    return scenario


def value_labels(values: Sequence[Any]) -> list[Any]:
    """Swept values as tables show them: all numbers of one type, or all text such as 10-20-30."""
    values = [v.name if isinstance(v, ArrivalProcess) else v for v in values]
    if any(np.ndim(v) for v in values):
        return ["-".join(map(_written, np.ravel(v).tolist())) for v in values]
    return list(np.asarray(values).tolist())


def _written(number: float) -> str:
    """A number in 6 digits, or in as many more as it takes to tell it from all others."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number).removesuffix(".0")
