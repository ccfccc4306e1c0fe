"""Means by user of a request log: by hand, against quantiles over tasks, and where there are no users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.request_logs import scenario_of, small_rows, write
from helpers.studies import carry_out

from amco_jax import InputError, Sweep
from amco_jax.metrics.quantiles import LEVELS, OfUsers
from amco_jax.stats.summaries import TASK

ASKED = ["user_response_s", "user_miss_rate", "response_quantiles_s"]


def rows_of(log: Path, table: dict[str, Any], **changes: Any) -> Any:
    scenario = scenario_of(log, num_slots=12, deadline=0.05, table=table)
    options = {"values": [0.05], "methods": ["optimal-admission"], "seeds": 5, "metrics": ASKED}
    return carry_out(Sweep, "deadline", scenario=scenario, **(options | changes))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("users") / "requests.csv", small_rows())


def test_means_of_users_by_hand():
    none = np.inf
    first = [[4, 7, none, none, 2, 9, 6, 7], [none] * 8]
    second = [[1, 9, 8, 7], [3, 2, none, none]]
    taken = OfUsers()
    for piece in (first, second):
        taken.add(np.array(piece, np.float32))
    # User 7 has 4, 6 and 8, and user 9 has 2 and 1; in the other episode, user 2 alone has a task.
    expected = [np.quantile([6, 1.5], LEVELS), np.full(len(LEVELS), 3)]
    np.testing.assert_allclose(taken.quantiles(), expected)
    empty = OfUsers()
    empty.add(np.full((1, 4), none, np.float32))
    assert np.isnan(empty.quantiles()).all()


def test_each_request_is_a_user_without_a_column_of_users(log: Path):
    result: Any = rows_of(log, {"user": ""})
    for name in ("p50", "p95"):
        np.testing.assert_allclose(
            result.rows[f"user_response_{name}_s"], result.rows[f"response_{name}_s"], rtol=1e-5
        )
    misses = np.stack([*result.rows["user_miss_rate"]])
    np.testing.assert_array_equal(np.unique(misses[:, [0, -1]]), [0, 1])


def test_a_single_user_has_the_means_of_all_tasks(tmp_path: Path):
    rows = [",".join([*row.split(",")[:4], "ada", row.split(",")[5]]) for row in small_rows()]
    result: Any = rows_of(write(tmp_path / "one.csv", rows), {})
    for quantile in ("p50", "max"):
        np.testing.assert_allclose(
            result.rows[f"user_response_{quantile}_s"], result.rows["response_mean_s"], rtol=1e-5
        )
        np.testing.assert_allclose(
            result.rows[f"user_miss_rate_{quantile}"], result.rows["miss_rate"], rtol=1e-5
        )
    assert result.rows["miss_rate"].between(0.01, 0.99).all()
    found = result.summary.query("metric == 'user_response_max_s'")
    assert TASK not in set(found["per"])
    np.testing.assert_allclose(found["estimate"], result.rows["user_response_max_s"].mean())


def test_batches_of_a_long_episode_have_users_of_their_own(log: Path):
    changes = {"seeds": 1, "metrics": ["user_response_s"]}
    scenario = scenario_of(log, num_slots=600, time_scale=2.0, deadline=0.5, warmup=20)
    result: Any = carry_out(Sweep, "deadline", scenario=scenario, values=[0.5], methods=["local"], **changes)
    assert len(result.rows) > 1
    found = result.rows[["user_response_p50_s", "user_response_max_s"]].dropna()
    assert (found["user_response_p50_s"] <= found["user_response_max_s"]).all()
    assert found["user_response_max_s"].nunique() > 1


def test_tasks_without_users_are_refused():
    with pytest.raises(InputError, match=r"user_miss_rate is by user, and bernoulli arrivals have none"):
        carry_out(Sweep, "deadline", values=[1.0], methods=["local"], seeds=1, metrics=["user_miss_rate"])


def test_more_users_than_float32_numbers_are_refused(log: Path, monkeypatch: pytest.MonkeyPatch):
    users = len({row.split(",")[4] for row in small_rows()})
    monkeypatch.setattr("amco_jax.study.grid.MAX_USERS", users)
    rows_of(log, {})
    monkeypatch.setattr("amco_jax.study.grid.MAX_USERS", users - 1)
    with pytest.raises(InputError, match=rf"has {users} users; legal: at most {users - 1}"):
        rows_of(log, {})
