"""Reading image and mask files, with a description of how each was understood."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from amco_jax.errors import InputError, check_choice
from amco_jax.extras import load_package
from sd_repair.colours import to_srgb
from sd_repair.images import LARGEST_SIDE, SMALLEST_SIDE, Image, Mask, check_sides

Pixels = TypeVar("Pixels")

MARKS = ("hole", "known")
"""Possible meanings of the marked pixels of a mask file."""

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"}
_DEEP_GREYS = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 65535, "F": 1}
"""The value of white for each Pillow mode of this kind, which is accepted only for masks."""
_LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}
_TINT = 32
"""Largest difference between the channels of a grey pixel; lossy compression tints greys slightly."""
_MAX_GREY = 0.25
"""Largest share of middle greys in a mask; blurred edges have less, photographs have more."""
_ORIENTATION = 0x0112
_TURNED = range(2, 9)
"""The EXIF orientations of pictures that are not upright"""


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[Pixels]):
    """The content of a file, and a description of how it was understood."""

    pixels: Pixels
    understood: str


def load_image(path: Path, field: str = "image") -> Loaded[Image]:
    """Read an image in sRGB, turned upright according to its EXIF orientation.

    Colours are converted by the file's colour profile. Of the two pictures that phones store in one JPEG file
    (MPO), the first is read; the second is a preview, a depth map or similar.

    Raises:
      InputError: the file is not an image, is truncated, too small or too large, or has more than 8 bits per
        channel, transparent pixels, several frames, or a colour space that cannot be converted.
    """
    with _opened(field, path, _EIGHT_BIT) as (picture, notes):
        if _alpha(picture).min() < 255:
            raise InputError(f"{field}: {path} has transparent pixels; legal: an opaque image")
        colours, colour_note = to_srgb(picture, f"{field}: {path}")
        return Loaded(np.array(colours), ", ".join([*notes, colour_note]))


def load_mask(path: Path, marks: str | None = None) -> Loaded[Mask]:
    """Read a mask, True in the hole.

    White pixels are marked. In a file with two values, such as 0 and 1, those of the larger value are marked;
    in a file with black and one other colour, those of that colour; in a mask on a transparent layer, the
    opaque ones. Otherwise, pixels are marked if they have at least half the value of white.

    Args:
      marks: the meaning of the marked pixels, hole or known; by default, the hole, provided that they are at
        most half of the image.

    Raises:
      InputError: the file is not an image as in `load_image`, is a greyscale or colour picture, or its marked
        pixels may have either meaning.
    """
    if marks is not None:
        check_choice("mask-marks", marks, MARKS)
    with _opened("mask", path, _EIGHT_BIT | _DEEP_GREYS.keys()) as (picture, notes):
        levels, white, name = _levels(picture, path)
        marked, level_note = _marked(levels, white, picture.format not in _LOSSY, path)
    share = float(marked.mean())
    readings = f"as the hole, {share:.1%} of the image is repaired; as the known part, {1 - share:.1%}"
    if marks is None and name == "opaque":
        raise InputError(
            f"mask: {path} has transparent pixels, and opaque ones may mark either part: {readings};"
            " legal: --mask-marks hole or --mask-marks known"
        )
    if marks is None and 0.5 < share < 1:
        raise InputError(
            f"mask: {path} is {name} on more than half of the image, which may mark either part: {readings};"
            " legal: --mask-marks hole or --mask-marks known"
        )
    hole = ~marked if marks == "known" else marked
    meaning = (
        f"{name} marks the {'known part' if marks == 'known' else 'hole'}, the hole is {hole.mean():.1%}"
    )
    return Loaded(hole, ", ".join([*notes, *level_note, meaning]))


def _levels(picture: Any, path: Path) -> tuple[np.ndarray, float, str]:
    """The values that distinguish marked pixels, the value of white, and the name of marked pixels."""
    if picture.mode in _DEEP_GREYS:
        levels = np.asarray(picture)
        if not np.isfinite(levels).all():
            raise InputError(f"mask: {path} has values that are not finite; legal: black and white")
        return levels, _DEEP_GREYS[picture.mode], "white"
    colours = np.asarray(picture.convert("RGB"))
    alpha = _alpha(picture)
    if alpha.min() < 255:
        visible = colours[alpha >= 128]
        if (visible != visible[:1]).any() and (np.ptp(visible, axis=-1) <= _TINT).all():
            raise InputError(
                f"mask: {path} has greys and transparent pixels, and either may be the mask;"
                " legal: black and white without an alpha channel, or one colour on a transparent background"
            )
        return alpha, 255, "opaque"
    if np.ptp(colours, axis=-1).max() <= _TINT:
        return colours[..., 1], 255, "white"
    coloured = colours.any(axis=-1)
    paint = colours[coloured][0]
    if coloured.all() or picture.format in _LOSSY or (colours[coloured] != paint).any():
        raise InputError(
            f"mask: {path} is a colour image; legal: black and white, or black and one other colour"
        )
    return np.where(coloured, 255, 0), 255, f"the colour #{bytes(paint).hex()}"


def _marked(levels: np.ndarray, white: float, lossless: bool, path: Path) -> tuple[Mask, list[str]]:
    """The marked pixels, and a note on how they were chosen unless the mask is black and white.

    Raises:
      InputError: there are many middle greys, several greys but no white, or values that no grey has.
    """
    low, high = levels.min(), levels.max()
    if lossless and low < high and ((levels == low) | (levels == high)).all():
        if (low, high) == (0, white):
            return levels == high, []
        return levels == high, [f"values {low:g} and {high:g}, {high:g} counts as white"]
    if low < 0 or high > white or low < high < white / 2:
        raise InputError(
            f"mask: {path} has grey levels from {low:g} to {high:g} where white is {white:g};"
            f" legal: two values, or black and white"
        )
    between = float(((levels > white / 4) & (levels < 3 * white / 4)).mean())
    if between > _MAX_GREY:
        raise InputError(
            f"mask: {path} is a greyscale picture, {between:.0%} of it middle grey; legal: black and white"
        )
    return levels >= white / 2, [f"grey levels, white from {white / 2:g}"] if low < high else []


@contextlib.contextmanager
def _opened(field: str, path: Path, modes: set[str]) -> Iterator[tuple[Any, list[str]]]:
    """An image with checked header, loaded and upright, and notes on how it was understood."""
    pillow, limit = load_package("PIL.Image"), f"from {SMALLEST_SIDE} to {LARGEST_SIDE}"
    try:
        # Given a path, Pillow maps plain pixels of TIFF files with the sides that they have when turned.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            picture = pillow.open(file)
            check_sides(f"{field}: {path}", picture.width, picture.height, separator=" is")
            # Pillow would drop half of the bits of 16-bit colours
            deep = ";16" in str(picture.tile) and picture.mode not in _DEEP_GREYS
            if picture.mode not in modes or deep:
                raise InputError(
                    f"{field}: {path} has pixels of mode {picture.mode}{', 16 bits' * deep};"
                    " legal: 8 bits per channel"
                )
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":
                raise InputError(f"{field}: {path} has {frames} frames; legal: one")
            with picture:
                turned = picture.getexif().get(_ORIENTATION) in _TURNED
                picture.load()
                upright = load_package("PIL.ImageOps").exif_transpose(picture)
                upright.format = picture.format
                notes = [f"{path}, {upright.width} x {upright.height} pixels, {picture.mode}"]
                notes += ["turned upright by its EXIF orientation"] * turned
                notes += [f"the first of {frames} pictures in the file"] * (frames > 1)
                yield upright, notes
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise InputError(f"{field}: {path} is too large; legal: sides {limit} pixels") from error
    except pillow.UnidentifiedImageError as error:
        raise InputError(f"{field}: {path} is not an image file of a known format") from error
    except FileNotFoundError as error:
        raise InputError(f"{field}: there is no file {path}") from error
    except InputError:
        raise
    except (
        Exception
    ) as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{field}: {path} cannot be read: {reason}") from error


def _alpha(picture: Any) -> np.ndarray:
    """The alpha channel [height, width] of a picture, 255 without one."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        return np.asarray(picture.convert("RGBA"))[..., 3]
    return np.full((picture.height, picture.width), 255, np.uint8)
