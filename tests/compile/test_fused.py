"""Episodes and slots as one GPU kernel, as far as a machine without a GPU can tell.

The kernels are built for CUDA, and Pallas' interpreter, which runs them, finds what the scan finds.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from amco_jax.agents.methods import get_method
from amco_jax.compile import fused
from amco_jax.compile.fused import LANES, fuse, fuse_under_vmap
from amco_jax.env import UNIFIED
from amco_jax.kernel import slot
from amco_jax.metrics import EPISODE_METRICS
from amco_jax.scenario import Scenario
from amco_jax.scenario.presets import PRESETS
from amco_jax.study import simulate as module
from amco_jax.study import trainer
from amco_jax.study.blocks import Block, inputs_of
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import simulate, start_state

SMALL = Scenario(num_servers=3, num_tasks=4, num_slots=3, arrival_prob=0.6)
INTERPRETED = functools.partial(fuse, interpret=InterpretGPUParams())


def metrics_of(scenarios, method: str, num_seeds: int) -> dict[str, np.ndarray]:
    batches = list(simulate(scenarios, get_method(method), UNIFIED, 0, num_seeds))
    return {name: np.concatenate([b.metrics[name] for b in batches]) for name in batches[0].metrics}


def interpreted(monkeypatch) -> None:
    """Have episodes simulated, and agents trained, by interpreted kernels."""
    forget_programs()
    for each in (module, slot):
        monkeypatch.setattr(each, "fusing", lambda: True)
    monkeypatch.setattr(fused, "fuse", INTERPRETED)


def forget_programs() -> None:
    module.block_program.cache_clear()
    trainer._programs.cache_clear()


@pytest.fixture(autouse=True)
def programs_of_this_test():
    forget_programs()
    yield
    forget_programs()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("randcoedge", {}),
        ("optimal", {}),
        ("two-choices", {}),
        ("optimal", {"order": "turns"}),
    ],
)
def test_kernel_equals_scan(method, changes, monkeypatch, caplog):
    """A whole episode, or, where a queue must be made first, each slot."""
    scenarios = [s.replace(**changes) for s in (SMALL, SMALL.replace(deadline=0.04, num_tasks=3))]
    scanned = metrics_of(scenarios, method, LANES + 2)
    interpreted(monkeypatch)
    with caplog.at_level(logging.INFO, logger="amco_jax.compile.fallback"):
        found = metrics_of(scenarios, method, LANES + 2)
    assert not caplog.records  # nothing fell back
    assert scanned["num_tasks"].sum() > 1000
    assert scanned["miss_rate"].mean() < 1
    assert changes or scanned["miss_rate"].mean() > 0
    for name in ("num_tasks", "miss_rate", "reject_rate", "mean_servers_used"):
        np.testing.assert_array_equal(found[name], scanned[name], err_msg=name)
    for name in scanned:  # a tardiness is the small difference of two times
        np.testing.assert_allclose(found[name], scanned[name], rtol=1e-6, atol=1e-8, err_msg=name)


def test_training_by_kernels_equals_that_by_scan(monkeypatch, caplog):
    scenario = Scenario(num_servers=3, num_slots=2, num_tasks=7, arrival_prob=0.6)
    cell = Cell(scenario=scenario, method=get_method("amcoedge"), train_episodes=1)

    def trained():
        agents = trainer.Trainer(scenario.shape(), [cell], [Block(0, 0)], 1)
        return agents.advance(1), agents.state

    scanned = trained()
    interpreted(monkeypatch)
    found = trained()
    assert not caplog.records
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-6), found, scanned)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("randcoedge", {}),
        ("optimal-admission", {}),
        ("least-wait", {"arrivals": "poisson"}),
        ("least-wait", {"arrivals": "bursty"}),
        ("fastest-3", {"num_servers": 20, "num_tasks": 10}),
        ("best-2", PRESETS["gpu-sd14"]),
    ],
)
def test_episode_is_one_kernel_on_cuda(method, changes, monkeypatch):
    fields = {name: value for name, value in changes.items() if name != "trace"}
    lowered = lowered_for_cuda(Scenario(**fields), method, module._EPISODE, monkeypatch)
    assert lowered.count("custom_call @mosaic_gpu") == 1
    # All loops are inside, but for the bursts, which are drawn beforehand.
    assert lowered.count("stablehlo.while") == (changes.get("arrivals") == "bursty")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("optimal", {"order": "turns"}),
        ("least-wait", {"order": "random"}),
        ("local", {"num_servers": 8}),
        ("amco-priced", {}),
    ],
)
def test_slot_is_one_kernel_on_cuda(method, changes, monkeypatch):
    way = module._Way(None, fuse_under_vmap, module.ACCELERATOR_BLOCKS)
    lowered = lowered_for_cuda(Scenario(**changes), method, way, monkeypatch)
    assert lowered.count("custom_call @mosaic_gpu") == 1
    assert lowered.count("stablehlo.while") == 1  # over slots


def lowered_for_cuda(scenario: Scenario, name: str, way: Any, monkeypatch) -> str:
    method = get_method(name)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # blocks side by side
    blocks = jax.local_device_count()
    given = inputs_of([scenario], [0], scenario.shape())
    params = jax.tree.map(lambda leaf: np.stack([leaf] * blocks), given.cells[0])
    seeds = np.arange(blocks * LANES, dtype=np.uint32).reshape(blocks, LANES)
    program = module._block_program(scenario.shape(), method, EPISODE_METRICS, True, False, way)
    shared = UNIFIED, np.int32(0), given.tables, np.int32(0)
    traced = program.trace(
        (params, seeds, None), shared, start_state(scenario.shape(), seeds.shape, EPISODE_METRICS, method)
    )
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("changes", [{}, {"num_servers": 33, "num_tasks": 1}])
def test_falls_back_to_the_scan_with_one_line(changes, monkeypatch, caplog):
    """A CPU compiles no such kernel, and with so many servers none is built at all."""
    scenario = SMALL.replace(**changes)
    scanned = metrics_of([scenario], "randcoedge", 3)
    monkeypatch.setattr(module, "fusing", lambda: True)
    forget_programs()
    with caplog.at_level(logging.WARNING):
        found = [metrics_of([scenario], "randcoedge", 3) for _ in range(2)]
    assert [r.getMessage().startswith("randcoedge runs as a scan") for r in caplog.records] == [True]
    for metrics in found:
        np.testing.assert_array_equal(metrics["num_tasks"], scanned["num_tasks"])
        np.testing.assert_allclose(metrics["makespan_mean_s"], scanned["makespan_mean_s"], rtol=1e-6)


def test_kernels_are_for_those_who_have_the_gpu_and_do_not_refuse(monkeypatch):
    class Device:
        def __init__(self, **attributes: Any):
            self.__dict__ |= attributes

    def asked(value: str, **attributes: Any) -> bool:
        fused.fusing.cache_clear()
        monkeypatch.setenv(fused.SWITCH, value)
        monkeypatch.setattr(jax, "local_devices", lambda: [Device(**attributes)])
        return fused.fusing()

    assert asked("", compute_capability="9.0")
    assert asked("1", compute_capability="10.0")
    assert not asked("0", compute_capability="9.0")
    assert not asked("1", compute_capability="8.9")
    assert not asked("1", compute_capability="gfx90a")
    assert not asked("1")
    fused.fusing.cache_clear()


def test_equivalents_of_what_mosaic_does_not_lower():
    special = [
        0,
        -0.0,
        1,
        2,
        0.5,
        -0.5,
        1.5,
        2.5,
        -1.5,
        1e9,
        -1e9,
        np.inf,
        -np.inf,
        np.nan,
        1e-30,
        3e30,
        7.999999,
    ]
    x = np.resize(np.asarray(special, np.float32), LANES)

    def of(common, x):
        return jnp.floor(x), jnp.ceil(x), jnp.isfinite(x), jnp.sqrt(x)

    found = jax.jit(INTERPRETED(of))((), x)
    for name, a, b in zip(("floor", "ceil", "is_finite"), found, of((), x), strict=False):
        np.testing.assert_array_equal(a, b, err_msg=name)
    np.testing.assert_array_max_ulp(np.asarray(found[-1]), np.asarray(jnp.sqrt(x)), 1)
    jax.jit(fuse(of)).trace((), x).lower(lowering_platforms=("cuda",))  # all are lowered


def weighted_rows(common, laned):
    """Indexed rows, nested scans, one of them backwards, and what both keep."""
    matrix, flag = common
    weight, start, on = laned
    rows = jnp.stack([start, start * 2, matrix[0, 0], start - 1])

    def row(total, entry):
        b, added = entry

        def column(inner, x):
            n, w = x
            inner = jnp.where(flag & on, inner + w * matrix[b, 1], inner - n)
            return inner, inner * 2

        inner, kept = lax.scan(column, total, (jnp.arange(weight.shape[0]), weight), reverse=True)
        return inner + added, (kept, inner > total)

    total, (kept, grown) = lax.scan(row, start, (jnp.arange(matrix.shape[0]), rows))
    return {"total": total, "kept": kept, "grown": grown, "steps": jnp.int32(3)}


@pytest.mark.parametrize("columns", [3, 40])
def test_fuse_equals_vmap(columns):
    random = np.random.default_rng(columns)
    common = random.random((2, 4, 3), np.float32), np.asarray([True, False])
    weight = random.random((2, LANES, columns), np.float32)
    laned = weight, random.random((2, LANES), np.float32), random.random((2, LANES)) < 0.5
    expected = jax.vmap(jax.vmap(weighted_rows, (None, 0)))(common, laned)
    found = jax.jit(jax.vmap(INTERPRETED(weighted_rows)))(common, laned)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def chosen_row(matrix, flags, station, weights):
    """A set of flags, rows at an index per lane, and a vector of scalars as a result."""
    row, on = jnp.asarray(matrix)[station], flags[station]
    total = jnp.sum(jnp.where(on & flags[0], row, -row))
    return {"total": total, "vector": jnp.stack([total, row[1], weights[2]]), "any": jnp.any(on)}


@pytest.mark.parametrize("lanes", [1, LANES, LANES + 3])
def test_fuse_under_vmap_equals_vmap(lanes, monkeypatch):
    monkeypatch.setattr(fused, "fuse", INTERPRETED)
    random = np.random.default_rng(lanes)
    matrix, flags = random.random((4, 3), np.float32), random.random((2, lanes, 4, 3)) < 0.5
    station = random.integers(0, 4, (2, lanes)).astype(np.int32)
    weights = random.random((2, lanes, 3), np.float32)
    axes = None, 0, 0, 0
    expected = jax.vmap(jax.vmap(chosen_row, axes), axes)(matrix, flags, station, weights)
    blocks = jax.jit(jax.vmap(jax.vmap(fuse_under_vmap(chosen_row), axes), axes))
    found = blocks(matrix, flags, station, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    alone = fuse_under_vmap(chosen_row)(matrix, flags[1, 0], station[1, 0], weights[1, 0])
    np.testing.assert_allclose(alone["vector"], expected["vector"][1, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda common, laned: jnp.sum(laned), "reduce_sum of an array in a kernel"),
        (
            lambda common, laned: lax.scan(lambda c, x: (c + x, None), 0.0, laned * 2)[0],
            "mul of an array in a kernel",
        ),
        (
            lambda common, laned: lax.while_loop(lambda c: c < 5, lambda c: c + laned[0], 0.0),
            "while of an array in a kernel",
        ),
        (
            lambda common, laned: jnp.sum(lax.scan(lambda c, x: (c, x + 1), 0.0, laned)[1]),
            "reduce_sum of .* in a kernel",
        ),
    ],
)
def test_fuse_refuses_what_a_kernel_cannot(fn, words):
    laned = np.ones((LANES, 40), np.float32)
    with pytest.raises(NotImplementedError, match=words):
        jax.jit(fuse(fn)).trace((), laned).lower(lowering_platforms=("cuda",))
