"""Training as a user runs it: files, interruption, evaluation, comparison, tuning, refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from test_commands import ROOT, assert_refused, command

from amco_jax.agents.actions import partners
from amco_jax.agents.methods import get_method, trained_method
from amco_jax.agents.settings import Settings
from amco_jax.alloc import hecwa
from amco_jax.errors import InputError
from amco_jax.experiment import trainer as trainer_module
from amco_jax.experiment.checkpoints import Journal, Saved
from amco_jax.experiment.compare import METRICS, compare
from amco_jax.experiment.evaluate import evaluate, load_run
from amco_jax.experiment.simulate import Batch, simulate
from amco_jax.experiment.sweep import sweep
from amco_jax.experiment.train import TrainResult, train
from amco_jax.experiment.trainer import LANES, Cell, OnTheSpot, Trainer
from amco_jax.experiment.tune import tune
from amco_jax.saved import write_digests
from amco_jax.scenario import Scenario

TINY = Scenario(
    num_servers=2,
    num_tasks=4,
    num_slots=6,
    arrival_prob=0.6,
    capacity=(3, 12),
    density_min=0.2,
    density_max=0.8,
)
LEARN = {
    "hidden": 8,
    "batch_size": 4,
    "replay_capacity": 12,
    "learn_after": 8,
    "learn_interval": 2,
    "greedy_growth": 0.02,
}
METHOD = get_method("drlcoedge").with_settings(**LEARN)
SEEDS, EPISODES = 4, 6
COLUMNS = [
    "method",
    "seed",
    "episode",
    "makespan_mean_s",
    "miss_rate",
    "loss",
    "epsilon",
    "mean_servers_used",
]
FILES = {"curves.parquet", "convergence.png", "convergence.pdf", "manifest.json", "SHA256SUMS", "agents"}


def run(**changes: Any) -> TrainResult:
    options: dict[str, Any] = {"seeds": SEEDS, "episodes": EPISODES, "scenario": TINY, "checkpoint_every": 2}
    options |= {"method": METHOD} | changes
    return train(**options)


def assert_same(left: TrainResult, right: TrainResult) -> None:
    pd.testing.assert_frame_equal(left.curves, right.curves, check_exact=True)
    jax.tree.map(np.testing.assert_array_equal, left.agents, right.agents)


def assert_same_files(left: Path, right: Path) -> None:
    assert {p.name for p in left.iterdir()} == {p.name for p in right.iterdir()}
    curves = (pd.read_parquet(home / "curves.parquet") for home in (left, right))
    pd.testing.assert_frame_equal(next(curves), next(curves), check_exact=True)
    jax.tree.map(np.testing.assert_array_equal, load_run(left).agents, load_run(right).agents)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the training be killed when it is about to advance for the given time, from 0."""
    advance = Trainer.advance

    def at(call: int) -> None:
        calls = iter(range(10**6))

        def killed(self: Trainer, episodes: int) -> Any:
            if next(calls) == call:
                raise KeyboardInterrupt
            return advance(self, episodes)

        monkeypatch.setattr(Trainer, "advance", killed)

    return at


