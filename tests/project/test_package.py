"""The package's public names."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import types

import pytest

import amco_jax
from amco_jax import stats

PUBLIC = [getattr(amco_jax, name) for name in amco_jax.__all__]
OF_STATS = [getattr(stats, name) for name in stats.__all__]
FUNCTIONS = [thing for thing in PUBLIC + OF_STATS if inspect.isfunction(thing) and thing.__name__[0] != "_"]
INPUTS = [amco_jax.Scenario, amco_jax.QSettings, amco_jax.Execution, amco_jax.Method]


def test_public_names_are_things_not_modules():
    # Importing a submodule makes it an attribute of the package, and may hide a function of that name.
    for module in pkgutil.iter_modules(amco_jax.__path__):
        if module.name not in ("__main__", "cli"):
            importlib.import_module(f"amco_jax.{module.name}")
    for name in amco_jax.__all__:
        assert not isinstance(getattr(amco_jax, name), types.ModuleType), name


def test_the_version_is_that_of_the_distribution():
    assert importlib.metadata.version("amco-jax") == amco_jax.__version__


@pytest.mark.parametrize("function", [*FUNCTIONS, *INPUTS], ids=lambda function: function.__name__)
def test_arguments_beyond_the_third_are_given_by_name(function):
    assert sum(map(inspect.isfunction, OF_STATS)) > 20
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 3
