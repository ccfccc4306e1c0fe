"""Trained agents loaded again, on arrivals and scenarios that they have not seen."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers.refusals import refused
from helpers.studies import carry_out
from helpers.tiny_training import EPISODES, LEARN, METHOD, SEEDS, TINY, Script, local_metrics, run

from amco_jax.agents.actions import partners, sets_of
from amco_jax.agents.methods import Method, get_method, trained_method
from amco_jax.agents.qlearning import QLearning
from amco_jax.alloc import ALLOCATORS
from amco_jax.errors import InputError
from amco_jax.results.saved import write_digests
from amco_jax.scenario import Scenario
from amco_jax.study.agents import AgentStore
from amco_jax.study.evaluate import Evaluation, load_run
from amco_jax.study.run import run_study
from amco_jax.study.sweep import Sweep


def test_agents_are_evaluated_on_arrivals_that_no_training_has_seen(finished: Path, tmp_path: Path):
    found = run_study(Evaluation(finished, methods=["local"], episodes=3), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "results.parquet",
        "summary.csv",
        "manifest.json",
        "SHA256SUMS",
        "units",
    }
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "results.parquet"), found.rows)
    table = found.rows.set_index(["method", "episode", "seed"]).sort_index()
    assert len(table) == 2 * 3 * SEEDS
    trained = [local_metrics(TINY, 1 + e)["makespan_mean_s"] for e in range(EPISODES)]
    for count, number in enumerate((0, EPISODES + 1, EPISODES + 2)):
        metrics = local_metrics(TINY, number)
        np.testing.assert_array_equal(
            table.loc["local", count]["makespan_mean_s"], metrics["makespan_mean_s"]
        )
        np.testing.assert_array_equal(table.loc["drlcoedge", count]["num_tasks"], metrics["num_tasks"])
        assert all((metrics["makespan_mean_s"] != other).any() for other in trained)
    assert found.manifest["trained"]["episodes"] == EPISODES


def test_summaries_are_over_each_seed_s_episodes(finished: Path):
    found = run_study(Evaluation(finished, methods=["local"], episodes=2))
    rows = found.summary.set_index(["method", "metric", "per"]).loc["drlcoedge"]
    own = found.rows.query("method == 'drlcoedge'")
    missed, tasks = own["miss_rate"] * own["num_tasks"], own["num_tasks"]
    np.testing.assert_allclose(rows.loc[("miss_rate", "task"), "estimate"], missed.sum() / tasks.sum())
    np.testing.assert_allclose(rows.loc[("miss_rate", "episode"), "estimate"], own["miss_rate"].mean())
    for _, row in rows.iterrows():
        assert row["n_clusters"] == row["n_seeds"] == SEEDS
        assert row["ci_low"] <= row["estimate"] <= row["ci_high"]


def test_episodes_without_tasks_make_no_summary_nan(finished: Path):
    quiet = TINY.replace(arrival_prob=0.01)
    found = run_study(Evaluation(finished, scenario=quiet, methods=["local"], episodes=3))
    tasks = found.rows.query("method == 'local'")["num_tasks"]
    assert 0 < np.count_nonzero(tasks) < len(tasks)
    rows = found.summary.set_index(["method", "metric", "per"]).loc["local"]
    assert rows.loc[("makespan_mean_s", "task"), "n_tasks"] == tasks.sum()
    assert rows.loc[("makespan_mean_s", "task"), "n_seeds_all"] == SEEDS
    assert np.isfinite(rows.loc["makespan_mean_s", "estimate"]).all()
    assert np.isfinite(rows.loc["miss_rate", "estimate"]).all()


def test_agents_keep_the_allocator_that_they_were_trained_with(tmp_path: Path):
    mine = trained_method("mine", partners, **LEARN)
    run(method=mine.with_allocator("hecwa"), seeds=1, episodes=1, out=tmp_path)
    assert load_run(tmp_path, method=mine).method.allocator is ALLOCATORS["hecwa"]
    assert load_run(tmp_path, method=mine.with_allocator("hecwa")).method.name == "mine+hecwa"


def test_another_allocator_takes_the_place_of_the_first():
    named = get_method("randcoedge+hecwa").with_allocator("waterfill")
    assert named.name == "randcoedge+waterfill"
    assert get_method(named.name) == named


def test_each_seed_is_decided_by_its_own_agents(finished: Path, tmp_path: Path):
    """The agents of a training are those of a sweep."""
    wanted = run_study(
        Sweep("deadline", values=[1.0], methods=[METHOD], seeds=SEEDS, scenario=TINY, episodes=EPISODES)
    ).rows
    assert len(set(wanted["mean_servers_used"])) > 1
    run(out=tmp_path, first_seed=1, seeds=2)
    for directory, seeds, chosen in (
        (finished, None, slice(None)),
        (finished, 2, slice(2)),
        (load_run(finished), 1, slice(1)),
        (tmp_path, None, slice(1, 3)),
    ):
        found = run_study(Evaluation(directory, methods=[], seeds=seeds)).rows
        assert found["seed"].tolist() == wanted["seed"][chosen].tolist()
        for name in ("makespan_mean_s", "mean_servers_used", "num_tasks"):
            np.testing.assert_array_equal(found[name], wanted[name][chosen])


def test_agents_of_later_blocks_decide_for_their_own_seeds(tmp_path: Path):
    seeds = QLearning.seeds_per_block + 3
    run(out=tmp_path, seeds=seeds)
    options: dict[str, Any] = {"seeds": seeds, "trained_seeds": seeds, "episodes": EPISODES, "scenario": TINY}
    wanted = run_study(Sweep("deadline", values=[1.0], methods=[METHOD], **options)).rows
    found = run_study(Evaluation(tmp_path, methods=[])).rows
    for name in ("makespan_mean_s", "mean_servers_used"):
        np.testing.assert_array_equal(found[name], wanted[name])
    assert len(set(found["mean_servers_used"][QLearning.seeds_per_block :])) > 1


@pytest.mark.parametrize("method", ["drlcoedge-stable", "amcoedge", "amcoedge-plus+hecwa"])
def test_agents_of_another_method_are_refused(finished: Path, method: str):
    words = f"method: {method.partition('+')[0]}", "; legal for these agents: drlcoedge"
    refused(lambda: load_run(finished, method=method), *words)


def test_agents_of_other_shapes_are_refused(finished: Path):
    other = dataclasses.replace(METHOD.require_training(), actions=sets_of(3))
    words = "holds arrays of other shapes; legal: those of drlcoedge with 2 servers"
    refused(lambda: load_run(finished, method=Method("drlcoedge", training=other)), words)


def test_agents_of_any_fleet_are_read_in_any_fleet(tmp_path: Path):
    run(method="amco-priced-trained", seeds=1, episodes=1, out=tmp_path)
    found = run_study(Evaluation(tmp_path, methods=[], scenario=Scenario(num_servers=3, num_slots=4)))
    assert found.manifest["scenario"]["num_servers"] == 3


def test_agents_are_read_once_for_all_episodes(finished: Path, monkeypatch: pytest.MonkeyPatch):
    names, load = [], AgentStore.load
    monkeypatch.setattr(AgentStore, "load", lambda self, *given: names.append(given[0]) or load(self, *given))
    loaded = load_run(finished)
    names.clear()
    run_study(Evaluation(loaded, methods=[], episodes=3))
    assert names == list(loaded.agents.names)


def test_agents_in_blocks_of_another_size_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(QLearning, "seeds_per_block", 8)
    with pytest.raises(InputError, match=r"^agents: .* holds 16 seeds; legal: 8, the seeds_per_block"):
        load_run(finished)


def test_agents_are_evaluated_under_another_scenario_and_physics(finished: Path):
    usual = run_study(Evaluation(finished, methods=["local"])).rows
    busier = run_study(
        Evaluation(finished, scenario=TINY.replace(arrival_prob=0.9), methods=["local"], physics="published")
    )
    assert np.all(busier.rows["num_tasks"] > usual["num_tasks"])
    assert busier.manifest["scenario"]["arrival_prob"] == 0.9
    assert busier.manifest["trained"]["scenario"]["arrival_prob"] == 0.6
    assert (busier.manifest["physics"], busier.manifest["trained"]["physics"]) == ("published", "unified")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scenario": Scenario(num_servers=3)}, "num_servers: 3; legal for these agents: 2"),
        ({"methods": ["amcoedge"]}, "methods: amcoedge is trained; legal: rules"),
        ({"methods": ["bound"]}, "method: bound is a lower bound and decides nothing; legal: in a sweep"),
        ({"methods": ["best"]}, "method: 'best'"),
        ({"methods": ["local", "local"]}, "methods: "),
        ({"seeds": SEEDS + 1}, f"seeds: {SEEDS + 1}; legal: a whole number from 1 to {SEEDS}"),
        ({"episodes": 0}, "episodes: 0"),
        ({"physics": "newtonian"}, "physics: 'newtonian'"),
    ],
)
def test_bad_evaluations_are_refused(finished: Path, changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        carry_out(Evaluation, finished, **changes)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"power_busy": (300.0, 400.0), "link_rate": 50.0}, {"capacity": (20, 30)}),
        ({"capacity": (20, 30)}, {"link_rate": 20.0}),
        ({}, {"num_servers": 3}),
    ],
)
def test_a_changed_fleet_has_what_follows_from_it(given: dict, changes: dict, script: Script, tmp_path: Path):
    scenario = Scenario(num_servers=2, num_tasks=4, num_slots=4, **given)
    run(method="amco-priced-trained", scenario=scenario, seeds=1, episodes=1, out=tmp_path / "run")
    assert load_run(tmp_path / "run").scenario.to_dict() == scenario.to_dict()
    ((name, value),) = changes.items()
    change = f"{name}={'-'.join(map(str, np.ravel(value)))}"
    line = ["--set", change, "--methods", "local", "--out", tmp_path / "out"]
    assert script("evaluate", tmp_path / "run", *line)[0] == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    wanted = scenario.replace(**changes).to_dict()
    assert manifest["scenario"] == json.loads(json.dumps(wanted))


def test_directories_without_a_finished_training_are_refused_in_a_line(finished: Path, tmp_path: Path):
    run_study(Sweep("deadline", values=(0.5,), methods=["local"], seeds=2, scenario=TINY), tmp_path / "sweep")
    shutil.copytree(finished, tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "agents")
    for name, text in (("junk", "{"), ("list", "[]"), ("empty", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
        write_digests(tmp_path / name)
    for name in ("missing", "sweep", "torn", "junk", "list", "empty"):
        with pytest.raises(InputError) as error:
            run_study(Evaluation(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_agents_of_a_method_of_one_s_own_are_loaded_with_it(finished: Path, tmp_path: Path):
    out = tmp_path / "own"
    shutil.copytree(finished, out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"method": "mine"}))
    write_digests(out)
    refused(lambda: load_run(out), "method: 'mine'; legal: ", "--method module:attribute")
    mine = trained_method("mine", partners)
    loaded = load_run(out, method=mine)
    assert loaded.method.name == "mine"
    assert loaded.method.require_training().settings == METHOD.require_training().settings
    jax.tree.map(np.testing.assert_array_equal, loaded.weights, load_run(finished).weights)
