"""Images and masks as users bring them: each is taken for what it is, or refused in one line."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from amco_jax.errors import InputError
from sd_repair.images import (
    FILL,
    check_image,
    check_mask,
    corrupt,
    load_image,
    load_mask,
    mask_to_square,
    paste_known,
    save_image,
    sheet,
    to_square,
)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture
def hole():
    mask = np.zeros((32, 48), bool)
    mask[10:14, 20:30] = True
    return mask


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_written_images_read_back(pixels, tmp_path):
    for suffix in ("png", "bmp", "tif"):
        path = tmp_path / f"image.{suffix}"
        save_image(path, pixels)
        np.testing.assert_array_equal(load_image(path), pixels)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_other_modes_become_rgb(mode, pixels, tmp_path):
    picture = Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture.save(path)
    image = load_image(path)
    assert image.shape == pixels.shape
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.array(picture.convert("RGB")))


def test_a_turned_photograph_is_upright(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


def png(width, height, bits, data):
    """A PNG file of RGB pixels; Pillow writes none of 16 bits, and no damaged one."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def write_hostile(kind, path, pixels):
    picture = Image.fromarray(pixels)
    if kind == "truncated":
        picture.save(path)
        path.write_bytes(path.read_bytes()[:-900])
    elif kind == "garbage":
        path.write_bytes(b"not an image at all")
    elif kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "transparent":
        picture.putalpha(200)
        picture.save(path)
    elif kind == "transparent-palette":
        picture.convert("P").save(path, transparency=0)
    elif kind == "16-bit":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    elif kind == "tiny":
        picture.resize((3, 3)).save(path)
    elif kind in ("huge", "zero"):
        side = 60_000 if kind == "huge" else 0
        path.write_bytes(png(side, side, 8, b"\0" * 4))
    elif kind == "16-bit-colour":
        rows = (b"\0" + row.tobytes() for row in pixels.astype(">u2") * 257)
        path.write_bytes(png(pixels.shape[1], pixels.shape[0], 16, zlib.compress(b"".join(rows))))
    elif kind == "animated":
        picture.save(path, save_all=True, append_images=[Image.fromarray(255 - pixels)])


@pytest.mark.parametrize("load", [load_image, load_mask])
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing", "no file"),
        ("truncated", "cannot be read"),
        ("garbage", "not an image"),
        ("empty", "not an image"),
        ("directory", "cannot be read"),
        ("transparent", "opaque"),
        ("transparent-palette", "opaque"),
        ("16-bit", "8 bits"),
        ("16-bit-colour", "8 bits"),
        ("tiny", "3 x 3"),
        ("huge", "large"),
        ("zero", "image"),
        ("animated", "2 frames"),
    ],
)
def test_hostile_files_are_refused_in_one_line(load, kind, word, pixels, tmp_path):
    path = tmp_path / "hostile.png"
    write_hostile(kind, path, pixels)
    refused(lambda: load(path), "hostile.png", word)


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
        (np.ones((48, 32)), "48 x 32"),
        (np.ones((32, 48, 1)), "32 x 48"),
        (np.full((32, 48), 255, np.uint8), "other values"),
        (np.full((32, 48), np.nan), "other values"),
        (np.full((32, 48), "1"), "other values"),
    ],
)
def test_bad_masks_are_refused(mask, word, pixels):
    refused(lambda: check_mask(mask, pixels), "mask", word)


def test_masks_of_files(hole, pixels, tmp_path):
    path = tmp_path / "mask.png"
    for mode in ("L", "RGB", "1", "P"):
        Image.fromarray(hole.astype(np.uint8) * 255).convert(mode).save(path)
        np.testing.assert_array_equal(load_mask(path), hole)
    Image.fromarray(pixels).save(path)
    refused(lambda: load_mask(path), "colour")
    alpha = Image.new("RGBA", (48, 32), "white")
    alpha.putalpha(Image.fromarray(hole.astype(np.uint8) * 255))
    alpha.save(path)
    refused(lambda: load_mask(path), "alpha")


def test_squares_keep_every_pixel_of_a_mask():
    for row in range(100, 300, 7):
        mask = np.zeros((400, 600), bool)
        mask[row, 300] = True
        assert mask_to_square(mask, 64).any()
        assert mask_to_square(mask, 512).any()
    assert to_square(np.zeros((40, 60, 3), np.uint8), 32).shape == (32, 32, 3)


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
