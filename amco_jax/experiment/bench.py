"""How fast this machine simulates: compile time apart, warmed up, repeated, device named."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from amco_jax.agents.methods import Method, get_methods
from amco_jax.env import UNIFIED
from amco_jax.errors import check_whole
from amco_jax.experiment.blocks import blocks_of, inputs_of
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.simulate import LANES, block_program, simulate
from amco_jax.experiment.trainer import LANES as TRAINING_LANES
from amco_jax.experiment.trainer import SEGMENT, Cell, Trainer
from amco_jax.kernel import keep_nothing
from amco_jax.scenario import Scenario

PUBLISHED_DECISIONS_PER_S = {"randcoedge": 10_200.0, "optimal": 1_015.0}
"""Of the published NumPy loop, in its own setting, on one core of a machine like that of benchmarks/."""

PUBLISHED_EPISODES_PER_S = {"amcoedge": 1.0}
"""Of the published training, alone on such a core: 0.8 to 1.2."""

PUBLISHED_JOB_EPISODES = 1000 * 500
"""1,000 seeds of the published 500 episodes; its seconds follow from the measured speed."""


def bench(
    methods: Sequence[str | Method],
    seeds: int = 4096,
    repeats: int = 5,
    scenario: Scenario | None = None,
    trained_seeds: int = 128,
) -> dict[str, Any]:
    """Measure the simulation speed of each method.

    A decision is a task that arrived and was placed; empty positions, which the kernel steps over too, do
    not count. `rollout` is the kernel with its running totals, `sweep` the whole way to metrics with
    percentiles on the host.

    Args:
      seeds: simulated side by side, rounded up to whole blocks on every device.
      repeats: of each measurement, after one warm-up.
      trained_seeds: trained side by side, rounded up likewise.

    Returns:
      Provenance and, under `methods` and `training`, a row of figures for each rule and trained method.

    Raises:
      InputError: an unknown method or one given twice, or a number out of range.
    """
    for name, value in (("seeds", seeds), ("repeats", repeats), ("trained_seeds", trained_seeds)):
        check_whole(name, value)
    started = time.time()
    scenario = scenario or Scenario()
    chosen = get_methods(methods)
    rows = [_bench_rule(m, seeds, repeats, scenario) for m in chosen if m.training is None]
    trained = [_bench_training(m, trained_seeds, repeats, scenario) for m in chosen if m.training is not None]
    figures = {"methods": rows, "training": trained}
    return {"kind": "bench", "scenario": scenario.to_dict()} | figures | provenance(started, scenario)


def _bench_training(method: Method, seeds: int, repeats: int, scenario: Scenario) -> dict[str, Any]:
    """Speed of whole episodes of training: acting, simulation, replay and learning."""
    method.check(scenario.num_servers)
    cells = [Cell(scenario, method.require_training().settings)]
    blocks = blocks_of(1, 0, seeds, TRAINING_LANES)
    blocks += [blocks[-1]] * (-len(blocks) % jax.local_device_count())
    episodes = SEGMENT * (repeats + 1)
    start = time.perf_counter()
    trainer = Trainer(scenario.shape(), method, UNIFIED, cells, blocks, len(blocks), episodes)
    trainer.advance(SEGMENT)  # past the slots before learning, and past compilation
    first_s = time.perf_counter() - start
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        trainer.advance(SEGMENT)
        seconds.append(time.perf_counter() - start)
    lanes = len(blocks) * TRAINING_LANES
    speed = lanes * SEGMENT / statistics.median(seconds)
    published = PUBLISHED_EPISODES_PER_S.get(method.name) if scenario == Scenario() else None
    return {
        "method": method.name,
        "seeds": lanes,
        "episodes": SEGMENT,
        "first_s": first_s,
        "train_s": seconds,
        "episodes_per_s": speed,
        "published_job_s": PUBLISHED_JOB_EPISODES / speed,
        "ratio_to_published": None if published is None else speed / published,
        "peak_memory_mb": _peak_memory_mb(),
    }


def _bench_rule(method: Method, seeds: int, repeats: int, scenario: Scenario) -> dict[str, Any]:
    row = bench_rollout(method, seeds, repeats, scenario)
    seeds, decisions = row["seeds"], row["decisions"]
    _, sweep_s = _timed(lambda: list(simulate([scenario], method, UNIFIED, 0, seeds)), repeats)
    published = PUBLISHED_DECISIONS_PER_S.get(method.name) if scenario == Scenario() else None
    return row | {
        "sweep_s": sweep_s,
        "sweep_decisions_per_s": decisions / statistics.median(sweep_s),
        "ratio_to_published": None if published is None else row["rollout_decisions_per_s"] / published,
        "peak_memory_mb": _peak_memory_mb(),
    }


def bench_rollout(method: Method, seeds: int, repeats: int, scenario: Scenario) -> dict[str, Any]:
    """Figures of the kernel with its running totals, and the sums of these totals over all seeds."""
    method.check(scenario.num_servers)
    per_device = -(-seeds // (LANES * jax.local_device_count()))
    blocks = per_device * jax.local_device_count()
    given = inputs_of([scenario], [0], scenario.shape())
    params = jax.tree.map(lambda leaf: np.stack([leaf] * blocks), given.cells[0])
    numbers = np.arange(blocks * LANES, dtype=np.uint32).reshape(blocks, LANES)

    start = time.perf_counter()
    inputs = (params, numbers, None), (UNIFIED, np.int32(0), given.tables), None
    compiled = block_program(scenario.shape(), method, keep_nothing).lower(*inputs).compile()
    compile_s = time.perf_counter() - start
    (totals, *_), rollout_s = _timed(lambda: jax.block_until_ready(compiled(*inputs)), repeats)
    sums = {f.name: float(np.sum(getattr(totals, f.name), dtype=float)) for f in dataclasses.fields(totals)}
    decisions = int(sums["num_tasks"])
    positions = numbers.size * scenario.num_servers * scenario.num_positions * scenario.num_slots
    return {
        "method": method.name,
        "seeds": numbers.size,
        "decisions": decisions,
        "totals": sums,
        "compile_s": compile_s,
        "rollout_s": rollout_s,
        "rollout_decisions_per_s": decisions / statistics.median(rollout_s),
        "rollout_positions_per_s": positions / statistics.median(rollout_s),
    }


def _timed(run: Any, repeats: int) -> tuple[Any, list[float]]:
    """The last result and the seconds of each repeat, after a run that does not count."""
    result, seconds = run(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, seconds


def _peak_memory_mb() -> float:
    """Of the process so far; on accelerators of the device."""
    if jax.default_backend() != "cpu" and (usage := jax.local_devices()[0].memory_stats()):
        return usage["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
