"""Options of the commands that would be ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from amco_jax.errors import InputError


def refuse_given(args: Any, names: Iterable[str], legal: str) -> None:
    """Raise InputError if one of these arguments, which would be ignored, is not its default.

    Args:
      legal: what makes the command use them.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    for name in names:
        if getattr(args, name) != defaults[name]:
            raise InputError(f"{name.replace('_', '-')}: {getattr(args, name)}; legal: {legal}")
