"""Training as a user runs it: files, interruption, refusals."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers.tiny_training import COLUMNS, EPISODES, FILES, METHOD, SEEDS, TINY, assert_same_files, run

from amco_jax.agents.actions import partners
from amco_jax.agents.methods import trained_method
from amco_jax.agents.qlearning import QLearning, QSettings
from amco_jax.alloc import hecwa
from amco_jax.errors import InputError
from amco_jax.results.checkpoints import Journal, Saved, load_tree, save_tree
from amco_jax.results.saved import write_digests
from amco_jax.study import trainer as trainer_module
from amco_jax.study.base import StudyResult
from amco_jax.study.engines import Execution
from amco_jax.study.evaluate import load_run
from amco_jax.study.trainer import Trainer

RESUME = Execution(resume=True)
SEEDS_PER_BLOCK = QLearning.seeds_per_block
PROGRAMS_OFTEN: Any = functools.cache(trainer_module._programs.__wrapped__)
"""Programs of calls of two episodes, apart from those of longer calls, as none has that number in its key"""


def assert_same(left: StudyResult, right: StudyResult) -> None:
    pd.testing.assert_frame_equal(left.rows, right.rows, check_exact=True)
    jax.tree.map(np.testing.assert_array_equal, left.agents, right.agents)


def begin(out: Path, interrupt: Callable[[int], None], call: int, **changes: Any) -> None:
    """Leave an unfinished training in `out`."""
    interrupt(call)
    with pytest.raises(KeyboardInterrupt):
        run(out=out, **changes)
    interrupt(-1)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in calls of two episodes, with a checkpoint after each."""
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer_module, "EPISODES_PER_CALL", 2)
    monkeypatch.setattr(trainer_module, "_programs", PROGRAMS_OFTEN)


@pytest.fixture(scope="module")
def whole() -> StudyResult:
    """An unbroken training of more seeds than a chunk needs, which has a block for each device at least."""
    return run(seeds=jax.local_device_count() * SEEDS_PER_BLOCK + 3)


def test_a_training_writes_curves_figure_agents_and_manifest(finished: Path, result: StudyResult):
    assert {p.name for p in finished.iterdir()} == FILES
    curves = pd.read_parquet(finished / "curves.parquet")
    assert list(curves.columns) == COLUMNS
    pd.testing.assert_frame_equal(curves, result.rows)
    manifest = json.loads((finished / "manifest.json").read_text())
    assert (manifest["kind"], manifest["method"], manifest["physics"]) == ("train", "drlcoedge", "unified")
    assert (manifest["num_seeds"], manifest["episodes"], manifest["first_seed"]) == (SEEDS, EPISODES, 0)
    assert manifest["settings"] == METHOD.require_training().settings.to_dict()
    assert manifest["scenario"] == TINY.to_dict()
    assert {"versions", "device", "git_commit", "command", "wall_time_s"} <= manifest.keys()
    assert (finished / "convergence.pdf").read_bytes().startswith(b"%PDF")


def test_curves_are_tidy(result: StudyResult):
    curves = result.rows
    assert curves["seed"].tolist() == [s for s in range(SEEDS) for _ in range(EPISODES)]
    assert curves["episode"].tolist() == SEEDS * list(range(EPISODES))
    assert curves["miss_rate"].between(0, 1).all()
    assert curves["mean_servers_used"].between(1, 2).all()  # the local server and at most one partner
    assert np.isnan(curves["loss"]).tolist() == (curves["episode"] == 0).tolist()  # learn_after=8
    assert curves["epsilon"].groupby(curves["seed"]).is_monotonic_increasing.all()
    assert jax.tree.leaves(result.agents)[0].shape[:2] == (SEEDS, TINY.num_servers)


