"""Objects of the user's own, named on a command line or in a file."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from amco_jax.errors import InputError


def attribute_of(field: str, name: str) -> Any:
    """The object that `module:attribute` names; modules in the working directory are found first.

    Args:
      field: what the name stands for, in messages.

    Raises:
      InputError: there is no such module or attribute, or the module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's code, which may raise anything
        reason = next(iter(f"{type(error).__name__}: {error}".splitlines()))
        raise InputError(f"{field}: {name!r} cannot be imported: {reason}") from error
    finally:
        sys.path.remove("")
        if "" not in sys.path:  # for what the module imports later; what is installed goes first from here on
            sys.path.append("")
