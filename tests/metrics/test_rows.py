"""The columns of rows, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from amco_jax.metrics import EPISODE_METRICS, LEVELS, as_columns, columns
from amco_jax.metrics.quantiles import Kept

QUANTILES = "makespan_quantiles_s"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
NUM_SLOTS = 4


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


def totals_of(rows: list[np.ndarray], utilisation: np.ndarray) -> dict[str, np.ndarray]:
    """Totals in which every third task is missed, one of them rejected, and each uses two servers."""
    count = np.array([len(row) for row in rows])
    return {
        "num_tasks": count,
        "miss_rate": count // 3,
        "reject_rate": (count >= 3).astype(int),
        "num_accepted": count - (count >= 3),
        "response_mean_s": 2 * np.array([row.sum() for row in rows]),
        "tardiness_mean_s": np.array([row.sum() for row in rows]),
        "goodput_per_s": count / 2,
        "goodput_gcycles_per_s": 3 * count,
        "mean_servers_used": 2 * count,
        "makespan_mean_s": np.array([row.sum() for row in rows]),
        "utilisation": utilisation * NUM_SLOTS,
    }


def columns_of_rows(rows: list[np.ndarray], utilisation: np.ndarray) -> dict[str, np.ndarray]:
    kept = Kept()
    kept.add(padded(rows))
    totals = totals_of(rows, utilisation)
    return columns(EPISODE_METRICS, totals, NUM_SLOTS, {QUANTILES: kept.quantiles()})


def test_summaries_are_means_over_the_tasks_that_arrived():
    rows = random_rows()
    utilisation = np.random.default_rng(2).uniform(0, 1, (len(rows), 3)).astype(np.float32)
    metrics = columns_of_rows(rows, utilisation)
    for k, row in enumerate(rows):
        if len(row) == 0:
            continue
        assert metrics["makespan_mean_s"][k] == pytest.approx(row.mean(), rel=1e-6)
        assert metrics["makespan_p95_s"][k] == pytest.approx(np.percentile(row, 95), rel=1e-6)
        assert metrics["miss_rate"][k] == len(row) // 3 / len(row)
        assert metrics["reject_rate"][k] == (len(row) >= 3) / len(row)
        assert metrics["mean_servers_used"][k] == 2
        accepted = len(row) - (len(row) >= 3)
        assert metrics["response_mean_s"][k] == pytest.approx(2 * row.sum() / accepted, rel=1e-6)
        assert metrics["goodput_per_s"][k] == len(row) / 2 / NUM_SLOTS
    np.testing.assert_array_equal(metrics["num_tasks"], [len(row) for row in rows])
    for i in range(3):
        np.testing.assert_array_equal(metrics[f"utilisation_{i}"], utilisation[:, i].astype(np.float64))


def test_a_quantity_over_no_task_is_nan():
    rows = random_rows()
    metrics = columns_of_rows(rows, np.full((len(rows), 3), 0.5))
    empty = np.array([len(row) == 0 for row in rows])
    others = ("num_", "utilisation", "goodput")
    of_tasks = {name for name in metrics if not name.startswith(others)}
    assert len(of_tasks) == 6 + len(PERCENTILES) + 1
    for name in of_tasks:
        expected = np.broadcast_to(empty, metrics[name].T.shape).T
        np.testing.assert_array_equal(np.isnan(metrics[name]), expected, err_msg=name)
    assert (metrics["num_tasks"][empty] == 0).all()
    assert (metrics["utilisation_0"] == 0.5).all()


def test_quantiles_are_one_column_of_lists():
    rows = random_rows()
    metrics = columns_of_rows(rows, np.full((len(rows), 3), 0.5))
    found = as_columns(metrics)
    assert {name for name, column in found.items() if isinstance(column, list)} == {QUANTILES}
    assert len(found[QUANTILES]) == len(rows)
    for k, row in enumerate(rows):
        told = found[QUANTILES][k]
        assert (told.dtype, told.shape) == (np.float32, LEVELS.shape)
        if len(row):
            np.testing.assert_allclose(told, np.quantile(row.astype(np.float64), LEVELS), rtol=1e-6)
    # The percentiles of the other columns are among them.
    for p in PERCENTILES:
        np.testing.assert_array_equal(
            metrics[f"makespan_p{p}_s"].astype(np.float32), metrics[QUANTILES][:, p / 100 == LEVELS][:, 0]
        )
