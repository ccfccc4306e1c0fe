"""Masks generated from a seed, and the mask of the latents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from amco_jax.errors import check_choice, check_whole
from sd_repair.images import Mask


def thin_strokes(side: int, seed: int) -> Mask:
    """Twelve scratches, 1 to 4 pixels wide in an image of 512 pixels."""
    return _strokes(side, seed, count=12, thinnest=1, thickest=4)


def thick_strokes(side: int, seed: int) -> Mask:
    """Six brush strokes, 16 to 32 pixels wide in an image of 512 pixels."""
    return _strokes(side, seed, count=6, thinnest=16, thickest=32)


def box(side: int, seed: int) -> Mask:
    """One rectangle away from the border, with sides from a quarter to three eighths of the image's."""
    random = np.random.default_rng(seed)
    height, width = random.integers(side // 4, 3 * side // 8 + 1, 2)
    top, left = (int(random.integers(1, side - length)) for length in (height, width))
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


MASKS: dict[str, Callable[[int, int], Mask]] = {"thin": thin_strokes, "thick": thick_strokes, "box": box}


def make_mask(name: str, side: int, seed: int = 0) -> Mask:
    """A mask by name, for a square image of `side` pixels; equal seeds give equal masks.

    Raises:
      InputError: the name is unknown, the side is below 16, or the seed is negative.
    """
    check_choice("mask", name, MASKS)
    return MASKS[name](check_whole("size", side, 16), check_whole("seed", seed, 0))


def pool(mask: Mask, factor: int) -> Bool[np.ndarray, "rows columns"]:
    """The maximum over each block of factor x factor pixels: a latent is hole if any of its pixels is.

    Taking the nearest pixel instead would lose most of a thin stroke.
    """
    rows, columns = (length // factor for length in mask.shape)
    blocks = mask[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return np.any(blocks, axis=(1, 3))


def _strokes(side: int, seed: int, count: int, thinnest: int, thickest: int) -> Mask:
    """Random walks that turn slowly, drawn with round pens."""
    random = np.random.default_rng(seed)
    mask = np.zeros((side, side), bool)
    rows, columns = np.mgrid[:side, :side]
    for _ in range(count):
        radius = random.integers(thinnest, thickest + 1) * side / 512 / 2
        point, angle = random.uniform(0.1, 0.9, 2) * side, random.uniform(0, 2 * np.pi)
        for _ in range(int(random.integers(4, 9))):
            angle += random.normal(0, 0.6)
            end = point + side / 16 * np.array([np.sin(angle), np.cos(angle)])
            mask |= _distance(rows, columns, point, end) <= max(radius, 0.5)
            point = end
    return mask


def _distance(rows: np.ndarray, columns: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of each pixel's centre from the segment between two points, in pixels."""
    along = end - start
    offset = np.stack([rows - start[0], columns - start[1]], axis=-1)
    share = np.clip(offset @ along / (along @ along), 0, 1)
    return np.linalg.norm(offset - share[..., None] * along, axis=-1)
