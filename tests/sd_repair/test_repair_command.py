"""`scripts/repair.py`, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_lines import assert_refused
from helpers.paths import ROOT
from helpers.profiles import P3_TO_XYZ, rgb_profile
from helpers.tiny_training import Script
from PIL import Image

from sd_repair.images import save_image
from sd_repair.job import read_inputs
from sd_repair.pipeline import HUB_ID
from sd_repair.random_weights import random_pipeline
from sd_repair.reading import load_image


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
    assert done.stdout.splitlines()[:3] == [
        "image: astronaut",
        "square: the centred 512 x 512 pixels, resampled to 64 x 64; the hole is 5.8%",
        f"model: {HUB_ID}, float32 on cpu",
    ]
    assert done.stdout.count("PSNR") == 2
    assert "Warning" not in done.stderr
    first, second, corrupted, sheet = (
        load_image(tmp_path / f"out{suffix}.png").pixels for suffix in ("", "-2", "-corrupted", "-sheet")
    )
    known = (corrupted != 128).any(axis=-1)
    np.testing.assert_array_equal(first[known], corrupted[known])
    np.testing.assert_array_equal(second[known], corrupted[known])
    assert (first != second).any()
    np.testing.assert_array_equal(sheet[20:, :64], corrupted)
    assert sheet.shape == (84, 4 * 68 - 4, 3)


def test_says_how_files_were_understood_before_the_repair(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png", icc_profile=rgb_profile(P3_TO_XYZ, 2.2))
    mask = np.full((64, 96), 1, np.uint8)
    mask[20:30, 10:30] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    command = ["image.png", "--mask", "mask.png", "--out", "out.png", "--method", "ns", "--size", 64]
    done = repair(*command, "--mask-marks", "known", hub=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [
        "image: image.png, 96 x 64 pixels, RGB, converted from its colour profile (made up) to sRGB",
        "mask: mask.png, 96 x 64 pixels, L, values 0 and 1, 1 counts as white, white marks the known part,"
        " the hole is 3.3%",
        "outside the square: 30.0% of the hole, which is left out",
        "square: the centred 64 x 64 pixels, resampled to 64 x 64; the hole is 3.4%",
    ]
    corrupted = load_image(tmp_path / "out-corrupted.png").pixels
    np.testing.assert_array_equal((corrupted == 128).all(-1), mask[:, 16:80] == 0)
    quiet = repair(*command, "--mask-marks", "known", "--quiet", hub=tmp_path)
    assert quiet.stdout == quiet.stderr == ""


def test_values_of_the_hole_have_no_effect_on_known_pixels(tmp_path):
    mask = np.zeros((96, 160), np.uint8)
    mask[30:50, 50:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    results = []
    for level in (0, 255):
        image = np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        image[mask > 0] = level
        save_image(tmp_path / "image.png", image)
        inputs = read_inputs(str(tmp_path / "image.png"), str(tmp_path / "mask.png"), 64, 0)
        results.append(inputs.image)
    np.testing.assert_array_equal(*results)


def test_says_what_needs_no_model_where_there_is_none(tmp_path):
    done = repair("astronaut", "--mask", "box", "--out", "out.png", hub=tmp_path)
    assert_refused(done, "model", "--method telea, ns or biharmonic")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image.png", "--mask", "box", "--out", "out.jpg", "--method", "ns"], ["out", ".png"]),
        (["image.png", "--mask", "left.png", "--out", "out.png", "--method", "ns"], ["mask", "square"]),
        (["image.png", "--mask", "box", "--out", "image.png", "--method", "ns"], ["out", "image.png"]),
        (["text.png", "--mask", "box", "--out", "out.png", "--method", "ns"], ["image", "not an image"]),
        (["image.png", "--mask", "white.png", "--out", "out.png", "--method", "ns"], ["mask-marks", "99.5%"]),
        (["astronaut", "--mask", "box", "--mask-marks", "hole", "--out", "out.png"], ["mask-marks", "file"]),
        (
            ["image.png", "--mask", "turned.png", "--out", "out.png", "--method", "ns"],
            ["64 x 200 pixels for an image of 200 x 64 pixels", "EXIF"],
        ),
        (["image.png", "--mask", "middle.png", "--out", "out.png", "--method", "ns"], ["mask", "only hole"]),
        (["image.png", "--mask", "box", "--out", "/proc/out.png", "--method", "ns"], ["/proc/out.png"]),
        (["image.png", "--mask", "box", "--out", "of.png", "--method", "ns"], ["of-sheet.png", "directory"]),
        (["astronaut", "--mask", "thick", "--out", "out.png", "--steps", "0"], ["steps", "0"]),
        (
            ["astronaut", "--mask", "thick", "--out", "out.png", "--method", "ns", "--negative-prompt", "x"],
            ["negative-prompt: x; legal: with --method sd15, not ns"],
        ),
    ],
)
def test_refuses_bad_input_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wide = np.full((64, 200, 3), 90, np.uint8)
    save_image(tmp_path / "image.png", wide)
    wide[:, :8] = 255
    wide[:, 8:] = 0
    save_image(tmp_path / "left.png", wide)
    save_image(tmp_path / "turned.png", np.rot90(wide))
    white = np.full_like(wide, 255)
    white[:1, :64] = 0
    save_image(tmp_path / "white.png", white)
    wide[:] = 0
    wide[:, 60:140] = 255
    save_image(tmp_path / "middle.png", wide)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "of-sheet.png").mkdir()
    monkeypatch.setattr("sd_repair.commands.repair.repair_classical", None)  # nothing is begun
    before = sorted(tmp_path.iterdir())
    Script(monkeypatch, capsys, "sd_repair").assert_refused(words, "repair", *arguments)
    assert sorted(tmp_path.iterdir()) == before
