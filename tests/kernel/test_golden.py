"""Teacher-forced replays of the published code's recorded episodes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers.paths import GOLDEN

from amco_jax.kernel.recording import load_recording, replay

FILES = sorted(f.stem for f in GOLDEN.glob("*.npz") if "learn" not in f.stem)
OUTPUTS = (
    "fraction",
    "makespan_s",
    "reward",
    "backlog_gcycles",
    "slot_load_gcycles",
    "link_delay_s",
)


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    return load_recording(GOLDEN / f"{name}.npz")


def test_all_recordings_are_there():
    methods = {str(recorded(name)["method"]) for name in FILES}
    assert methods == {"amcoedge", "smcoedge", "drlcoedge", "randcoedge", "optimal"}
    assert len(FILES) == 10


def assert_float64(found: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["missed"], golden["missed"])
    np.testing.assert_array_equal(found["selected"], golden["selected"])
    for output in OUTPUTS:
        assert found[output].dtype == np.float64
        np.testing.assert_allclose(found[output], golden[output], rtol=1e-9, atol=1e-11, err_msg=output)


def assert_float32(found: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["missed"], golden["missed"])
    np.testing.assert_allclose(found["makespan_s"], golden["makespan_s"], rtol=1e-5)
    np.testing.assert_allclose(found["reward"], golden["reward"], rtol=1e-5)
    # float32 holds a wait of 40 s to 4e-6 s, and a fraction is a difference of waits over some 0.01 s.
    longest = np.max(golden["backlog_gcycles"] / golden["capacity_gcycles_per_s"])
    tolerance = 1e-5 if longest < 1 else 1e-3
    np.testing.assert_allclose(found["fraction"], golden["fraction"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FILES)
def test_float64_replay(name: str):
    assert_float64(replay(recorded(name), physics="published", precision="float64"), recorded(name))


@pytest.mark.parametrize("name", FILES)
def test_float32_replay(name: str):
    found = replay(recorded(name), physics="published")
    assert found["makespan_s"].dtype == np.float32
    assert_float32(found, recorded(name))


@pytest.mark.parametrize("method", ["optimal", "optimal-enumeration"])
@pytest.mark.parametrize("name", ["optimal", "optimal_overload"])
def test_optimal_finds_the_recorded_sets(name: str, method: str):
    found = replay(recorded(name), physics="published", method=method, precision="float64")
    assert_float64(found, recorded(name))