def test_seeds_and_agents_keep_their_numbers(result: StudyResult):
    part = run(first_seed=1, seeds=2)
    wanted = result.rows.query("seed in (1, 2)").reset_index(drop=True)
    pd.testing.assert_frame_equal(part.rows, wanted, check_exact=True)
    jax.tree.map(np.testing.assert_array_equal, part.agents, jax.tree.map(lambda x: x[1:3], result.agents))


@pytest.mark.parametrize("call", [0, 1, 2])
@pytest.mark.usefixtures("often")
def test_a_resumed_training_equals_an_unbroken_one(
    finished: Path, tmp_path: Path, interrupt: Callable[[int], None], call: int
):
    out = tmp_path / "out"
    begin(out, interrupt, call)
    assert not (out / "manifest.json").exists()
    run(out=out, execution=RESUME)
    assert_same_files(out, finished)


@pytest.mark.parametrize("call", [2, 3, 5])
@pytest.mark.usefixtures("often")
def test_resuming_goes_on_within_the_right_chunk_of_seeds(
    whole: StudyResult,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    call: int,
):
    """Two chunks of three calls each; the unbroken run has them in one chunk."""
    seeds = whole.manifest["num_seeds"]
    monkeypatch.setitem(trainer_module.TRAINING_BYTES, "cpu", 1)
    begin(tmp_path, interrupt, call, seeds=seeds)
    done = []
    advance = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self, n: done.append(n) or advance(self, n))
    again = run(out=tmp_path, seeds=seeds, execution=RESUME)
    assert done == [2] * (6 - call)  # nothing is trained twice
    assert_same(again, whole)
    assert not list((tmp_path / "units").glob("*.checkpoints"))


def test_the_newest_checkpoint_counts(tmp_path: Path):
    """Also where a kill came between its writing and the removal of the one before."""
    with Journal(tmp_path / "journal") as journal:
        journal.save("3", Saved(9, np.zeros(2), np.ones(1)))
        shutil.copytree(tmp_path / "journal" / "chunk-3" / "9", tmp_path / "older")
        journal.save("3", Saved(10, np.full(2, 7.0), np.ones(1)))
    shutil.move(tmp_path / "older", tmp_path / "journal" / "chunk-3" / "9")
    with Journal(tmp_path / "journal") as again:
        assert again.load("0", (0, 0)) is None
        found = again.load("3", (0, 0))
        assert found is not None
        assert (found.episode, found.state.tolist(), found.curves.tolist()) == (10, [7, 7], [1])
        again.save("3", Saved(11, np.zeros(2), np.ones(1)))
    assert [p.name for p in (tmp_path / "journal" / "chunk-3").iterdir()] == ["11"]


def test_out_of_device_memory_trains_fewer_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    seeds, advance, tries = 3 * SEEDS_PER_BLOCK, Trainer.advance, []
    whole = run(seeds=seeds)

    def limited(self: Trainer, episodes: int) -> Any:
        tries.append(len(self._chunk))
        if tries[-1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return advance(self, episodes)

    monkeypatch.setattr(Trainer, "advance", limited)
    assert_same(run(seeds=seeds), whole)
    assert tries[:2] == [3, 2]
    assert "out of device memory with 3 blocks at a time; going on with 2" in caplog.text


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.usefixtures("often")
def test_a_damaged_checkpoint_is_named_and_trained_anew_only_when_asked(
    finished: Path, tmp_path: Path, interrupt: Callable[[int], None], name: str, damage: str
):
    begin(tmp_path, interrupt, 1)
    path = min((tmp_path / "units").rglob(name), key=lambda p: len(p.parts))
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"^checkpoint: .*\.checkpoints.* is damaged; legal: overwrite"):
        run(out=tmp_path, execution=RESUME)
    assert path.read_bytes() == before
    run(out=tmp_path, execution=Execution(resume=True, recompute=True))
    assert_same_files(tmp_path, finished)


