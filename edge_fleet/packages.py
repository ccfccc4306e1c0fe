"""The packages of the extra `fleet`, imported on first use."""

from __future__ import annotations

import importlib
import os
from typing import Any

from amco_jax.errors import InputError


def load_package(name: str) -> Any:
    """Import a module by name.

    Raises:
      InputError: the module cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.partition('.')[0]}: cannot be imported ({error}); it comes with "
            'python -m pip install -c constraints.txt -e ".[fleet]"'
        ) from error


def quiet_grpc() -> None:
    """Keep gRPC, before its first use, from printing lines about connections that have ended."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
