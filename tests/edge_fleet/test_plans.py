"""Plans of runs: what tells two of them apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from helpers.fleets import QUICK, SCENARIO

from amco_jax import get_method
from edge_fleet.pictures import Pictures
from edge_fleet.run import Plan
from sd_repair.images import save_image


def test_methods_of_the_same_name_make_other_plans():
    methods = [dataclasses.replace(get_method(name), name="mine") for name in ("local", "least-wait")]
    one, other = (Plan(scenario=SCENARIO, settings=QUICK, method=method).describe() for method in methods)
    assert {name for name in one if one[name] != other[name]} == {"depends_on"}


def test_other_images_in_the_same_directory_have_another_digest(tmp_path: Path):
    settings, digests = dataclasses.replace(QUICK, images=str(tmp_path)), set[str]()
    for value in (10, 10, 20):
        save_image(tmp_path / "a.png", np.full((64, 64, 3), value, np.uint8))
        digests.add(Pictures(settings, 64, 0).digest)
    assert len(digests) == 2
