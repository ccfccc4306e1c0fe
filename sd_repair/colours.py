"""Conversion of image colours to sRGB, according to the colour information in the file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from amco_jax.errors import InputError
from amco_jax.extras import load_package

_MODES = {
    "RGB": ("RGB", {"RGB", "RGBA", "P", "PA", "L", "LA", "1"}),
    "GRAY": ("L", {"L", "LA", "1"}),
    "CMYK": ("CMYK", {"CMYK"}),
    "Lab": ("LAB", {"LAB"}),
}
"""For each colour space of a profile: Pillow's mode for its colours, and the image modes that may have it."""

_SRGB_GAMMA = 0.45455
_SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White point, red, green and blue in CIE 1931 x, y, in the order of PNG's cHRM chunk."""
_ROUNDING = 2
"""Number of levels by which a conversion may change colours that are already sRGB."""


def to_srgb(picture: Any, source: str) -> tuple[Any, str]:
    """A Pillow image in mode RGB with sRGB colours, and a description of the conversion.

    Args:
      source: the name of the picture in messages.

    Raises:
      InputError: the colour profile is damaged or does not fit this kind of image, or the file states another
        colour space without a profile.
    """
    data = picture.info.get("icc_profile")
    if data:
        return _by_profile(picture, data, source)
    stated = _stated(picture)
    if stated is not None:
        raise InputError(f"{source} has {stated}; legal: sRGB, or a colour profile")
    if picture.mode == "CMYK":
        return picture.convert("RGB"), "CMYK without a colour profile, converted approximately"
    return picture.convert("RGB"), "no colour profile, assumed to be sRGB"


def _by_profile(picture: Any, data: bytes, source: str) -> tuple[Any, str]:
    """Convert by an ICC profile, with relative colorimetric intent and black point compensation."""
    cms = load_package("PIL.ImageCms")
    legal = "legal: a colour profile of the image's kind, or none"
    try:
        profile = cms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        name = "".join(filter(str.isprintable, cms.getProfileDescription(profile))).strip()[:60]
    except (OSError, cms.PyCMSError) as error:
        raise InputError(f"{source} has a damaged colour profile; {legal}") from error
    mode, holders = _MODES.get(space, ("", set()))
    if picture.mode not in holders:
        raise InputError(
            f"{source} has pixels of mode {picture.mode} and a colour profile for {space}; {legal}"
        )
    flags = cms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":
        flags |= cms.Flags.NOOPTIMIZE  # the optimisation is off by up to ten levels in dark greys
    try:
        transform = cms.buildTransform(
            profile, cms.createProfile("sRGB"), mode, "RGB", cms.Intent.RELATIVE_COLORIMETRIC, flags
        )
    except cms.PyCMSError as error:
        raise InputError(f"{source} has a damaged colour profile; {legal}") from error
    if mode == "RGB" and _changes_nothing(transform):
        return picture.convert("RGB"), f"sRGB by its colour profile ({name})"
    picture = picture.convert(mode)
    if mode == "L":
        all_greys = load_package("PIL.Image").fromarray(np.arange(256, dtype=np.uint8)[None])
        colours = np.asarray(cms.applyTransform(all_greys, transform))[0]
        converted = load_package("PIL.Image").fromarray(colours[np.asarray(picture)])
    else:
        converted = cms.applyTransform(picture, transform)
    return converted, f"converted from its colour profile ({name}) to sRGB"


def _changes_nothing(transform: Any) -> bool:
    """Whether a transform leaves all RGB colours unchanged apart from rounding."""
    levels = np.linspace(0, 255, 17).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(17, -1, 3)
    image = load_package("PIL.Image").fromarray(colours)
    changed = np.asarray(load_package("PIL.ImageCms").applyTransform(image, transform))
    return bool(np.abs(changed.astype(int) - colours).max() <= _ROUNDING)


def _stated(picture: Any) -> str | None:
    """The colour space that a file without a profile states, in words; None if it states none or sRGB."""
    tags = load_package("PIL.ExifTags")
    exif = picture.getexif()
    interoperability = exif.get_ifd(tags.IFD.Interop).get(1)
    if interoperability == "R03" or exif.get_ifd(tags.IFD.Exif).get(tags.Base.ColorSpace) == 2:
        return "Adobe RGB colours by its EXIF data"
    if "srgb" in picture.info:
        return None
    gamma = picture.info.get("gamma", _SRGB_GAMMA)
    if abs(gamma - _SRGB_GAMMA) > 0.02:
        return f"a gamma of {gamma:g} (sRGB: {_SRGB_GAMMA})"
    primaries = picture.info.get("chromaticity", _SRGB_PRIMARIES)
    if np.abs(np.subtract(primaries, _SRGB_PRIMARIES)).max() > 0.01:
        return "primaries that are not those of sRGB"
    return None
