"""Engines: how many images of an item they repair at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.refusals import refused

from edge_fleet import engines
from edge_fleet.engines import EngineSettings, load_engine


def test_a_diffusion_engine_repairs_the_images_of_an_item_in_batches(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def repair_images(model: Any, images: Any, masks: Any, seeds: Any, settings: Any, batch: int) -> Any:
        assert model == "a model"
        calls.append((len(images), len(masks), list(seeds), settings.steps, batch))
        return np.stack(images)

    torch = SimpleNamespace(set_num_threads=lambda threads: None)
    monkeypatch.setattr(engines, "load_package", {"torch": torch}.__getitem__)
    monkeypatch.setattr(engines, "_model", lambda settings: "a model")
    monkeypatch.setattr(engines, "repair_images", repair_images)
    engine = load_engine(EngineSettings(engine="tiny", max_batch=3))
    images, masks = np.zeros((5, 64, 64, 3), np.uint8), np.ones((5, 64, 64), bool)
    assert engine(images, masks, [4, 5, 6, 7, 8], 9).shape == images.shape
    assert calls[1:] == [(5, 5, [4, 5, 6, 7, 8], 9, 3)]  # the first one is a trial
    wrong: Any
    for wrong in (0, 65, 1.5):
        refused(lambda: EngineSettings(max_batch=wrong), "max_batch", "1 to 64")  # noqa: B023
