"""Metrics as entries of the registry and as a user's own, from the device to the report."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.episodes import SMALL, run
from helpers.paths import ROOT
from helpers.tiny_training import EPISODES, METHOD, SEEDS, TINY, Script

from amco_jax import (
    METRICS,
    Column,
    Comparison,
    Metric,
    Reduction,
    Scenario,
    Shown,
    Sweep,
    Training,
    run_study,
)
from amco_jax.agents.methods import get_method
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.metrics import choose, column_entries, columns_in, columns_of
from amco_jax.report.page import make_report, write_report
from amco_jax.report.studies import load_studies
from amco_jax.stats.summaries import Episodes, Pairs
from amco_jax.study.base import StudyResult
from amco_jax.study.evaluate import load_run
from amco_jax.study.simulate import simulate

POSITIVE = (0.0, math.inf)
LATE = Metric(
    name="late_s", label="mean tardiness", unit="s", better="lower", bounds=POSITIVE,
    of_task=lambda task: jnp.maximum(task.finish - task.params.deadline, 0),
)  # fmt: skip
ACCEPTED = Metric(
    name="accepted", label="accepted tasks", reduction=Reduction.SUM, whole=True,
    of_task=lambda task: ~task.rejected,
)  # fmt: skip
RESPONSE = Metric(
    name="response_s", label="mean response", unit="s", over=ACCEPTED, of_task=lambda task: task.finish
)
GOODPUT = Metric(
    name="goodput", label="tasks in time per second", unit="1/s", better="higher",
    reduction=Reduction.MEAN_OF_SLOTS, of_task=lambda task: ~task.missed / task.params.slot_duration,
)  # fmt: skip
BACKLOG = Metric(
    name="backlog", label="backlog", unit="Gcycles", reduction=Reduction.MEAN_OF_SLOTS, per_server=True,
    of_slot=lambda slot: slot.next_backlog,
    also=(Column(name="backlog_max", label="largest backlog", of="backlog", how="max"),),
)  # fmt: skip
STATION_TASKS = Metric(
    name="tasks_at", label="tasks by station", reduction=Reduction.SUM, whole=True, per_server=True,
    of_task=lambda task: task.local,
)  # fmt: skip
AT = Metric(
    name="makespan_at", label="makespan by station", unit="s", per_server=True, over=STATION_TASKS,
    of_task=lambda task: jnp.where(task.local, task.makespan, 0),
)  # fmt: skip
FINISHES = Metric(
    name="finishes_s", label="response", unit="s", reduction=Reduction.QUANTILES,
    of_task=lambda task: task.finish,
    also=(
        Column(name="finish_p95_s", label="p95", reduction=Reduction.QUANTILES, of="finishes_s", level=0.95),
    ),
)  # fmt: skip
SIGNED = Metric(
    name="signed", label="a whole number of either sign", reduction=Reduction.SUM, whole=True,
    of_task=lambda task: jnp.where(task.missed, -3, 2),
)  # fmt: skip
OWN = (LATE, RESPONSE, GOODPUT, BACKLOG, AT, FINISHES, SIGNED)
TIGHT = SMALL.replace(deadline=0.3)


def test_a_user_s_metrics_are_what_the_decisions_give():
    method = get_method("optimal-admission")
    (batch,) = simulate([TIGHT], method, UNIFIED, 0, 3, metrics=choose(OWN))
    (usual,) = simulate([TIGHT], method, UNIFIED, 0, 3)
    for name, values in usual.metrics.items():  # nothing else changes
        np.testing.assert_array_equal(batch.metrics[name], values)
    for seed in range(3):
        episode = run(method=method, seed=seed, policy_seed=seed, scenario=TIGHT)
        d, found = episode.decisions, {name: values[seed] for name, values in batch.metrics.items()}
        here, servers = d.present, TIGHT.num_servers
        taken, finish = here & ~d.rejected, d.finish[here]
        assert 0 < taken.sum() < here.sum()
        assert found["accepted"] == taken.sum()
        late = np.maximum(finish - np.float32(0.3), 0)
        np.testing.assert_allclose(found["late_s"], late.mean(), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found["response_s"], d.finish[taken].mean(), rtol=1e-5)
        in_time = (here & ~d.missed).sum()
        per_second = in_time / TIGHT.num_slots / TIGHT.slot_duration
        np.testing.assert_allclose(found["goodput"], per_second, rtol=1e-5)
        assert found["signed"] == 2 * in_time - 3 * (here & d.missed).sum()
        np.testing.assert_allclose(found["finish_p95_s"], np.quantile(finish, 0.95), rtol=1e-5)
        assert found["finishes_s"].shape == found["makespan_quantiles_s"].shape
        served = np.float32(TIGHT.capacities) * np.float32(TIGHT.slot_duration)
        after = np.maximum(episode.backlog + episode.slot_load - served, 0).mean(axis=0)
        for i in range(servers):
            np.testing.assert_allclose(found[f"backlog_{i}"], after[i], rtol=1e-4, atol=1e-6)
            makespans = d.makespan[:, i][here[:, i]]
            assert found[f"tasks_at_{i}"] == len(makespans)
            np.testing.assert_allclose(found[f"makespan_at_{i}"], makespans.mean(), rtol=1e-5)


def test_finish_goes_on_beyond_the_deadline():
    d = run(scenario=TIGHT.replace(deadline=0.05)).decisions
    late = d.present & d.missed & ~d.rejected
    assert late.any()
    assert (d.finish[late] > 0.05).all()
    assert (d.makespan[late] == np.float32(0.05)).all()
    on_time = d.present & ~d.missed
    np.testing.assert_array_equal(d.finish[on_time], d.makespan[on_time])


def test_columns_survive_a_manifest():
    columns = columns_of(choose(OWN))
    assert columns_in({"metrics": column_entries(columns)}) == columns
    for metrics in (None, [{}], [{"name": "x"}], [column_entries(columns)[0] | {"shown": "nowhere"}], [1]):
        with pytest.raises(InputError, match="legal: results of this version"):
            columns_in({"metrics": metrics})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: choose(["speed"]), "metrics: 'speed'; legal: makespan_mean_s, "),
        (lambda: choose("miss_rate"), "metrics: 'miss_rate'; legal: a list"),
        (lambda: choose([cast(Any, 3)]), "metrics: a int; legal: names of metrics, or an amco_jax.Metric"),
        (lambda: named("Late"), "metrics: 'Late'; legal: a name of small letters, digits and _"),
        (lambda: choose([named("miss_rate")]), "metrics: miss_rate is a name of the package's own"),
        (lambda: choose([named("seed")]), "metrics: seed; legal: names that no other column has"),
        (lambda: choose([named("utilisation_0")]), "metrics: utilisation_0; legal"),
        (lambda: named("x", of_task=None), "metrics: x has of_task and of_slot, or neither; legal: one"),
        (lambda: named("x", of_slot=lambda slot: 0), "metrics: x has of_task and of_slot, or neither"),
        (lambda: named("x", of_task=3), "of_task: a int; legal: a function"),
        (lambda: named("x", over=LATE), "metrics: x is over late_s; legal: a metric that is a sum"),
        (lambda: named("x", reduction=Reduction.QUANTILES, level=0.5), "metrics: x has of, how or level"),
        (lambda: named("x", better="more"), "metrics: better = 'more' in x; legal: lower, higher, None"),
        (lambda: play(named("x", of_task=lambda task: task.wait)), "metrics: x gives shape [3]; legal: one"),
        (lambda: play(named("x", per_server=True)), "metrics: x gives shape []; legal: one number for"),
        (lambda: play(named("x", of_task=lambda task: None)), "metrics: x gives a NoneType; legal: a number"),
        (lambda: play(named("x", whole=True)), "metrics: x gives float32; legal: whole numbers or booleans"),
        (lambda: play(named("x", reduction=Reduction.RATE)), "metrics: x gives float32; legal: booleans"),
    ],
)  # fmt: skip
def test_bad_metrics_are_refused_in_a_line(make: Any, words: str, unchecked: None):
    with pytest.raises(InputError) as error:
        make()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def named(name: str, **fields: Any) -> Metric:
    return Metric(**{"name": name, "label": name, "of_task": lambda task: task.size} | fields)


def play(metric: Metric) -> None:
    list(simulate([SMALL], get_method("local"), UNIFIED, 0, 1, metrics=choose([metric])))


FILE = """
import jax.numpy as jnp
from amco_jax import Metric

