"""Measurements of one method for benchmarks; each should run in its own process (`bench.alone`)."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from amco_jax.agents.methods import Method
from amco_jax.compile.runtime import own_numerics
from amco_jax.compile.wide import on_host
from amco_jax.env import UNIFIED
from amco_jax.kernel import tasks_of_slot
from amco_jax.kernel.reference import best_sets, cwa_by_solve, random_pairs
from amco_jax.kernel.reference import simulate as simulate_plainly
from amco_jax.machine import peak_memory
from amco_jax.metrics import EPISODE_METRICS, NUM_TASKS, Metrics, choose
from amco_jax.params import ORDERS, TIMINGS
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import ACCELERATOR_BLOCKS, blocks_of, inputs_of
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import SEEDS_PER_BLOCK, block_program, simulate, start_state
from amco_jax.study.trainer import EPISODES_PER_CALL, Trainer
from amco_jax.workload import tables_of, workload_of

JOB_EPISODES = 1000 * 500
"""Episodes of 1,000 seeds of the published training; the reported time is extrapolated from the speed."""

PLAIN = {
    "randcoedge": lambda num_servers: random_pairs(num_servers, np.random.default_rng(0)),
    "optimal": lambda num_servers: best_sets(num_servers, cwa_by_solve),
}
"""The methods that the plain loop supports; each entry makes its selector of sets for a fleet size."""

PLAIN_SERVERS, PLAIN_SLOTS = 8, 10
"""Largest fleet whose 2^B-1 sets the loop enumerates, and slots of its episode, which all cost the same"""


class Job(NamedTuple):
    """A method, and the size at which it is measured."""

    method: str
    scenario: Scenario
    seeds: int | None
    """Number of seeds in parallel, rounded up to whole blocks on every device; None for as few as keep the
    devices busy with a rule, or for one in training"""
    repeats: int
    """Number of repeats of each measurement, after one that is discarded"""
    episodes: int = EPISODES_PER_CALL
    """Training episodes per repeat, at most `EPISODES_PER_CALL`"""


@own_numerics()
def measure(job: Job, load: Callable[[str], Method]) -> dict[str, Any]:
    """Measure a rule or a trained method; docs/files.md lists the measurements.

    A decision is a task that arrived and was placed. Empty positions, which also cost time in the kernel, are
    not counted.

    Args:
      load: returns the method of a name.
    """
    method = load(job.method)
    figures = (_rule if method.training is None else _training)(job, method)
    size = {"method": method.name, "num_servers": job.scenario.num_servers}
    return size | figures | {"peak_memory_mb": _peak_memory() / 2**20}


def _rule(job: Job, method: Method) -> dict[str, Any]:
    """Measure a rule: `rollout` is the kernel with running totals, `sweep` includes the metrics.

    `means` is the sweep without percentiles.
    """
    scenario, num_devices = job.scenario, jax.local_device_count()
    busy = 1 if jax.default_backend() == "cpu" else ACCELERATOR_BLOCKS
    blocks = num_devices * (busy if job.seeds is None else -(-job.seeds // (SEEDS_PER_BLOCK * num_devices)))
    program, arguments = rollout_program(scenario, method, blocks)
    start = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    ((end, _), _), rollout_s = _timed(lambda: jax.block_until_ready(compiled(*arguments)), job.repeats)
    totals = {name: float(np.sum(total, dtype=float)) for name, total in on_host(end.totals).items()}
    decisions = int(totals[NUM_TASKS.name])
    num_seeds = blocks * SEEDS_PER_BLOCK

    def sweep(metrics: Metrics) -> list[float]:
        play = functools.partial(simulate, [scenario], method, UNIFIED, 0, num_seeds, metrics=metrics)
        return _timed(lambda: list(play()), job.repeats)[1]

    means_s, sweep_s = sweep(choose(percentiles=False)), sweep(EPISODE_METRICS)
    positions = num_seeds * scenario.num_servers * scenario.num_positions * scenario.num_slots
    return {
        "seeds": num_seeds,
        "decisions": decisions,
        "totals": totals,
        "compile_s": compile_s,
        "operations": (compiled.cost_analysis() or {}).get("flops"),
        "rollout_s": rollout_s,
        "rollout_decisions_per_s": decisions / statistics.median(rollout_s),
        "rollout_positions_per_s": positions / statistics.median(rollout_s),
        "means_s": means_s,
        "means_decisions_per_s": decisions / statistics.median(means_s),
        "sweep_s": sweep_s,
        "sweep_decisions_per_s": decisions / statistics.median(sweep_s),
    }


def rollout_program(
    scenario: Scenario, method: Method, num_blocks: int, lanes: int = SEEDS_PER_BLOCK
) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of a rule with running totals, see `simulate.block_program`, and its arguments.

    Args:
      num_blocks: the number of whole blocks of seeds, from seed 0 on.
      lanes: the number of seeds of a block.
    """
    given = inputs_of([scenario], [0], scenario.shape())
    params = jax.tree.map(lambda leaf: np.stack([leaf] * num_blocks), given.cells[0])
    seeds = np.arange(num_blocks * lanes, dtype=np.uint32).reshape(num_blocks, lanes)
    sums = tuple(metric for metric in EPISODE_METRICS if metric.is_sum)
    state = start_state(scenario.shape(), seeds.shape, sums, method)
    arguments = (params, seeds, None), (UNIFIED, np.int32(0), given.tables, np.int32(0)), state
    return block_program(scenario.shape(), method, sums, True, False), arguments


