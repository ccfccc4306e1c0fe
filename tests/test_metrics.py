"""Metrics of episodes and statistics over seeds, against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from amco_jax.kernel import Totals
from amco_jax.metrics import PERCENTILES, QUANTILES, as_columns, summarise
from amco_jax.quantiles import LEVELS, Kept
from amco_jax.stats import Moments, mean_interval


def padded(rows: list[np.ndarray], width: int = 12) -> np.ndarray:
    """Makespans as the rollout leaves them: inf at empty positions, anywhere in the row."""
    random = np.random.default_rng(0)
    full = np.full((len(rows), width), np.inf, np.float32)
    for row, values in zip(full, rows, strict=True):
        row[random.choice(width, len(values), replace=False)] = values
    return full


def random_rows() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.uniform(0, 1, n).astype(np.float32) for n in (0, 1, 2, 3, 7, 11, 12, 0)]


def totals_of(rows: list[np.ndarray]) -> Totals:
    """Totals in which every third task is missed, one of them rejected, and each uses two servers."""
    count = np.array([len(row) for row in rows])
    return Totals(
        num_tasks=count,  # pyright: ignore
        missed=count // 3,  # pyright: ignore
        rejected=(count >= 3).astype(int),  # pyright: ignore
        servers_used=2 * count,  # pyright: ignore
        makespan=np.array([row.sum() for row in rows]),  # pyright: ignore
    )


def quantiles_of(rows: list[np.ndarray]) -> np.ndarray:
    kept = Kept()
    kept.add(padded(rows))
    return kept.quantiles()


def test_summaries_are_means_over_the_tasks_that_arrived():
    rows = random_rows()
    utilisation = np.random.default_rng(2).uniform(0, 1, (len(rows), 3)).astype(np.float32)
    metrics = summarise(totals_of(rows), utilisation, quantiles_of(rows))
    for k, row in enumerate(rows):
        if len(row) == 0:
            continue
        assert metrics["makespan_mean_s"][k] == pytest.approx(row.mean(), rel=1e-6)
        assert metrics["makespan_p95_s"][k] == pytest.approx(np.percentile(row, 95), rel=1e-6)
        assert metrics["miss_rate"][k] == len(row) // 3 / len(row)
        assert metrics["reject_rate"][k] == (len(row) >= 3) / len(row)
        assert metrics["mean_servers_used"][k] == 2
    np.testing.assert_array_equal(metrics["num_tasks"], [len(row) for row in rows])
    for i in range(3):
        np.testing.assert_array_equal(metrics[f"utilisation_{i}"], utilisation[:, i].astype(np.float64))


def test_a_quantity_over_no_task_is_nan():
    rows = random_rows()
    metrics = summarise(totals_of(rows), np.full((len(rows), 3), 0.5), quantiles_of(rows))
    empty = np.array([len(row) == 0 for row in rows])
    of_tasks = {name for name in metrics if not name.startswith(("num_tasks", "utilisation"))}
    assert len(of_tasks) == 4 + len(PERCENTILES) + 1
    for name in of_tasks:
        expected = np.broadcast_to(empty, metrics[name].T.shape).T
        np.testing.assert_array_equal(np.isnan(metrics[name]), expected, err_msg=name)
    assert (metrics["num_tasks"][empty] == 0).all()
    assert (metrics["utilisation_0"] == 0.5).all()


def test_quantiles_are_one_column_of_lists():
    rows = random_rows()
    metrics = summarise(totals_of(rows), np.full((len(rows), 3), 0.5), quantiles_of(rows))
    columns = as_columns(metrics)
    assert {name for name, column in columns.items() if isinstance(column, list)} == {QUANTILES}
    assert len(columns[QUANTILES]) == len(rows)
    for k, row in enumerate(rows):
        told = columns[QUANTILES][k]
        assert (told.dtype, told.shape) == (np.float32, LEVELS.shape)
        if len(row):
            np.testing.assert_allclose(told, np.quantile(row.astype(np.float64), LEVELS), rtol=1e-6)
    # The percentiles of the other columns are among them.
    for p in PERCENTILES:
        np.testing.assert_array_equal(
            metrics[f"makespan_p{p}_s"].astype(np.float32), metrics[QUANTILES][:, p / 100 == LEVELS][:, 0]
        )


def moments_of(*batches: np.ndarray) -> Moments:
    moments = Moments()
    for batch in batches:
        moments.add(batch)
    return moments


@pytest.mark.parametrize("cuts", [[], [1], [500], [0, 3, 3, 999], list(range(1, 1000, 7))])
def test_moments_do_not_depend_on_the_batches(cuts: list[int]):
    values = np.random.default_rng(3).exponential(2, 1000)
    moments = moments_of(*np.split(values, cuts))
    assert moments.count == 1000
    assert moments.mean == pytest.approx(values.mean(), rel=1e-13)
    assert moments.squares / 999 == pytest.approx(values.var(ddof=1), rel=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("cuts", [[], [1], [5], [0, 3, 3, 16]])
def test_intervals_are_those_of_all_observations(confidence: float, cuts: list[int]):
    values = np.random.default_rng(4).exponential(2, 17)
    interval = moments_of(*np.split(values, cuts)).interval(confidence)
    np.testing.assert_allclose(interval, mean_interval(values, confidence), rtol=1e-12)


def test_moments_leave_out_nans():
    values = np.random.default_rng(5).normal(0, 1, 50)
    with_gaps = np.insert(values, [0, 7, 7, 50], np.nan)
    nothing = np.full(3, np.nan)
    found = moments_of(nothing, with_gaps[:20], nothing, with_gaps[20:], np.array([]))
    assert found.count == 50
    np.testing.assert_allclose(found.interval(), moments_of(values).interval(), rtol=1e-12)


def test_too_few_observations_have_no_interval():
    assert np.isnan(moments_of().interval()).all()
    assert np.isnan(moments_of(np.array([np.nan])).interval()).all()
    mean, low, high = moments_of(np.array([0.25, np.nan])).interval()
    assert mean == 0.25
    assert np.isnan([low, high]).all()


def test_equal_observations_have_an_interval_of_no_width():
    assert moments_of(np.full(10, 0.125), np.full(3, 0.125)).interval() == (0.125, 0.125, 0.125)


def test_moments_are_stable_under_a_large_offset():
    # The sum of squares minus the square of the sum would have no digit left.
    values = np.random.default_rng(6).normal(0, 1, 1000)
    moments = moments_of(*np.split(values + 1e9, 10))
    assert moments.mean - 1e9 == pytest.approx(values.mean(), abs=1e-6)
    assert moments.squares / 999 == pytest.approx(values.var(ddof=1), rel=1e-6)


def test_intervals_cover_the_mean_of_normal_data():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(2000):
        _, low, high = moments_of(random.normal(5, 3, 4), random.normal(5, 3, 4)).interval(0.95)
        covered += low <= 5 <= high
    # The standard error of the coverage is half a percent.
    assert 0.93 < covered / 2000 < 0.97
