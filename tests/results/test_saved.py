"""Saved runs: found intact, or refused with the file named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from amco_jax.errors import InputError
from amco_jax.results.saved import open_run, read_table, write_digests
from amco_jax.scenario import Scenario
from amco_jax.study.run import run_study
from amco_jax.study.sweep import Sweep


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("saved") / "out"
    scenario = Scenario(num_servers=2, num_tasks=4, num_slots=3, capacity=20.0, link_rate=400.0)
    run_study(Sweep("deadline", values=(0.5,), methods=["local"], seeds=3, scenario=scenario), home)
    return home


def test_a_run_is_read_as_it_was_written(out: Path):
    run = open_run(out, ["sweep"])
    assert run.manifest == json.loads((out / "manifest.json").read_text())
    pd.testing.assert_frame_equal(run.table("results.parquet"), pd.read_parquet(out / "results.parquet"))
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(run.digests) == {name for name in files if not name.startswith("units/")} - {"SHA256SUMS"}


@pytest.mark.parametrize("name", ["manifest.json", "results.parquet", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_damage_is_seen_and_the_file_named(out: Path, tmp_path: Path, name: str, damage: str):
    home = tmp_path / "copy"
    shutil.copytree(out, home)
    path = next((home / name).iterdir()) if name == "results.parquet" else home / name
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        # In the digests, where it concerns a file that is read.
        content[content.find(b"  results.parquet/") - 9 if name == "SHA256SUMS" else len(content) // 2] ^= 1
        path.write_bytes({"flipped": content, "cut": content[: len(content) // 2], "emptied": b""}[damage])
    with pytest.raises(InputError, match=r"^run: ") as error:
        open_run(home, ["sweep"]).table("results.parquet")
    assert str(home) in str(error.value)
    if name != "SHA256SUMS" and (name, damage) != ("manifest.json", "removed"):
        assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_files_with_different_columns_are_refused(out: Path, tmp_path: Path):
    home = tmp_path / "copy"
    shutil.copytree(out, home)
    rows = pd.read_parquet(home / "results.parquet")
    rows.assign(num_tasks="many").to_parquet(home / "results.parquet" / "other.parquet")
    write_digests(home)
    with pytest.raises(InputError, match=r"results\.parquet differ in their columns; legal: results of this"):
        open_run(home, ["sweep"]).table("results.parquet")


def test_the_draft_of_a_process_on_another_host_is_no_result(out: Path, tmp_path: Path):
    """Whether it is whole or not, as the process may have been killed at any moment."""
    home = shutil.copytree(out, tmp_path / "copy")
    (part,) = (home / "results.parquet").iterdir()
    wanted, draft = pd.read_parquet(part), part.with_name(".unfinished-elsewhere-1-draft")
    (home / "agents" / draft.name / "d").mkdir(parents=True)
    for content in (part.read_bytes(), part.read_bytes()[:-9]):
        for path in (draft, home / "agents" / draft.name / "d" / "leaf"):
            path.write_bytes(content)
        write_digests(home)
        run = open_run(home, ["sweep"])
        assert not any(draft.name in name for name in run.digests)
        # As they were written before drafts were left out:
        run.digests[f"results.parquet/{draft.name}"] = hashlib.sha256(content).hexdigest()
        for found in (run.table("results.parquet"), read_table(home / "results.parquet")):
            pd.testing.assert_frame_equal(found, wanted)


def test_results_of_another_kind_are_refused(out: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"holds results of sweep; legal: the --out of train or compare"):
        open_run(out, ["train", "compare"])
    for name, text in (("list", "[]"), ("empty", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
        write_digests(tmp_path / name)
        with pytest.raises(InputError, match=r"holds results of None"):
            open_run(tmp_path / name, ["sweep"])
