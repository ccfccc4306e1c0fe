"""The package's public names."""

from __future__ import annotations

import importlib
import pkgutil
import types

import amco_jax


def test_public_names_are_things_not_modules():
    # Importing a submodule makes it an attribute of the package, and may hide a function of that name.
    for module in pkgutil.iter_modules(amco_jax.__path__):
        if module.name not in ("__main__", "cli"):
            importlib.import_module(f"amco_jax.{module.name}")
    for name in amco_jax.__all__:
        assert not isinstance(getattr(amco_jax, name), types.ModuleType), name
