"""What the registry's entries measure, against a queue in plain Python and against NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.episodes import SMALL, arrivals, run

from amco_jax.agents.methods import get_method
from amco_jax.env import UNIFIED, Physics
from amco_jax.errors import InputError
from amco_jax.metrics import LEVELS, METRICS, Metric, Reduction, choose, columns_of, estimated_columns
from amco_jax.stats.summaries import Episodes, summarise
from amco_jax.study.simulate import simulate

# Loaded so that about half of the tasks end after the deadline.
BUSY = SMALL.replace(deadline=0.5, slot_duration=0.8)
SEEDS = 3
STATIONS = ("station_response_s", "station_miss_rate", "station_success_rate")
MEASURED = choose(["response_quantiles_s", *STATIONS])


def measured(method: str) -> dict[str, np.ndarray]:
    (batch,) = simulate([BUSY], get_method(method), UNIFIED, 0, SEEDS, metrics=MEASURED)
    return batch.metrics


@pytest.fixture(scope="module")
def local() -> dict[str, np.ndarray]:
    return measured("local")


@pytest.fixture(scope="module")
def admitting() -> dict[str, np.ndarray]:
    return measured("optimal-admission")


def local_queues(seed: int) -> list[tuple[int, float, float]]:
    """Station, work and response time of each task that its own server does, in the order of arrival."""
    tasks = jax.tree.map(np.asarray, arrivals(BUSY.shape(), BUSY.params(), jnp.uint32(seed)))
    found = []
    for b, capacity in enumerate(BUSY.capacities):
        free = 0.0  # when the server has done all that it has been given
        for t in range(BUSY.num_slots):
            now = t * BUSY.slot_duration
            for n in range(BUSY.num_tasks):
                if tasks.present[t, b, n]:
                    work = float(tasks.work[t, b, n])
                    free = max(free, now) + work / capacity
                    found.append((b, work, free - now))
    return found


def test_response_times_are_those_of_a_queue(local: dict[str, np.ndarray]):
    seconds = BUSY.num_slots * BUSY.slot_duration
    for seed in range(SEEDS):
        _, work, response = map(np.array, zip(*local_queues(seed), strict=True))
        in_time = response <= BUSY.deadline
        assert 0.2 < in_time.mean() < 0.8
        expected: dict[str, Any] = {
            "response_mean_s": response.mean(),
            "tardiness_mean_s": np.maximum(response - BUSY.deadline, 0).mean(),
            "goodput_per_s": in_time.sum() / seconds,
            "goodput_gcycles_per_s": work[in_time].sum() / seconds,
            "makespan_mean_s": np.minimum(response, BUSY.deadline).mean(),
            "num_accepted": len(response),
        }
        for level in (50, 95, 99):
            expected[f"response_p{level}_s"] = np.quantile(response, level / 100)
        for name, value in expected.items():
            np.testing.assert_allclose(local[name][seed], value, rtol=1e-5, err_msg=name)


def test_base_stations_have_response_times_and_miss_rates_of_their_own(local: dict[str, np.ndarray]):
    rows = pd.DataFrame({name: list(values) for name, values in local.items()}).assign(seed=range(SEEDS))
    episodes, known = Episodes.of(rows), {column.name: column for column in columns_of(MEASURED)}
    for seed in range(SEEDS):
        station, _, response = map(np.array, zip(*local_queues(seed), strict=True))
        own = [response[station == b] for b in range(BUSY.num_servers)]
        means = np.array([each.mean() for each in own])
        misses = np.array([(each > BUSY.deadline).mean() for each in own])
        assert misses.min() < misses.max()
        for b, each in enumerate(own):
            assert local[f"station_tasks_{b}"][seed] == len(each)
            np.testing.assert_allclose(local[f"station_response_s_{b}"][seed], means[b], rtol=1e-5)
            np.testing.assert_allclose(local[f"station_miss_rate_{b}"][seed], misses[b], rtol=1e-12)
        expected = {
            "station_response_s": means.mean(),
            "station_response_max_s": means.max(),
            "station_response_fairness": jain(means),
            "station_miss_rate_max": misses.max(),
            "station_miss_fairness": jain(misses),
            "station_success_rate": 1 - misses.mean(),
            "station_success_fairness": jain(1 - misses),
        }
        for name, value in expected.items():
            found = episodes.values(known[name])[seed]
            np.testing.assert_allclose(found, value, rtol=1e-5, err_msg=name)


def jain(shares: np.ndarray) -> float:
    """Jain's index in the form of the coefficient of variation, 1 / (1 + σ² / μ²)."""
    return 1 / (1 + np.mean((shares - shares.mean()) ** 2) / shares.mean() ** 2)


