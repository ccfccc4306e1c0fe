"""The one exception for bad input from a user."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, in one line that names the field, the value and the legal range."""


def check_choice(field: str, value: object, legal: Iterable[str]) -> None:
    """Raise InputError unless the value is one of the legal names."""
    legal = list(legal)
    if value not in legal:
        raise InputError(f"{field}: {value!r}; legal: {', '.join(legal)}")