def begin(out: Path, interrupt: Callable[[int], None], call: int, **changes: Any) -> None:
    """Leave an unfinished training in `out`."""
    interrupt(call)
    with pytest.raises(KeyboardInterrupt):
        run(out=out, **changes)
    interrupt(-1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "out"
    run(out=out)
    return out


@pytest.fixture(scope="module")
def result() -> TrainResult:
    return run()


def test_a_training_writes_curves_figure_agents_and_manifest(finished: Path, result: TrainResult):
    assert {p.name for p in finished.iterdir()} == FILES
    curves = pd.read_parquet(finished / "curves.parquet")
    assert list(curves.columns) == COLUMNS
    pd.testing.assert_frame_equal(curves, result.curves)
    manifest = json.loads((finished / "manifest.json").read_text())
    assert (manifest["kind"], manifest["method"], manifest["physics"]) == ("train", "drlcoedge", "unified")
    assert (manifest["num_seeds"], manifest["episodes"], manifest["first_seed"]) == (SEEDS, EPISODES, 0)
    assert manifest["settings"] == METHOD.require_training().settings.to_dict()
    assert manifest["scenario"] == TINY.to_dict()
    assert {"versions", "device", "git_commit", "command", "wall_time_s"} <= manifest.keys()
    assert (finished / "convergence.pdf").read_bytes().startswith(b"%PDF")


def test_curves_are_tidy(result: TrainResult):
    curves = result.curves
    assert curves["seed"].tolist() == [s for s in range(SEEDS) for _ in range(EPISODES)]
    assert curves["episode"].tolist() == SEEDS * list(range(EPISODES))
    assert curves["miss_rate"].between(0, 1).all()
    assert curves["mean_servers_used"].between(1, 2).all()  # the local server and at most one partner
    assert np.isnan(curves["loss"]).tolist() == (curves["episode"] == 0).tolist()  # learn_after=8
    assert curves["epsilon"].groupby(curves["seed"]).is_monotonic_increasing.all()
    assert jax.tree.leaves(result.agents)[0].shape[:2] == (SEEDS, TINY.num_servers)


def test_seeds_and_agents_keep_their_numbers(result: TrainResult):
    part = run(first_seed=1, seeds=2)
    wanted = result.curves.query("seed in (1, 2)").reset_index(drop=True)
    pd.testing.assert_frame_equal(part.curves, wanted, check_exact=True)
    jax.tree.map(np.testing.assert_array_equal, part.agents, jax.tree.map(lambda x: x[1:3], result.agents))


@pytest.mark.parametrize("checkpoint_every", [2, 4])
@pytest.mark.parametrize("call", [0, 1])
def test_a_resumed_training_equals_an_unbroken_one(
    finished: Path, tmp_path: Path, interrupt: Callable[[int], None], checkpoint_every: int, call: int
):
    out = tmp_path / "out"
    begin(out, interrupt, call, checkpoint_every=checkpoint_every)
    assert {p.name for p in out.iterdir()} == {".training"}
    run(out=out, checkpoint_every=checkpoint_every, resume=True)
    assert_same_files(out, finished)


@pytest.mark.parametrize("call", [2, 3, 5])
def test_resuming_goes_on_within_the_right_chunk_of_seeds(
    tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, call: int
):
    """Two chunks of three calls each, killed twice; the unbroken run has them in one chunk."""
    seeds = LANES + 3
    whole = run(seeds=seeds)
    monkeypatch.setitem(trainer_module.TRAINING_BYTES, "cpu", 1)
    begin(tmp_path, interrupt, call, seeds=seeds)
    done = []
    advance = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self, n: done.append(n) or advance(self, n))
    again = run(out=tmp_path, seeds=seeds, resume=True)
    assert done == [2] * (6 - call)  # nothing is trained twice
    assert_same(again, whole)
    assert not (tmp_path / ".training").exists()


def test_the_newest_checkpoint_counts(tmp_path: Path):
    """Also where a kill came between its writing and the removal of the one before."""
    journal = Journal(tmp_path / "journal", {}, resume=False)
    journal.save(3, Saved(9, np.zeros(2), np.ones(1)))
    shutil.copytree(tmp_path / "journal" / "chunk-3" / "9", tmp_path / "older")
    journal.save(3, Saved(10, np.full(2, 7.0), np.ones(1)))
    shutil.move(tmp_path / "older", tmp_path / "journal" / "chunk-3" / "9")
    again = Journal(tmp_path / "journal", {}, resume=True)
    assert again.load(0, (0, 0)) is None
    found = again.load(3, (0, 0))
    assert found is not None
    assert (found.episode, found.state.tolist(), found.curves.tolist()) == (10, [7, 7], [1])
    again.save(3, Saved(11, np.zeros(2), np.ones(1)))
    assert [p.name for p in (tmp_path / "journal" / "chunk-3").iterdir()] == ["11"]


