"""Repair without a trained model: OpenCV's Telea and Navier–Stokes methods, scikit-image's biharmonic one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amco_jax.errors import check_choice
from amco_jax.extras import load_package
from sd_repair.images import Image, Mask, check_image, check_mask, corrupt, paste_known

RADIUS = 3
"""Radius in pixels of the neighbourhood that OpenCV's two methods use."""


def telea(image: Image, mask: Mask) -> Image:
    """Fast marching from the border inwards with weighted means (Telea, 2004)."""
    opencv = load_package("cv2")
    return opencv.inpaint(image, mask.astype(np.uint8), RADIUS, opencv.INPAINT_TELEA)


def navier_stokes(image: Image, mask: Mask) -> Image:
    """Continuation of isophotes as streamlines of a fluid (Bertalmio, Bertozzi and Sapiro, 2001)."""
    opencv = load_package("cv2")
    return opencv.inpaint(image, mask.astype(np.uint8), RADIUS, opencv.INPAINT_NS)


def biharmonic(image: Image, mask: Mask) -> Image:
    """Solution of Δ²u = 0 in the hole, with u given around it (Damelin and Hoang, 2018)."""
    restoration = load_package("skimage.restoration")
    solution = restoration.inpaint_biharmonic(image / 255, mask, split_into_regions=True, channel_axis=-1)
    return np.round(np.clip(solution, 0, 1) * 255).astype(np.uint8)


CLASSICAL: dict[str, Callable[[Image, Mask], Image]] = {
    "telea": telea,
    "ns": navier_stokes,
    "biharmonic": biharmonic,
}


def repair_classical(method: str, image: Image, mask: Mask) -> Image:
    """The image with its hole repaired and all known pixels unchanged.

    Raises:
      InputError: the method is unknown, the image or mask is bad, or the extra `sd` is not installed.
    """
    check_choice("method", method, CLASSICAL)
    image = check_image(image)
    mask = check_mask(mask, image)
    return paste_known(image, CLASSICAL[method](corrupt(image, mask), mask), mask)
