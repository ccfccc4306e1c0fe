"""Image services: the devices that run them, and the time that each device needs according to latency tables.

A service sets the units of the model: size is measured in image batches, and work in denoising steps of a
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
from amco_jax.service.latency import (
    CONFIGURATION,
    Fit,
    Power,
    find_service,
    is_shipped,
    read_table,
    table_path,
)

SPLITS = ("whole", "fluid")
"""How a request may be split over servers: into whole image batches only, or at any point"""

MAX_ITEMS = 1_000_000
"""Image batches of a task, and denoising steps of a batch, at most"""

_INPUT_BITS, _RESULT_BITS = 32, 24
"""Uncompressed bits of a pixel: of an RGB image with its mask, and of an RGB image"""
_CHOSEN = tuple(name for name in CONFIGURATION if name not in ("device", "resolution"))


@dataclasses.dataclass(frozen=True)
class ImageService:
    """Devices that each need fixed + steps · per_step seconds for a batch of images.

    Raises:
      InputError: a field has the wrong type or is out of range, a table is unreadable or has no or several
        configurations for a device, or the content does not match the given digest.
    """

    devices: tuple[str, ...]
    """The device of each edge server, in order, by its name in the table"""
    tables: tuple[str, ...] = ("estimated",)
    """Latency tables, read as one: CSV files, or names of shipped tables"""
    resolution: int = 512
    """Side length of an image in pixels"""
    batch: int = 1
    """Images that a server repairs at once; the tables must have rows for this batch size"""
    bound: str = "point"
    """The value to take from estimates of time and power: point, low or high"""
    model: str = ""
    """This and the next four select one of a device's configurations; empty if it has only one"""
    weights: str = ""
    dtype: str = ""
    guided: str = ""
    software: str = ""
    split: str = "whole"
    """One of `SPLITS`"""
    input_mbit: float = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """Mbit of an image and its mask, sent to a server; uncompressed by default"""
    result_mbit: float = None  # pyright: ignore[reportAssignmentType]  # inferred by __post_init__
    """Mbit of a repaired image, sent back; uncompressed by default"""
    sha256: str = ""
    """Digest of the tables' contents; filled in if empty"""

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
        _ = self._devices  # raises an InputError for tables that cannot be read
        digest = hashlib.sha256(b"".join(table_path(name).read_bytes() for name in self.tables)).hexdigest()
        if self.sha256 not in ("", digest):
            raise InputError(
                f"service.tables: {', '.join(self.tables)}: SHA-256 {digest[:12]}…; "
                f"legal: {self.sha256[:12]}…, as given, or no sha256"
            )
        clean("sha256", digest)

    @functools.cached_property
    def _devices(self) -> tuple[tuple[Fit, Power], ...]:
        """The fit and the power of each server's device."""
        rows = pd.concat([read_table(name) for name in self.tables], ignore_index=True)
        chosen = {name: getattr(self, name) for name in _CHOSEN if getattr(self, name)}
        by_device: dict[str, tuple[Fit, Power]] = {}
        for device in self.devices:
            found = find_service(rows, self.bound, device=device, resolution=self.resolution, **chosen)
            if self.batch not in found.fits:
                legal = ", ".join(map(str, found.fits))
                raise InputError(f"service.batch: {self.batch} on {device}; legal: {legal}")
            by_device[device] = found.fits[self.batch], found.powers[self.batch]
        return tuple(by_device[device] for device in self.devices)

    @property
    def capacity(self) -> tuple[float, ...]:
        """Denoising steps of an image batch that each server performs per second."""
        return tuple(1 / fit.per_step for fit, _ in self._devices)

    @property
    def overhead(self) -> np.ndarray:
        """`[num_servers]`, overhead of a batch in denoising steps: text encoder, VAE, scheduler."""
        return np.array([fit.fixed / fit.per_step for fit, _ in self._devices])

    @property
    def power_idle(self) -> tuple[float, ...] | None:
        """W of each server's device when it is idle; None unless the tables tell it of all devices."""
        found = tuple(power.idle for _, power in self._devices if power.idle is not None)
        return found if len(found) == len(self.devices) else None

    @property
    def power_busy(self) -> tuple[float, ...] | None:
        """W of each server's device while it computes; None unless the tables tell it of all devices."""
        found = tuple(power.busy for _, power in self._devices if power.busy is not None)
        return found if len(found) == len(self.devices) else None

    @property
    def batch_mbit(self) -> float:
        """Mbit that an image batch sends over a link, there and back."""
        return self.batch * (self.input_mbit + self.result_mbit)

    def report(self, steps_min: float, steps_max: float) -> list[dict[str, Any]]:
        """The fit of each server, for a manifest, and whether these steps are outside its range."""
        return [
            {
                "device": device,
                "fixed_s": fit.fixed,
                "per_step_s": fit.per_step,
                "row_kind": fit.row_kind,
                "steps": fit.steps,
                "extrapolated": not (fit.steps and fit.steps[0] <= steps_min and steps_max <= fit.steps[1]),
            }
            for device, (fit, _) in zip(self.devices, self._devices, strict=True)
        ]


def as_service(value: Any) -> ImageService:
    """A service from a table of its fields.

    Raises:
      InputError: the value is not a table, has an unknown field or no devices, or `ImageService` rejects it.
    """
    return from_table("service", value, ImageService, "devices", "a field 'devices', a list of names")
