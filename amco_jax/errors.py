"""The exception for bad user input, and the checks that raise it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class InputError(ValueError):
    """Bad input; its one-line message names the field, the value and the legal range."""


def check_choice(field: str, value: object, legal: Iterable[str]) -> None:
    """Raise InputError unless the value is one of the legal names."""
    legal = list(legal)
    if value not in legal:
        raise InputError(f"{field}: {value!r}; legal: {', '.join(legal)}")


def check_fields(field: str, names: Iterable[object], legal: Iterable[str]) -> None:
    """Raise InputError if one of the names is not that of a legal field."""
    legal = list(legal)
    for name in names:
        if name not in legal:
            raise InputError(f"{field}: unknown field {name!r}; legal: {', '.join(legal)}")


# Far beyond any real deployment, while the product of three such numbers still fits into float32.
_SMALLEST, _LARGEST = 1e-9, 1e9


def check_number(field: str, value: Any, low: float = _SMALLEST, high: float = _LARGEST) -> float:
    """The value as a float; InputError unless it is a number from `low` to `high`."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN fails both comparisons
        raise InputError(f"{field}: {_shown(value)}; legal: a number from {low:g} to {high:g}")
    return float(value)


def check_whole(field: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """The value as an int; InputError unless it is a whole number of at least `low` and at most `high`."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        bound = "" if high is None else f" to {high}"
        raise InputError(f"{field}: {_shown(value)}; legal: a whole number from {low}{bound}")
    return int(value)


def check_array(field: str, value: Any) -> np.ndarray:
    """The value as an array; InputError if it is none, such as a list of lists of different lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        raise InputError(f"{field}: {_shown(value)}; legal: an array, with rows of equal lengths") from None


def check_list(field: str, items: Any) -> list[Any]:
    """The items as a list; InputError if there are none, or if `items` is a string."""
    if isinstance(items, str) or not hasattr(items, "__len__") or not len(items):
        raise InputError(f"{field}: {_shown(items)}; legal: a list of at least one entry")
    return list(items)


def from_table(field: str, value: Any, kind: type[T], required: str, hint: str) -> T:
    """The value itself if it is a `kind`, a dataclass, else a `kind` made from a table of its fields.

    Args:
      required: the field that a table must have.
      hint: the legal values, shown if that field is missing.

    Raises:
      InputError: the value is neither, or the table has unknown fields or lacks the required one.
    """
    if isinstance(value, kind):
        return value
    legal = [f.name for f in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    if not isinstance(value, Mapping):
        raise InputError(f"{field}: {_shown(value)}; legal: a table of {', '.join(legal)}")
    check_fields(field, value, legal)
    if required not in value:
        raise InputError(f"{field}: no {required}; legal: {hint}")
    return kind(**value)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank; the error's type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def _shown(value: Any) -> str:
    """Any value, shown in one short line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer with too many digits, or an object whose __repr__ fails
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
