"""The damaged images of a run, and the truth behind them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amco_jax.errors import InputError
from edge_fleet.configuration import FleetSettings
from sd_repair.images import Image, Mask, astronaut, corrupt, to_square
from sd_repair.masks import make_mask
from sd_repair.reading import load_image

POOL = 12
"""Damaged images, of which each request gets some"""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Picture(NamedTuple):
    """A damaged image."""

    truth: Image
    damaged: Image
    mask: Mask


class Pictures:
    """A pool of damaged images, made from a seed before the run, as drawing a mask takes time."""

    def __init__(self, settings: FleetSettings, side: int, seed: int):
        """Make the pool.

        Args:
          side: of the images, pixels.

        Raises:
          InputError: an image cannot be read, or a directory holds none.
        """
        random = np.random.default_rng(seed)
        if settings.images:
            truths = _from_directory(Path(settings.images), side)
        else:
            truths = [_crop(astronaut(), side, random) for _ in range(POOL)]
        self._seed = seed
        self._pool = []
        for number in range(max(POOL, len(truths))):
            truth = truths[number % len(truths)]
            mask = make_mask(settings.masks, side, seed + number)
            self._pool.append(Picture(truth, corrupt(truth, mask), mask))

    @property
    def digest(self) -> str:
        """A digest of the pool."""
        found = hashlib.sha256()
        for picture in self._pool:
            for part in picture:
                found.update(part.tobytes())
        return found.hexdigest()

    def of(self, episode: int, request: int, image: int) -> Picture:
        """The picture of an image of a request; the same one whenever it is asked for."""
        draw = np.random.default_rng([self._seed, episode, request, image])
        return self._pool[int(draw.integers(len(self._pool)))]


def _from_directory(directory: Path, side: int) -> list[Image]:
    if not directory.is_dir():
        raise InputError(f"images: {directory} is not a directory; legal: a directory of images")
    files = sorted(path for path in directory.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise InputError(f"images: {directory} holds none; legal: files that end in {', '.join(_SUFFIXES)}")
    return [to_square(load_image(file).pixels, side) for file in files]


def _crop(photograph: Image, side: int, random: np.random.Generator) -> Image:
    """A random square of at least half of the photograph's side, sometimes mirrored."""
    whole = min(photograph.shape[:2])
    length = int(random.integers(whole // 2, whole + 1))
    top, left = (int(random.integers(0, extent - length + 1)) for extent in photograph.shape[:2])
    square = photograph[top : top + length, left : left + length]
    return to_square(square[:, ::-1] if random.random() < 0.5 else square, side)
