"""Modules of packages that come with an extra, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from amco_jax.errors import InputError


def load_package(name: str, extra: str) -> Any:
    """Import a module by name.

    Args:
      extra: the extra that it comes with.

    Raises:
      InputError: the module cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.partition('.')[0]}: cannot be imported ({error}); it comes with "
            f'python -m pip install -c constraints.txt -e ".[{extra}]"'
        ) from error
