"""Scenarios at a given offered load, for which a quantity of their arrivals is adjusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from amco_jax.errors import InputError, check_number
from amco_jax.scenario import Scenario, vary

LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
"""The default offered loads of a sweep, as far as the scenario can reach them"""

_PRECISION = 1e-5
"""Relative precision of the bounds in messages"""


def with_load(scenario: Scenario, load: Any) -> Scenario:
    """The scenario with its arrivals adjusted to an offered load.

    The quantity that its arrival process declares by `Quantity.tasks_per` is multiplied by the ratio of the
    loads. For a request log, the load is exact up to a slot of the log, whose last slot counts as a whole.

    Args:
      load: ρ, see `amco_jax.workload.offered_load`.

    Raises:
      InputError: not a number, or a load that the scenario cannot reach; or its arrival process declares no
        such quantity.

    Example:
      >>> round(with_load(Scenario(), 0.8).arrival_prob, 4)
      0.6696
      >>> with_load(Scenario(), 1.2)
      Traceback (most recent call last):
      amco_jax.errors.InputError: load: 1.2; legal: at most 1.194, or more with a larger num_tasks
      (arrival_prob: 1.0044642857142858; legal: a number from 0 to 1)
      >>> round(with_load(Scenario(arrivals="poisson"), 1.2).offered_load, 4)
      1.2
    """
    load = check_number("load", load)
    name, _ = _pace(scenario, "load")
    offering = _offering(scenario, name)
    value, now = _value(offering, name), offering.offered_load

    def at(load: float) -> Scenario:
        return vary(offering, **{name: value * (load / now)})

    more = ", or more with a larger num_tasks" if name == "arrival_prob" and load > now else ""
    return _within("load", at, now, load, more)


def with_slot_duration(scenario: Scenario, duration: Any) -> Scenario:
    """The scenario with another slot duration at the same offered load.

    If the mean number of tasks per slot is proportional to a quantity of the arrivals, that quantity changes
    with the duration. The rate of a request log does not depend on it. Lengths that are given in slots, such
    as that of an episode or of a burst, keep their number of slots.

    Args:
      duration: Δ, s.

    Raises:
      InputError: not a number, or a duration at which the load cannot be kept.

    Example:
      >>> shorter = with_slot_duration(Scenario(), 0.5)
      >>> shorter.slot_duration, shorter.arrival_prob
      (0.5, 0.15)
    """
    duration = check_number("slot_duration", duration)
    name, tasks_per = _pace(scenario, "slot_duration")
    if tasks_per == "second":
        return vary(scenario, slot_duration=duration)
    value, now = _value(scenario, name), scenario.slot_duration

    def at(duration: float) -> Scenario:
        return vary(scenario, **{"slot_duration": duration, name: value * (duration / now)})

    return _within("slot_duration", at, now, duration, " at constant load")


def default_loads(scenario: Scenario) -> Sequence[float]:
    """`LOADS`, or fractions of the largest reachable load if the second of those is out of reach."""
    try:
        with_load(scenario, LOADS[1])
    except InputError:
        name, _ = _pace(scenario, "load")
        now = _offering(scenario, name).offered_load
        top = _bound(lambda load: with_load(scenario, load), now, LOADS[1])
        return [_shortened(top * share, now, digits=3) for share in (0.25, 0.5, 0.75, 1.0)]
    return LOADS


def _pace(scenario: Scenario, field: str) -> tuple[str, str]:
    """The quantity to which the number of tasks is proportional, and whether per slot or per second.

    Raises:
      InputError: the process declares none.
    """
    process = scenario.process
    for name, quantity in process.varied.items():
        if quantity.tasks_per:
            return name, quantity.tasks_per
    other = ", or slot_duration_only" if field == "slot_duration" else ""
    raise InputError(
        f"param: {field} with arrivals = {process.name}, which declare nothing that sets the load; legal: "
        f"arrivals that vary a quantity with tasks_per, such as arrival_prob{other}"
    )


def _value(scenario: Scenario, name: str) -> float:
    """The value of a parameter of the scenario's arrivals or of a field of the scenario."""
    process = scenario.process
    return getattr(process if hasattr(process, name) else scenario, name)


def _offering(scenario: Scenario, name: str) -> Scenario:
    """The scenario, with the least positive default value of the quantity if no tasks arrive otherwise."""
    if scenario.offered_load:
        return scenario
    values = scenario.process.varied[name].values_for(scenario.process, scenario)
    return vary(scenario, **{name: min(value for value in values if value > 0)})


def _within(
    field: str, at: Callable[[float], Scenario], legal: float, asked: float, words: str = ""
) -> Scenario:
    """The scenario at a value; if it is refused, the InputError names the bound.

    Args:
      legal: a value that is known to be legal.
      words: the text after the bound.
    """
    try:
        return at(asked)
    except InputError as refusal:
        side = "most" if asked > legal else "least"
        bound = _shortened(_bound(at, legal, asked), legal)
        raise InputError(f"{field}: {asked:g}; legal: at {side} {bound:g}{words} ({refusal})") from refusal


def _bound(at: Callable[[float], Scenario], legal: float, refused: float) -> float:
    """The last legal value on the way to a refused one, by bisection of their ratio."""
    while abs(math.log(refused / legal)) > _PRECISION:
        middle = math.sqrt(legal * refused)
        try:
            at(middle)
        except InputError:
            refused = middle
        else:
            legal = middle
    return legal


def _shortened(bound: float, towards: float, digits: int = 4) -> float:
    """A bound with few digits, rounded towards a legal value."""
    step = 10.0 ** (math.floor(math.log10(bound)) + 1 - digits)
    # A bound within the precision of the bisection of a round number is taken to be that number.
    near = bound / step * (1 + math.copysign(2 * _PRECISION, bound - towards))
    return float(f"{(math.floor(near) if bound >= towards else math.ceil(near)) * step:.{digits}g}")
