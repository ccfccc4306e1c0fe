"""A seed's result is the same to the last bit whatever the chunk, its neighbours and the devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.paths import TESTS
from helpers.tiny_training import METHOD, TINY
from helpers.trees import assert_same_bits

from amco_jax.agents.methods import get_method
from amco_jax.env import UNIFIED
from amco_jax.kernel import rollout
from amco_jax.metrics import EPISODE_METRICS, choose
from amco_jax.scenario import Scenario
from amco_jax.study import simulate as module
from amco_jax.study.agents import AgentStore, StoredAgents, train_missing
from amco_jax.study.blocks import padded_shapes
from amco_jax.study.chunks import CHUNK_BYTES
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import SEEDS_PER_BLOCK, simulate

SMALL = Scenario(num_servers=3, num_tasks=7, num_slots=5)


def metrics_of(scenarios, method: str = "randcoedge", first_seed: int = 0, num_seeds: int = 70):
    """Metrics by name, `[len(scenarios), num_seeds]`, and quantiles with a further axis."""
    batches = list(simulate(scenarios, get_method(method), UNIFIED, first_seed, num_seeds))
    return {name: np.stack([b.metrics[name] for b in batches]) for name in batches[0].metrics}


@pytest.mark.parametrize("method", ["randcoedge", "optimal", "two-choices"])
def test_chunk_size_changes_no_bit(method, monkeypatch):
    scenarios = [SMALL.replace(arrival_prob=p) for p in (0.2, 0.9)]
    whole = metrics_of(scenarios, method, num_seeds=200)
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1)  # a block on each device, slot by slot
    assert_same_bits(whole, metrics_of(scenarios, method, num_seeds=200))


@pytest.mark.parametrize("arrivals", ["bernoulli", "poisson", "bursty", "trace"])
@pytest.mark.parametrize("slots", [1, 3])
def test_segments_of_slots_change_no_bit(arrivals, slots, monkeypatch, tmp_path):
    changes = {"arrivals": arrivals, "num_slots": 8, "arrival_prob": 0.5}
    if arrivals == "trace":
        file = tmp_path / "log.csv"
        seconds = np.sort(np.random.default_rng(0).uniform(0, 60, 900))
        file.write_text("gmt_create\n" + "\n".join(map(str, seconds)) + "\n")
        changes["trace"] = {"file": str(file)}
    scenario = SMALL.replace(**changes)
    whole = metrics_of([scenario], num_seeds=5)
    assert (whole["num_tasks"] > 20).all()
    assert len(module.segments_of(8, slots)) > 2
    per_slot = 4 * scenario.num_servers * scenario.num_positions * SEEDS_PER_BLOCK * jax.local_device_count()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", slots * per_slot)
    assert_same_bits(whole, metrics_of([scenario], num_seeds=5))


def test_segments_change_no_bit_of_trained_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cells, store = [Cell(scenario=TINY, method=METHOD, num_seeds=3, train_episodes=3)], AgentStore(tmp_path)
    train_missing(cells, store, tmp_path / "checkpoints")

    def found() -> dict[str, np.ndarray]:
        source = StoredAgents(cells, store)
        (batch,) = simulate([TINY], METHOD, UNIFIED, 0, 3, source)
        return batch.metrics

    whole = found()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1)
    assert_same_bits(whole, found())


@pytest.mark.parametrize("method", ["amco-priced", "least-wait"])
@pytest.mark.parametrize("arrivals", ["bernoulli", "bursty"])
def test_steps_change_no_bit(method, arrivals, monkeypatch):
    """An episode is simulated in steps of a few slots, so that the values of a step stay in the cache."""
    scenarios = [SMALL.replace(num_slots=n, arrivals=arrivals, warmup=2) for n in (12, 13)]
    metrics = choose(["response_quantiles_s", "backlog_over_slots_gcycles"])

    def in_steps(positions: int) -> list[dict[str, np.ndarray]]:
        monkeypatch.setattr(module, "_STEP_POSITIONS", positions)
        module.block_program.cache_clear()
        found = simulate(scenarios, get_method(method), UNIFIED, 0, 140, metrics=metrics)
        return [batch.metrics for batch in found]

    def counts() -> list[int]:
        return [module._steps_of(scenario.shape(), metrics) for scenario in scenarios]

    whole = in_steps(10**6)
    assert counts() == [1, 1]
    for positions in (60, 1):
        for one, other in zip(whole, in_steps(positions), strict=True):
            assert_same_bits(one, other)
        assert max(counts()) > 1
    assert counts() == [12, 13]
    module.block_program.cache_clear()


def test_an_episode_is_traced_once(monkeypatch):
    """Tracing takes half a second for a rule, and seconds for a training."""
    calls = []
    monkeypatch.setattr(module, "rollout", lambda *a, **k: calls.append(a) or rollout(*a, **k))
    module.block_program.cache_clear()
    metrics_of([SMALL.replace(num_slots=60)])
    module.block_program.cache_clear()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("num_slots", "most"), [(60, 60), (60, 1000), (60, 59), (61, 7), (1_000_000, 262), (5, 0)]
)
def test_segments_cover_the_episode(num_slots: int, most: int):
    segments = module.segments_of(num_slots, most)
    assert [t for first, count in segments for t in range(first, first + count)] == list(range(num_slots))
    lengths = [count for _, count in segments]
    assert max(lengths) <= max(most, 1)
    assert len(segments) < 2 * -(-num_slots // max(most, 1))
    assert len({*lengths}) == (2 if num_slots == 61 else 1)  # a prime number of slots


def test_neighbouring_seeds_change_no_bit():
    alone = metrics_of([SMALL], first_seed=150, num_seeds=1)
    together = metrics_of([SMALL], first_seed=0, num_seeds=300)
    assert_same_bits(alone, {name: value[:, 150:151] for name, value in together.items()})


def test_neighbouring_scenarios_change_no_bit():
    """Scenarios that share a chunk, also with more positions than this one has, leave it alone."""
    alone = metrics_of([SMALL])
    beside = metrics_of([SMALL.replace(num_tasks=12, deadline=0.2), SMALL])
    assert_same_bits(alone, {name: value[1:] for name, value in beside.items()})


def test_number_of_devices_changes_no_bit():
    program = (
        "import jax, sys, numpy as np; from test_simulate import SMALL, metrics_of;"
        "assert jax.local_device_count() == int(sys.argv[1]), jax.devices();"
        "m = metrics_of([SMALL], num_seeds=200);"
        "sys.stdout.buffer.write(b''.join(np.ascontiguousarray(v).tobytes() for v in m.values()))"
    )

    path = os.pathsep.join((os.getcwd(), os.path.dirname(__file__), str(TESTS)))

    def run(devices: int) -> bytes:
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": path}
        command = [sys.executable, "-c", program, str(devices)]
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    one = run(1)
    assert len(one) > 200 * 8
    assert run(2) == one
    assert run(3) == one


def test_batches_come_in_order_and_complete():
    batches = list(simulate([SMALL, SMALL], get_method("local"), UNIFIED, 5, SEEDS_PER_BLOCK + 1))
    assert [b.index for b in batches] == [0, 1]
    assert np.concatenate([b.seeds for b in batches[:1]]).tolist() == list(range(5, 5 + SEEDS_PER_BLOCK + 1))


def test_no_task_means_nan_not_zero():
    metrics = metrics_of([SMALL.replace(arrival_prob=0.0)], num_seeds=3)
    assert np.isnan(metrics["makespan_mean_s"]).all()
    assert np.isnan(metrics["makespan_p99_s"]).all()
    assert np.isnan(metrics["miss_rate"]).all()
    assert (metrics["num_tasks"] == 0).all()
    assert (metrics["utilisation_0"] == 0).all()


def test_tasks_are_common_to_all_methods_and_grow_with_arrival_prob():
    counts = [metrics_of([SMALL], m)["num_tasks"] for m in ("local", "optimal", "randcoedge")]
    assert (counts[0] == counts[1]).all()
    assert (counts[0] == counts[2]).all()
    busier = metrics_of([SMALL.replace(arrival_prob=0.5)], "local")["num_tasks"]
    assert (busier >= counts[0]).all()  # a task that comes at 0.3 also comes at 0.5
    assert (busier > counts[0]).any()


def test_one_compilation_serves_a_grid_of_values():
    before = module.block_program.cache_info().misses
    shape = Scenario(num_servers=3, num_tasks=6, num_slots=4)
    grid = [shape.replace(arrival_prob=p, deadline=d) for p in (0.1, 0.5) for d in (0.3, 0.9)]
    grid += [shape.replace(num_tasks=3), shape.replace(capacity=(9, 8, 7), link_rate=100.0)]
    metrics_of(grid, "least-wait", num_seeds=100)
    assert module.block_program.cache_info().misses == before + 1
    shapes = padded_shapes(grid)
    program = module.block_program(shapes[0], get_method("least-wait"), EPISODE_METRICS, True, False)
    assert program._cache_size() == 1