def test_resuming_where_nothing_was_begun_begins(finished: Path, tmp_path: Path):
    run(out=tmp_path / "new", resume=True)
    assert_same_files(tmp_path / "new", finished)


def test_an_unfinished_training_is_not_replaced_unasked(
    finished: Path, tmp_path: Path, interrupt: Callable[[int], None]
):
    begin(tmp_path, interrupt, 1)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"^out: .* holds an unfinished training; legal: resume, overwrite$"):
        run(out=tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    run(out=tmp_path, overwrite=True)
    assert_same_files(tmp_path, finished)


def test_another_training_is_not_resumed(tmp_path: Path, interrupt: Callable[[int], None]):
    begin(tmp_path, interrupt, 1)
    other = METHOD.with_settings(discount=0.25)
    for changes, words in (
        ({"episodes": 7}, "episodes differ .*legal: episodes = 6"),
        ({"seeds": 5}, "num_seeds differ .*legal: num_seeds = 4"),
        ({"first_seed": 3, "physics": "published"}, "physics, first_seed differ "),
        ({"scenario": TINY.replace(deadline=0.5)}, "scenario differ .*'deadline': 1.0"),
        ({"method": other}, "settings differ .*'discount': 0.9"),
    ):
        with pytest.raises(InputError, match=rf"^resume: {words}") as error:
            run(out=tmp_path, resume=True, **changes)
        assert "\n" not in str(error.value)
    assert_same(run(out=tmp_path, resume=True), run())


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_training_is_not_replaced_unasked(finished: Path, resume: bool):
    before = (finished / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"^out: .* holds results; legal: another directory, or overwrite$"):
        run(out=finished, resume=resume)
    assert (finished / "manifest.json").read_bytes() == before
    assert {p.name for p in finished.iterdir()} == FILES


def test_a_finished_training_is_replaced_when_asked(finished: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    run(out=out, seeds=2, overwrite=True)
    assert {p.name for p in out.iterdir()} == FILES
    assert load_run(out).num_seeds == 2
    assert jax.tree.leaves(load_run(out).agents)[0].shape[0] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "optimal"}, "method: optimal is a rule; legal: amcoedge, smcoedge, drlcoedge"),
        ({"method": "best"}, "method: 'best'"),
        ({"seeds": 0}, "seeds: 0"),
        ({"first_seed": -1}, "first_seed: -1"),
        ({"episodes": 0}, "episodes: 0; legal: a whole number from 1"),
        ({"episodes": 2.5}, "episodes: 2.5"),
        ({"checkpoint_every": 0}, "checkpoint_every: 0"),
        ({"physics": "newtonian"}, "physics: 'newtonian'; legal: unified, published"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(changes: dict[str, Any], words: str, tmp_path: Path):
    with pytest.raises(InputError) as error:
        run(out=tmp_path / "new", **changes)
    assert str(error.value).startswith(words)
    assert not (tmp_path / "new").exists()


def local_metrics(scenario: Scenario, episode: int) -> dict[str, np.ndarray]:
    local = get_method("local")
    (batch,) = simulate([scenario], local, local.physics("unified"), 0, SEEDS, episode=episode)
    return batch.metrics


def test_agents_are_evaluated_on_arrivals_that_no_training_has_seen(finished: Path, tmp_path: Path):
    found = evaluate(finished, methods=["local"], episodes=3, out=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "results.parquet",
        "summary.csv",
        "manifest.json",
        "SHA256SUMS",
    }
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "results.parquet"), found.results)
    table = found.results.set_index(["method", "episode", "seed"]).sort_index()
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


