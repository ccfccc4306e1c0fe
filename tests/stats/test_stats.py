"""Statistics: against SciPy, against known coverage, and at the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from amco_jax.errors import InputError
from amco_jax.stats import (
    STATISTICS,
    batch_means_interval,
    bootstrap_interval,
    holm,
    lag_one_correlation,
    mean_interval,
    mean_p_value,
    paired_p_value,
    probability_of_improvement,
    rate_difference_interval,
    rate_difference_p_value,
    rate_interval,
    rate_reduction_interval,
    ratio_interval,
    reduction_interval,
    seeds_needed,
    t_interval,
    trend_p_value,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SAMPLE = np.sort(rng(5).lognormal(size=(25, 3)), axis=0)


def test_t_interval_is_scipys():
    interval = t_interval(SAMPLE)
    scipys = scipy_stats.ttest_1samp(SAMPLE, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(interval.estimate, SAMPLE.mean(axis=0))
    np.testing.assert_allclose(interval[1:], [scipys.low, scipys.high], rtol=1e-12)


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy_stats.trim_mean(values, 0.25, axis=axis)


@pytest.mark.parametrize(("name", "function"), [("mean", np.mean), ("iqm", iqm), ("median", np.median)])
def test_bca_is_scipys_on_the_same_resamples(name: str, function):
    for column in SAMPLE.T:  # sorted, so that resamples by rank are resamples by place
        ours = bootstrap_interval(column, rng(1), name, resamples=2000, expand=False)
        theirs = scipy_stats.bootstrap(
            (column,), function, n_resamples=2000, method="BCa", rng=rng(1)
        ).confidence_interval
        assert ours.estimate == pytest.approx(function(column), rel=1e-12)
        np.testing.assert_allclose(ours[1:], theirs, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize(("name", "function"), [("mean", np.mean), ("iqm", iqm), ("median", np.median)])
def test_estimates_of_few_seeds(n: int, name: str, function):
    values = rng(n).normal(size=(n, 4))
    np.testing.assert_allclose(
        bootstrap_interval(values, rng(), name, resamples=50).estimate, function(values, axis=0)
    )


def test_columns_do_not_see_each_other():
    one = bootstrap_interval(SAMPLE[:, :1], rng(), resamples=500)
    all_ = bootstrap_interval(SAMPLE, rng(), resamples=500)
    np.testing.assert_allclose([x[0] for x in one], [x[0] for x in all_], rtol=1e-12)


DATA = {
    "normal": (lambda r, shape: r.normal(3, 2, shape), 3.0),
    "uniform": (lambda r, shape: r.uniform(size=shape), 0.5),
    "beta": (lambda r, shape: r.beta(0.5, 0.5, shape), 0.5),
    "exponential": (lambda r, shape: r.gamma(1.0, size=shape), 1.0),
    "lognormal": (lambda r, shape: r.lognormal(size=shape), np.exp(0.5)),
}
REPLICATES = 10000


def covers(interval, truth: float) -> float:
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


@pytest.mark.parametrize(
    ("data", "n"),
    [(data, n) for data in ("normal", "uniform", "beta") for n in (10, 30)]
    + [("exponential", 100), ("lognormal", 100)],
)
def test_intervals_cover_the_mean_as_often_as_they_say(data: str, n: int):
    draw, truth = DATA[data]
    values = draw(rng(n), (n, REPLICATES))
    assert 0.93 <= covers(mean_interval(values), truth) <= 0.97
    if data != "lognormal":  # too skewed for Student's
        assert 0.93 <= covers(t_interval(values), truth) <= 0.97
    # The same on pairs that have much in common.
    common = rng(n + 1).normal(10, 1, values.shape)
    method, baseline = common + 5 * values, common + 5 * truth + 10
    share = 1 - (10 + 5 * truth) / (20 + 5 * truth)
    assert 0.93 <= covers(reduction_interval(method, baseline), share) <= 0.97


@pytest.mark.parametrize(
    ("data", "n"),
    [(data, n) for data in ("normal", "uniform") for n in (10, 30)] + [("beta", 30), ("exponential", 100)],
)
def test_bootstrap_intervals_cover_the_mean_as_often_as_they_say(data: str, n: int):
    draw, truth = DATA[data]
    values = draw(rng(n), (n, REPLICATES // 2))
    assert 0.93 <= covers(bootstrap_interval(values, rng(), resamples=2000), truth) <= 0.97


def test_adjusted_interval_is_the_transform_of_the_t_statistic():
    n = len(SAMPLE)
    interval = mean_interval(SAMPLE)
    skew = scipy_stats.skew(SAMPLE) * n / (n + 12)
    for bound, side in ((interval.low, 1), (interval.high, -1)):
        t = (SAMPLE.mean(axis=0) - bound) / SAMPLE.std(axis=0, ddof=1)
        found = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * n)
        np.testing.assert_allclose(np.sqrt(n) * found, side * scipy_stats.t.ppf(0.975, n - 1), rtol=1e-9)
    symmetric = np.concatenate([SAMPLE, -SAMPLE])
    np.testing.assert_allclose(mean_interval(symmetric), t_interval(symmetric), atol=1e-12)


def test_paired_intervals_cover_and_gain_from_correlation():
    common = rng(1).normal(size=(10, REPLICATES))
    noise = rng(2).normal(scale=0.2, size=(2, 10, REPLICATES))
    method, baseline = 4 + common + noise[0], 5 + common + noise[1]
    for interval in (t_interval, mean_interval):
        paired = interval(method - baseline)
        assert 0.93 <= covers(paired, -1.0) <= 0.97
        apart = [interval(method), interval(baseline)]
        assert np.mean(paired.high - paired.low) < 0.3 * np.mean(sum(i.high - i.low for i in apart))
    assert 0.93 <= covers(reduction_interval(method, baseline), 0.2) <= 0.97


def test_reduction_is_the_ratio_of_means():
    method, baseline = rng(1).uniform(1, 2, (2, 20, 5))
    share = reduction_interval(method, baseline)
    np.testing.assert_allclose(share.estimate, 1 - method.mean(axis=0) / baseline.mean(axis=0))
    assert np.all((share.low < share.estimate) & (share.estimate < share.high))
    # A bound is the share at which the interval of the rest just holds 0.
    np.testing.assert_allclose(mean_interval(method - (1 - share.low) * baseline).high, 0, atol=1e-9)
    np.testing.assert_allclose(mean_interval(method - (1 - share.high) * baseline).low, 0, atol=1e-9)
    np.testing.assert_allclose(reduction_interval(1e6 * method, 1e6 * baseline), share)


def test_reductions_at_the_edges():
    method, baseline = rng(1).uniform(1, 2, (2, 20, 5))
    same = reduction_interval(baseline, baseline)
    assert np.all(same.low == 0)
    assert np.all(same.high == 0)
    np.testing.assert_allclose(reduction_interval(0.7 * baseline, baseline), 0.3, atol=1e-6)
    np.testing.assert_allclose(reduction_interval(0 * method, baseline), 1.0)
    assert np.all(np.isnan(reduction_interval(method, 0 * baseline)))
    rare = np.zeros(20)
    rare[:2] = 0.5, 0.1
    assert reduction_interval(rare, baseline[:, 0]).high == 1.0
    scarce = np.zeros(20)
    scarce[0] = 1.0  # a mean that may be 0, so any ratio is possible
    found = reduction_interval(method[:, 0], scarce)
    assert np.isfinite(found.estimate)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    single = reduction_interval(method[:1], baseline[:1])
    assert np.all(np.isfinite(single.estimate) & np.isnan(single.low))


def test_probability_of_improvement():
    method, baseline = np.array([[1, 1, 1, 5], [1, 1, 1, 1]]).T, np.array([[2, 2, 1, 1], [2, 2, 2, 2]]).T
    found = probability_of_improvement(method, baseline)
    np.testing.assert_allclose(found.estimate, [0.625, 1.0])
    wilson = scipy_stats.binomtest(4, 4).proportion_ci(method="wilson")
    np.testing.assert_allclose([found.low[1], found.high[1]], [wilson.low, wilson.high], atol=1e-12)


def test_reductions_exist_only_of_what_is_positive():
    negative = reduction_interval(np.array([-5.9, -6.0, -5.8]), np.array([-6.1, -6.2, -6.0]))
    below = reduction_interval(np.array([-2.0, 1.0, 0.5]), np.array([1.0, 2.0, 1.5]))
    assert np.isnan([negative, below]).all()
    assert reduction_interval(
        np.array([-0.1, 1.0, 0.9]), np.array([1.0, 2.0, 1.5])
    ).estimate == pytest.approx(0.6)


def test_p_values_are_scipys_where_nothing_is_skewed():
    half = rng(3).normal(size=(12, 6)) + 0.2
    method, baseline = np.concatenate([half, 0.4 - half]), rng(4).normal(size=6) * np.ones((24, 1))
    expected = scipy_stats.ttest_rel(method + baseline, baseline).pvalue
    np.testing.assert_allclose(paired_p_value(method + baseline, baseline), expected, rtol=1e-9)


def test_p_values_agree_with_intervals():
    values = rng(3).lognormal(size=(20, 2000)) - 1.2
    interval, p = mean_interval(values), mean_p_value(values)
    excluded = (interval.low > 0) | (interval.high < 0)
    assert 0.1 < np.mean(excluded) < 0.5
    assert np.array_equal(p < 0.05, excluded)
    np.testing.assert_array_equal(paired_p_value(values, np.zeros_like(values)), p)


def test_p_values_at_the_edges():
    constant = np.full((5, 2), 3.0)
    np.testing.assert_array_equal(mean_p_value(constant), 0.0)
    np.testing.assert_array_equal(paired_p_value(constant, constant), 1.0)
    assert np.isnan(paired_p_value(constant[:1], constant[:1])).all()


def test_holm():
    # Three p-values by hand: 3 · 0.01, 2 · 0.02, then no less than that.
    np.testing.assert_allclose(
        holm(np.array([[0.02, 0.01], [np.nan, 0.035]])), [[0.04, 0.03], [np.nan, 0.04]]
    )
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])
    assert holm(np.array([])).size == 0


@pytest.mark.parametrize("width", [1e-3, 0.05, 0.5, 5.0, 100.0])
def test_seeds_needed_is_the_least_number(width: float):
    values = rng(4).normal(size=(30, 8))
    needed = seeds_needed(values, width)
    deviation = values.std(axis=0, ddof=1)

    def half(n: np.ndarray) -> np.ndarray:
        return scipy_stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n)

    assert np.all(half(needed) <= width)
    assert np.all((needed == 2) | (half(np.maximum(needed - 1, 2)) > width))


def test_degenerate_data():
    constant = np.full((5, 2), 3.0)
    for name in STATISTICS:
        assert np.ptp([x[0] for x in bootstrap_interval(constant, rng(), name, resamples=100)]) == 0.0
    assert float(t_interval(np.array([2.0])).estimate) == 2.0
    assert np.isnan(t_interval(np.array([2.0])).low)
    assert np.isnan(mean_interval(np.array([2.0])).low)
    np.testing.assert_array_equal(mean_interval(constant), np.full((3, 2), 3.0))
    assert np.isnan(bootstrap_interval(np.array([2.0]), rng()).high)
    assert np.all(seeds_needed(constant, 0.1) == 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: mean_interval(a),
        lambda a, b: t_interval(a),
        lambda a, b: mean_p_value(a),
        *(lambda a, b, name=name: bootstrap_interval(a, rng(), name, resamples=99) for name in STATISTICS),
        lambda a, b: seeds_needed(a, 0.1),
        ratio_interval,
        reduction_interval,
        probability_of_improvement,
        paired_p_value,
        lambda a, b: rate_interval(a, 9 * np.ones_like(a)),
        lambda a, b: rate_difference_interval(a, b, 9 * np.ones_like(a)),
        lambda a, b: rate_difference_p_value(a, b, 9 * np.ones_like(a)),
        lambda a, b: rate_reduction_interval(a, b, 9 * np.ones_like(a)),
        lambda a, b: batch_means_interval(a, b, batches=len(a)),
        lambda a, b: trend_p_value(np.stack([a, b], axis=1), np.ones((len(a), 2))),
    ],
)  # fmt: skip
def test_clusters_with_a_nan_are_left_out(function: Callable[..., Any]):
    values, others = rng(6).uniform(1, 2, (2, 12))
    expected = function(values[:-2], others[:-2])
    values[-2:], others[-1] = (np.nan, np.nan), np.nan
    np.testing.assert_allclose(function(values, others), expected, rtol=1e-9)


def test_columns_may_miss_different_clusters():
    values = SAMPLE.copy()
    values[-5:, 1], values[:, 2] = np.nan, np.nan
    for interval in (t_interval, lambda x: bootstrap_interval(x, rng(), resamples=99)):
        found = np.array(interval(values))
        assert np.isfinite(found[:, :2]).all()
        assert found[0, 1] == pytest.approx(np.mean(SAMPLE[:-5, 1]))
        assert np.isnan(found[:, 2]).all()


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="at least one seed"):
        t_interval(np.empty((0, 3)))
    with pytest.raises(InputError, match="statistic: 'mode'"):
        bootstrap_interval(SAMPLE, rng(), "mode")
    with pytest.raises(InputError, match="shape"):
        reduction_interval(SAMPLE, SAMPLE[:-1])
    with pytest.raises(InputError, match="at least 2"):
        seeds_needed(SAMPLE[:1], 0.1)
    with pytest.raises(InputError, match="1 of the seeds without a NaN; legal: at least 2"):
        seeds_needed(np.array([1.0, np.nan]), 0.1)
    with pytest.raises(InputError, match="NaN"):
        lag_one_correlation(np.array([1.0, np.nan, 2.0]))
    with pytest.raises(InputError, match="half_width"):
        seeds_needed(SAMPLE, 0.0)
