"""Modules of packages that come with an extra, imported on first use."""

from __future__ import annotations

import importlib
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
    package = name.partition(".")[0]
    extra = next(extra for extra, packages in EXTRAS.items() if package in packages)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{package}: cannot be imported ({error}); it comes with "
            f'python -m pip install -c constraints.txt -e ".[{extra}]"'
        ) from error
