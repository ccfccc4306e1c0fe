"""The quality of a repair against the truth, over the hole only."""

from __future__ import annotations

import dataclasses

import numpy as np

from amco_jax.extras import load_package
from sd_repair.images import Image, Mask, check_image, check_mask


@dataclasses.dataclass(frozen=True)
class Quality:
    """Means over the pixels of the hole."""

    psnr: float
    """10·log10(255² / mean squared error), dB; infinite if all pixels are equal."""
    ssim: float
    """Structural similarity; 1 for equal images."""


def measure(truth: Image, repaired: Image, mask: Mask) -> Quality:
    """PSNR and SSIM over the hole; the SSIM window of 7 pixels also covers known pixels near its border.

    Raises:
      InputError: an image or the mask is bad, or the extra `sd` is not installed.
    """
    metrics = load_package("skimage.metrics")
    truth, repaired = check_image(truth, "truth"), check_image(repaired, "repaired")
    mask = check_mask(mask, truth)
    error = float(np.mean((truth[mask].astype(float) - repaired[mask]) ** 2))
    psnr = np.inf if error == 0 else 10 * np.log10(255**2 / error)
    _, similarity = metrics.structural_similarity(truth, repaired, channel_axis=-1, data_range=255, full=True)
    return Quality(float(psnr), float(similarity[mask].mean()))
