"""The sweep as a function: results, intervals, files, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.studies import carry_out
from scipy import stats

from amco_jax import Execution, InputError, Method, Scenario, Sweep, per_task
from amco_jax.params import ORDERS, TIMINGS
from amco_jax.report.page import make_report, write_report
from amco_jax.report.studies import load_studies
from amco_jax.scenario.axes import apply_settings, parse_settings, parse_value, value_labels
from amco_jax.stats import mean_interval, rate_interval, ratio_interval
from amco_jax.study.output import Output

SMALL = Scenario(num_servers=2, num_tasks=5, num_slots=4)
FIGURES = ("makespan", "miss_rate", "goodput_per_s", "response_mean_s")
KEYS = ["method", "param", "value", "seed"]


def run(param="arrival_prob", values=(0.3, 0.8), methods=("local", "optimal"), seeds=12, **more: Any):
    options: dict[str, Any] = {"scenario": SMALL} | more
    return carry_out(Sweep, param, values=values, methods=methods, seeds=seeds, **options)


def test_results_are_tidy_and_complete():
    results = run().rows
    assert list(results.columns[:4]) == KEYS
    assert [c for c in results.columns if c.startswith("utilisation")] == [
        f"utilisation_{i}" for i in range(2)
    ]
    assert len(results) == 2 * 2 * 12
    assert not results.duplicated(KEYS).any()
    assert results["miss_rate"].between(0, 1).all()


def test_without_percentiles_everything_else_is_the_same(tmp_path):
    whole, short = run(), run(percentiles=False, out=tmp_path / "out")
    left_out = set(whole.rows.columns) - set(short.rows.columns)
    assert "makespan_p99_s" in left_out
    assert whole.manifest["percentiles"]["exact"]
    assert short.manifest["percentiles"] is None
    assert all(name.startswith(("makespan_p", "makespan_quantiles")) for name in left_out)
    pd.testing.assert_frame_equal(short.rows, whole.rows.drop(columns=sorted(left_out)))
    kept = whole.summary.query("metric not in @left_out")
    pd.testing.assert_frame_equal(short.summary, kept.reset_index(drop=True))
    (page,) = write_report(make_report(load_studies([tmp_path / "out"])), tmp_path / "report", ["md"])
    assert "makespan" in page.read_text("utf-8")
    assert "response_p99_s" in run(percentiles=False, metrics=["response_quantiles_s"]).rows


def test_summary_holds_intervals_of_the_results():
    result = run()
    rows = result.summary.set_index(["method", "value", "metric", "per"]).loc["local", 0.8]
    sample = result.rows.query("method == 'local' and value == 0.8")
    tasks = sample["num_tasks"].to_numpy()
    makespan = sample["makespan_mean_s"].to_numpy()
    columns = ["estimate", "ci_low", "ci_high"]
    for per, expected in (
        ("task", ratio_interval(makespan * tasks, tasks)),
        ("episode", mean_interval(makespan)),
    ):
        row = rows.loc["makespan_mean_s", per]
        assert (row["n_seeds"], row["n_seeds_all"], row["n_clusters"]) == (12, 12, 12)
        assert row["n_tasks"] == tasks.sum()
        np.testing.assert_allclose(row[columns].to_numpy(float), expected)
    missed = np.rint(sample["miss_rate"] * tasks)
    found = rows.loc["miss_rate", "task"][columns].to_numpy(float)
    np.testing.assert_allclose(found, rate_interval(missed, tasks))


def test_a_value_that_is_cut_into_units_is_summarised_as_a_whole():
    whole = run(seeds=300)
    pieces = run(seeds=300, execution=Execution(unit_seconds=1e-6))
    assert pieces.manifest["units"] > whole.manifest["units"]
    pd.testing.assert_frame_equal(whole.summary, pieces.summary)


@pytest.mark.parametrize(("param", "values"), [("order", ORDERS), ("timing", TIMINGS)])
def test_orders_and_timings_are_swept_as_words(param: str, values: tuple[str, ...]):
    base = SMALL.replace(arrival_prob=0.9, deadline=0.2)
    swept = run(param, None, ("optimal",), scenario=base).rows.set_index("value")
    assert list(dict.fromkeys(swept.index)) == list(values)
    makespans = set()
    for value in values:
        alone = run("deadline", [0.2], ("optimal",), scenario=base.replace(**{param: value})).rows
        np.testing.assert_array_equal(swept.loc[[value], "makespan_mean_s"], alone["makespan_mean_s"])
        makespans.add(alone["makespan_mean_s"].mean())
    assert len(makespans) == len(values)


def test_seeds_without_tasks_count_for_nothing_and_are_told():
    result = run(values=[0.01], methods=["local"], seeds=40, scenario=SMALL.replace(num_tasks=3))
    sample = result.rows
    some = sample["num_tasks"].to_numpy() > 0
    assert 0 < some.sum() < 40
    rows = result.summary.set_index(["metric", "per"])
    for per in ("task", "episode"):
        row = rows.loc["makespan_mean_s", per]
        assert (row["n_seeds"], row["n_seeds_all"], row["n_clusters"]) == (some.sum(), 40, some.sum())
        assert np.all(np.isfinite(row[["estimate", "ci_low", "ci_high"]].to_numpy(float)))
    np.testing.assert_allclose(
        rows.loc[("makespan_mean_s", "episode"), "estimate"], sample["makespan_mean_s"][some].mean()
    )
    assert rows.loc[("num_tasks", "episode"), "n_seeds"] == 40


def test_each_method_trains_for_its_own_number_of_episodes_unless_told():
    methods = ["amcoedge-plus", "amcoedge-regret", "amcoedge", "local"]
    study = Sweep("deadline", [0.5], methods=methods)
    assert [cell.train_episodes for cell in study.cells()] == [20, 50, 500, 0]
    own = {"amcoedge-plus": 20, "amcoedge-regret": 50, "amcoedge": 500}
    assert study.describe()["training"]["episodes"] == own
    study = Sweep("deadline", [0.5], methods=methods, episodes=7)
    assert [cell.train_episodes for cell in study.cells()] == [7, 7, 7, 0]
    with pytest.raises(InputError, match="episodes: 0"):
        Sweep("deadline", [0.5], methods=methods, episodes=0)


def test_optimal_is_never_worse_than_local_at_low_load():
    fleet = Scenario(num_tasks=5, num_slots=4)
    rows = run(values=[0.1], seeds=50, scenario=fleet).rows
    wide = rows.pivot(index="seed", columns="method", values="makespan_mean_s")
    assert np.all(np.asarray(wide["optimal"]) <= np.asarray(wide["local"]) + 1e-6)


def test_fleets_of_different_sizes_leave_gaps():
    results = run("num_servers", values=[2, 3], methods=["optimal"]).rows
    known = {
        size: np.isfinite(results.query(f"value == {size}").filter(like="utilisation")) for size in (2, 3)
    }
    np.testing.assert_array_equal(known[2].all(axis=0), [True, True, False])
    np.testing.assert_array_equal(known[2].any(axis=0), [True, True, False])
    assert np.all(known[3])


def test_capacity_sets_are_labelled():
    summary = run("capacity", values=[(10, 20), (10, 15)]).summary
    assert list(dict.fromkeys(summary["value"])) == ["10-20", "10-15"]


def test_files_equal_the_returned_frames(tmp_path):
    in_memory = run()
    on_disk = run(out=tmp_path / "new")
    pd.testing.assert_frame_equal(in_memory.rows, on_disk.rows)
    pd.testing.assert_frame_equal(in_memory.summary, pd.read_csv(tmp_path / "new" / "summary.csv"))
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert manifest["scenario"]["num_tasks"] == 5
    assert {"versions", "device", "git_commit", "command", "wall_time_s", "num_seeds"} <= manifest.keys()
    names = {"results.parquet", "summary.csv", "manifest.json", "SHA256SUMS", "units"}
    figures = {f"{n}.{s}" for n in FIGURES for s in ("png", "pdf")}
    assert {p.name for p in (tmp_path / "new").iterdir()} == names | figures


def content(path: Path) -> list[bytes]:
    """The bytes of a file, or of all files in a directory."""
    return [p.read_bytes() for p in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()]


def test_same_seeds_give_the_same_tables_and_figures(tmp_path):
    for name in ("a", "b"):
        run(out=tmp_path / name)
    for file in ("results.parquet", "summary.csv", "makespan.png", "makespan.pdf"):
        assert content(tmp_path / "a" / file) == content(tmp_path / "b" / file), file


def test_a_failing_sweep_leaves_its_finished_units_and_no_results(tmp_path):
    def broken(view):
        raise RuntimeError("user error")

    with pytest.raises(RuntimeError, match="user error"):
        run(methods=["local", Method("broken", per_task(broken))], out=tmp_path / "new")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"units", "results.parquet"}
    assert len(list((tmp_path / "new" / "units").glob("*.sha256"))) == 1


def test_results_are_not_overwritten_unasked(tmp_path):
    run(out=tmp_path)
    before = content(tmp_path / "results.parquet")
    with pytest.raises(InputError, match="holds results"):
        run(out=tmp_path, seeds=3)
    assert content(tmp_path / "results.parquet") == before
    run(out=tmp_path, seeds=3, overwrite=True)
    assert content(tmp_path / "results.parquet") != before


def test_results_that_are_being_overwritten_have_no_manifest(tmp_path: Path):
    """It would vouch for rows that are gone if the run were stopped."""

    def broken(view: Any) -> Any:
        raise RuntimeError("user error")

    run(out=tmp_path)
    with pytest.raises(RuntimeError, match="user error"):
        run(out=tmp_path, methods=[Method("broken", per_task(broken))], overwrite=True)
    assert not (tmp_path / "manifest.json").exists()


def test_unwritable_destinations_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out: .*cannot be written"):
        Output(tmp_path / "file")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"param": "speed"}, "param: 'speed'"),
        ({"values": []}, "values: "),
        ({"values": [math.nan]}, "arrival_prob: nan; legal: a number from 0 to 1"),
        ({"values": ["x"]}, "arrival_prob: 'x'"),
        ({"methods": []}, "methods: "),
        ({"methods": ["best"]}, "method: 'best'"),
        ({"methods": ["fastest-0"]}, "method: 'fastest-0'"),
        ({"methods": ["fastest-k"]}, "method: 'fastest-k'"),
        ({"methods": ["local", "local"]}, "each method once"),
        ({"seeds": 0}, "seeds: 0"),
        ({"seeds": 2.5}, "seeds: 2.5"),
        ({"first_seed": -1}, "first_seed: -1"),
        ({"first_seed": 2**31 - 5}, "seeds: 12; legal: a whole number from 1 to 5"),
        ({"values": [0.3, 0.30]}, "each value once"),
        (
            {"param": "capacity", "values": [10, (10.0, 10.0)]},
            "values: 10, 10-10; legal: each value once",
        ),
        ({"physics": "newtonian"}, "physics: 'newtonian'"),
        ({"param": "capacity", "values": [(1, 2, 3)]}, "capacity: shape"),
        ({"param": "capacity_scale", "values": [-1]}, "capacity_scale: -1"),
        ({"param": "num_servers", "values": [11], "methods": ["optimal-enumeration"]}, "at most 10"),
    ],
)
def test_bad_input_names_field_value_and_range(arguments, words):
    with pytest.raises(InputError) as error:
        run(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_are_read_and_applied_in_order():
    settings = parse_settings(
        ["num_servers=3", "capacity=10-20-30", "capacity_scale=2", "link_rate=[1, 2, 3]"]
    )
    scenario = apply_settings(Scenario(), settings)
    assert scenario.capacities.tolist() == [20, 40, 60]
    assert scenario.link_rates[0].tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="set: 'deadline'; legal: field=value"):
        parse_settings(["deadline"])
    with pytest.raises(InputError, match=r"unknown field 'speed'; legal: .*deadline"):
        apply_settings(Scenario(), parse_settings(["speed=1"]))
    with pytest.raises(InputError, match="twice"):
        parse_settings(["deadline=1", "deadline=2"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("10-20", (10, 20)),
        ("1,2.5", (1, 2.5)),
        ("1e1-2.5e-1-3", (10, 0.25, 3)),
        ("1e-1", 0.1),
        ("[1, 2]", [1, 2]),
        ('{file = "a#b"}', {"file": "a#b"}),
        ("x", "x"),
        *((text, text) for text in ("0.05\nnum_tasks=3", "3 # deadline=2", "5\n#", "0.5\n[x]\ny=1", "3} #")),
        *((text, text) for text in ("10-20,30-40", "٣-20", "3, 4 #", "")),
        ("[" * 5000, "[" * 5000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_values_are_parsed(text, value):
    assert parse_value(text) == value


def test_labels_tell_all_lists_apart():
    lists = [(10.0, 0.25), (1e6, 1000001), (1000002.0, 1 / 3), (0.1 + 0.2, 1e-7), (1e17, 20)]
    labels = [
        "10-0.25",
        "1e+06-1000001",
        "1000002-0.3333333333333333",
        "0.30000000000000004-1e-07",
        "1e+17-20",
    ]
    assert value_labels(lists) == labels
    assert [*map(parse_value, labels)] == lists


def test_coverage_of_intervals_over_disjoint_seed_blocks():
    """Intervals from 40 disjoint blocks of seeds cover the mean over all of them about 95 % of the time."""
    everything = run(values=[0.3], methods=["local"], seeds=40 * 25).rows["makespan_mean_s"].to_numpy()
    blocks = everything.reshape(40, 25)
    low, high = stats.t.interval(0.95, 24, blocks.mean(axis=1), stats.sem(blocks, axis=1))
    covered = ((low <= everything.mean()) & (everything.mean() <= high)).sum()
    assert covered >= 33  # P(fewer | 95 %) < 0.3 %