def test_summaries_are_of_means_over_each_seed_s_episodes(finished: Path):
    found = evaluate(finished, methods=["local"], episodes=2)
    row = found.summary.query("method == 'drlcoedge' and metric == 'miss_rate'").iloc[0]
    own = found.results.query("method == 'drlcoedge'")["miss_rate"].to_numpy().reshape(2, SEEDS)
    assert row["n_seeds"] == SEEDS
    np.testing.assert_allclose(row["mean"], own.mean())
    assert row["ci_low"] <= row["mean"] <= row["ci_high"]


def test_each_seed_is_decided_by_its_own_agents(finished: Path, tmp_path: Path):
    """The agents that come from disk are those that a sweep trains on the spot."""
    cells = [Cell(TINY, METHOD.require_training().settings)]
    source = OnTheSpot(METHOD, METHOD.physics("unified"), cells, EPISODES)
    (wanted,) = simulate([TINY], METHOD, METHOD.physics("unified"), 0, SEEDS, source)
    assert len(set(wanted.metrics["mean_servers_used"])) > 1
    run(out=tmp_path, first_seed=1, seeds=2)
    for directory, seeds, chosen in (
        (finished, None, slice(None)),
        (finished, 2, slice(2)),
        (load_run(finished), 1, slice(1)),
        (tmp_path, None, slice(1, 3)),
    ):
        found = evaluate(directory, methods=[], seeds=seeds).results
        assert found["seed"].tolist() == wanted.seeds[chosen].tolist()
        for name in ("makespan_mean_s", "mean_servers_used", "num_tasks"):
            np.testing.assert_array_equal(found[name], wanted.metrics[name][chosen])


def test_agents_are_evaluated_under_another_scenario_and_physics(finished: Path):
    usual = evaluate(finished, methods=["local"]).results
    busier = evaluate(finished, TINY.replace(arrival_prob=0.9), methods=["local"], physics="published")
    assert np.all(busier.results["num_tasks"] > usual["num_tasks"])
    assert busier.manifest["scenario"]["arrival_prob"] == 0.9
    assert busier.manifest["trained"]["scenario"]["arrival_prob"] == 0.6
    assert (busier.manifest["physics"], busier.manifest["trained"]["physics"]) == ("published", "unified")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scenario": Scenario(num_servers=3)}, "num_servers: 3; legal for these agents: 2"),
        ({"methods": ["amcoedge"]}, "methods: amcoedge is trained; legal: rules"),
        ({"methods": ["best"]}, "method: 'best'"),
        ({"seeds": SEEDS + 1}, f"seeds: {SEEDS + 1}; legal: a whole number from 1 to {SEEDS}"),
        ({"episodes": 0}, "episodes: 0"),
        ({"physics": "newtonian"}, "physics: 'newtonian'"),
    ],
)
def test_bad_evaluations_are_refused(finished: Path, changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        evaluate(finished, **changes)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_directories_without_a_finished_training_are_refused_in_a_line(finished: Path, tmp_path: Path):
    sweep("deadline", (0.5,), ["local"], seeds=2, scenario=TINY, out=tmp_path / "sweep")
    shutil.copytree(finished, tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "agents")
    for name, text in (("junk", "{"), ("list", "[]"), ("empty", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
        write_digests(tmp_path / name)
    for name in ("missing", "sweep", "torn", "junk", "list", "empty"):
        with pytest.raises(InputError) as error:
            evaluate(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_agents_of_a_method_of_one_s_own_are_loaded_with_it(finished: Path, tmp_path: Path):
    out = tmp_path / "own"
    shutil.copytree(finished, out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"method": "mine"}))
    write_digests(out)
    with pytest.raises(InputError, match="method: 'mine'"):
        load_run(out)
    mine = trained_method("mine", partners)
    loaded = load_run(out, mine)
    assert loaded.method.name == "mine"
    assert loaded.method.require_training().settings == METHOD.require_training().settings
    jax.tree.map(np.testing.assert_array_equal, loaded.agents, load_run(finished).agents)


def test_methods_of_one_s_own_take_settings_and_an_allocator():
    mine = trained_method("mine", partners, episodes=7, allocator="hecwa", discount=0.5)
    assert (mine.require_training().episodes, mine.allocator) == (7, hecwa)
    assert mine.require_training().settings == Settings(discount=0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"allocator": "x"}, "allocator: 'x'"),
        ({"nonsense": 1}, "settings: unknown field 'nonsense'"),
        ({"discount": 2}, "discount: 2"),
    ],
)
def test_bad_methods_of_one_s_own_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        trained_method("mine", partners, **changes)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("compare")
    methods = [METHOD, "local", "all-servers"]
    return compare(methods, SEEDS, EPISODES, last=2, scenario=TINY, out=out)


