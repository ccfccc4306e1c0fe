"""Summaries of episodes: per task and per episode, over seeds or stretches, with quantiles of all tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from amco_jax.errors import InputError
from amco_jax.metrics import LEVELS, METRICS, Column, columns_of, estimated_columns
from amco_jax.metrics.counts import IN_TIME
from amco_jax.stats import mean_interval, mean_p_value, pooled_quantiles, ratio_interval, reduction_interval
from amco_jax.stats.summaries import Episodes, Pairs, summarise

QUANTILES = "makespan_quantiles_s"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
CHOSEN = ("makespan_mean_s", "miss_rate", "num_tasks", "utilisation", QUANTILES)
COLUMNS = estimated_columns(columns_of(METRICS[name] for name in CHOSEN), 1)


def episodes_of(
    counts: list[int], seed: int = 0, scale: float = 1.0
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Rows of results of one method, and the makespans behind them."""
    rng = np.random.default_rng(seed)
    tasks = [scale * rng.lognormal(0, 0.5, n) for n in counts]
    rows = {
        "method": "m",
        "seed": np.arange(len(counts)),
        "makespan_mean_s": [x.mean() if len(x) else np.nan for x in tasks],
        "miss_rate": [(x > 1.5).mean() if len(x) else np.nan for x in tasks],
        "num_tasks": counts,
        "utilisation_0": rng.uniform(0.9, 1, len(counts)),
    }
    quantiles = [np.quantile(x, LEVELS) if len(x) else np.full(len(LEVELS), np.nan) for x in tasks]
    rows |= {
        f"makespan_p{p}_s": [q[np.searchsorted(LEVELS, p / 100)] for q in quantiles] for p in PERCENTILES
    }
    return pd.DataFrame(rows | {QUANTILES: [q.astype(np.float32) for q in quantiles]}), tasks


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    return summarise([((), Episodes.of(rows))], (), COLUMNS).set_index(["metric", "per"])


NUMBERS = ["estimate", "ci_low", "ci_high"]
COUNTS = [40, 500, 0, 120, 3, 900, 260, 60, 0, 310]


def test_per_task_is_a_ratio_of_sums_and_per_episode_a_mean():
    rows, tasks = episodes_of(COUNTS)
    found = summary_of(rows)
    pooled = np.concatenate(tasks)
    assert found.loc[("makespan_mean_s", "task"), "estimate"] == pytest.approx(pooled.mean())
    assert found.loc[("miss_rate", "task"), "estimate"] == pytest.approx((pooled > 1.5).mean())
    some = np.array(COUNTS) > 0
    sums, counts = (np.array([f(x) for x in tasks])[some] for f in (np.sum, len))
    np.testing.assert_allclose(
        found.loc[("makespan_mean_s", "task"), NUMBERS].to_numpy(float), ratio_interval(sums, counts)
    )
    np.testing.assert_allclose(
        found.loc[("makespan_mean_s", "episode"), NUMBERS].to_numpy(float), mean_interval(sums / counts)
    )
    assert set(found["n_seeds_all"]) == {10}
    row = found.loc["makespan_mean_s", "task"]
    assert (row["n_seeds"], row["n_tasks"], row["n_clusters"]) == (8, sum(COUNTS), 8)
    assert found.loc[("utilisation_0", "episode"), "n_seeds"] == 10
    assert found.loc[("utilisation_0", "episode"), "ci_high"] <= 1
    assert list(found.index[:2]) == [("makespan_mean_s", "task"), ("makespan_mean_s", "episode")]


def test_percentiles_per_task_are_those_of_all_tasks():
    rows, tasks = episodes_of(40 * COUNTS, seed=1)
    found, pooled = summary_of(rows), np.concatenate(tasks)
    for p in PERCENTILES:
        row = found.loc[f"makespan_p{p}_s", "task"]
        assert row["estimate"] == pytest.approx(np.percentile(pooled, p), rel=0.01)
        assert row["ci_low"] < row["estimate"] < row["ci_high"]
        own = rows[f"makespan_p{p}_s"].dropna()
        assert found.loc[(f"makespan_p{p}_s", "episode"), "estimate"] == pytest.approx(own.mean())