def test_base_stations_without_accepted_tasks_do_not_count():
    columns = {c.name: c for c in columns_of([METRICS["station_response_s"]])}
    rows = pd.DataFrame({"seed": [0, 1], "num_tasks": [9, 9]})
    nan = np.nan
    for b, values in enumerate([(1.0, nan), (nan, nan), (3.0, nan)]):
        rows[f"station_response_s_{b}"] = values
    episodes = Episodes.of(rows)
    for name, value in (
        ("station_response_s", 2.0), ("station_response_max_s", 3.0), ("station_response_fairness", 0.8),
    ):  # fmt: skip
        np.testing.assert_allclose(episodes.values(columns[name]), [value, nan])


def test_rejected_tasks_have_no_response_time(admitting: dict[str, np.ndarray]):
    for seed in range(SEEDS):
        d = run(method=get_method("optimal-admission"), seed=seed, policy_seed=seed, scenario=BUSY).decisions
        accepted = d.present & ~d.rejected
        assert 0 < accepted.sum() < d.present.sum()
        finish = d.finish[accepted]
        assert admitting["num_accepted"][seed] == len(finish)
        by_station = [admitting[f"station_accepted_{b}"][seed] for b in range(BUSY.num_servers)]
        np.testing.assert_array_equal(by_station, accepted.sum(axis=(0, 2)))
        np.testing.assert_allclose(admitting["response_mean_s"][seed], finish.mean(), rtol=1e-5)
        found = admitting["response_quantiles_s"][seed]
        np.testing.assert_allclose(found, np.quantile(finish.astype(np.float64), LEVELS), rtol=1e-6)
        assert admitting["tardiness_mean_s"][seed] == 0  # whoever is admitted is in time
        assert admitting["goodput_per_s"][seed] == pytest.approx(
            len(finish) / BUSY.num_slots / BUSY.slot_duration
        )


def test_a_response_time_is_the_makespan_without_a_deadline(local: dict[str, np.ndarray]):
    """Under unified physics, in which the deadline changes no wait."""
    (free,) = simulate([BUSY.replace(deadline=1e6)], get_method("local"), UNIFIED, 0, SEEDS, metrics=MEASURED)
    for name in ("mean", "quantiles"):
        np.testing.assert_array_equal(local[f"response_{name}_s"], free.metrics[f"makespan_{name}_s"])


def test_published_waits_end_at_the_deadline():
    """So a response time under these rows is at most the deadline and the whole task's cost."""
    method = get_method("local")
    true = run(method=method, scenario=BUSY).decisions
    capped = run(method=method, scenario=BUSY, physics=Physics(wait_capped=True)).decisions
    tasks = jax.tree.map(np.asarray, arrivals(BUSY.shape(), BUSY.params(), jnp.uint32(0)))
    cost = tasks.work / BUSY.capacities[:, None]
    late = true.present & (true.finish > BUSY.deadline + cost)
    assert late.any()
    np.testing.assert_allclose(capped.finish[late], (BUSY.deadline + cost)[late], rtol=1e-6)
    np.testing.assert_array_equal(true.missed, capped.missed)


def test_percentiles_weigh_episodes_by_the_tasks_that_count():
    """One episode accepts 1 task of 15 after 1 s, the other 4 of 5 after 3 s: the median of five is 3 s."""
    metric = METRICS["response_quantiles_s"]
    rows = pd.DataFrame({"seed": [0, 1], "num_tasks": [15, 5], "num_accepted": [1, 4]})
    for column in metric.also:
        rows[column.name] = [1.0, 3.0]
    table = np.array([1.0, 3.0])[:, None] * np.ones(len(LEVELS))
    found = summarise(
        [((), Episodes.of(rows, {metric.name: table}))], (), estimated_columns(columns_of([metric]), 0)
    )
    median = found.query("metric == 'response_p50_s' and per == 'task'")["estimate"]
    assert median.tolist() == [3.0]


def test_two_metrics_of_one_name_are_refused():
    def over(name: str, count: Metric) -> Metric:
        return Metric(name=name, label=name, over=count, of_task=lambda task: task.size)

    def count(value: int) -> Metric:
        return Metric(
            name="count", label="count", reduction=Reduction.SUM, whole=True, of_task=lambda task: value
        )

    with pytest.raises(InputError, match="metrics: count is the name of two metrics; legal: another name"):
        choose([over("x", count(1)), over("y", count(2))])
    busy = Metric(name="busy", label="busy", reduction=Reduction.SUM, of_slot=lambda slot: slot.busy[0])
    with pytest.raises(InputError, match="metrics: sizes is over busy; legal: a metric of tasks"):
        Metric(
            name="sizes",
            label="sizes",
            reduction=Reduction.QUANTILES,
            over=busy,
            of_task=lambda task: task.size,
        )
