"""A log cut in two: agents are evaluated where they were not trained; test stretches are one or apart."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers.request_logs import QUICK, cuts_of, played, scenario_of, small_rows, stretches_of, write
from hypothesis import given
from hypothesis import strategies as st

from amco_jax import (
    Comparison,
    Evaluation,
    InputError,
    Scenario,
    Sweep,
    Training,
    Tuning,
    get_method,
    run_study,
)
from amco_jax.report.studies import load_studies
from amco_jax.study.simulate import simulate
from amco_jax.traces.stretches import MAX_STRETCHES, cut, in_slots, longest_slot, stretch_stride
from amco_jax.workload import tables_of, workload_of

SEEDS, EPISODES = 300, 40


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", small_rows())


def windows(scenario: Scenario, episodes: range, training: bool, first_seed: int = 0) -> Any:
    """`[seeds, episodes, num_slots+2]`, the first request of each slot, and of the two after the episode."""
    shape, params = scenario.shape(), scenario.params()
    tables = tables_of([scenario], shape).of(0)  # pyright: ignore[reportArgumentType]

    def first(seed: Any, episode: Any) -> Any:
        return workload_of(shape, params, tables, seed, episode, training=training).first  # pyright: ignore

    each = jax.jit(jax.vmap(jax.vmap(first, (None, 0)), (0, None)))
    return np.asarray(each(np.arange(SEEDS, dtype=np.uint32) + np.uint32(first_seed), np.asarray(episodes)))


@pytest.mark.parametrize(
    "table", [{}, {"train_share": 0.3}, {"gap": 0.0}, {"gap": 600.0, "train_share": 0.6}]
)
def test_no_request_is_trained_on_and_evaluated(small: Path, table: dict[str, Any]):
    scenario = scenario_of(small, table=table, time_scale=45.0)
    trained = windows(scenario, range(1, EPISODES), training=True)
    evaluated = windows(scenario, range(EPISODES), training=False)
    # Training looks at the slot after an episode too.
    assert trained[..., -1].max() <= evaluated[..., 0].min()
    assert len(np.unique(trained[..., 0])) > 5
    log = played(scenario).log
    last, first = log.seconds[trained[..., -1].max() - 1], log.seconds[evaluated[..., 0].min()]
    assert first - last >= table.get("gap", 6 * 45.0)


def test_training_and_testing_under_different_time_scales_share_nothing(small: Path):
    scales = (7.0, 31.0, 45.0, 60.0, 77.0)
    last = max(
        windows(scenario_of(small, time_scale=s), range(EPISODES), True)[..., -1].max() for s in scales
    )
    first = min(windows(scenario_of(small, time_scale=s), range(2), False)[..., 0].min() for s in scales)
    assert last <= first


def test_test_stretches_are_the_same_or_disjoint_and_rows_tell_which(small: Path):
    scenario = scenario_of(small, time_scale=30.0)
    cuts = cuts_of(scenario)
    assert cuts.num_stretches > 5
    for episode in (0, 3):
        first = windows(scenario, range(episode, episode + 1), training=False)[:, 0]
        number = stretches_of(scenario, np.arange(SEEDS), episode)
        slots = cuts.first + cuts.spacing * number[:, None] + np.arange(6 + 1)
        np.testing.assert_array_equal(
            first[:, :-1], np.searchsorted(played(scenario).log.in_slots(30.0), slots)
        )
        # Any run of seeds is spread as evenly as can be.
        for start, count in ((0, 3), (17, cuts.num_stretches), (100, 100)):
            times = np.bincount(number[start : start + count], minlength=cuts.num_stretches)
            assert times.max() - times.min() <= 1
    assert cuts.spacing >= 6
    shifted = [stretches_of(scenario, np.arange(1), episode)[0] for episode in range(30)]
    assert len(set(shifted)) > 3


@given(count=st.integers(1, MAX_STRETCHES))
def test_strides_go_through_all_stretches(count: int):
    stride = stretch_stride(count)
    assert len(np.unique(np.arange(count, dtype=np.int64) * stride % count)) == count
    assert count < 10 or abs(stride / count - 0.618) < 0.25


@given(
    span=st.floats(1, 1e7), slot=st.floats(1e-2, 1e4), num_slots=st.integers(1, 500),
    share=st.just(0.0) | st.floats(1e-9, 1), gap=st.none() | st.floats(0, 1e5),
)  # fmt: skip
def test_cuts_lie_on_the_log(span: float, slot: float, num_slots: int, share: float, gap: float | None):
    cuts = cut(span, slot, num_slots, share, gap)
    assert cuts.training * slot <= share * span * (1 + 1e-12)
    if share:
        wanted = num_slots * slot if gap is None else gap
        assert cuts.first * slot >= (share * span + wanted) * (1 - 1e-12)
    if cuts.num_stretches:
        assert cuts.spacing >= num_slots
        last = math.floor(in_slots(span, slot))
        assert cuts.first + cuts.spacing * (cuts.num_stretches - 1) + num_slots <= last + 1
    longest = longest_slot(span, num_slots, share, gap, 3) * (1 - 1e-9)
    if longest > 0:
        assert cut(span, longest, num_slots, share, gap).num_stretches >= 3
        assert share == 0 or cut(span, longest, num_slots, share, gap).starts(num_slots) >= 1


START = datetime.datetime(2025, 3, 1, 8, 0, 0, 370000)


@pytest.mark.parametrize(
    ("times", "slot"),
    [
        ([1700000000000 + 100 * k for k in range(2000)], 0.1),  # ms since 1970
        ([str(START + datetime.timedelta(milliseconds=100 * k)) for k in range(2000)], 0.1),
        ([11 * k for k in range(500)], 1.1 * 10),
        ([f"{22 * k}.3" for k in range(500)], 2.2 * 10),
        ([f"{1700000000 + k}.3" for k in range(500)], 1.0),
    ],
)
def test_requests_at_the_starts_of_slots_are_in_these(tmp_path: Path, times: list[Any], slot: float):
    path = write(tmp_path / "even.csv", [f"{time},g" for time in times], "gmt_create,groupId")
    table = {
        "file": str(path),
        "train_share": 0.5,
        "gap": 0,
        "unit": "ms" if len(str(times[0])) == 13 else "",
    }
    scenario = Scenario(trace=table, time_scale=slot, num_slots=20, num_servers=2)  # pyright: ignore
    own = played(scenario).own(scenario, 1)
    np.testing.assert_array_equal(own.slot, np.arange(len(times)))
    assert not own.share.any()
    cuts, split = cuts_of(scenario), played(scenario).split(scenario)
    assert (cuts.training, cuts.first) == ((len(times) - 1) // 2, len(times) // 2)
    assert split["training"]["requests"] == cuts.training
    assert split["test"]["requests"] == cuts.num_stretches * 20 + (cuts.spacing - 20) * (
        cuts.num_stretches - 1
    )
    played(scenario).check_unseen(scenario, scenario.to_dict())  # the same division of the same log


def test_many_stretches_are_counted_in_32_bits(tmp_path: Path):
    path = write(tmp_path / "long.csv", ["0,g", "40000,g", "80000,g"], "gmt_create,groupId")
    scenario = Scenario(trace={"file": str(path), "train_share": 0, "unit": "s"}, num_slots=1, num_servers=1)  # pyright: ignore
    assert cuts_of(scenario).num_stretches == MAX_STRETCHES
    found = stretches_of(scenario, np.arange(MAX_STRETCHES) + 2**32 - MAX_STRETCHES, 7)
    assert len(np.unique(found)) == MAX_STRETCHES


def test_results_name_the_stretch_of_each_row(small: Path, tmp_path: Path):
    scenario = scenario_of(small, time_scale=20.0)
    result = run_study(
        Sweep(
            "time_scale",
            values=[10, 20],
            methods=["local", QUICK],
            seeds=12,
            scenario=scenario,
            trained_seeds=5,
            episodes=2,
        ),
        tmp_path / "s",
    )
    assert result.rows["stretch"].dtype == np.int64
    assert set(result.summary["metric"]).isdisjoint({"stretch"})
    for value, rows in result.rows.groupby("value"):
        number = stretches_of(scenario.replace(time_scale=value), np.asarray(rows["seed"]), 0)
        np.testing.assert_array_equal(rows["stretch"], number)
    splits = result.manifest["trace"]["splits"]
    assert [split["test"]["stretches"] for split in splits] == [
        cuts_of(scenario.replace(time_scale=s)).num_stretches for s in (10, 20)
    ]
    assert splits[0]["training"]["last"] < splits[0]["test"]["first"]
    assert splits[0]["training"]["requests"] + splits[0]["test"]["requests"] <= 400
    assert splits[0]["gap_s"] >= 6 * 10
    assert "stretch" not in {c.name for c in load_studies([tmp_path / "s"])[0].estimated_columns}
    plain = run_study(
        Sweep(
            "deadline",
            values=[0.5, 1.0],
            methods=["local"],
            seeds=4,
            scenario=Scenario(num_servers=2, num_tasks=3, num_slots=4),
        )
    )
    assert "stretch" not in plain.rows


def test_rows_without_a_log_stand_for_themselves(small: Path):
    rows = run_study(
        Sweep(
            "arrivals", values=["trace", "poisson"], methods=["local"], seeds=5, scenario=scenario_of(small)
        )
    ).rows
    drawn = rows.loc[rows["value"] == "poisson", "stretch"]
    np.testing.assert_array_equal(drawn, [-1, -2, -3, -4, -5])
    assert (rows.loc[rows["value"] == "trace", "stretch"] >= 0).all()


def test_agents_are_evaluated_behind_their_training(small: Path, tmp_path: Path):
    scenario = scenario_of(small, time_scale=20.0)
    trained = run_study(Training(QUICK, seeds=3, episodes=2, scenario=scenario), tmp_path / "agents")
    assert trained.manifest["trace"]["used"] == 400
    with pytest.raises(InputError, match=r"scenario: .*request log.*; legal: the scenario and the trace"):
        run_study(Evaluation(tmp_path / "agents", methods=["local"]))
    found = run_study(Evaluation(tmp_path / "agents", scenario=scenario, methods=["local"], episodes=2))
    assert found.manifest["scenario"]["trace"]["sha256"] == trained.manifest["trace"]["sha256"]
    numbers = [stretches_of(scenario, np.arange(3), e) for e in (0, 3)]
    np.testing.assert_array_equal(
        found.rows.loc[found.rows["method"] == "local", "stretch"], np.concatenate(numbers)
    )
    assert set(found.summary["metric"]).isdisjoint({"stretch"})
    with pytest.raises(
        InputError, match=r"trace\.train_share: 0\.2, and episodes would begin .*; legal: 0\.5"
    ):
        run_study(
            Evaluation(
                tmp_path / "agents", scenario=scenario_of(small, time_scale=20.0, table={"train_share": 0.2})
            )
        )


def test_settings_are_chosen_in_the_training_stretch(small: Path):
    scenario = scenario_of(small, time_scale=20.0)
    found = run_study(
        Tuning(QUICK, {"discount": [0.5]}, seeds=3, episodes=2, scenario=scenario, reference="local")
    ).rows
    assert "stretch" not in found
    window = windows(scenario, range(3, 4), training=True, first_seed=2**31)[:3, 0]
    np.testing.assert_array_equal(found["num_tasks"], window[:, -2] - window[:, 0])
    assert np.asarray(found["num_tasks"]).any()
    process = played(scenario)
    end = cuts_of(scenario).training * process.slot_seconds(scenario)
    assert window[:, -2].max() <= np.searchsorted(process.log.seconds, end)


def test_rules_beside_training_play_its_episodes(small: Path):
    scenario = scenario_of(small, time_scale=20.0)
    curves = run_study(
        Comparison(["local", QUICK], seeds=3, episodes=2, last=1, scenario=scenario, physics=["unified"])
    ).rows
    assert "stretch" not in curves
    local = get_method("local")
    rule = next(simulate([scenario], local, local.physics("unified"), 0, 3, episode=1, training=True))
    first = windows(scenario, range(1, 2), training=True)[:3, 0]
    np.testing.assert_array_equal(rule.metrics["num_tasks"], first[:, -2] - first[:, 0])
    makespan = curves.loc[(curves["method"] == "local") & (curves["episode"] == 0), "makespan_mean_s"]
    np.testing.assert_array_equal(makespan, rule.metrics["makespan_mean_s"])


def test_logs_too_short_are_refused_with_what_would_do(small: Path, tmp_path: Path):
    nothing = scenario_of(small, table={"train_share": 0.0})
    for attempt in (
        lambda: run_study(Training(QUICK, seeds=1, episodes=1, scenario=nothing)),
        lambda: run_study(Comparison(["local"], seeds=1, episodes=1, last=1, scenario=nothing)),
        lambda: run_study(Tuning(QUICK, {"discount": [0.5]}, seeds=1, episodes=1, scenario=nothing)),
        lambda: run_study(Sweep("time_scale", values=[60], methods=[QUICK], seeds=1, scenario=nothing)),
    ):
        with pytest.raises(
            InputError, match=r"trace\.train_share: 0 of \d+ s holds no episode .*legal for training"
        ):
            attempt()
    assert (
        len(run_study(Sweep("time_scale", values=[60], methods=["local"], seeds=2, scenario=nothing)).rows)
        == 2
    )
    with pytest.raises(InputError, match=r"num_slots: 6 of 60 s .*, of which 0 is for testing; legal: fewer"):
        scenario_of(small, table={"train_share": 1})
    point = write(tmp_path / "point.csv", ["2025-03-01,g"] * 3, "gmt_create,groupId")
    with pytest.raises(InputError, match=r"legal: .*a longer trace"):
        scenario_of(point)


def test_the_split_does_not_depend_on_what_else_runs(small: Path):
    scenario = scenario_of(small, time_scale=30.0)
    whole = run_study(Sweep("time_scale", values=[30], methods=["local"], seeds=9, scenario=scenario)).rows
    part = run_study(
        Sweep("time_scale", values=[30], methods=["local"], seeds=4, scenario=scenario, first_seed=5)
    ).rows
    pd.testing.assert_frame_equal(whole.iloc[5:].reset_index(drop=True), part)
    again = Scenario(**scenario.to_dict())
    assert json.dumps(played(scenario).split(scenario)) == json.dumps(played(again).split(again))