@pytest.mark.parametrize("size", [1, 2, 7, 400])
def test_pooled_quantiles_of_episodes_of_one_size(size: int):
    rng = np.random.default_rng(size)
    tasks = rng.exponential(1, (4000 // size, size))
    table = np.quantile(tasks, LEVELS, axis=1).T.astype(np.float32)
    counts, at = np.full(len(tasks), size), np.array([0.1, 0.5, 0.95, 0.99])
    found = pooled_quantiles(table, LEVELS, counts, clusters=np.arange(len(tasks)), at=at).estimate
    np.testing.assert_allclose(found, np.quantile(tasks, at), rtol=0.05)


def test_pooled_quantiles_of_equal_makespans():
    table = np.tile(np.array([[1.0], [2.0], [np.nan]], np.float32), len(LEVELS))
    found = pooled_quantiles(
        table, LEVELS, np.array([300, 100, 0]), clusters=np.arange(3), at=np.array([0.5, 0.9])
    )
    np.testing.assert_allclose(found.estimate, [1, 2])
    empty = pooled_quantiles(table[2:], LEVELS, np.array([0]), clusters=np.arange(1), at=np.array([0.5]))
    assert np.isnan(empty).all()


def test_quantiles_of_makespans_that_end_at_a_deadline():
    rng = np.random.default_rng(1)
    tasks = np.minimum(rng.lognormal(0, 1, (40, 1)) * rng.lognormal(0, 0.3, (40, 60)), 1.2)
    assert 0.5 < np.mean(tasks < 1.2) < 0.6
    table = np.quantile(tasks, LEVELS, axis=1).T.astype(np.float32)
    at = np.array([0.5, 0.6, 0.99])
    found = pooled_quantiles(table, LEVELS, np.full(40, 60), clusters=np.arange(40), at=at)
    assert found.estimate[0] < 1.2
    np.testing.assert_allclose(found.high, 1.2, rtol=1e-6)  # it may be the deadline in all cases
    np.testing.assert_allclose(found.estimate[1:], 1.2, rtol=1e-6)
    assert found.low[1] < 1.19  # the share of the tasks in time may be above 0.6
    assert found.low[2] == found.estimate[2]


def test_intervals_of_pooled_quantiles_cover_them():
    rng, n, at = np.random.default_rng(0), 32, np.array([0.5, 0.95, 0.99])

    def draw(n: int) -> np.ndarray:
        return np.exp(0.3 * rng.standard_normal((n, 1))) * rng.lognormal(0, 0.5, (n, 60))

    truth, hits = np.quantile(draw(100_000), at), np.zeros(3)
    for _ in range(200):
        table = np.quantile(draw(n), LEVELS, axis=1).T.astype(np.float32)
        found = pooled_quantiles(table, LEVELS, np.full(n, 60), clusters=np.arange(n), at=at)
        hits += (found.low <= truth) & (truth <= found.high)
    assert np.all(hits >= 180)  # P(fewer | 95 %) < 0.3 %


def test_what_no_cluster_has_may_still_happen():
    """If a share of q of all seeds had another value, 20 seeds without would be as rare as 2.5 %."""
    rows, _ = episodes_of([50] * 20)
    q = 1 - 0.025 ** (1 / 20)
    for value, bounds in ((0.0, [0, q]), (1.0, [1 - q, 1]), (0.5, [0.5, 0.5])):
        found = summary_of(rows.assign(utilisation_0=value))
        np.testing.assert_allclose(
            found.loc[("utilisation", "episode"), NUMBERS].to_numpy(float), [value, *bounds]
        )
    # A number of tasks has no largest value, so nothing is known beyond what was seen.
    assert summary_of(rows).loc[("num_tasks", "episode"), NUMBERS].tolist() == [50, 50, 50]


def test_seeds_on_the_same_stretch_are_one_cluster():
    rows, tasks = episodes_of([40] * 12, seed=3)
    found = summary_of(rows.assign(stretch=np.arange(12) % 4))
    row = found.loc["makespan_mean_s", "task"]
    assert (row["n_seeds"], row["n_clusters"]) == (12, 4)
    sums = np.array([np.concatenate(tasks[k::4]).sum() for k in range(4)])
    np.testing.assert_allclose(row[NUMBERS].to_numpy(float), ratio_interval(sums, np.full(4, 120.0)))
    assert found.loc[("makespan_p50_s", "task"), "n_clusters"] == 4
    # Episodes of one seed on many stretches depend on each other through its agents.
    several = summary_of(
        rows.assign(seed=np.arange(12) % 3, episode=np.arange(12) // 3, stretch=np.arange(12))
    )
    assert several.loc[("makespan_mean_s", "task"), "n_clusters"] == 3


def test_pairs_are_of_common_episodes_and_clusters():
    ours, mine = episodes_of([40, 0, 60, 20], seed=4)
    theirs, other = episodes_of([40, 0, 60, 20, 30], seed=5, scale=2.0)
    pair = Episodes.of(ours.iloc[::-1]), Episodes.of(theirs)
    pairs = Pairs.of(METRICS["makespan_mean_s"], [pair, (pair[1], pair[0])], "task")
    assert pairs.clusters.tolist() == pairs.seeds.tolist() == [3, 3]
    own, others = (np.array([x[k].sum() for k in (0, 2, 3)]) for x in (mine, other))
    found = pairs.reduction()
    np.testing.assert_allclose(np.array(found)[:, 0], reduction_interval(own, others))
    np.testing.assert_allclose(np.array(found)[:, 1], reduction_interval(others, own))
    tasks = np.array([40.0, 60.0, 20.0])
    np.testing.assert_allclose(np.array(pairs.difference())[:, 0], ratio_interval(own - others, tasks))
    for name in ("makespan_mean_s", "miss_rate"):
        pairs = Pairs.of(METRICS[name], [pair, (pair[1], pair[0])], "task")
        np.testing.assert_allclose(pairs.gap, pairs.difference().estimate, atol=1e-15)


def rows_with_misses(misses: np.ndarray, warmup: int = 0) -> pd.DataFrame:
    """Rows of 50 tasks per seed in 20 slots, half of the tasks at each of two base stations."""
    tasks = np.full(len(misses), 50 - warmup)
    rates = np.clip(misses / 50, 0, 1)
    return pd.DataFrame({
        "seed": np.arange(len(misses)), "num_tasks": tasks, "miss_rate": rates,
        "goodput_per_s": (1 - rates) * tasks / (20 - warmup), "num_in_time": (1 - rates) * tasks,
        "station_miss_rate_0": rates, "station_miss_rate_1": rates,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("column", "factor"),
    [(METRICS["goodput_per_s"], -50 / 20), (IN_TIME, -50), (METRICS["station_miss_rate"], 1)],
    ids=lambda each: getattr(each, "name", ""),
)
def test_what_counts_misses_is_compared_as_they_are(column: Column, factor: float):
    rng = np.random.default_rng(6)
    few, none = np.zeros(32), np.zeros(32)
    few[:2] = 9, 4
    many = rng.binomial(50, 0.2, 32)
    of = [Episodes.of(rows_with_misses(misses)) for misses in (few, none, many, none + 50)]
    pairs = [(of[1], of[0]), (of[1], of[1]), (of[0], of[2]), (of[3], of[3])]
    misses, found = (Pairs.of(each, pairs, each.weightings[0]) for each in (METRICS["miss_rate"], column))
    wanted = np.sort(factor * np.array(misses.difference())[1:, :3], axis=0)
    np.testing.assert_allclose(np.array(found.difference())[1:, :3], wanted, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.p_value(), misses.p_value(), rtol=1e-6)
    np.testing.assert_allclose(found.gap, found.difference().estimate, atol=1e-12)
    assert misses.p_value()[0] > 0.05
    assert misses.p_value()[2] < 0.01
    assert np.all(np.array(found.difference().high - found.difference().low)[:3] > 0)


def test_goodputs_over_different_slots_are_compared_by_themselves():
    misses = np.random.default_rng(7).binomial(40, 0.2, (2, 32))
    pair = Episodes.of(rows_with_misses(misses[0])), Episodes.of(rows_with_misses(misses[1], warmup=10))
    pairs = Pairs.of(METRICS["goodput_per_s"], [pair], "episode")
    ours, theirs = (episodes.metrics["goodput_per_s"] for episodes in pair)
    np.testing.assert_allclose(np.array(pairs.difference())[:, 0], mean_interval(ours - theirs))
    np.testing.assert_allclose(pairs.p_value(), mean_p_value(ours - theirs))


def test_rows_that_do_not_say_how_many_tasks_there_were_are_refused():
    rows, _ = episodes_of([3, 4])
    with pytest.raises(InputError, match="num_tasks"):
        Episodes.of(rows.drop(columns="num_tasks"))
