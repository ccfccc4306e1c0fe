"""Modules of packages that come with an extra, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from amco_jax.errors import InputError

EXTRAS = {
    "sd": ("PIL", "cv2", "diffusers", "safetensors", "skimage", "torch", "transformers"),
    "fleet": ("cryptography", "grpc"),
    "ray": ("ray",),
}
"""The packages that `load_package` imports, by the extra that they come with"""


def load_package(name: str) -> Any:
    """Import a package of `EXTRAS`, or a module of one.

    Raises:
      InputError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name, str(error)) from error


def check_package(name: str) -> None:
    """Raise InputError unless a package of `EXTRAS` is installed; importing it would take seconds."""
    if importlib.util.find_spec(name) is None:
        raise _missing(name, "it is not installed")


def _missing(name: str, reason: str) -> InputError:
    package = name.partition(".")[0]
    extra = next(extra for extra, packages in EXTRAS.items() if package in packages)
    return InputError(
        f"{package}: cannot be imported ({reason}); it comes with "
        f'python -m pip install -c constraints.txt -e ".[{extra}]"'
    )
