"""Images and masks: checking, cropping and writing.

An image is a uint8 array [height, width, 3] of sRGB values, and a mask is a bool array [height, width] that
is True in the hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, UInt8

from amco_jax.errors import InputError
from amco_jax.extras import load_package
from amco_jax.files import replacing

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]

SMALLEST_SIDE = 16
LARGEST_SIDE = 8192
FILL = 128
"""Grey level of the hole in a corrupted image: the middle of the range, which the encoder maps to zero."""

_WRITTEN = (".png", ".bmp", ".tif", ".tiff")


def astronaut() -> Image:
    """scikit-image's photograph of Eileen Collins by NASA, 512 x 512, in the public domain."""
    return load_package("skimage.data").astronaut()


def check_image(image: Any, field: str = "image") -> Image:
    """Check an image given as an array of uint8, or of floats from 0 to 1, and return it as uint8.

    Raises:
      InputError: the shape or type is wrong, or values are not finite or out of range.
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or min(array.shape[:2]) < 1:
        raise InputError(f"{field}: an array of shape {array.shape}; legal: (height, width, 3)")
    check_sides(field, array.shape[1], array.shape[0])
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise InputError(f"{field}: an array of {array.dtype}; legal: uint8, or floats from 0 to 1")
    if not np.isfinite(array).all():
        raise InputError(f"{field}: values that are not finite; legal: uint8, or floats from 0 to 1")
    if array.min() < 0 or array.max() > 1:
        raise InputError(
            f"{field}: values from {array.min():g} to {array.max():g}; legal: floats from 0 to 1"
        )
    return np.round(array * 255).astype(np.uint8)


def check_mask(mask: Any, image: Image) -> Mask:
    """Check a mask given as an array of bool, or of numbers that are 0 or 1, and return it as bool.

    Raises:
      InputError: the shape differs from the image's, there are other values, or all or no pixels are hole.
    """
    array = np.asarray(mask)
    if array.shape != image.shape[:2]:
        turned = array.shape == image.shape[1::-1]
        raise InputError(
            f"mask: {_sides(array)} for an image of {_sides(image)}; legal: the image's width x height"
            + " (images are turned upright as their EXIF orientation says)" * turned
        )
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():  # NaN is neither
        raise InputError(f"mask: an array of {array.dtype} with other values; legal: 0 (known) and 1 (hole)")
    array = array.astype(bool)
    if not array.any():
        raise InputError("mask: no pixel is marked as hole; legal: at least one")
    if array.all():
        raise InputError("mask: all pixels are marked as hole; legal: at least one is known")
    return array


def to_square(image: Image, side: int, hole: Mask | None = None) -> Image:
    """The largest centred square of the image, resampled to `side` pixels.

    Args:
      hole: a mask of the image that leaves some pixel of the square known. Before the resampling, which mixes
        neighbours, each pixel of the hole is replaced by the nearest known one, so none has any effect.
    """
    square = centre(image)
    if hole is not None:
        inside = centre(hole)
        nearest = scipy.ndimage.distance_transform_edt(inside, return_distances=False, return_indices=True)
        square = square.copy()
        square[inside] = square[tuple(np.asarray(nearest)[:, inside])]
    picture = _pillow().fromarray(square)
    return np.array(picture.resize((side, side), _pillow().Resampling.LANCZOS))


def mask_to_square(mask: Mask, side: int) -> Mask:
    """The same square of the mask; a pixel is hole if any part of it was."""
    return _merged(_merged(centre(mask), side).T, side).T


def _merged(mask: Mask, rows: int) -> Mask:
    """The mask with `rows` rows instead of its own; each is the union of those that it overlaps."""
    edges = np.arange(rows + 1) * len(mask)
    first, end = edges[:-1] // rows, -(-edges[1:] // rows)
    above = np.pad(np.cumsum(mask, axis=0, dtype=np.int32), ((1, 0), (0, 0)))
    return above[end] > above[first]


def corrupt(image: Image, mask: Mask) -> Image:
    """The image with its hole filled by mid-grey, which is all that a repair may see."""
    return np.where(mask[..., None], np.uint8(FILL), image)


def paste_known(image: Image, repaired: Image, mask: Mask) -> Image:
    """The image with its hole taken from the repaired image, and all known pixels unchanged."""
    return np.where(mask[..., None], repaired, image)


def sheet(panels: Sequence[tuple[str, Image]]) -> Image:
    """Images of one size side by side, each under its title."""
    draw = _pillow("ImageDraw")
    title_height, gap = 20, 4
    height, width = panels[0][1].shape[:2]
    canvas = _pillow().new("RGB", (len(panels) * (width + gap) - gap, height + title_height), "white")
    pen = draw.Draw(canvas)
    for index, (title, image) in enumerate(panels):
        left = index * (width + gap)
        while len(title) > 1 and pen.textlength(title) > width - 4:
            title = title[:-1]
        pen.text((left + 4, 4), title, fill="black")
        canvas.paste(_pillow().fromarray(image), (left, title_height))
    return np.array(canvas)


def check_output(path: Path) -> Path:
    """Check that an image can be written losslessly to a path, and return the path.

    Raises:
      InputError: the file type is not lossless, or the directory does not exist.
    """
    if path.suffix.lower() not in _WRITTEN:
        raise InputError(f"out: {path}; legal: a file name that ends in {', '.join(_WRITTEN)} (lossless)")
    if not path.parent.is_dir():
        raise InputError(f"out: {path} cannot be written: {path.parent} is not a directory")
    return path


def save_image(path: Path, image: Image, durable: bool = False) -> None:
    """Write an image losslessly, whole or not at all.

    Args:
      durable: whether it is on disk when this returns, so that no crash of the machine can take it back.
    """
    with replacing(check_output(path), durable) as file:
        _pillow().fromarray(image).save(file)


def check_sides(field: str, width: int, height: int, separator: str = ":") -> None:
    """Raise InputError unless both sides, in pixels, are within the limits."""
    if min(width, height) < SMALLEST_SIDE or max(width, height) > LARGEST_SIDE:
        raise InputError(
            f"{field}{separator} {width} x {height} pixels;"
            f" legal: sides from {SMALLEST_SIDE} to {LARGEST_SIDE}"
        )


def _sides(array: np.ndarray) -> str:
    if array.ndim != 2 + (array.shape[2:] == (3,)):
        return f"an array of shape {array.shape}"
    return f"{array.shape[1]} x {array.shape[0]} pixels"


def centre(array: np.ndarray) -> np.ndarray:
    """The largest centred square of an array [height, width, ...]."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return array[top : top + side, left : left + side]


def _pillow(module: str = "Image") -> Any:
    return load_package(f"PIL.{module}")