def _training(job: Job, method: Method) -> dict[str, Any]:
    """Measure whole training episodes (acting, simulation, memory and learning) after learning has begun."""
    learner = method.require_training()
    blocks = blocks_of(1, 0, job.seeds or 1, learner.seeds_per_block)
    blocks += [blocks[-1]] * (-len(blocks) % jax.local_device_count())
    first = max(learner.warm_up(job.scenario.num_slots), 1)  # an episode at least, which compiles
    start = time.perf_counter()
    cell = Cell(scenario=job.scenario, method=method, train_episodes=first + job.episodes * job.repeats)
    trainer = Trainer(job.scenario.shape(), [cell], blocks, len(blocks))
    while trainer.episode < first:
        trainer.advance(min(first - trainer.episode, EPISODES_PER_CALL))
    first_s = time.perf_counter() - start
    seconds, decisions = [], []
    for _ in range(job.repeats):
        start = time.perf_counter()
        curve = trainer.advance(job.episodes)
        seconds.append(time.perf_counter() - start)
        decisions.append(int(np.sum(on_host(curve.totals[NUM_TASKS.name]))))
    num_seeds = len(blocks) * learner.seeds_per_block
    speed = num_seeds * job.episodes / statistics.median(seconds)
    return {
        "seeds": num_seeds,
        "episodes": job.episodes,
        "decisions": statistics.mean(decisions),
        "first_episodes": first,
        "first_s": first_s,
        "train_s": seconds,
        "episodes_per_s": speed,
        "job_s": JOB_EPISODES / speed,
    }


@own_numerics()
def measure_plain(job: Job) -> dict[str, Any]:
    """Measure the plain loop on the arrivals of one seed, on one core; see `can_play`."""
    recording = arrivals(job.scenario.replace(num_slots=min(job.scenario.num_slots, PLAIN_SLOTS)), 0)
    choose = PLAIN[job.method](job.scenario.num_servers)
    _, seconds = _timed(lambda: simulate_plainly(recording, "unified", cwa_by_solve, choose), job.repeats)
    decisions = int(np.count_nonzero(recording["task_mbit"]))
    return {
        "method": job.method,
        "decisions": decisions,
        "seconds": seconds,
        "decisions_per_s": decisions / statistics.median(seconds),
    }


def can_play(method: str, scenario: Scenario) -> bool:
    """Whether the plain loop supports the method and the scenario."""
    in_turn = scenario.order == ORDERS[0] and scenario.timing == TIMINGS[0]
    published_model = in_turn and scenario.service is None and scenario.process.recordable
    return method in PLAIN and published_model and scenario.num_servers <= PLAIN_SERVERS


def arrivals(scenario: Scenario, seed: int) -> dict[str, np.ndarray]:
    """The arrivals of a seed as a recording without sets; see `ArrivalProcess.recordable`."""
    shape, params = scenario.shape(), scenario.params()

    @jax.jit
    def tasks(seed):
        workload = workload_of(shape, params, tables_of([scenario], shape), seed, training=False)
        each = jax.vmap(lambda t: tasks_of_slot(params, workload, t, shape.num_servers))
        return each(np.arange(shape.num_slots))

    found = jax.tree.map(np.asarray, tasks(np.uint32(seed)))
    return {
        "task_mbit": np.where(found.present, found.size, 0),
        "density_gcycles_per_mbit": (found.work / found.size)[0, 0],
        "capacity_gcycles_per_s": scenario.capacities,
        "rate_mbit_per_s": scenario.link_rates,
        "deadline_s": np.asarray(scenario.deadline),
        "slot_s": np.asarray(scenario.slot_duration),
    }


def _timed(run: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """The last result and the seconds of each repeat, after a run that is discarded."""
    result, seconds = run(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, seconds


def _peak_memory() -> int:
    """Peak memory of the process, or of the device on accelerators, bytes."""
    if jax.default_backend() != "cpu" and (usage := jax.local_devices()[0].memory_stats()):
        return usage["peak_bytes_in_use"]
    return peak_memory()
