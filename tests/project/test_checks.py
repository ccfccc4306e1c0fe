"""The checks of the tests themselves: skipped tests, and annotations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jaxtyping
import pytest
from helpers.paths import TESTS

from amco_jax.alloc import cwa

SKIPS = """
import pytest

@pytest.mark.skip(reason="no disk")
def test_disk(): pass

@pytest.mark.gpu
@pytest.mark.skip(reason="no GPU")
def test_gpu(): pass

def test_fine(): pass
"""


@pytest.mark.parametrize(
    ("everywhere", "outcome"), [("1", "1 passed, 1 skipped, 2 errors in"), ("0", "1 passed, 3 skipped in")]
)
def test_a_skipped_test_fails_where_all_must_run(everywhere: str, outcome: str, tmp_path: Path):
    (tmp_path / "test_some.py").write_text(SKIPS)
    (tmp_path / "test_whole_file.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: a GPU\n")
    environment = os.environ | {"AMCO_JAX_ALL_TESTS": everywhere, "PYTHONPATH": str(TESTS)}
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "helpers.skips",
        "--continue-on-collection-errors",
        str(tmp_path),
    ]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert outcome in done.stdout, done.stdout
    assert done.returncode == int(everywhere)


def test_annotations_are_checked_at_run_time():
    wait, selected = jnp.zeros(3), jnp.ones(3, bool)
    wrong: Any
    for wrong in (jnp.ones(2), jnp.ones(3, jnp.int32), jnp.ones((3, 3)), [1.0, 1.0, 1.0]):
        with pytest.raises(jaxtyping.TypeCheckError, match="cost"):
            cwa(wait, wrong, selected)