def test_a_comparison_covers_both_physics_and_all_methods(comparison: Any):
    curves, final = comparison.curves, comparison.final
    for table in (curves, final):
        assert list(dict.fromkeys(table["physics"])) == ["published", "unified"]
        assert list(dict.fromkeys(table["method"])) == ["drlcoedge", "local", "all-servers"]
    assert len(curves) == 2 * 3 * SEEDS * EPISODES
    assert not curves.duplicated(["physics", "method", "seed", "episode"]).any()
    assert np.isfinite(curves[list(METRICS)]).all(axis=None)
    own = curves.query("method == 'drlcoedge'").pivot(index=["seed", "episode"], columns="physics")
    assert np.any(own["makespan_mean_s", "published"] != own["makespan_mean_s", "unified"])
    names = {"curves.parquet", "final.csv", "manifest.json", "SHA256SUMS"}
    figures = {f"convergence-{p}.{s}" for p in ("published", "unified") for s in ("png", "pdf")}
    assert {p.name for p in comparison.out.iterdir()} == names | figures
    pd.testing.assert_frame_equal(pd.read_csv(comparison.out / "final.csv"), final)


def test_rules_run_through_the_arrivals_of_the_training(comparison: Any, result: TrainResult):
    unified = comparison.curves.query("physics == 'unified'").set_index(["method", "episode", "seed"])
    unified = unified.sort_index()
    for episode in range(EPISODES):
        metrics = local_metrics(TINY, 1 + episode)
        for name in METRICS:
            np.testing.assert_array_equal(unified.loc["local", episode][name], metrics[name])
    own = unified.loc["drlcoedge"].reset_index().sort_values(["seed", "episode"])
    for name in (*METRICS, "loss", "epsilon"):
        np.testing.assert_array_equal(own[name], result.curves[name])


def test_reductions_are_those_of_the_means(comparison: Any):
    final = comparison.final.set_index(["physics", "method"])
    curves = comparison.curves
    for variant in ("published", "unified"):
        tail = curves.query(f"physics == '{variant}' and episode >= {EPISODES - 2}")
        makespan = tail.pivot_table(index="seed", columns="method", values="makespan_mean_s", aggfunc="mean")
        own = final.loc[variant, "drlcoedge"]
        assert (own["reduction"], own["reduction_low"], own["reduction_high"]) == (0, 0, 0)
        for method in ("local", "all-servers"):
            row = final.loc[variant, method]
            gain = 1 - makespan["drlcoedge"].mean() / makespan[method].mean()
            np.testing.assert_allclose(row["makespan_s"], makespan[method].mean())
            np.testing.assert_allclose(row["reduction"], gain)
            assert row["reduction_low"] <= row["reduction"] <= row["reduction_high"]
            assert row["n_seeds"] == SEEDS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": []}, "methods: "),
        ({"methods": ["local", "local"]}, "methods: local, local; legal: each method once"),
        ({"physics": []}, "physics: []"),
        ({"physics": ["newtonian"]}, "physics: 'newtonian'"),
        ({"last": 0}, "last: 0"),
        ({"last": EPISODES + 1}, f"last: {EPISODES + 1}; legal: a whole number from 1 to {EPISODES}"),
        ({"episodes": 0}, "episodes: 0"),
        ({"seeds": 0}, "seeds: 0"),
    ],
)
def test_bad_comparisons_are_refused(changes: dict[str, Any], words: str):
    options: dict[str, Any] = {"methods": ["local"], "seeds": 2, "episodes": EPISODES, "last": 1} | changes
    with pytest.raises(InputError) as error:
        compare(scenario=TINY, **options)
    assert str(error.value).startswith(words)


