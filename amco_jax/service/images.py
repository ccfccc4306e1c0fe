"""An image service: the devices that run it, and what latency tables say that each of them needs.

The service gives the model its units: sizes are image batches, work is counted in denoising steps of a
batch. See docs/latency-tables.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError, check_choice, check_list, check_number, check_whole, from_table
from amco_jax.service.latency import CONFIGURATION, Fit, find_service, is_shipped, read_table, table_path

SPLITS = ("whole", "fluid")
"""How a request may be split over servers: in whole image batches, or anywhere"""

MAX_ITEMS = 1_000_000
"""Image batches of a task, and denoising steps of a batch, at most"""

_INPUT_BITS, _RESULT_BITS = 32, 24
"""Of a pixel, uncompressed: an RGB image with its mask, and an RGB image"""
_CHOSEN = tuple(name for name in CONFIGURATION if name not in ("device", "resolution"))


@dataclasses.dataclass(frozen=True)
class ImageService:
    """Devices that each need fixed + steps · per_step seconds for a batch of images.

    Raises:
      InputError: a field of the wrong type or out of range, an unreadable table, one that has none or
        several configurations for a device, or content other than that of the given digest.
    """

    devices: tuple[str, ...]
    """Of the edge servers in their order, as the table calls them"""
    tables: tuple[str, ...] = ("estimated",)
    """Latency tables, read as one: CSV files, or shipped tables by name"""
    resolution: int = 512
    """Pixels of an image's side"""
    batch: int = 1
    """Images that a server makes at once; the tables must have rows of it"""
    bound: str = "point"
    """Which end of estimates: point, low or high"""
    model: str = ""
    """This and the next four choose among a device's configurations; empty where there is one"""
    weights: str = ""
    dtype: str = ""
    guided: str = ""
    software: str = ""
    split: str = "whole"
    """One of `SPLITS`"""
    input_mbit: float = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """Mbit of an image and its mask on the way to a server; by default uncompressed"""
    result_mbit: float = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """Mbit of a finished image on its way back; by default uncompressed"""
    sha256: str = ""
    """Of the tables' contents; filled in if empty"""

    def __post_init__(self):
        def clean(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("devices", "tables"):
            clean(name, tuple(check_list(f"service.{name}", getattr(self, name))))
            for item in getattr(self, name):
                if not isinstance(item, str):
                    raise InputError(f"service.{name}: {item!r}; legal: texts")
        for name in ("sha256", *_CHOSEN):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"service.{name}: {getattr(self, name)!r}; legal: a text")
        for name in ("resolution", "batch"):
            clean(name, check_whole(f"service.{name}", getattr(self, name), 1, 100_000))
        check_choice("service.bound", self.bound, ("point", "low", "high"))
        check_choice("service.split", self.split, SPLITS)
        pixels = self.resolution**2 / 1e6
        for name, bits in (("input_mbit", _INPUT_BITS), ("result_mbit", _RESULT_BITS)):
            value = pixels * bits if getattr(self, name) is None else getattr(self, name)
            clean(name, check_number(f"service.{name}", value))
        clean(
            "tables", tuple(name if is_shipped(name) else str(Path(name).absolute()) for name in self.tables)
        )
        _ = self._fits  # refuses tables that cannot be read, in their own words
        digest = hashlib.sha256(b"".join(table_path(name).read_bytes() for name in self.tables)).hexdigest()
        if self.sha256 not in ("", digest):
            raise InputError(
                f"service.tables: {', '.join(self.tables)}: SHA-256 {digest[:12]}…; "
                f"legal: {self.sha256[:12]}…, as given, or no sha256"
            )
        clean("sha256", digest)

    @functools.cached_property
    def _fits(self) -> tuple[Fit, ...]:
        """Of each server."""
        rows = pd.concat([read_table(name) for name in self.tables], ignore_index=True)
        chosen = {name: getattr(self, name) for name in _CHOSEN if getattr(self, name)}
        by_device: dict[str, Fit] = {}
        for device in self.devices:
            found = find_service(rows, self.bound, device=device, resolution=self.resolution, **chosen)
            if self.batch not in found.fits:
                legal = ", ".join(map(str, found.fits))
                raise InputError(f"service.batch: {self.batch} on {device}; legal: {legal}")
            by_device[device] = found.fits[self.batch]
        return tuple(by_device[device] for device in self.devices)

    @property
    def capacity(self) -> tuple[float, ...]:
        """Denoising steps of an image batch that each server makes in a second."""
        return tuple(1 / fit.per_step for fit in self._fits)

    @property
    def overhead(self) -> np.ndarray:
        """`[num_servers]`, steps that each batch costs beside its own: text encoder, VAE, scheduler."""
        return np.array([fit.fixed / fit.per_step for fit in self._fits])

    @property
    def batch_mbit(self) -> float:
        """Mbit on a link for an image batch, there and back."""
        return self.batch * (self.input_mbit + self.result_mbit)

    def report(self, steps_min: float, steps_max: float) -> list[dict[str, Any]]:
        """What is known of each server, for a manifest, and whether these steps lie outside of it."""
        return [
            {
                "device": device,
                "fixed_s": fit.fixed,
                "per_step_s": fit.per_step,
                "row_kind": fit.row_kind,
                "steps": fit.steps,
                "extrapolated": not (fit.steps and fit.steps[0] <= steps_min and steps_max <= fit.steps[1]),
            }
            for device, fit in zip(self.devices, self._fits, strict=True)
        ]


def as_service(value: Any) -> ImageService:
    """A service from a table of its fields.

    Raises:
      InputError: no table, an unknown field, no devices, or what `ImageService` refuses.
    """
    return from_table("service", value, ImageService, "devices", "a field 'devices', a list of names")
