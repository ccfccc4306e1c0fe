"""Lower bounds of many seeds: below every method, in rows as in Python, and the same for any neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from amco_jax import Scenario, Sweep, bound, load_scenario, run_study
from amco_jax.bounds import drawn
from amco_jax.bounds.drawn import Places, all_places
from amco_jax.bounds.relaxation import SlotTasks
from amco_jax.errors import InputError
from amco_jax.metrics import METRICS
from amco_jax.results.saved import open_run

# Slow links and little capacity, so that links reach the cap, tasks are late, and backlogs outlast slots.
BUSY = Scenario(
    num_servers=3, num_tasks=4, num_slots=5, arrival_prob=0.6, density_min=1, density_max=4, link_rate=12
)
RULES = ("optimal-admission", "randcoedge")


def rows_of(scenario: Scenario, physics: str = "unified", methods: tuple[str, ...] = RULES) -> pd.DataFrame:
    study = Sweep(
        "deadline", [0.15, 0.5, 2.5], methods=[*methods, "bound"], seeds=8, scenario=scenario, physics=physics
    )
    return run_study(study).rows


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return rows_of(BUSY, "published")


def check_below(rows: pd.DataFrame) -> None:
    """The bound is below all methods, seed by seed, and not just anywhere."""
    for name in ("makespan_mean_s", "miss_rate"):
        table = rows.pivot(index=["value", "seed"], columns="method", values=name)
        assert np.all(table.drop(columns="bound").min(axis=1) >= table["bound"])
    table = rows.pivot(index=["value", "seed"], columns="method", values="makespan_mean_s")
    assert np.all(table["bound"] > 0.3 * table["optimal-admission"])


def test_no_method_is_below_the_bound_in_its_published_physics(rows: pd.DataFrame):
    check_below(rows)
    late = rows.query("method == 'bound' and value == 0.15")["miss_rate"]
    assert np.all(np.asarray(late) > 0)


@pytest.mark.parametrize("given", [{"order": "turns"}, {"timing": "continuous"}], ids=str)
def test_no_method_is_below_the_bound_in_another_order_or_timing(given: dict[str, Any]):
    check_below(rows_of(BUSY.replace(**given), methods=RULES[:1]))


@pytest.mark.parametrize(("timing", "load"), [("slotted", 0.9), ("continuous", 0.1)])
def test_no_method_is_below_the_bound_with_whole_images_and_starts(timing: str, load: float):
    scenario = load_scenario("gpu-sd14-loading").replace(num_slots=3, num_tasks=4, timing=timing)
    study = Sweep("arrival_prob", [load], methods=["optimal-admission", "bound"], seeds=4, scenario=scenario)
    check_below(run_study(study).rows)


def test_a_server_that_is_hardly_of_use_lowers_the_bound_no_further():
    bounds = [
        np.mean(bound(BUSY.replace(deadline=1.0, capacity=(least, 20.0, 30.0)), seeds=2).makespan_s)
        for least in (1.0, 0.1, 0.001)
    ]
    assert bounds == sorted(bounds)


def test_rows_have_what_is_bounded_and_nothing_else(rows: pd.DataFrame):
    own, other = (rows[rows["method"] == method].reset_index() for method in ("bound", "optimal-admission"))
    assert own["num_tasks"].tolist() == other["num_tasks"].tolist()
    assert np.all(pd.isna(own["num_accepted"]))
    known = ["method", "param", "value", "seed", "episode", "num_tasks", "makespan_mean_s", "miss_rate"]
    lists = own.pop("makespan_quantiles_s")
    assert np.all(pd.isna(own.drop(columns=["index", *known])))
    assert all(np.all(np.isnan(each)) for each in lists)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.per_server])
def test_results_with_a_metric_of_servers_and_a_bound_are_read(name: str, tmp_path: Path):
    study = Sweep("deadline", [0.5], methods=["local", "bound"], seeds=2, scenario=BUSY, metrics=[name])
    run_study(study, tmp_path / "out")
    rows = open_run(tmp_path / "out", ["sweep"]).table("results.parquet")
    bounded = rows.set_index("method").loc["bound"].filter(like=f"{name}_")
    assert bounded.shape == (2, BUSY.num_servers)
    assert np.all(pd.isna(bounded))


def test_python_gives_the_numbers_of_the_rows(rows: pd.DataFrame):
    found = bound(BUSY.replace(deadline=0.5), seeds=3, first_seed=2)
    expected = rows.query("method == 'bound' and value == 0.5 and 2 <= seed < 5")
    assert found.seeds.tolist() == [2, 3, 4]
    # Blocks of other seeds, and so other neighbours.
    assert found.makespan_s.tolist() == expected["makespan_mean_s"].tolist()
    assert (found.misses / found.num_tasks).tolist() == expected["miss_rate"].tolist()
    assert np.all(found.gap_s >= 0)


def test_a_warm_up_leaves_its_slots_out():
    late = bound(BUSY.replace(warmup=4), seeds=2)
    every = bound(BUSY, seeds=2)
    assert np.all(late.num_tasks < every.num_tasks)


def test_slots_with_few_tasks_or_more_than_usual_have_arrays_of_their_own(monkeypatch: pytest.MonkeyPatch):
    scenario = BUSY.replace(arrivals="bursty", num_slots=20, arrival_prob=0.3)
    expected, used = bound(scenario, seeds=3), set()
    sizes = [Places(3, 2), Places(8, 4), all_places(scenario)]
    monkeypatch.setattr(drawn, "_sizes", lambda scenario: sizes)
    packed = drawn.packed

    def overheard(scenario: Scenario, slots: drawn.Drawn, places: Places) -> SlotTasks:
        used.add(places.tasks)
        return packed(scenario, slots, places)

    monkeypatch.setattr("amco_jax.study.bound.packed", overheard)
    found = bound(scenario, seeds=3)
    assert used == {places.tasks for places in sizes}
    np.testing.assert_allclose(found.makespan_s, expected.makespan_s, rtol=1e-3)
    assert found.num_tasks.tolist() == expected.num_tasks.tolist()
    assert found.misses.tolist() == expected.misses.tolist()
    assert np.any(found.misses > 0)


def test_of_no_tasks_there_is_no_bound():
    found = bound(BUSY.replace(arrival_prob=0), seeds=2)
    assert np.all(np.isnan(found.makespan_s))
    assert not np.any(found.misses)


@pytest.mark.parametrize(
    ("options", "legal"),
    [
        ({"seeds": 0}, "seeds"),
        ({"steps": 0}, "steps"),
        ({"scenario": BUSY.replace(num_slots=20, warmup="auto")}, "warmup"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], legal: str):
    given: Any = {"scenario": BUSY} | options
    with pytest.raises(InputError, match=legal):
        bound(**given)


def test_a_sweep_refuses_a_warm_up_that_a_pilot_run_would_find():
    with pytest.raises(InputError, match="legal with bound"):
        Sweep("deadline", [1], methods=["bound"], scenario=BUSY.replace(num_slots=20, warmup="auto"))


def test_a_sweep_has_fewer_seeds_of_what_takes_long():
    study = Sweep(
        "deadline", [0.5], methods=["local", "bound", "planner", "amcoedge"], trained_seeds=7, seeds=90
    )
    assert [cell.num_seeds for cell in study.cells()] == [90, 7, 7, 7]
