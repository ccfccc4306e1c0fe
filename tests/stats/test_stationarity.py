"""Warm-up, batch means and trends: against plain loops, closed forms and known coverage."""

from __future__ import annotations

import numpy as np
import pytest

from amco_jax.errors import InputError
from amco_jax.stats.stationarity import (
    batch_means_interval,
    lag_one_correlation,
    mser_truncation,
    trend_p_value,
)


def plain_mser(series: np.ndarray, batch: int = 5) -> int:
    means = [np.mean(series[i : i + batch]) for i in range(0, len(series) - batch + 1, batch)]
    errors = []
    for d in range(len(means) // 2 + 1):
        rest = means[d:]
        errors.append(sum((y - np.mean(rest)) ** 2 for y in rest) / len(rest) ** 2)
    return int(np.argmin(errors)) * batch


def warming_up(seed: int, slots: int = 400, constant: float = 20.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1.0 - np.exp(-np.arange(slots) / constant) + 0.05 * rng.normal(size=slots)


@pytest.mark.parametrize("seed", range(20))
def test_truncation_is_that_of_a_plain_loop(seed: int):
    series = warming_up(seed, slots=60 + 7 * seed)
    assert mser_truncation(series) == plain_mser(series)


def test_truncation_removes_the_warm_up_and_nothing_else():
    found = [mser_truncation(warming_up(seed)) for seed in range(50)]
    assert 40 <= np.mean(found) <= 120  # after two to six time constants
    steady = [mser_truncation(np.random.default_rng(seed).normal(size=400)) for seed in range(50)]
    assert np.median(steady) <= 40
    assert mser_truncation(np.arange(100.0)) == 50  # which never settles


def test_slots_without_observations_are_skipped():
    series = warming_up(0)
    series[::3] = np.nan
    assert 40 <= mser_truncation(series) <= 150
    for bad in (np.ones(9), np.full(100, np.nan)):
        with pytest.raises(InputError, match="num_slots"):
            mser_truncation(bad)


def autoregressive(rng: np.random.Generator, slots: int, phi: float) -> np.ndarray:
    noise, found = rng.normal(size=slots), np.empty(slots)
    found[0] = noise[0] / np.sqrt(1 - phi**2)
    for t in range(1, slots):
        found[t] = phi * found[t - 1] + noise[t]
    return found


def test_batch_means_cover_the_mean_of_a_correlated_series():
    rng = np.random.default_rng(4)
    covered, naive = [], []
    for _ in range(200):
        series = 5.0 + autoregressive(rng, 3000, 0.8)
        ones = np.ones_like(series)
        wide, narrow = batch_means_interval(series, ones), batch_means_interval(series, ones, batches=3000)
        covered.append(wide.low <= 5.0 <= wide.high)
        naive.append(narrow.low <= 5.0 <= narrow.high)
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.mean(naive) < 0.7  # as if slots were independent


def test_batch_means_are_ratios_of_sums():
    numerator, denominator = np.arange(10.0), np.ones(10)
    denominator[5] = 4.0
    found = batch_means_interval(numerator, denominator, batches=3)  # the first slot does not fill a batch
    assert found.estimate == pytest.approx(45.0 / 12.0)
    with pytest.raises(InputError, match="num_slots"):
        batch_means_interval(numerator, denominator, batches=11)


def test_lag_one_correlation():
    assert lag_one_correlation([1.0, -1.0, 1.0, -1.0]) == pytest.approx(-0.75)
    assert np.isnan(lag_one_correlation([2.0, 2.0]))
    series = autoregressive(np.random.default_rng(0), 20_000, 0.8)
    assert lag_one_correlation(series) == pytest.approx(0.8, abs=0.02)


def test_a_trend_is_found_and_steady_episodes_rarely_have_one():
    rng = np.random.default_rng(2)
    tasks = rng.poisson(5.0, (500, 40, 60)).astype(float)
    steady = tasks * (1.0 + 0.1 * rng.normal(size=(500, 40, 60)))
    p = np.array([trend_p_value(x, n) for x, n in zip(steady, tasks, strict=True)])
    assert 0.02 <= np.mean(p < 0.05) <= 0.08
    rising = steady[0] * (1.0 + 0.01 * np.arange(60))
    assert trend_p_value(rising, tasks[0]) < 1e-6
    assert trend_p_value(np.ones((4, 10)), np.ones((4, 10))) == 1.0
    assert np.isnan(trend_p_value(np.ones((1, 10)), np.ones((1, 10))))
