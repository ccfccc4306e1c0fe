"""The files of a run, which appear together at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from amco_jax.results.saved import DIGESTS, MANIFEST
from amco_jax.study.output import Output


def test_files_of_the_replaced_run_alone_are_removed(tmp_path: Path):
    home, outside = tmp_path / "run", tmp_path / "outside"

    def write(files: Sequence[str], standing: Sequence[str]) -> None:
        for name in standing:
            (home / name).mkdir(parents=True, exist_ok=True)
            (home / name / "part").touch()
        with Output(home, overwrite=True) as output:
            for name in files:
                output.path(name).write_text("")
            output.finish({}, standing)

    write(["summary.csv", "old.png"], ["curves", "agents"])
    (home / "notes.txt").touch()
    outside.touch()
    with (home / DIGESTS).open("a") as file:
        file.writelines(f"{'0' * 64}  {name}\n" for name in ("../outside", str(outside), "curves", "gone"))
    write(["summary.csv"], ["results"])
    found = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert found == {"summary.csv", MANIFEST, DIGESTS, "results/part", "agents/part", "notes.txt"}
    assert not (home / "curves").exists()
    assert outside.exists()


def test_a_manifest_never_stands_beside_files_that_are_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where a run is stopped while its files replace older ones."""

    def write(text: str) -> None:
        with Output(tmp_path, overwrite=True) as output:
            output.path("rows").write_text(text)
            output.finish({})

    write("old")
    real = os.replace

    def stopping(source: Path, target: Path) -> None:
        real(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    assert not (tmp_path / MANIFEST).exists()