def test_arrays_outside_of_a_checkpoint_are_not_read(tmp_path: Path):
    save_tree(tmp_path / "outside", [np.zeros(3)])
    save_tree(tmp_path / "inside", [np.zeros(3)])
    path = tmp_path / "inside" / "_METADATA"
    metadata = json.loads(path.read_text())
    elsewhere = str(tmp_path / "outside" / "0")
    metadata["tree_metadata"][f"('{elsewhere}',)"] = metadata["tree_metadata"].pop("('0',)") | {
        "key_metadata": [{"key": elsewhere, "key_type": 2}]
    }
    path.write_text(json.dumps(metadata))
    write_digests(tmp_path / "inside")
    with pytest.raises(InputError, match="does not hold the 1 arrays"):
        load_tree(tmp_path / "inside", [0])


def test_resuming_where_nothing_was_begun_begins(finished: Path, tmp_path: Path):
    run(out=tmp_path / "new", execution=RESUME)
    assert_same_files(tmp_path / "new", finished)


def test_an_unfinished_training_is_not_replaced_unasked(
    finished: Path, tmp_path: Path, interrupt: Callable[[int], None]
):
    begin(tmp_path, interrupt, 0)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"^out: .* holds an unfinished train; legal: resume, overwrite$"):
        run(out=tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    run(out=tmp_path, overwrite=True)
    assert_same_files(tmp_path, finished)


def test_another_training_is_not_resumed(tmp_path: Path, interrupt: Callable[[int], None]):
    begin(tmp_path, interrupt, 0)
    other = METHOD.with_settings(discount=0.25)
    for changes, words in (
        ({"episodes": 7}, "episodes = 6, not 7"),
        ({"seeds": 5}, "num_seeds = 4, not 5"),
        ({"first_seed": 3, "physics": "published"}, 'first_seed = 0, not 3, physics = "unified"'),
        ({"scenario": TINY.replace(deadline=0.5)}, "scenario.deadline = 1.0, not 0.5"),
        ({"method": other}, "settings.discount = 0.9, not 0.25"),
    ):
        with pytest.raises(InputError, match=rf"^store: .* made for something else: .*{words}") as error:
            run(out=tmp_path, execution=RESUME, **changes)
        assert "\n" not in str(error.value)
    assert_same(run(out=tmp_path, execution=RESUME), run())


def test_a_finished_training_is_not_replaced_unasked(finished: Path):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"^out: .* holds results; legal: another directory, or overwrite$"):
        run(out=finished)
    again = run(out=finished, execution=RESUME)  # there is nothing left to do
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before
    assert again.manifest == json.loads((finished / "manifest.json").read_text())


def test_a_finished_training_is_replaced_when_asked(finished: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    run(out=out, seeds=2, overwrite=True)
    assert {p.name for p in out.iterdir()} == FILES
    assert load_run(out).num_seeds == 2
    assert jax.tree.leaves(load_run(out).weights)[0].shape[0] == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "optimal"}, "method: optimal is a rule; legal: amcoedge, smcoedge, drlcoedge"),
        ({"method": "best"}, "method: 'best'"),
        ({"seeds": 0}, "seeds: 0"),
        ({"first_seed": -1}, "first_seed: -1"),
        ({"episodes": 0}, "episodes: 0; legal: a whole number from 1"),
        ({"episodes": 2.5}, "episodes: 2.5"),
        ({"physics": "newtonian"}, "physics: 'newtonian'; legal: unified, published"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(changes: dict[str, Any], words: str, tmp_path: Path):
    with pytest.raises(InputError) as error:
        run(out=tmp_path / "new", **changes)
    assert str(error.value).startswith(words)
    assert not (tmp_path / "new").exists()


def test_methods_of_one_s_own_take_settings_and_an_allocator():
    mine = trained_method("mine", partners, episodes=7, allocator="hecwa", discount=0.5)
    assert (mine.require_training().episodes, mine.allocator) == (7, hecwa)
    assert mine.require_training().settings == QSettings(discount=0.5)


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