def test_tuning_ranks_every_combination_on_an_unseen_episode(tmp_path: Path):
    vary = {"discount": [0.0, 0.9], "learning_rate": [0.01]}
    found = tune(METHOD, vary, SEEDS, EPISODES, within=0.1, scenario=TINY, reference="local", out=tmp_path)
    summary, results = found.summary, found.results
    assert summary[["discount", "learning_rate"]].to_numpy().tolist() == [["0.0", "0.01"], ["0.9", "0.01"]]
    assert results["seed"].tolist() == 2 * list(range(SEEDS))
    local = local_metrics(TINY, 0)["makespan_mean_s"]
    np.testing.assert_allclose(results["gap"], results["makespan_mean_s"] / np.tile(local, 2) - 1)
    columns = ["gap_p50", "gap_p90", "gap_p99", "gap_max"]
    assert np.all(np.diff(summary[columns].to_numpy(float), axis=1) >= 0)
    for number, row in enumerate(summary.to_dict("records")):
        own = results.iloc[number * SEEDS : (number + 1) * SEEDS]
        assert set(own["discount"]) == {row["discount"]}
        np.testing.assert_allclose(row["gap_mean"], own["gap"].mean())
        np.testing.assert_allclose(row["within_0.1"], np.mean(own["gap"] <= 0.1))
        assert row["n_seeds"] == SEEDS
    names = {"results.parquet", "summary.csv", "manifest.json", "SHA256SUMS"}
    assert {p.name for p in tmp_path.iterdir()} == names
    own = evaluate_one(discount=0.9, learning_rate=0.01)
    np.testing.assert_array_equal(results.iloc[SEEDS:]["makespan_mean_s"], own)


@pytest.mark.parametrize("whole_reference", [True, False])
def test_tuning_keeps_results_with_their_settings(monkeypatch: pytest.MonkeyPatch, whole_reference: bool):
    """Combinations of several widths train in groups, and seeds come in pieces; the figures are made up."""

    def simulated(scenarios: Any, method: Any, row: Any, first: int, count: int, source: Any = None) -> Any:
        del method, row
        all_seeds = np.arange(first, first + count)
        for index in range(len(scenarios)):
            value, pieces = 1.0, [all_seeds] if whole_reference else [all_seeds[:1], all_seeds[1:]]
            if source is not None:
                settings = source._cells[index].settings
                value, pieces = settings.hidden[0] + settings.discount, [all_seeds[:2], all_seeds[2:]]
            for seeds in pieces:
                yield Batch(
                    index, seeds, {"makespan_mean_s": value * (1.0 + seeds), "miss_rate": 0.0 * seeds}
                )

    monkeypatch.setattr("amco_jax.experiment.tune.simulate", simulated)
    found = tune(METHOD, {"hidden": [12, 3, 7], "discount": [0.5, 0.25]}, 3, 1, scenario=TINY, first_seed=9)
    results = found.results
    assert results["seed"].tolist() == 6 * [9, 10, 11]
    own = results["hidden"].astype(float) + results["discount"].astype(float)
    np.testing.assert_allclose(results["makespan_mean_s"], own * (1 + results["seed"]))
    reference = np.tile([10.0, 11.0, 12.0], 6)
    np.testing.assert_allclose(results["gap"], results["makespan_mean_s"] / reference - 1)
    assert found.summary["hidden"].tolist() == ["12", "12", "3", "3", "7", "7"]


