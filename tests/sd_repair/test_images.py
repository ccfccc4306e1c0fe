"""Images and masks as arrays: checked, shaped and written."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from helpers.refusals import refused

from sd_repair.images import (
    FILL,
    check_image,
    check_mask,
    corrupt,
    mask_to_square,
    paste_known,
    save_image,
    sheet,
    to_square,
)
from sd_repair.reading import load_image


def test_written_images_read_back(pixels, tmp_path):
    for suffix in ("png", "bmp", "tif"):
        path = tmp_path / f"image.{suffix}"
        save_image(path, pixels)
        np.testing.assert_array_equal(load_image(path).pixels, pixels)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("durable", [False, True])
def test_a_durable_image_is_on_disk_before_it_gets_its_name(durable, pixels, tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.replace

    def synced(handle):
        events.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def renamed(*paths):
        events.append("name")
        rename(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save_image(tmp_path / "image.png", pixels, durable=durable)
    assert events == (["file", "name", "directory"] if durable else ["name"])


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((32, 32)), "(32, 32)"),
        (np.zeros((32, 32, 4), np.uint8), "(32, 32, 4)"),
        (np.zeros((0, 32, 3), np.uint8), "(0, 32, 3)"),
        (np.full((32, 32, 3), np.nan), "not finite"),
        (np.full((32, 32, 3), 255.0), "255"),
        (np.full((32, 32, 3), -0.1), "-0.1"),
        (np.zeros((32, 32, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), np.uint8), "4 x 4"),
        ("image", "()"),
    ],
)
def test_bad_arrays_are_refused(array, word):
    refused(lambda: check_image(array), word)


def test_floats_become_bytes(pixels):
    np.testing.assert_array_equal(check_image(pixels / 255), pixels)
    assert check_image(pixels) is pixels


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (np.zeros((32, 48)), "no pixel"),
        (np.ones((32, 48)), "all pixels"),
        (np.ones((48, 32)), "32 x 48 pixels for an image of 48 x 32 pixels"),
        (np.ones((32, 48, 1)), "shape (32, 48, 1)"),
        (np.full((32, 48), 255, np.uint8), "other values"),
        (np.full((32, 48), np.nan), "other values"),
        (np.full((32, 48), "1"), "other values"),
    ],
)
def test_bad_masks_are_refused(mask, word, pixels):
    refused(lambda: check_mask(mask, pixels), "mask", word)


def test_squares_keep_every_pixel_of_a_mask():
    for row in range(100, 300, 7):
        mask = np.zeros((400, 600), bool)
        mask[row, 300] = True
        assert mask_to_square(mask, 64).any()
        assert mask_to_square(mask, 512).any()
    assert to_square(np.zeros((40, 60, 3), np.uint8), 32).shape == (32, 32, 3)


@pytest.mark.parametrize(("length", "side"), [(48, 32), (32, 48), (40, 40), (45, 16), (17, 64)])
def test_a_pixel_is_hole_if_any_part_of_it_was(length, side):
    # In units of 1 / (length · side), pixel i of the mask is from i · side, and pixel j of the square from
    # j · length.
    old, new = np.arange(length) * side, np.arange(side)[:, None] * length
    overlap = (old < new + length) & (new < old + side)
    for column in range(length):
        mask = np.zeros((length, length + 10), bool)
        mask[length // 2, 5 + column] = True
        right = overlap[:, length // 2, None] & overlap[:, column]
        np.testing.assert_array_equal(mask_to_square(mask, side), right)


@pytest.mark.parametrize("side", [64, 128, 512])
def test_no_value_of_a_hole_reaches_a_known_pixel(side):
    image, hole = np.full((200, 210, 3), 100, np.uint8), np.zeros((200, 210), bool)
    hole[50:90, 70:75] = True
    image[hole] = 255
    assert (to_square(image, side, hole) == 100).all()
    assert (to_square(image, side)[~mask_to_square(hole, side)] != 100).any()


def test_corrupting_hides_and_pasting_keeps(pixels, hole):
    corrupted = corrupt(pixels, hole)
    assert (corrupted[hole] == FILL).all()
    np.testing.assert_array_equal(corrupted[~hole], pixels[~hole])
    pasted = paste_known(pixels, 255 - pixels, hole)
    np.testing.assert_array_equal(pasted[~hole], pixels[~hole])
    np.testing.assert_array_equal(pasted[hole], 255 - pixels[hole])


def test_a_sheet_holds_its_images(pixels):
    side_by_side = sheet([("one", pixels), ("two with a very long title", 255 - pixels)])
    np.testing.assert_array_equal(side_by_side[20:, :48], pixels)
    np.testing.assert_array_equal(side_by_side[20:, 52:], 255 - pixels)


def test_lossy_or_impossible_outputs_are_refused(pixels, tmp_path):
    refused(lambda: save_image(tmp_path / "image.jpg", pixels), "image.jpg", ".png")
    refused(lambda: save_image(tmp_path / "nowhere" / "image.png", pixels), "nowhere")
