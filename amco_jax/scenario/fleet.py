"""Quantities per server: their checks, and the power and price of a fleet with known capacities only.

Power and price are lines through published machines, functions of the capacity of a server in Gcycles/s,
which is its number of cores times their clock rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from amco_jax.errors import InputError, check_number

ENERGY_PER_MBIT = 0.0317
"""J/Mbit sent: an edge Ethernet switch needs 31.7 nJ/bit.

Source: Jalali et al., Fog Computing May Help to Save Energy in Cloud Computing, IEEE JSAC 34 (5), 2016.
"""

_IDLE, _BUSY = (33.7, 0.67), (62.0, 4.35)
"""W, and W per Gcycle/s: lines through two servers measured with SPECpower_ssj2008, idle and at full load.

IBM x3250 (Xeon X3470, 4 cores of 2.933 GHz): 41.6 and 113 W. IBM x3550 (two Xeon X5675, 12 cores of 3.067 GHz
in total): 58.4 and 222 W. Source: power models of CloudSim (Beloglazov and Buyya, CCPE 24 (13), 2012).
"""

_PRICE = 0.025
"""USD per hour for each Gcycle/s: a c5.2xlarge of Amazon EC2, 4 cores of 3.4 GHz, costs 0.34 USD per hour on
demand, and the larger ones of its kind cost as much per core."""


def idle_power(capacities: np.ndarray) -> np.ndarray:
    """33.7 W + 0.67 W · f_i, `[num_servers]`; capacities f_i in Gcycles/s."""
    return _IDLE[0] + _IDLE[1] * capacities


def busy_power(capacities: np.ndarray) -> np.ndarray:
    """62.0 W + 4.35 W · f_i, `[num_servers]`; capacities f_i in Gcycles/s."""
    return _BUSY[0] + _BUSY[1] * capacities


def hourly_price(capacities: np.ndarray) -> np.ndarray:
    """0.025 USD · f_i per hour, `[num_servers]`; capacities f_i in Gcycles/s."""
    return _PRICE * capacities


def numbers(name: str, value: Any, *bounds: float) -> Any:
    """Numbers within the bounds of `check_number`, nested to any depth, as tuples."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(numbers(name, v, *bounds) for v in value)
    return check_number(name, value, *bounds)


def check_powers(idle: np.ndarray | None, busy: np.ndarray | None) -> None:
    """Raise InputError if a server needs less power when it is busy than when it is idle."""
    if idle is None or busy is None:
        return
    for i in np.flatnonzero(busy < idle)[:1]:
        raise InputError(
            f"power_busy: {busy[i]:g} of server {i}; legal: at least its power_idle, {idle[i]:g}"
        )


def check_length(name: str, value: Any, num_servers: int, max_depth: int) -> None:
    """Raise InputError unless the value is one number, or has one entry per server at every depth."""
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
