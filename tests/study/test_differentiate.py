"""Gradients of many seeds, and shadow prices as means over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.request_logs import scenario_of, small_rows, write

from amco_jax import Scenario, shadow_prices
from amco_jax.agents.methods import METHODS
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.kernel.gradient import Gradient
from amco_jax.metrics import METRICS, choose
from amco_jax.stats import mean_interval
from amco_jax.study.differentiate import GradientBatch, differentiate
from amco_jax.study.simulate import Batch, simulate

# So little work that no slot leaves any to the next one, and no task is late.
QUIET = Scenario(
    num_servers=2, num_tasks=3, num_slots=4, arrival_prob=0.6, density_min=0.1, density_max=0.4,
    capacity=(10, 20), deadline=5,
)  # fmt: skip
SEEDS = 40
"""More than a block"""


def gradients(first_seed: int, seeds: int, episode: int) -> GradientBatch:
    (batch,) = differentiate(
        [QUIET], METHODS["local"], UNIFIED, first_seed, seeds, prices="summed", episode=episode
    )
    return batch


@pytest.fixture(scope="module")
def found() -> Gradient:
    return gradients(3, SEEDS, 2).gradients


@pytest.fixture(scope="module")
def simulated() -> Batch:
    (batch,) = simulate(
        [QUIET], METHODS["local"], UNIFIED, 3, SEEDS, episode=2, metrics=choose(["station_tasks"])
    )
    return batch


def test_the_differentiated_episodes_are_the_simulated_ones(found: Gradient, simulated: Batch):
    np.testing.assert_array_equal(found.weight, simulated.metrics["num_tasks"])
    np.testing.assert_allclose(found.total / found.weight, simulated.metrics["makespan_mean_s"], rtol=1e-6)


def test_makespans_of_local_servers_are_in_inverse_proportion_to_capacity(found: Gradient):
    """By Euler's theorem, Σ f_i ∂/∂f_i of a sum in proportion to 1 / f is minus the sum."""
    np.testing.assert_allclose(found.params.capacity @ QUIET.capacities, -found.total, rtol=1e-5)
    assert not np.any(found.params.link_rate)


def test_the_price_of_work_is_the_time_that_it_takes_from_each_later_task(found: Gradient, simulated: Batch):
    delayed = found.work * QUIET.capacities  # a task whose server has a Gcycle more ends 1 / f later
    # Base station 1 is served after base station 0, and so pays for all that is there by then.
    tasks = simulated.metrics["station_tasks_1"]
    np.testing.assert_allclose(delayed[:, 0, :, 1], np.repeat(tasks[:, None], 3, axis=1), atol=1e-4)
    assert not np.any(delayed[:, 1, :, 0])
    for b in (0, 1):
        own = delayed[:, b, :, b]
        np.testing.assert_allclose(own, np.round(own), atol=1e-4)
        assert np.all(np.diff(own, axis=1) < 1e-4)
        assert not np.any(own[:, -1])
    assert not np.any(found.delay)


def test_seeds_do_not_depend_on_their_neighbours(found: Gradient):
    alone = gradients(3 + 32, 8, 2).gradients
    for whole, part in (
        (found.total, alone.total),
        (found.params.capacity, alone.params.capacity),
        (found.work, alone.work),
    ):
        np.testing.assert_array_equal(whole[32:], part)


def test_shadow_prices_are_means_over_seeds_and_slots():
    prices, summed = shadow_prices(QUIET, "local", seeds=SEEDS), gradients(0, SEEDS, 0).gradients
    for found, of_seeds in ((prices.work, summed.work), (prices.delay, summed.delay)):
        expected = mean_interval(np.asarray(of_seeds, np.float64) / QUIET.num_slots)
        for bound, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(bound, other)
    assert prices.work.estimate.shape == (2, 3, 2)
    assert prices.delay.estimate.shape == (2, 3)


def test_seeds_that_play_one_stretch_of_a_log_give_no_interval(tmp_path: Path):
    log = write(tmp_path / "log.csv", small_rows())
    scenario = scenario_of(log, num_servers=2, num_slots=80, time_scale=60.0, table={"train_share": 0.0})
    prices = shadow_prices(scenario, "local", seeds=4)
    assert np.any(prices.work.estimate > 0)
    assert np.all(np.isnan(prices.work.low))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "amcoedge"}, "method: amcoedge is trained"),
        ({"seeds": 0}, "seeds: 0"),
        ({"metric": METRICS["miss_rate"]}, "metric: miss_rate"),
        (
            {"scenario": QUIET.replace(warmup="auto")},
            "warmup: auto; legal for gradients and bounds: a number of slots",
        ),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        shadow_prices(**changes)