JITTER = Metric(
    name="jitter_s", label="distance from the deadline", unit="s", better="higher",
    of_task=lambda task: {scale} * jnp.abs(task.params.deadline - task.makespan),
)
"""


def test_a_metric_from_the_command_line_appears_everywhere(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    file, out = tmp_path / "jitters.py", tmp_path / "out"
    file.write_text(FILE.format(scale=1))
    command = [
        "sweep", "--param", "deadline", "--values", 0.5, 1, "--methods", "local", "optimal", "--seeds", 8,
        "--set", "num_servers=2", "num_tasks=4", "num_slots=4", "--metrics", "jitters:JITTER", "--out", out,
    ]  # fmt: skip
    code, printed, error = script(*command)
    assert code == 0, error
    assert "distance from the deadline [s]" in " ".join(printed.split())
    rows = pd.read_parquet(out / "results.parquet")
    np.testing.assert_allclose(rows["jitter_s"], rows["value"] - rows["makespan_mean_s"], rtol=1e-4)
    summary = pd.read_csv(out / "summary.csv").query("metric == 'jitter_s'")
    assert set(summary["per"]) == {"task", "episode"}
    assert (out / "jitter_s.png").exists()

    (study,) = load_studies([out])
    del sys.modules["jitters"]  # reports read the results alone
    report = make_report([study])
    usual = {"makespan_mean_s", "miss_rate", "goodput_per_s", "response_mean_s"}
    assert set(report.compared["metric"]) == usual | {"jitter_s"}
    own = report.compared.query("metric == 'jitter_s' and condition == 1.0 and method == 'local'").iloc[0]
    jitters = rows.query("value == 1.0").pivot(index="seed", columns="method", values="jitter_s")
    wins = (jitters["local"] > jitters["optimal"]).mean()  # higher is better
    assert own["improvement"] == pytest.approx(wins)
    tables = report.tables(0)
    assert "reduction of distance from the deadline [%]" in tables["comparisons-jitter_s"].columns
    place = list(tables["means"].columns).index("distance from the deadline [s]")
    best = {row[1].text for row in tables["means"].rows if row[place].best}
    assert best == {"greedy optimum"}
    assert "jitter_s" in report.figures(0)
    write_report(report, tmp_path / "report", ["html", "md", "csv"])
    assert "distance from the deadline" in (tmp_path / "report" / "report.md").read_text()

    file.write_text(FILE.format(scale=2))
    code, _, error = script(*command, "--resume")
    assert code == 0, error
    np.testing.assert_allclose(pd.read_parquet(out / "results.parquet")["jitter_s"], 2 * rows["jitter_s"])
    code, _, error = script(*command[:-4], "--metrics", "jitters:NONE", "--out", tmp_path / "other")
    assert code == 2
    assert error.startswith("error: metrics: 'jitters:NONE' cannot be imported: ")


def test_curves_of_training_hold_a_user_s_metric(result: StudyResult, tmp_path: Path):
    found = run_study(
        Training(METHOD, seeds=SEEDS, episodes=EPISODES, scenario=TINY, metrics=[GOODPUT, BACKLOG, FINISHES]),
        tmp_path / "t",
    )
    pd.testing.assert_frame_equal(found.rows.filter(list(result.rows)), result.rows, check_exact=True)
    curves = found.rows
    limit = curves["num_tasks"] / TINY.num_slots / TINY.slot_duration
    np.testing.assert_allclose(curves["goodput"], (1 - curves["miss_rate"]) * limit, rtol=1e-5)
    assert np.all(curves[["backlog_0", "backlog_1"]] >= 0)
    assert {path.name for path in (tmp_path / "t").glob("*.png")} == {
        "convergence.png", "convergence-goodput.png", "convergence-backlog.png"
    }  # fmt: skip
    assert load_run(tmp_path / "t").weights  # which need no metric
    (study,) = load_studies([tmp_path / "t"])
    assert "convergence-unified-goodput" in make_report([study]).figures(0)


def test_comparisons_tell_a_user_s_metric():
    found = run_study(
        Comparison(
            ["optimal", "local"],
            seeds=3,
            episodes=4,
            last=2,
            scenario=TINY,
            physics=["unified"],
            metrics=[GOODPUT],
        )
    )
    assert set(found.summary["metric"]) == {"makespan_mean_s", "goodput"}
    assert set(found.summary.query("metric == 'goodput'")["per"]) == {"episode"}


def test_methods_that_count_different_tasks_are_compared_by_their_means():
    result = run_study(
        Sweep(
            "deadline",
            values=[0.3],
            methods=["optimal-admission", "local"],
            seeds=60,
            scenario=TIGHT,
            metrics=[RESPONSE],
        )
    )
    rows = result.rows
    ours, theirs = (Episodes.of(rows.loc[rows["method"] == m]) for m in ("optimal-admission", "local"))
    pairs = Pairs.of(RESPONSE, [(ours, theirs)], "task")
    means = [
        float((e.metrics["response_s"] * e.metrics["accepted"]).sum() / e.metrics["accepted"].sum())
        for e in (ours, theirs)
    ]
    assert np.any(ours.metrics["accepted"] < theirs.metrics["accepted"])
    difference, reduction = pairs.difference(), pairs.reduction()
    assert float(difference.estimate[0]) == pytest.approx(means[0] - means[1])
    assert float(reduction.estimate[0]) == pytest.approx(1 - means[0] / means[1])
    assert difference.low[0] < difference.estimate[0] < difference.high[0]
    same = result.summary.query("metric == 'response_s' and per == 'task' and method == 'optimal-admission'")
    np.testing.assert_allclose(same["estimate"], means[0])


def test_the_page_lists_the_registry():
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    table = re.search(r"\| column \| unit .*\n\| ---.*\n((?:\|.*\n)+)", page)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    assert [(name.strip("`"), unit, how, better, shown) for name, unit, _, how, better, shown in rows] == [
        (m.name, m.unit, str(m.reduction), m.better or "", m.shown.name.lower()) for m in METRICS.values()
    ]
    for column in columns_of(METRICS.values()):
        assert f"`{column.name}`" in page


def test_names_of_metrics_stand_in_the_registry_alone():
    """But for the environment, whose steps tell each task by itself."""
    names = re.compile(
        r"makespan_mean_s|miss_rate|reject_rate|servers_used|makespan_p\d|utilisation_|goodput_|response_m"
    )
    found = {
        path.relative_to(ROOT / "amco_jax").as_posix()
        for path in (ROOT / "amco_jax").rglob("*.py")
        if names.search(path.read_text("utf-8"))
    }
    assert found == {"metrics/registry.py", "metrics/counts.py", "metrics/over_slots.py"}


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    def told(name: str) -> Metric:
        return Metric(name=name, label=name, of_task=lambda task: calls.append(name) or task.size)

    monkeypatch.setitem(METRICS, "idle", dataclasses.replace(told("idle"), shown=Shown.ASKED))
    asked = told("asked")
    list(
        simulate(
            [Scenario(num_servers=2, num_tasks=2, num_slots=2)],
            get_method("local"),
            UNIFIED,
            0,
            1,
            metrics=choose([asked]),
        )
    )
    assert set(calls) == {"asked"}
