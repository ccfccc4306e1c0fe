"""What one repair reads and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from amco_jax.errors import InputError, check_whole
from sd_repair import images
from sd_repair.images import Image, Mask
from sd_repair.masks import MASKS, make_mask
from sd_repair.quality import measure

Samples = UInt8[np.ndarray, "samples height width 3"]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One square of image, mask and, where it is known, the undamaged image."""

    image: Image
    mask: Mask
    truth: Image | None


def read_inputs(image: str, mask: str, size: int, seed: int, truth: Path | None = None) -> Inputs:
    """Image, mask and truth, cut to the largest centred square and resampled to `size` pixels.

    Args:
      image: a file, or astronaut.
      mask: a file, or the name of a mask made from the seed; then the image itself is the truth.

    Raises:
      InputError: any of them is bad, or they differ in size.
    """
    if check_whole("size", size, 64, 2048) % 8:
        raise InputError(f"size: {size}; legal: multiples of 8 from 64 to 2048")
    given = images.astronaut() if image == "astronaut" else images.load_image(Path(image))
    square = images.to_square(given, size)
    if mask in MASKS:
        hole = make_mask(mask, size, seed)
    else:
        hole = images.mask_to_square(images.check_mask(images.load_mask(Path(mask)), given), size)
        if not hole.any():
            raise InputError(
                f"mask: {mask} has no hole in the largest centred square; legal: at least a pixel"
            )
    undamaged = square if mask in MASKS or image == "astronaut" else None
    if truth is not None:
        loaded = images.load_image(truth)
        if loaded.shape != given.shape:
            raise InputError(
                f"truth: {truth} has {loaded.shape[1]} x {loaded.shape[0]} pixels;"
                f" legal: as the image, {given.shape[1]} x {given.shape[0]}"
            )
        undamaged = images.to_square(loaded, size)
    return Inputs(square, images.check_mask(hole, square), undamaged)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The files of a repair: first sample, further ones, corrupted image, and all side by side."""

    out: Path
    samples: int

    @property
    def repaired(self) -> list[Path]:
        return [self.out, *(self._beside(str(number)) for number in range(2, self.samples + 1))]

    @property
    def corrupted(self) -> Path:
        return self._beside("corrupted")

    @property
    def sheet(self) -> Path:
        return self._beside("sheet")

    def check(self, inputs: Sequence[str | Path | None]) -> None:
        """Raise InputError unless all files can be written and none is an input."""
        given = {Path(path).resolve() for path in inputs if path is not None}
        for path in (*self.repaired, self.corrupted, self.sheet):
            if images.check_output(path).resolve() in given:
                raise InputError(f"out: {path} would replace what the repair reads")

    def write(self, inputs: Inputs, repaired: Samples, method: str) -> None:
        corrupted = images.corrupt(inputs.image, inputs.mask)
        for path, image in zip(self.repaired, repaired, strict=True):
            images.save_image(path, image)
        images.save_image(self.corrupted, corrupted)
        names = [method] if self.samples == 1 else [f"sample {number + 1}" for number in range(self.samples)]
        panels = [("corrupted", corrupted), *zip(names, repaired, strict=True)]
        if inputs.truth is not None:
            panels.append(("truth", inputs.truth))
        images.save_image(self.sheet, images.sheet(panels))

    def print(self, inputs: Inputs, repaired: Samples) -> None:
        """Paths, and the quality of each sample where the truth is known."""
        height, width = inputs.mask.shape
        print(f"hole: {inputs.mask.mean():.1%} of {width} x {height} pixels")
        for path, image in zip(self.repaired, repaired, strict=True):
            print(path, end="")
            if inputs.truth is not None:
                quality = measure(inputs.truth, image, inputs.mask)
                print(f"  over the hole: PSNR {quality.psnr:.2f} dB, SSIM {quality.ssim:.3f}", end="")
            print()
        print(f"{self.corrupted}\n{self.sheet}")

    def _beside(self, ending: str) -> Path:
        return self.out.with_name(f"{self.out.stem}-{ending}{self.out.suffix}")
