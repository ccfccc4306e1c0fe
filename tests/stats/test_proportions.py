"""Rates of events in clusters: exact where they can be, in [0, 1], and right as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from amco_jax.errors import InputError
from amco_jax.stats import (
    paired_p_value,
    rate_difference_interval,
    rate_difference_p_value,
    rate_interval,
    rate_reduction_interval,
)

TASKS, SAMPLES = 450, 2000


def tasks_of(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.binomial(3 * TASKS, 1 / 3, (n, SAMPLES))


def beta(rate: float, correlation: float) -> Callable[..., np.ndarray]:
    """Rates of seeds with this mean and intraclass correlation."""
    if correlation == 0:
        return lambda rng, shape: np.full(shape, rate)
    spread = (1 - correlation) / correlation
    return lambda rng, shape: rng.beta(rate * spread, (1 - rate) * spread, shape)


def few(rate: float, share: float) -> Callable[..., np.ndarray]:
    """Rates that are 0 in all but a share of the seeds."""
    return lambda rng, shape: (
        np.minimum(rng.exponential(rate / share, shape), 1) * (rng.random(shape) < share)
    )


def covers(interval, truth: float) -> float:
    return float(np.mean((interval.low <= truth + 1e-12) & (truth - 1e-12 <= interval.high)))


@pytest.mark.parametrize("n", [10, 32, 100])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("correlation", [0.0, 0.01, 0.1, 0.5])
def test_rates_are_covered_as_often_as_they_should(n: int, rate: float, correlation: float):
    rng = np.random.default_rng(n)
    tasks = tasks_of(rng, n)
    events = rng.binomial(tasks, beta(rate, correlation)(rng, tasks.shape))
    found = rate_interval(events, tasks)
    assert covers(found, rate) >= 0.93
    assert np.all((found.low >= 0) & (found.high <= 1))
    mirrored = rate_interval(tasks - events, tasks)
    np.testing.assert_allclose(mirrored.low, 1 - found.high, atol=1e-12)


@pytest.mark.parametrize(("rate", "share"), [(0.001, 0.05), (0.001, 0.3), (0.02, 0.1), (0.02, 0.3)])
@pytest.mark.parametrize("n", [10, 32, 100])
def test_rates_are_covered_where_few_seeds_have_any_event(n: int, rate: float, share: float):
    rng = np.random.default_rng(n)
    tasks = tasks_of(rng, n)
    events = rng.binomial(tasks, few(rate, share)(rng, tasks.shape))
    assert covers(rate_interval(events, tasks), rate) >= 0.93


def test_intervals_of_usual_rates_are_no_wider_than_student_s():
    rng = np.random.default_rng(1)
    tasks = tasks_of(rng, 32)
    events = rng.binomial(tasks, beta(0.3, 0.01)(rng, tasks.shape))
    found = rate_interval(events, tasks)
    usual = 2 * scipy_stats.t.ppf(0.975, 31) * scipy_stats.sem(events / tasks)
    assert np.mean(found.high - found.low) < 1.05 * np.mean(usual)


@pytest.mark.parametrize("n", [2, 32, 1000])
def test_no_event_and_nothing_but_events_have_a_bound(n: int):
    tasks = np.full(n, 7.0)
    none, all_ = rate_interval(0 * tasks, tasks), rate_interval(tasks, tasks)
    bound = 1 - 0.025 ** (1 / n)  # Clopper and Pearson's, of n seeds
    np.testing.assert_allclose(none, [0, 0, bound], atol=1e-15)
    np.testing.assert_allclose(all_, [1, 1 - bound, 1], atol=1e-15)
    assert scipy_stats.binomtest(0, n).proportion_ci().high == pytest.approx(bound)


def test_clusters_without_tasks_and_of_one_do_not_matter():
    rng = np.random.default_rng(2)
    tasks = rng.integers(1, 20, (12, 3)).astype(float)
    events = rng.binomial(tasks.astype(int), 0.3).astype(float)
    wanted = rate_interval(events, tasks)
    gaps = np.zeros((4, 3))
    found = rate_interval(np.concatenate([gaps, events]), np.concatenate([gaps, tasks]))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    with_nan = rate_interval(np.concatenate([gaps * np.nan, events]), np.concatenate([gaps * np.nan, tasks]))
    np.testing.assert_allclose(with_nan, wanted, rtol=1e-12)
    single = rate_interval(events[:1], tasks[:1])
    assert np.all(np.isfinite(single.estimate) & np.isnan(single.low) & np.isnan(single.high))
    assert np.isnan(rate_interval(np.zeros(3), np.zeros(3))).all()


KINDS = {
    "same": lambda rng, tasks, rate, theirs: theirs,
    "most": lambda rng, tasks, rate, theirs: rng.binomial(theirs, 0.9),
    "half": lambda rng, tasks, rate, theirs: rng.binomial(theirs, 0.5),
    "own": lambda rng, tasks, rate, theirs: rng.binomial(tasks, 0.7 * rate),
}
SHARES = {"same": 1.0, "most": 0.9, "half": 0.5, "own": 0.7}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate", "correlation"), [(0.001, 0.01), (0.01, 0.5), (0.05, 0.1), (0.3, 0.1)])
@pytest.mark.parametrize("n", [10, 32, 100])
def test_differences_and_reductions_are_covered(kind: str, rate: float, correlation: float, n: int):
    rng = np.random.default_rng(n)
    tasks = tasks_of(rng, n)
    rates = beta(rate, correlation)(rng, tasks.shape)
    theirs = rng.binomial(tasks, rates)
    ours = KINDS[kind](rng, tasks, rates, theirs)
    difference = rate_difference_interval(ours, theirs, tasks)
    assert covers(difference, rate * (SHARES[kind] - 1)) >= 0.93
    assert np.all(difference.high > difference.low)
    reduction = rate_reduction_interval(ours, theirs, tasks)
    truth = 1 - SHARES[kind]
    missed = (reduction.low > truth + 1e-12) | (reduction.high < truth - 1e-12)  # NaNs tell nothing
    assert np.mean(missed) <= 0.07


def test_comparisons_without_any_event_are_not_certain():
    tasks = np.full(32, 450.0)
    none, bound = np.zeros(32), 1 - 0.025 ** (1 / 32)
    np.testing.assert_allclose(rate_difference_interval(none, none, tasks), [0, -bound, bound])
    assert np.isnan(rate_reduction_interval(none, none, tasks)).all()
    some = np.random.default_rng(0).binomial(450, 0.2, 32)
    estimate, low, high = rate_reduction_interval(none, some, tasks)
    assert (estimate, high) == (1.0, 1.0)
    assert 0 < low < 1
    back = rate_reduction_interval(some, none, tasks)
    assert np.isnan(back).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate", "correlation"), [(0.001, 0.01), (0.01, 0.5), (0.05, 0.1), (0.3, 0.1)])
@pytest.mark.parametrize("n", [10, 32])
def test_p_values_agree_with_intervals_of_differences(kind: str, rate: float, correlation: float, n: int):
    rng = np.random.default_rng(n)
    tasks = tasks_of(rng, n)[:, :500]
    rates = beta(rate, correlation)(rng, tasks.shape)
    theirs = rng.binomial(tasks, rates)
    ours = KINDS[kind](rng, tasks, rates, theirs)
    found, p = rate_difference_interval(ours, theirs, tasks), rate_difference_p_value(ours, theirs, tasks)
    excluded = (found.low > 0) | (found.high < 0)
    assert np.array_equal(p < 0.05, excluded)
    np.testing.assert_allclose(rate_difference_p_value(theirs, ours, tasks), p)
    np.testing.assert_allclose(rate_difference_p_value(tasks - ours, tasks - theirs, tasks), p, rtol=1e-6)
    reduction = rate_reduction_interval(ours, theirs, tasks)
    assert not np.any(~excluded & ((reduction.low > 0) | (reduction.high < 0)))


def test_a_lack_of_misses_is_not_significant():
    """A paired t-test rejects equality in many of these samples, though few seeds may have all the misses."""
    rng = np.random.default_rng(1)
    tasks = np.full((32, 1000), 900)
    theirs = rng.binomial(tasks, beta(0.002, 0.1)(rng, tasks.shape))
    assert np.mean(paired_p_value(0 * theirs, theirs) < 0.05) > 0.1
    assert np.all(rate_difference_p_value(0 * theirs, theirs, tasks) > 0.05)
    assert np.all(rate_difference_p_value(0 * theirs, 0 * theirs, tasks) == 1)


def test_bad_totals_are_refused():
    with pytest.raises(InputError, match="events"):
        rate_interval(np.array([3.0, 1.0]), np.array([2.0, 2.0]))
    with pytest.raises(InputError, match="shapes"):
        rate_interval(np.zeros(3), np.ones(2))
