"""The packages of extras: each is imported on first use, and a missing one is told with its extra."""

from __future__ import annotations

import sys
import tomllib

import pytest
from helpers.paths import ROOT
from helpers.refusals import refused

from amco_jax.extras import EXTRAS, load_package


def test_each_extra_is_one_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert EXTRAS.keys() <= project["optional-dependencies"].keys()
    packages = [package for each in EXTRAS.values() for package in each]
    assert len(set(packages)) == len(packages)


@pytest.mark.parametrize(("name", "extra"), [("grpc", "fleet"), ("PIL.Image", "sd"), ("ray", "ray")])
def test_a_missing_package_is_told_with_its_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    assert load_package(name) is sys.modules[name]
    monkeypatch.setitem(sys.modules, name, None)
    refused(lambda: load_package(name), f"{name.partition('.')[0]}: cannot be imported", f'".[{extra}]"')
