"""Chunks: they hold all seeds in order, and their inputs are computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amco_jax import Scenario
from amco_jax.study import chunks as module
from amco_jax.study.chunks import CHUNK_BYTES, Chunk, over_chunks

SMALL = Scenario(num_tasks=3, num_slots=2)
SCENARIOS = [SMALL, SMALL.replace(deadline=0.5), SMALL.replace(num_slots=3)]
SEEDS_PER_BLOCK = 4


def test_results_of_seeds_come_back_in_order_without_padding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1)  # one block on each device

    def deadlines(chunk: Chunk) -> list[tuple[int, np.ndarray, Any]]:
        (params, _), seeds, agents = chunk.blocked
        assert agents is None
        assert chunk.lanes == seeds.shape
        assert seeds.shape[1] == SEEDS_PER_BLOCK
        wide = np.broadcast_to(params.deadline[:, None], seeds.shape)
        return list(chunk.by_scenario(zip(seeds, wide, strict=True)))

    found = list(over_chunks(deadlines, SCENARIOS, 7, 30, SEEDS_PER_BLOCK, lambda shape: 1))
    assert len(found) > len(SCENARIOS)
    parts = [part for of_chunk in found for part in of_chunk]
    assert [index for index, *_ in parts] == sorted(index for index, *_ in parts)
    for index, scenario in enumerate(SCENARIOS):
        seeds, given, deadlines_of = (
            np.concatenate(each)
            for each in zip(*((s, *results) for i, s, results in parts if i == index), strict=True)
        )
        np.testing.assert_array_equal(seeds, np.arange(7, 37))
        np.testing.assert_array_equal(given, seeds)
        np.testing.assert_array_equal(deadlines_of, np.full(30, scenario.deadline, np.float32))


def test_the_inputs_of_a_shape_are_computed_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1)
    real, shapes = module.inputs_of, []

    def counted(*arguments: Any) -> Any:
        shapes.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(module, "inputs_of", counted)
    chunks = list(over_chunks(lambda chunk: chunk.shape, SCENARIOS, 0, 30, SEEDS_PER_BLOCK, lambda shape: 1))
    assert len(chunks) > len({*chunks}) == 2
    assert shapes == list(dict.fromkeys(chunks))
