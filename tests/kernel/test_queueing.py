"""The kernel against queueing theory: single servers in closed form, and the mean field of two choices.

Tasks of constant size, or of uniform sizes, on one server in continuous time with Poisson arrivals are M/D/1
and M/G/1; one position per slot with Bernoulli arrivals is Geo/D/1. Links are too fast to matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amco_jax import METHODS, Scenario
from amco_jax.compile.wide import on_host
from amco_jax.env import CONSERVING
from amco_jax.kernel import rollout
from amco_jax.metrics import MAKESPAN, NUM_TASKS
from amco_jax.random import Stream, stream
from amco_jax.stats import intervals, ratio_interval
from amco_jax.study.simulate import simulate
from amco_jax.workload import tables_of, workload_of


@pytest.fixture(autouse=True)
def high_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theory must lie in intervals of 99.99 %, since there are many; seeds are fixed, and so are outcomes."""
    monkeypatch.setattr(intervals, "CONFIDENCE", 0.9999)


def queue(**changes: Any) -> Scenario:
    """One server that works off a task of mean size in a second; no task misses its deadline."""
    fields: dict[str, Any] = {
        "num_servers": 1, "capacity": 1.0, "link_rate": 1e9, "deadline": 1e6, "density_min": 1.0,
        "density_max": 1.0, "task_size_min": 1.0, "task_size_max": 1.0,
    }  # fmt: skip
    return Scenario(**fields | changes)


def assert_mean(sums: Any, tasks: Any, theory: float, precision: float) -> None:
    """The mean per task agrees with theory, and is known to a relative precision."""
    mean, low, high = ratio_interval(np.asarray(sums), np.asarray(tasks))
    print(f"{mean:.4f} [{low:.4f}, {high:.4f}], theory {theory:.4f}")
    assert low < theory < high
    assert high - low < 2 * precision * theory


def sojourns(scenarios: Sequence[Scenario]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sums of the times in the system and numbers of tasks of 128 seeds."""
    found = []
    for batch in simulate(scenarios, METHODS["local"], CONSERVING, 0, 128, metrics=(MAKESPAN, NUM_TASKS)):
        tasks = batch.metrics["num_tasks"]
        found.append((batch.metrics["makespan_mean_s"] * tasks, tasks))
    return found


def test_one_server_is_m_g_1():
    """The mean time in the system is 1 + λ E[S²] / (2 (1 - ρ)): Pollaczek and Khinchine."""
    load = 0.7
    steady = queue(
        arrivals="poisson", timing="continuous", slot_duration=10.0, num_tasks=10, arrival_prob=load,
        num_slots=300, warmup=20,
    )  # fmt: skip
    spread = steady.replace(task_size_min=0.2, task_size_max=1.8)
    squares = 1.0, (0.2**2 + 0.2 * 1.8 + 1.8**2) / 3
    assert steady.offered_load == pytest.approx(load)
    for found, square in zip(sojourns([steady, spread]), squares, strict=True):
        assert_mean(*found, 1 + load * square / (2 * (1 - load)), precision=0.04)


def test_one_position_is_geo_d_1():
    """With service of k slots, the mean time in the system is k + p k (k - 1) / (2 (1 - p k)) slots."""
    service, prob = 3, 0.25
    scenario = queue(capacity=1 / service, num_tasks=1, arrival_prob=prob, num_slots=3000, warmup=200)
    (found,) = sojourns([scenario])
    theory = service + prob * service * (service - 1) / (2 * (1 - prob * service))
    assert_mean(*found, theory, precision=0.04)


def mean_field_wait(load: float, choices: int, step: float = 1e-3) -> float:
    """The mean wait, in times of service, for the least loaded of some servers drawn from very many.

    The share F̄(x) of servers with more than x of work left follows from level crossing: what leaves a level
    is what arrivals lift across it, -F̄'(x) = λ (F̄(x-1)^d - F̄(x)^d), with F̄ = 1 below 0 and F̄(0) = λ.

    Source: the fixed point of Mitzenmacher, "The power of two choices in randomized load balancing" (2001),
    for workloads in place of queue lengths as in Hellemans and Van Houdt, "On the power-of-d-choices with
    least loaded server selection" (2018).
    """
    one = round(1 / step)
    above = np.empty(60 * one + 1)
    above[0] = load
    for i in range(60 * one):
        lifted = 1.0 if i < one else above[i - one] ** choices

        def slope(x: float, lifted: float = lifted) -> float:
            return -load * (lifted - x**choices)

        # Heun's method; the step that ends at 1 must not see the jump there.
        euler = above[i] + step * slope(above[i])
        later = 1.0 if i + 1 <= one else above[i + 1 - one] ** choices
        above[i + 1] = above[i] + step / 2 * (slope(above[i]) + slope(euler, later))
    return float(np.sum(above**choices) - above[0] ** choices / 2) * step


def test_the_mean_field_of_one_choice_is_m_d_1():
    assert mean_field_wait(0.7, 1) == pytest.approx(0.7 / (2 * 0.3), rel=1e-3)


def test_two_choices_are_their_mean_field():
    """The fleet is large enough for its distance from the limit not to show."""
    load, seeds = 0.8, 8
    scenario = queue(
        num_servers=60, arrivals="poisson", timing="continuous", slot_duration=10.0, num_tasks=10,
        arrival_prob=load, num_slots=40, warmup=5,
    )  # fmt: skip
    shape, params = scenario.shape(), scenario.params()
    tables = tables_of([scenario], shape).of(0)

    @jax.jit
    def play(params: Any, tables: Any, seeds: Any) -> Any:
        def of_seed(seed: Any) -> Any:
            workload = workload_of(shape, params, tables, seed, training=False)
            return rollout(
                shape, params, CONSERVING, method=METHODS["two-choices"], workload=workload,
                key=stream(seed, Stream.POLICY), metrics=(MAKESPAN, NUM_TASKS),
            ).totals  # fmt: skip

        return jax.vmap(of_seed)(seeds)

    totals = on_host(play(params, tables, jnp.arange(seeds, dtype=jnp.uint32)))
    sums, tasks = (totals[metric.name] for metric in (MAKESPAN, NUM_TASKS))
    assert_mean(sums, tasks, 1 + mean_field_wait(load, 2), precision=0.04)
