"""Image and mask files as users bring them: each is taken for what it is, and says so, or is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from helpers.profiles import P3_TO_XYZ, SRGB_TO_XYZ, cmyk_profile, grey_profile, rgb_profile, to_srgb
from helpers.refusals import refused
from PIL import Image, ImageCms, PngImagePlugin

from sd_repair.reading import load_image, load_mask


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_other_modes_become_rgb(mode, pixels, tmp_path):
    picture = Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture.save(path)
    image = load_image(path).pixels
    assert image.shape == pixels.shape
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.array(picture.convert("RGB")))


def test_a_turned_photograph_is_upright(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png").pixels, np.rot90(pixels, -1))


@pytest.mark.parametrize("kind", ["L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8, 9, 255])
def test_plain_tiff_files_are_upright(kind, orientation, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(pixels).convert(kind)
    picture.save(tmp_path / "turned.tif", exif=exif)
    upright = np.array(picture.convert("RGB"))
    right = {
        3: np.rot90(upright, 2),
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, -1),
        8: np.rot90(upright),
    }
    loaded = load_image(tmp_path / "turned.tif")
    np.testing.assert_array_equal(loaded.pixels, right.get(orientation, upright))
    assert ("turned upright" in loaded.understood) == (orientation in right)


def test_deep_masks_of_plain_tiff_files_are_upright(hole, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(hole.astype(np.uint16) * 65535).save(tmp_path / "turned.tif", exif=exif)
    np.testing.assert_array_equal(load_mask(tmp_path / "turned.tif").pixels, np.rot90(hole, -1))


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


def test_deep_greys_are_no_image(pixels, tmp_path):
    write_hostile("16-bit", tmp_path / "deep.png", pixels)
    refused(lambda: load_image(tmp_path / "deep.png"), "deep.png", "8 bits")


@pytest.mark.parametrize("load", [load_image, load_mask])
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing", "no file"),
        ("truncated", "cannot be read"),
        ("garbage", "not an image"),
        ("empty", "not an image"),
        ("directory", "cannot be read"),
        ("transparent", "transparent pixels"),
        ("transparent-palette", "transparent pixels"),
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


def painted(hole, low=0, high=255, kind=np.uint8):
    """A mask as an array of two values, the larger one in the hole."""
    return np.where(hole, high, low).astype(kind)


def test_the_first_picture_of_a_phone_photograph_is_taken(pixels, tmp_path):
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    first, second = Image.fromarray(pixels), Image.fromarray(pixels[:20, :24] // 2)
    first.save(path, "MPO", save_all=True, append_images=[second], exif=exif, quality=95)
    loaded = load_image(path)
    first.save(tmp_path / "plain.jpg", quality=95)
    np.testing.assert_array_equal(loaded.pixels, np.rot90(load_image(tmp_path / "plain.jpg").pixels, -1))
    for words in ("32 x 48 pixels", "first of 2 pictures", "turned upright", "no colour profile"):
        assert words in loaded.understood


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_animations_and_pages_are_refused(suffix, pixels, tmp_path):
    path = tmp_path / f"moving.{suffix}"
    Image.fromarray(pixels).save(path, save_all=True, append_images=[Image.fromarray(255 - pixels)])
    for load in (load_image, load_mask):
        refused(lambda load=load: load(path), f"moving.{suffix} has 2 frames")


def test_colours_are_converted_by_their_profile(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "p3.png", icc_profile=rgb_profile(P3_TO_XYZ, 2.2))
    light = (pixels / 255) ** 2.2 @ P3_TO_XYZ.T
    right = to_srgb(light @ np.linalg.inv(SRGB_TO_XYZ).T)
    loaded = load_image(tmp_path / "p3.png")
    assert np.abs(loaded.pixels - right).max() < 2
    assert np.abs(loaded.pixels - pixels.astype(float)).mean() > 5
    assert "converted from its colour profile (made up) to sRGB" in loaded.understood


def test_srgb_by_profile_is_left_as_it_is(pixels, tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "RGBA", "L", "P"):
        picture = Image.fromarray(pixels).convert(mode)
        picture.save(tmp_path / "srgb.png", icc_profile=srgb)
        loaded = load_image(tmp_path / "srgb.png")
        np.testing.assert_array_equal(loaded.pixels, np.array(picture.convert("RGB")))
        assert "sRGB by its colour profile" in loaded.understood


def test_greys_are_converted_by_their_profile(pixels, tmp_path):
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "linear.png", icc_profile=grey_profile(1.0))
    loaded = load_image(tmp_path / "linear.png").pixels
    assert np.abs(loaded - to_srgb(grey / 255)[..., None]).max() < 2


def test_inks_are_converted_by_their_profile(pixels, tmp_path):
    def lightness(corner):
        return 0 if corner[3] else 1 - corner[:3].mean() / 2

    picture = Image.fromarray(
        np.where(pixels[..., :1] > 127, [0, 0, 0, 0], [255, 255, 0, 0]).astype(np.uint8), "CMYK"
    )
    picture.save(tmp_path / "inks.tif", icc_profile=cmyk_profile(lightness))
    loaded = load_image(tmp_path / "inks.tif")
    assert "converted from its colour profile" in loaded.understood
    paper = pixels[..., 0] > 127
    # The profile makes a light grey of cyan and magenta, the rough conversion pure blue.
    grey = to_srgb(np.array(((100 * 2 / 3 + 16) / 116) ** 3))
    assert np.abs(loaded.pixels[paper].astype(int) - 255).max() <= 1
    assert np.abs(loaded.pixels[~paper].astype(int) - grey).max() <= 3
    picture.save(tmp_path / "rough.tif")
    rough = load_image(tmp_path / "rough.tif")
    assert "converted approximately" in rough.understood
    np.testing.assert_array_equal(rough.pixels[~paper], np.full((np.sum(~paper), 3), (0, 0, 255)))


def test_bad_profiles_are_refused_in_one_line(pixels, tmp_path):
    path = tmp_path / "image.png"
    good = rgb_profile(P3_TO_XYZ, 2.2)
    for profile in (b"junk", good[:100], good[:-60], good[:200] + bytes(len(good) - 200)):
        Image.fromarray(pixels).save(path, icc_profile=profile)
        refused(lambda: load_image(path), "image.png has a damaged colour profile")
    for mode, profile, space in (("RGB", grey_profile(2), "GRAY"), ("L", cmyk_profile(np.mean), "CMYK")):
        Image.fromarray(pixels).convert(mode).save(path, icc_profile=profile)
        refused(lambda: load_image(path), f"mode {mode}", f"profile for {space}")


@pytest.mark.parametrize(
    ("chunk", "data", "word"),
    [
        (b"gAMA", struct.pack(">I", 100_000), "a gamma of 1"),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), "primaries"),
        (b"gAMA", struct.pack(">I", 45_455), None),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), None),
    ],
)
def test_another_colour_space_without_a_profile_is_refused(chunk, data, word, pixels, tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add(chunk, data)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path, pnginfo=info)
    if word is None:
        np.testing.assert_array_equal(load_image(path).pixels, pixels)
    else:
        refused(lambda: load_image(path), "image.png", word)
        info.add(b"sRGB", b"\0")  # which overrides the others
        Image.fromarray(pixels).save(path, pnginfo=info)
        np.testing.assert_array_equal(load_image(path).pixels, pixels)


def test_adobe_rgb_of_a_camera_is_refused(pixels, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.fromarray(pixels).save(tmp_path / "camera.jpg", exif=exif)
    refused(lambda: load_image(tmp_path / "camera.jpg"), "camera.jpg", "Adobe RGB")


def test_masks_of_files(hole, pixels, tmp_path):
    path = tmp_path / "mask.png"
    for mode in ("L", "RGB", "1", "P"):
        Image.fromarray(painted(hole)).convert(mode).save(path)
        loaded = load_mask(path)
        np.testing.assert_array_equal(loaded.pixels, hole)
        assert loaded.understood.endswith("white marks the hole, the hole is 2.6%")
    Image.fromarray(pixels).save(path)
    refused(lambda: load_mask(path), "colour")


VALUES = [
    (0, 1, np.uint8),
    (3, 9, np.uint8),
    (0, 65535, np.uint16),
    (0, 1, np.uint16),
    (0, 1, np.int32),
    (0, 1, np.float32),
]


@pytest.mark.parametrize(("low", "high", "kind"), VALUES)
def test_two_values_are_told_apart(low, high, kind, hole, tmp_path):
    path = tmp_path / "mask.tif"
    Image.fromarray(painted(hole, low, high, kind)).save(path)
    loaded = load_mask(path)
    np.testing.assert_array_equal(loaded.pixels, hole)
    said = f"values {low} and {high}, {high} counts as white" in loaded.understood
    assert said != ((low, high, kind) in ((0, 65535, np.uint16), (0, 1, np.float32)))


def test_palette_masks(hole, tmp_path):
    path = tmp_path / "mask.png"
    picture = Image.fromarray(hole.astype(np.uint8)).convert("P")
    for paint, words in (
        ((1, 1, 1), "values 0 and 1, 1 counts as white"),
        ((128, 0, 0), "the colour #800000 marks the hole"),
    ):
        picture.putpalette([0, 0, 0, *paint])
        picture.save(path)
        loaded = load_mask(path)
        np.testing.assert_array_equal(loaded.pixels, hole)
        assert words in loaded.understood
    picture.putpalette([255, 255, 255, 128, 0, 0])  # is the red painted, or white?
    picture.save(path)
    refused(lambda: load_mask(path), "colour")


def test_masks_of_a_lossy_file(hole, tmp_path):
    path = tmp_path / "mask.jpg"
    big = np.kron(hole, np.ones((5, 5), bool))
    for mode in ("L", "RGB"):
        Image.fromarray(painted(big)).convert(mode).save(path, quality=60)
        assert len(np.unique(np.array(Image.open(path)))) > 2
        loaded = load_mask(path)
        np.testing.assert_array_equal(loaded.pixels, big)
        assert "grey levels, white from 127.5" in loaded.understood
    Image.fromarray(painted(big, 0, 9)).save(path)
    refused(lambda: load_mask(path), "mask.jpg has grey levels from 0 to", "where white is 255")


def test_greyscale_pictures_and_label_maps_are_no_masks(hole, tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1))).save(path)
    refused(lambda: load_mask(path), "greyscale picture")
    labels = hole.astype(np.uint8)
    labels[0] = 2
    Image.fromarray(labels).save(path)
    refused(lambda: load_mask(path), "grey levels from 0 to 2 where white is 255")
    Image.fromarray(np.full((32, 48), np.nan, np.float32)).save(tmp_path / "mask.tif")
    refused(lambda: load_mask(tmp_path / "mask.tif"), "not finite")
    for levels, span in ((labels * 127.5, "0 to 255"), (labels - 1.0, "-1 to 1")):
        Image.fromarray(levels.astype(np.float32)).save(tmp_path / "mask.tif")
        refused(lambda: load_mask(tmp_path / "mask.tif"), f"grey levels from {span} where white is 1;")


def test_soft_edges_end_at_half(hole, tmp_path):
    path = tmp_path / "mask.png"
    soft = painted(hole)
    soft[10] //= 3
    soft[13] = np.where(hole[13], 128, 0)
    Image.fromarray(soft).save(path)
    right = hole.copy()
    right[10] = False
    np.testing.assert_array_equal(load_mask(path).pixels, right)


def test_masks_on_a_transparent_layer_need_the_option(hole, pixels, tmp_path):
    path = tmp_path / "mask.png"
    layer = Image.new("RGBA", (48, 32), "red")
    layer.putalpha(Image.fromarray(painted(hole)))
    layer.save(path)
    refused(lambda: load_mask(path), "opaque", "2.6%", "97.4%", "--mask-marks hole or --mask-marks known")
    np.testing.assert_array_equal(load_mask(path, "hole").pixels, hole)
    np.testing.assert_array_equal(load_mask(path, "known").pixels, ~hole)
    cut_out = Image.fromarray(pixels)  # the photograph itself, erased in the hole
    cut_out.putalpha(Image.fromarray(painted(~hole)))
    cut_out.save(path)
    np.testing.assert_array_equal(load_mask(path, "known").pixels, hole)
    both = Image.fromarray(painted(hole)).convert("RGBA")
    both.putalpha(Image.fromarray(painted(np.arange(48) < np.full((32, 1), 25))))
    both.save(path)
    refused(lambda: load_mask(path, "hole"), "greys and transparent pixels")


def test_a_mask_that_is_mostly_white_needs_the_option(hole, tmp_path):
    path = tmp_path / "inverted.png"
    Image.fromarray(painted(~hole)).save(path)
    refused(
        lambda: load_mask(path),
        "mask: ", "inverted.png", "97.4%", "2.6%", "--mask-marks hole or --mask-marks known",
    )  # fmt: skip
    known = load_mask(path, "known")
    np.testing.assert_array_equal(known.pixels, hole)
    assert known.understood.endswith("white marks the known part, the hole is 2.6%")
    np.testing.assert_array_equal(load_mask(path, "hole").pixels, ~hole)
    refused(lambda: load_mask(path, "white"), "mask-marks: 'white'; legal: hole, known")
    half = np.zeros((32, 48), bool)
    half[:16] = True
    Image.fromarray(painted(half)).save(path)
    np.testing.assert_array_equal(load_mask(path).pixels, half)
