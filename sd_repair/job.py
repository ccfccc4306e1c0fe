"""The inputs and outputs of one repair."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from amco_jax.errors import InputError, check_whole
from amco_jax.files import check_writable
from sd_repair import images
from sd_repair.images import Image, Mask
from sd_repair.masks import MASKS, make_mask
from sd_repair.quality import measure
from sd_repair.reading import Loaded, load_image, load_mask

Samples = UInt8[np.ndarray, "samples height width 3"]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A square image, its mask and, if known, the undamaged image."""

    image: Image
    mask: Mask
    truth: Image | None
    understood: list[str]
    """Lines that say how the files were understood and what is done with them."""


def read_inputs(
    image: str, mask: str, size: int, seed: int, truth: Path | None = None, marks: str | None = None
) -> Inputs:
    """Image, mask and truth, cropped to the largest centred square and resampled to `size` pixels.

    Args:
      image: a file, or astronaut.
      mask: a file, or the name of a mask generated from the seed, in which case the image is the truth.
      marks: the meaning of the marked pixels of a mask file, hole or known; see `load_mask`.

    Raises:
      InputError: one of them is bad, or their sizes differ.
    """
    if check_whole("size", size, 64, 2048) % 8:
        raise InputError(f"size: {size}; legal: multiples of 8 from 64 to 2048")
    given = Loaded(images.astronaut(), image) if image == "astronaut" else load_image(Path(image))
    understood = [f"image: {given.understood}"]
    if mask in MASKS:
        if marks is not None:
            raise InputError(f"mask-marks: {marks}, for a generated mask; legal: with a mask file")
        hole, square = make_mask(mask, size, seed), images.to_square(given.pixels, size)
    else:
        loaded = load_mask(Path(mask), marks)
        understood.append(f"mask: {loaded.understood}")
        whole = images.check_mask(loaded.pixels, given.pixels)
        centre = images.centre(whole)
        if centre.all() or not centre.any():
            raise InputError(
                f"mask: {mask} has {'only' if centre.all() else 'no'} hole in the largest centred square;"
                " legal: hole and known pixels"
            )
        hole, square = images.mask_to_square(whole, size), images.to_square(given.pixels, size, whole)
        inside = centre.sum() / whole.sum()
        if inside < 1:
            understood.append(f"outside the square: {1 - inside:.1%} of the hole, which is left out")
    undamaged = images.to_square(given.pixels, size) if mask in MASKS or image == "astronaut" else None
    if truth is not None:
        read = load_image(truth, "truth")
        understood.append(f"truth: {read.understood}")
        if read.pixels.shape != given.pixels.shape:
            raise InputError(
                f"truth: {truth} has {read.pixels.shape[1]} x {read.pixels.shape[0]} pixels;"
                f" legal: as the image, {given.pixels.shape[1]} x {given.pixels.shape[0]}"
            )
        undamaged = images.to_square(read.pixels, size)
    hole = images.check_mask(hole, square)
    side = min(given.pixels.shape[:2])
    understood.append(
        f"square: the centred {side} x {side} pixels, resampled to {size} x {size};"
        f" the hole is {hole.mean():.1%}"
    )
    return Inputs(square, hole, undamaged, understood)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The files of a repair: the samples, the corrupted image, and a sheet with all of them side by side."""

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
                raise InputError(f"out: {path} would replace an input file; legal: another file")
            check_writable(path)

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
        """Print the paths and, if the truth is known, the quality of each sample."""
        for path, image in zip(self.repaired, repaired, strict=True):
            print(path, end="")
            if inputs.truth is not None:
                quality = measure(inputs.truth, image, inputs.mask)
                print(f"  over the hole: PSNR {quality.psnr:.2f} dB, SSIM {quality.ssim:.3f}", end="")
            print()
        print(f"{self.corrupted}\n{self.sheet}")

    def _beside(self, ending: str) -> Path:
        return self.out.with_name(f"{self.out.stem}-{ending}{self.out.suffix}")
