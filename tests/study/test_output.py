"""The files of a run, which appear together at its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amco_jax.results.saved import MANIFEST
from amco_jax.study.output import Output


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