def evaluate_one(**changes: Any) -> np.ndarray:
    """Makespans of one combination by itself."""
    cells = [Cell(TINY, METHOD.with_settings(**changes).require_training().settings)]
    source = OnTheSpot(METHOD, METHOD.physics("unified"), cells, EPISODES)
    (batch,) = simulate([TINY], METHOD, METHOD.physics("unified"), 0, SEEDS, source)
    return batch.metrics["makespan_mean_s"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "local"}, "method: local is a rule"),
        ({"settings": {"nonsense": [1]}}, "settings: unknown field 'nonsense'"),
        ({"settings": {"discount": [2]}}, "discount: 2; legal: a number from 0 to 1"),
        ({"settings": {"discount": []}}, "discount"),
        ({"reference": "amcoedge"}, "reference: amcoedge is trained; legal: a rule"),
        ({"seeds": 0}, "seeds: 0"),
        ({"episodes": 0}, "episodes: 0"),
    ],
)
def test_bad_tunings_are_refused(changes: dict[str, Any], words: str):
    options: dict[str, Any] = {
        "method": METHOD,
        "settings": {"discount": [0]},
        "reference": "local",
    } | changes
    with pytest.raises(InputError) as error:
        tune(**({"seeds": 2, "episodes": 3, "scenario": TINY} | options))
    assert words in str(error.value)


# Options that make the scripts run the scenario and settings of the tests above.
QUICK = [
    "--set", "num_servers=2", "num_tasks=4", "num_slots=6", "arrival_prob=0.6", "capacity=3-12",
    "density_min=0.2", "density_max=0.8", "--seeds", SEEDS,
]  # fmt: skip
LEARN_QUICK = ["--learn", *(f"{name}={value}" for name, value in LEARN.items())]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """The same training as a user runs it, in a process of its own with another number of devices."""
    out = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "3" if jax.local_device_count() == 2 else "2")
        line = ["--method", "drlcoedge", *LEARN_QUICK, *QUICK, "--episodes", EPISODES, "--out", out]
        return out, command("train", *line)


def test_a_script_trains(elsewhere: tuple[Path, CompletedProcess[str]], finished: Path):
    out, process = elsewhere
    assert process.returncode == 0, process.stderr
    assert "drlcoedge" in process.stdout
    assert "eta" in process.stderr
    assert {p.name for p in out.iterdir()} == FILES
    here, there = (json.loads((home / "manifest.json").read_text()) for home in (finished, out))
    assert there["command"][0].endswith("train.py")
    assert there["device"]["count"] != here["device"]["count"]
    assert all(here[key] == there[key] for key in ("settings", "scenario", "episodes", "num_seeds"))


def test_a_script_warns_of_nothing(elsewhere: tuple[Path, CompletedProcess[str]]):
    assert "warn" not in elsewhere[1].stderr.lower()


def test_number_of_devices_changes_no_bit(elsewhere: tuple[Path, CompletedProcess[str]], finished: Path):
    """From two devices on; with a single one, XLA compiles matrix products that round otherwise."""
    if jax.local_device_count() > 1:
        assert_same_files(elsewhere[0], finished)
    else:
        ours, theirs = (pd.read_parquet(out / "curves.parquet") for out in (elsewhere[0], finished))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3)


