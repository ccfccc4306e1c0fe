"""The number of digits with which reports show a number."""

from __future__ import annotations

import math

MAX_DIGITS = 9
"""The largest number of digits after the point"""
_NOISE = 1e-9
"""The share of a number below which the width of its interval is the rounding of its computation"""


def shown_digits(value: float, low: float, high: float, digits: int = 4) -> int:
    """The number of digits after the point with which tables show an estimate with its interval.

    These are `digits`; fewer if the value is 100 or more; and more if the interval needs them, see
    `digits_of_interval`. Without an interval, at least three digits of the value are shown.

    Args:
      value: a number, not NaN.
      low, high: its interval; NaN without one.
    """
    exponent = math.floor(math.log10(abs(value))) if value else 0
    if math.isnan(low) or math.isnan(high):
        return max(digits, min(2 - exponent, MAX_DIGITS))
    return digits_of_interval(value, low, high, max(digits - max(exponent - 1, 0), 0))


def decimal(value: float, digits: int) -> str:
    """A number with so many digits after the point, a typographic minus sign, and no sign at zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def digits_of_interval(value: float, low: float, high: float, digits: int) -> int:
    """At least `digits`, and more if the interval would otherwise be rounded to nothing.

    Rare events must not look as if they never or always happened, and small differences not as if there were
    none. An interval without a width needs the digits of its value.
    """
    side = max(value - low, high - value)
    size = side if side > _NOISE * abs(value) else abs(value)
    if size < 10.0**-MAX_DIGITS / 2:
        return digits
    return max(digits, min(math.ceil(-math.log10(size)), MAX_DIGITS))
