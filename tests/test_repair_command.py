"""`scripts/repair.py`, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sd_repair.images import load_image, save_image
from sd_repair.pipeline import HUB_ID
from sd_repair.random_weights import random_pipeline

ROOT = Path(__file__).resolve().parents[1]


def repair(*arguments: object, hub: Path) -> subprocess.CompletedProcess[str]:
    """The command, with a directory in place of the hub's own cache, and no network."""
    line = [sys.executable, str(ROOT / "scripts" / "repair.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    return subprocess.run(line, cwd=hub, env=environment, capture_output=True, text=True, timeout=300)


def test_repairs_with_a_model_that_the_hub_has_left_in_its_cache(tmp_path):
    repository = tmp_path / f"models--{HUB_ID.replace('/', '--')}"
    random_pipeline(tiny=True).save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    done = repair(
        "astronaut",
        "--mask",
        "thin",
        "--out",
        "out.png",
        "--size",
        64,
        "--steps",
        2,
        "--samples",
        2,
        hub=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PSNR") == 2
    assert "Warning" not in done.stderr
    first, second, corrupted, sheet = (
        load_image(tmp_path / f"out{suffix}.png") for suffix in ("", "-2", "-corrupted", "-sheet")
    )
    known = (corrupted != 128).any(axis=-1)
    np.testing.assert_array_equal(first[known], corrupted[known])
    np.testing.assert_array_equal(second[known], corrupted[known])
    assert (first != second).any()
    np.testing.assert_array_equal(sheet[20:, :64], corrupted)
    assert sheet.shape == (84, 4 * 68 - 4, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["astronaut", "--mask", "box", "--out", "out.png"], ["model", "--method telea or ns or biharmonic"]),
        (["image.png", "--mask", "box", "--out", "out.jpg", "--method", "ns"], ["out", ".png"]),
        (["image.png", "--mask", "left.png", "--out", "out.png", "--method", "ns"], ["mask", "square"]),
        (["image.png", "--mask", "box", "--out", "image.png", "--method", "ns"], ["out", "image.png"]),
        (["text.png", "--mask", "box", "--out", "out.png", "--method", "ns"], ["image", "not an image"]),
        (["astronaut", "--mask", "thick", "--out", "out.png", "--steps", "0"], ["steps", "0"]),
    ],
)
def test_refuses_bad_input_in_one_line(arguments, words, tmp_path):
    wide = np.full((64, 200, 3), 90, np.uint8)
    save_image(tmp_path / "image.png", wide)
    wide[:, :8] = 255
    wide[:, 8:] = 0
    save_image(tmp_path / "left.png", wide)
    (tmp_path / "text.png").write_text("no image")
    done = repair(*arguments, hub=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