class Script:
    """A script run within this process, which has its programs compiled already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, name: str, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        self._monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        self._monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        code = 0
        try:
            module.run(module.Arguments, module.main, "")
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(monkeypatch, capsys)


def test_scripts_evaluate_what_was_trained(script: Script, finished: Path, tmp_path: Path):
    line = ["evaluate", finished, "--methods", "local", "--set", "arrival_prob=0.9", "--episodes", 2]
    assert script(*line, "--quiet", "--out", tmp_path / "quiet") == (0, "", "")
    code, shown, _ = script(*line, "--out", tmp_path / "told")
    assert code == 0
    assert "drlcoedge" in shown
    manifest = json.loads((tmp_path / "told" / "manifest.json").read_text())
    assert (manifest["scenario"]["arrival_prob"], manifest["scenario"]["deadline"]) == (0.9, 1.0)
    quiet, told = (pd.read_parquet(tmp_path / name / "results.parquet") for name in ("quiet", "told"))
    pd.testing.assert_frame_equal(quiet, told, check_exact=True)


def test_scripts_compare_and_tune(script: Script, tmp_path: Path):
    code, shown, _ = script(
        "compare",
        "--methods",
        "local",
        "all-servers",
        *QUICK,
        "--episodes",
        3,
        "--last",
        2,
        "--out",
        tmp_path / "a",
    )
    assert code == 0
    assert "reduction by local" in shown
    assert (tmp_path / "a" / "convergence-unified.pdf").exists()
    code, shown, _ = script(
        "tune", "--method", "drlcoedge", *LEARN_QUICK, "--vary", "discount=0,0.9", *QUICK,
        "--episodes", EPISODES, "--reference", "local", "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0
    assert "gap to local" in shown
    assert len(pd.read_csv(tmp_path / "b" / "summary.csv")) == 2


def test_an_interrupted_script_says_so_and_can_go_on(
    script: Script, interrupt: Callable[[int], None], finished: Path, tmp_path: Path
):
    line = ["train", "--method", "drlcoedge", *LEARN_QUICK, *QUICK, "--episodes", EPISODES, "--out", tmp_path]
    line += ["--checkpoint-every", 2, "--quiet"]
    interrupt(2)
    assert script(*line) == (130, "", "interrupted\n")
    interrupt(-1)
    code, _, error = script(*line)
    assert code == 2
    assert "unfinished" in error
    assert script(*line, "--resume") == (0, "", "")
    assert_same_files(tmp_path, finished)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("train", ["--seeds", 0], ["seeds: 0"]),
        ("train", ["--episodes", 0], ["episodes: 0", "from 1"]),
        ("train", ["--physics", "x"], ["physics: 'x'", "published"]),
        ("train", ["--allocator", "x"], ["allocator: 'x'", "hecwa"]),
        ("train", ["--learn", "nonsense=1"], ["settings", "nonsense", "batch_size"]),
        ("train", ["--learn", "discount"], ["learn: 'discount'", "field=value"]),
        ("train", ["--learn", "discount=2"], ["discount: 2"]),
        ("train", ["--learn", "hidden=x"], ["hidden: 'x'"]),
        ("train", ["--learn", "discount=0", "discount=1"], ["discount is given twice"]),
        ("train", ["--set", "num_servers=13"], ["num_servers: 13", "12"]),
        ("train", ["--out", "/dev/null/x"], ["/dev/null/x"]),
        ("evaluate", [], ["Missing", "wrote"]),
        ("evaluate", ["/nonexistent"], ["/nonexistent", "train"]),
        ("compare", ["--methods", "best"], ["method: 'best'"]),
        ("compare", ["--last", 1000], ["last: 1000"]),
        ("tune", ["--vary", "nonsense=1"], ["nonsense"]),
        ("tune", ["--vary", "discount"], ["vary: 'discount'"]),
        ("tune", ["--method", "optimal"], ["optimal is a rule"]),
        ("tune", ["--reference", "amcoedge"], ["amcoedge is trained"]),
    ],
)
def test_scripts_refuse_bad_input_in_one_line(
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    arguments: list,
    words: list[str],
):
    monkeypatch.chdir(tmp_path)
    code, out, error = script(name, *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not any(tmp_path.iterdir())


def test_a_rule_is_not_trained(tmp_path: Path):
    rule = command("train", "--method", "optimal", cwd=tmp_path)
    assert_refused(rule, "method: optimal is a rule", "amcoedge", "smcoedge", "drlcoedge")
    assert not any(tmp_path.iterdir())
