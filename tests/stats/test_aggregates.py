"""Aggregates over scenarios: against rliable's numbers, by hand, and the coverage of their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from amco_jax.errors import InputError
from amco_jax.stats.aggregates import (
    Aggregate,
    aggregate_interval,
    improvement,
    interquartile_mean,
    mean_cost,
    mean_of_seeds,
    median_cost,
    optimality_gap,
    performance_profile,
)


def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.lognormal(0.0, 0.3, (12, 4)), rng.lognormal(0.1, 0.3, (12, 4))


def test_aggregates_are_rliables():
    """Numbers of rliable 1.2.0 for the scores -cost, with the signs turned back."""
    cost, baseline = samples()
    assert interquartile_mean(cost) == pytest.approx(0.9259430424221738, rel=1e-12)
    assert mean_cost(cost) == pytest.approx(0.933322331541556, rel=1e-12)
    assert median_cost(cost) == pytest.approx(0.9275414809736017, rel=1e-12)
    assert optimality_gap(cost) == pytest.approx(0.06038899049477675, rel=1e-12)
    assert improvement(cost, baseline) == pytest.approx(0.7274305555555556, rel=1e-12)
    found = performance_profile([0.8, 1.0, 1.3])(cost)
    np.testing.assert_allclose(found, [0.3125, 0.60416667, 0.91666667], atol=1e-8)


def test_aggregates_by_hand():
    cost = np.array([[0.5, 1.0], [1.5, 2.0], [1.0, 3.0], [1.0, 2.0]])
    assert mean_cost(cost) == 1.5
    assert median_cost(cost) == 1.5  # of the scenarios' means 1 and 2
    assert interquartile_mean(cost) == pytest.approx((1.0 + 1.0 + 1.5 + 2.0) / 4)
    assert optimality_gap(cost) == pytest.approx((0.5 + 1.0 + 2.0 + 1.0) / 8)
    assert improvement(cost[:2, :1], cost[2:, :1]) == pytest.approx(0.5)
    assert improvement(cost[2:3, :1], cost[3:, :1]) == 0.5  # a tie
    np.testing.assert_allclose(performance_profile([0.9, 1.0, 3.0])(cost), [1 / 8, 4 / 8, 1.0])


def test_leading_axes_are_worked_on_side_by_side():
    cost, baseline = samples()
    both = np.stack([cost, baseline])
    for aggregate in (mean_cost, median_cost, interquartile_mean, optimality_gap):
        np.testing.assert_allclose(aggregate(both), [aggregate(cost), aggregate(baseline)])
    assert performance_profile([1.0, 2.0])(both).shape == (2, 2)


@pytest.mark.parametrize("common_seeds", [True, False])
def test_intervals_cover_the_mean(common_seeds: bool):
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        shared = rng.normal(size=(30, 1 if common_seeds else 6))
        cost = 2.0 + 0.5 * shared + 0.1 * rng.normal(size=(30, 6))
        found = aggregate_interval(mean_cost, cost, rng=rng, common_seeds=common_seeds, resamples=200)
        covered.append(found.low <= 2.0 <= found.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_seeds_that_move_all_scenarios_alike_are_resampled_as_wholes():
    rng = np.random.default_rng(3)
    cost = 2.0 + 0.5 * rng.normal(size=(30, 1)) + 0.1 * rng.normal(size=(30, 6))
    whole, apart = (
        aggregate_interval(mean_cost, cost, rng=rng, common_seeds=common, resamples=200)
        for common in (True, False)
    )
    assert apart.high - apart.low < 0.7 * (whole.high - whole.low)


@pytest.mark.parametrize("aggregate", [mean_cost, mean_of_seeds, interquartile_mean])
@pytest.mark.parametrize("size", [(2, 1), (7, 3), (40, 5)])
def test_counts_of_seeds_give_what_their_resamples_give(aggregate: Aggregate, size: tuple[int, int]):
    cost = np.random.default_rng(5).integers(0, 9, size) / 8  # with ties
    by_counts, by_resamples = (
        aggregate_interval(of, cost, rng=np.random.default_rng(6), resamples=300)
        for of in (aggregate, lambda resampled: aggregate(resampled))
    )
    for ours, theirs in zip(by_counts, by_resamples, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_one_seed_has_no_interval_and_equal_ones_an_exact_one():
    found = aggregate_interval(mean_cost, [[1.0, 2.0]], rng=np.random.default_rng(0))
    assert found.estimate == 1.5
    assert all(isinstance(bound, float) and np.isnan(bound) for bound in found[1:])
    found = aggregate_interval(mean_cost, np.ones((4, 2)), rng=np.random.default_rng(0), resamples=50)
    assert tuple(found) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "costs", [([],), ([1.0],), ([[1.0, np.nan]],), ([[1.0]], [[1.0], [2.0]]), ([[1.0]], [[1.0, 2.0]])]
)
def test_bad_costs_are_refused(costs):
    with pytest.raises(InputError, match="costs"):
        aggregate_interval(improvement, *costs, rng=np.random.default_rng(0))
