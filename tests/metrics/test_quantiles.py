"""Quantiles of makespans, taken in piece by piece: exact, or within the stated error."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from amco_jax.agents.methods import get_method
from amco_jax.env import UNIFIED
from amco_jax.metrics import accuracy
from amco_jax.metrics.quantiles import (
    EXACT_POSITIONS,
    LEVELS,
    RELATIVE_ERROR,
    Counted,
    Kept,
    KeptOnDevice,
    is_exact,
)
from amco_jax.scenario import Scenario
from amco_jax.study.simulate import block_program, simulate

QUANTILES = "makespan_quantiles_s"
RANDOM = np.random.default_rng(0)
ROWS = {
    "uniform": RANDOM.uniform(0.01, 1, 5000),
    "over 12 orders": RANDOM.lognormal(0, 5, 5000),
    "capped": np.minimum(RANDOM.exponential(0.4, 5000), 0.4),
    "one value": np.full(5000, 0.123),
    "few": RANDOM.uniform(0, 1, 3),
    "single": np.array([0.5]),
    "none": np.array([]),
}


def filled(kind: type[Kept | KeptOnDevice | Counted], pieces: int) -> np.ndarray:
    """The quantiles of all rows, among empty positions, taken in as so many pieces."""
    width, random = 6000, np.random.default_rng(1)
    makespans = np.full((len(ROWS), width), np.inf, np.float32)
    for row, values in zip(makespans, ROWS.values(), strict=True):
        row[random.choice(width, len(values), replace=False)] = values
    taken = kind()
    for piece in np.array_split(makespans, pieces, axis=1):
        taken.add(piece[None, None] if kind is KeptOnDevice else piece)
    return taken.quantiles()[0] if kind is KeptOnDevice else taken.quantiles()


def exact() -> np.ndarray:
    rows = [values.astype(np.float32).astype(np.float64) for values in ROWS.values()]
    return np.stack([np.quantile(r, LEVELS) if len(r) else np.full(LEVELS.shape, np.nan) for r in rows])


@pytest.mark.parametrize("kind", [Kept, KeptOnDevice])
@pytest.mark.parametrize("pieces", [1, 7])
def test_kept_makespans_have_numpy_s_quantiles(kind: type[Kept | KeptOnDevice], pieces: int):
    np.testing.assert_allclose(filled(kind, pieces), exact(), rtol=1e-12)


def test_an_accelerator_sorts_what_stays_on_it(monkeypatch: pytest.MonkeyPatch):
    """The same columns; of scenarios with too many positions, the host counts all values."""

    def columns_of(scenarios: list[Scenario]) -> list[np.ndarray]:
        batches = simulate(scenarios, get_method("least-wait"), UNIFIED, 0, 130)
        return [batch.metrics[QUANTILES] for batch in batches]

    small = Scenario(num_servers=2, num_slots=4, num_tasks=5)
    both = [small, small.replace(arrival_prob=0.01)]
    expected = columns_of(both)
    block_program.cache_clear()
    with monkeypatch.context() as patch:
        pieces, add = [], KeptOnDevice.add
        patch.setattr(KeptOnDevice, "add", lambda self, values: pieces.append(1) or add(self, values))
        patch.setattr(jax, "default_backend", lambda: "gpu")
        np.testing.assert_array_equal(columns_of(both), expected)
        assert pieces
        assert np.isnan(expected[1]).any()
        patch.setattr("amco_jax.metrics.quantiles.EXACT_POSITIONS", small.episode_positions - 1)
        counted = columns_of(both)
    block_program.cache_clear()
    np.testing.assert_allclose(counted, expected, rtol=RELATIVE_ERROR)
    assert not np.array_equal(counted, expected, equal_nan=True)


@pytest.mark.parametrize("pieces", [1, 7, 6000])
def test_counted_makespans_keep_to_the_stated_error(pieces: int):
    found, expected = filled(Counted, pieces), exact()
    np.testing.assert_allclose(found, expected, rtol=RELATIVE_ERROR)
    assert RELATIVE_ERROR < 1.3e-4
    np.testing.assert_allclose(found[:, [0, -1]], expected[:, [0, -1]], rtol=1e-12)
    np.testing.assert_array_equal(found, filled(Counted, 1))  # whatever the pieces
    capped = expected[2] == np.float32(0.4)
    assert 3 < capped.sum() < 30
    np.testing.assert_array_equal(found[2][capped], np.float32(0.4))  # missed tasks keep the deadline
    assert (found[0] != expected[0]).any()  # else nothing was tested


def test_levels():
    assert (np.diff(LEVELS) > 0).all()
    assert LEVELS[0] == 0
    assert LEVELS[-1] == 1
    assert LEVELS.dtype == np.float64


def test_what_is_exact_depends_on_the_scenario_alone(monkeypatch: pytest.MonkeyPatch):
    scenarios = [Scenario(num_slots=n) for n in (60, 1048, 1049)]
    assert [is_exact(s.episode_positions) for s in scenarios] == [True, True, False]
    assert accuracy(s.episode_positions for s in scenarios) == {
        "exact": False,
        "exact_up_to_positions": EXACT_POSITIONS,
        "relative_error_beyond": RELATIVE_ERROR,
    }
    exact = accuracy(s.episode_positions for s in scenarios[:2])
    assert exact is not None
    assert exact["exact"]
    assert accuracy([]) is None


@pytest.mark.parametrize("num_seeds", [1, 130])
def test_long_episodes_are_counted(num_seeds: int, monkeypatch: pytest.MonkeyPatch):
    scenario, method = Scenario(num_servers=2, num_tasks=20, num_slots=6), get_method("optimal")

    def metrics() -> dict[str, np.ndarray]:
        (batch,) = simulate([scenario], method, UNIFIED, 0, num_seeds)
        return batch.metrics

    short = metrics()
    monkeypatch.setattr("amco_jax.metrics.quantiles.EXACT_POSITIONS", scenario.episode_positions - 1)
    long = metrics()
    assert (long[QUANTILES] != short[QUANTILES]).any()
    for name, values in short.items():
        if name.startswith("makespan_p") or name == QUANTILES:
            np.testing.assert_allclose(long[name], values, rtol=1.001 * RELATIVE_ERROR)
        else:
            np.testing.assert_array_equal(long[name], values)
