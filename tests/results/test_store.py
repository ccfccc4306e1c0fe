"""The store of units: committed whole and once, and damage is found."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amco_jax import InputError
from amco_jax.files import draft_prefix, remove_abandoned
from amco_jax.results.checkpoints import Journal
from amco_jax.results.store import Store

FRAME = pd.DataFrame({"seed": np.arange(5), "makespan_mean_s": np.linspace(0, 1, 5), "method": "local"})
PLAN = {"seeds": 5, "scenario": {"deadline": 1.0, "capacity": [1, 2]}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "units", tmp_path / "results.parquet")
    store.begin(PLAN)
    return store


def files(store: Store) -> set[str]:
    return {p.name for home in (store.directory, store.rows) for p in home.iterdir()}


def test_what_is_committed_is_read(store: Store):
    assert not store.committed("u")
    digest = store.commit("u", FRAME)
    assert store.committed("u")
    pd.testing.assert_frame_equal(store.read("u"), FRAME)
    assert files(store) == {"plan.json", "u.sha256", f"u-{digest[:16]}.parquet"}
    line = (store.directory / "u.sha256").read_text().split()
    assert hashlib.sha256((store.directory / line[1]).read_bytes()).hexdigest() == line[0] == digest


def test_the_first_commit_stands_and_an_equal_one_is_welcome(store: Store):
    store.commit("u", FRAME)
    before = {p: p.stat().st_mtime_ns for p in store.directory.iterdir()}
    store.commit("u", FRAME.copy())
    assert {p: p.stat().st_mtime_ns for p in store.directory.iterdir()} == before


def test_a_commit_that_differs_fails_loudly(store: Store):
    store.commit("u", FRAME)
    with pytest.raises(InputError, match=r"unit u .* computed twice with different results"):
        store.commit("u", FRAME.assign(seed=FRAME["seed"] + 1))
    pd.testing.assert_frame_equal(store.read("u"), FRAME)
    assert len(list(store.rows.iterdir())) == 1  # readers of the directory see no rows of the loser


def _commit_many(directory: Path, barrier) -> None:
    store = Store(directory, directory.parent / "results.parquet")
    barrier.wait()
    for i in range(50):
        store.commit(f"u{i}", FRAME)


def test_writers_at_once_commit_each_unit_once(store: Store):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_commit_many, args=(store.directory, barrier)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(files(store)) == 1 + 2 * 50
    for i in range(50):
        pd.testing.assert_frame_equal(store.read(f"u{i}"), FRAME)


def test_another_plan_is_refused_and_told_apart(store: Store):
    store.begin(PLAN)
    with pytest.raises(InputError, match=r"scenario.deadline = 1.0, not 2.0") as error:
        store.begin(PLAN | {"scenario": {"deadline": 2.0, "capacity": [1, 2]}})
    assert "capacity" not in str(error.value)
    with pytest.raises(InputError, match="code"):
        store.begin(PLAN | {"code": "new"})


def test_what_the_names_of_units_tell_may_be_renewed(store: Store):
    edited = PLAN | {"code": "new"}
    with pytest.raises(InputError, match=r"something else: scenario\.deadline = \S+, not 2\.0; legal"):
        store.begin(edited | {"scenario": PLAN["scenario"] | {"deadline": 2.0}}, renewed=["code"])
    store.begin(edited, renewed=["code"])
    store.begin(edited)
    for unit in ("0-old", "0-new"):
        store.commit(unit, FRAME)
    assert store.others(["0-new", "1-new"]) == {"0-old"}
    store.discard("0-old")
    assert not store.others(["0-new"])
    assert [path.name[:5] for path in store.rows.iterdir()] == ["0-new"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_plan_is_named(store: Store, content: bytes):
    (store.directory / "plan.json").write_bytes(content)
    with pytest.raises(InputError, match=r"plan\.json"):
        store.begin(PLAN)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_plan_is_told_from_another_one_and_mended_only_when_asked(store: Store, damage: str):
    path = store.directory / "plan.json"
    sound = path.read_text()
    hurt = sound.replace("5", "4", 1) if damage == "flip" else sound[:-9]
    path.write_text(hurt)
    with pytest.raises(InputError, match=r"plan\.json is damaged: .*; legal: resume with recompute"):
        store.begin(PLAN)
    assert path.read_text() == hurt
    store.begin(PLAN, recompute=True)
    assert path.read_text() == sound
    with pytest.raises(InputError, match="made for something else"):
        store.begin(PLAN | {"code": "new"}, recompute=True)


@pytest.mark.parametrize("name", ["u.sha256", "u-*.parquet"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damage_is_found_named_and_mended_only_when_asked(store: Store, name: str, damage: str):
    store.commit("u", FRAME)
    (path,) = [p for home in (store.directory, store.rows) for p in home.glob(name)]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    kept = {"truncate": content[:-1], "empty": b""}.get(damage, content)
    path.unlink()
    if damage != "remove":
        path.write_bytes(bytes(kept))
    with pytest.raises(InputError, match=path.name.replace(".", r"\.")):
        store.read("u")
    store.discard_damaged("u")
    assert not store.committed("u")
    store.commit("u", FRAME)
    pd.testing.assert_frame_equal(store.read("u"), FRAME)


def test_every_flipped_bit_is_found(store: Store):
    store.commit("u", FRAME)
    for path in (store.directory / "u.sha256", *store.rows.glob("u-*.parquet")):
        content = path.read_bytes()
        for place in range(0, len(content), 7):
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            with pytest.raises(InputError):
                store.read("u")
        path.write_bytes(content)
    store.read("u")


def test_a_commit_cannot_point_elsewhere(store: Store, tmp_path: Path):
    """No path that stands in a file is followed."""
    store.commit("u", FRAME)
    outside = tmp_path / "outside.parquet"
    FRAME.to_parquet(outside)
    digest = hashlib.sha256(outside.read_bytes()).hexdigest()
    (store.directory / "u.sha256").write_text(f"{digest}  ../outside.parquet\n")
    with pytest.raises(InputError, match=r"u\.sha256 is damaged"):
        store.read("u")


def test_sound_units_are_not_discarded(store: Store):
    store.commit("u", FRAME)
    store.discard_damaged("u")
    assert store.committed("u")


def test_a_failed_write_leaves_no_draft(store: Store, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.commit("u", FRAME)
    assert files(store) == {"plan.json"}


def test_what_a_kill_left_beside_a_commit_is_removed(store: Store):
    for unit in ("u", "v"):
        (store.journal(unit) / "chunk").mkdir(parents=True)
    store.commit("u", FRAME)
    with Journal(store.journal("v")):
        store.drop_journal("v")  # a process is at it
    store.begin(PLAN)
    assert (store.journal("u").exists(), store.journal("v").exists()) == (False, True)
    store.drop_journal("v")
    assert not store.journal("v").exists()


def test_drafts_of_ended_processes_are_removed_and_no_others(store: Store):
    ended = subprocess.run(
        [sys.executable, "-c", "from amco_jax.files import draft_prefix; print(draft_prefix())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    for name in (ended + "a", draft_prefix() + "a", ".unfinished-otherhost-1-a", ".unfinished-x"):
        (store.directory / name).write_text("")
    (store.directory / (ended + "folder")).mkdir()
    remove_abandoned(store.directory)
    assert {n for n in files(store) if n.startswith(".")} == {
        draft_prefix() + "a", ".unfinished-otherhost-1-a", ".unfinished-x",
    }  # fmt: skip
