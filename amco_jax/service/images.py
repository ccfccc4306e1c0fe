"""Image services: the devices that run them, and the time that each device needs according to latency tables.

A service sets the units of the model: size is measured in image batches, and work in denoising steps of a
batch. See docs/latency-tables.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amco_jax.errors import InputError, check_choice, check_list, check_number, check_whole, from_table
from amco_jax.service.latency import (
    CONFIGURATION,
    BatchFit,
    Fit,
    Load,
    Power,
    Service,
    find_service,
    fit_batches,
    is_shipped,
    read_table,
    table_path,
)

SPLITS = ("whole", "fluid")
"""How a request may be split over servers: into whole image batches only, or at any point"""

ALL = "all"
"""The batch that holds all images of a request on a server"""

MAX_ITEMS = 1_000_000
"""Image batches of a task, and denoising steps of a batch, at most"""

INPUT_BITS, RESULT_BITS = 32, 24
"""Uncompressed bits of a pixel: of an RGB image with its mask, and of an RGB image"""
_CHOSEN = tuple(name for name in CONFIGURATION if name not in ("device", "resolution"))


class _Inferred(float):
    """A number that follows from other fields, and follows from them anew in copies with other ones."""


class _Device(NamedTuple):
    """What the tables say of one device."""

    image: Fit
    """The time of an image batch, or of each image of a batch of any size"""
    batches: BatchFit | None
    """The fit to batch sizes if a batch may be of any size"""
    load: Load | None
    """The time to load the model, for each request; None if it stays in memory"""
    power: Power
    """The power with the given batch; if a batch may be of any size, what batches of all sizes share"""

    @property
    def start(self) -> tuple[float, float, float]:
        """s to load the model, to start a batch, and that which starting a batch adds to each step."""
        load = 0.0 if self.load is None else self.load.seconds
        if self.batches is None:
            return load, 0.0, 0.0
        return load, self.batches.start.fixed, self.batches.start.per_step


@dataclasses.dataclass(frozen=True)
class ImageService:
    """Devices that each need fixed + steps · per_step seconds for a batch of images.

    With `batch` all, a device repairs all images of a request that it gets as one batch, in a time that is
    linear in their number; and if models are not `resident`, each selected server first loads the model.

    Raises:
      InputError: a field has the wrong type or is out of range, a table is unreadable, has no or several
        configurations for a device, or lacks the batch sizes or the time to load, or the content does not
        match the given digest.
    """

    devices: tuple[str, ...]
    """The device of each edge server, in order, by its name in the table"""
    tables: tuple[str, ...] = ("estimated",)
    """Latency tables, read as one: CSV files, or names of shipped tables"""
    resolution: int = 512
    """Side length of an image in pixels"""
    batch: int | str = 1
    """Images that a server repairs at once, for which the tables must have rows; or `all`: all images of a
    request that the server gets, for which they must have rows of at least two batch sizes"""
    resident: bool = True
    """Whether the model stays in memory. Otherwise each selected server loads it for each request, in the
    time that the tables' rows `load` tell"""
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
        clean("resolution", check_whole("service.resolution", self.resolution, 1, 100_000))
        clean("batch", _check_batch(self.batch))
        if not isinstance(self.resident, bool):
            raise InputError(f"service.resident: {self.resident!r}; legal: true or false")
        check_choice("service.bound", self.bound, ("point", "low", "high"))
        check_choice("service.split", self.split, SPLITS)
        if self.batch == ALL and self.split != "whole":
            raise InputError(f"service.split: {self.split}; legal with service.batch = {ALL}: whole")
        pixels = self.resolution**2 / 1e6
        for name, bits in (("input_mbit", INPUT_BITS), ("result_mbit", RESULT_BITS)):
            given = getattr(self, name)
            inferred = given is None or isinstance(given, _Inferred)
            value = check_number(f"service.{name}", pixels * bits if inferred else given)
            clean(name, _Inferred(value) if inferred else value)
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
    def _devices(self) -> tuple[_Device, ...]:
        """What the tables say of each server's device."""
        rows = pd.concat([read_table(name) for name in self.tables], ignore_index=True)
        chosen = {name: getattr(self, name) for name in _CHOSEN if getattr(self, name)}
        by_device: dict[str, _Device] = {}
        for device in self.devices:
            found = find_service(rows, self.bound, device=device, resolution=self.resolution, **chosen)
            by_device[device] = self._device(device, found)
        return tuple(by_device[device] for device in self.devices)

    def _device(self, name: str, found: Service) -> _Device:
        """What a service of the tables says of a device.

        Raises:
          InputError: it lacks the batch size, or the time to load the model.
        """
        if not self.resident and found.load is None:
            raise InputError(f"service.resident: false, but no rows 'load' of {name}; legal: true")
        load = None if self.resident else found.load
        if isinstance(self.batch, int):
            if self.batch not in found.fits:
                legal = ", ".join(map(str, found.fits))
                raise InputError(f"service.batch: {self.batch} on {name}; legal: {legal}")
            return _Device(found.fits[self.batch], None, load, found.powers[self.batch])
        try:
            batches = fit_batches(found.fits)
        except InputError as error:
            raise InputError(f"service.batch: {ALL} on {name}, {error}") from None
        powers = found.powers.values()
        power = Power(_common(power.idle for power in powers), _common(power.busy for power in powers))
        return _Device(batches.each, batches, load, power)

    @property
    def capacity(self) -> tuple[float, ...]:
        """Denoising steps of an image batch, or of an image, that each server performs per second."""
        return tuple(1 / device.image.per_step for device in self._devices)

    @property
    def overhead(self) -> np.ndarray:
        """`[num_servers]`, overhead of a batch, or of an image, in denoising steps: encoders, decoder."""
        return np.array([device.image.fixed / device.image.per_step for device in self._devices])

    @property
    def starts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """What a member of a set does besides images, in the time of denoising steps of an image.

        Returns:
          Loading the model; starting a batch; and that which starting a batch adds to each step: each
          `[num_servers]`. None if models are resident, and batches have a given size.
        """
        if self.resident and self.batch != ALL:
            return None
        starts = np.array([device.start for device in self._devices])
        load, fixed, per_step = starts.T * np.asarray(self.capacity)
        return load, fixed, per_step

    @property
    def power_idle(self) -> tuple[float, ...] | None:
        """W of each server's device when it is idle; None unless the tables give it for all devices."""
        found = tuple(d.power.idle for d in self._devices if d.power.idle is not None)
        return found if len(found) == len(self.devices) else None

    @property
    def power_busy(self) -> tuple[float, ...] | None:
        """W of each server's device while it computes; None unless the tables give it for all devices."""
        found = tuple(d.power.busy for d in self._devices if d.power.busy is not None)
        return found if len(found) == len(self.devices) else None

    @property
    def batch_mbit(self) -> float:
        """Mbit that an image batch, or an image of a batch of any size, sends over a link, there and back."""
        images = self.batch if isinstance(self.batch, int) else 1
        return images * (self.input_mbit + self.result_mbit)

    @property
    def result_share(self) -> float:
        """The share of it that comes back."""
        return self.result_mbit / (self.input_mbit + self.result_mbit)

    def report(self, steps_min: float, steps_max: float, most_images: float) -> list[dict[str, Any]]:
        """The fit of each server, for a manifest, and whether requests are outside its range."""
        reported = []
        for name, (image, batches, load, _) in zip(self.devices, self._devices, strict=True):
            within = image.steps and image.steps[0] <= steps_min and steps_max <= image.steps[1]
            found = {
                "device": name,
                "fixed_s": image.fixed,
                "per_step_s": image.per_step,
                "row_kind": image.row_kind,
                "steps": image.steps,
            }
            if batches is not None:
                within = within and most_images <= batches.batches[1]
                found |= {
                    "start_fixed_s": batches.start.fixed,
                    "start_per_step_s": batches.start.per_step,
                    "batches": batches.batches,
                    "batch_residual": batches.residual,
                }
            if load is not None:
                found |= {"load_s": load.seconds, "load_row_kind": load.row_kind}
            reported.append(found | {"extrapolated": not within})
        return reported


def _common(values: Iterable[float | None]) -> float | None:
    """The one value of all that are known; None if none is known, or if they differ."""
    known = {*values} - {None}
    return known.pop() if len(known) == 1 else None


def _check_batch(value: Any) -> int | str:
    """A whole number of images, or `ALL`."""
    if isinstance(value, str) and value == ALL:
        return value
    try:
        return check_whole("service.batch", value, 1, 100_000)
    except InputError as error:
        raise InputError(f"{error}, or {ALL}") from None


def as_service(value: Any) -> ImageService:
    """A service from a table of its fields.

    Raises:
      InputError: the value is not a table, has an unknown field or no devices, or `ImageService` rejects it.
    """
    return from_table("service", value, ImageService, "devices", "a field 'devices', a list of names")
