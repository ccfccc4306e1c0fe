"""The configuration of a fleet, which is the table `[fleet]` of a scenario's file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amco_jax.errors import InputError, check_choice, check_fields, check_number, check_whole
from amco_jax.files import text_of
from amco_jax.scenario import Scenario
from amco_jax.scenario.presets import PRESETS
from amco_jax.service.images import INPUT_BITS, RESULT_BITS
from edge_fleet.engines import EngineSettings
from edge_fleet.wire import LEASE
from sd_repair.masks import MASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetSettings(EngineSettings):
    """How workers run, and how the scheduler treats them.

    Raises:
      InputError: a field has the wrong type or is out of range.
    """

    pace: bool = True
    """Whether a worker waits, after each repair, until the time that the scenario's latency tables give its
    device is over; otherwise it works as fast as it can"""
    links: bool = True
    """Whether what goes to and from another server than the request's own takes the time of its link"""
    netns: bool = False
    """Whether links are those of the kernel, token buckets between network namespaces, instead of waits of
    the scheduler. It needs Linux, root and iproute2, and one rate for each base station"""
    speed: float = 1.0
    """Seconds of the scenario per second of the run"""
    steps: int = 0
    """Denoising steps that engines take; 0 for those of the request, on which the pace depends in any case"""
    size: int = 0
    """Side of the images in pixels; 0 for the resolution of the scenario's service"""
    images: str = ""
    """A directory of images; by default, crops of scikit-image's photograph of an astronaut"""
    masks: str = "thick"
    """thin, thick or box, drawn from the seed"""
    heartbeat: float = 0.5
    """s between two signs of life of a worker"""
    patience: float = 2.0
    """s without a sign of life after which a worker counts as dead"""
    late: float = 4.0
    """How many times longer than expected an item may take before it is given to another worker"""
    restart: bool = True
    """Whether workers on this machine that die are started again"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("pace", "links", "netns", "restart"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: {getattr(self, name)!r}; legal: true or false")
        if self.netns and not self.links:
            raise InputError("netns: true without links; legal: links = true")
        check_number("speed", self.speed, 1e-3, 1e3)
        check_whole("steps", self.steps, 0, 999)
        if check_whole("size", self.size, 0, 2048) % 8 or 0 < self.size < 64:
            raise InputError(f"size: {self.size}; legal: multiples of 8 from 64 to 2048, or 0")
        check_choice("masks", self.masks, MASKS)
        # Two signs of life may be lost before another run gets the workers.
        check_number("heartbeat", self.heartbeat, 0.05, LEASE / 3)
        check_number("patience", self.patience, 0.2, 3600)
        check_number("late", self.late, 1.0, 3600)
        if not isinstance(self.images, str):
            raise InputError(f"images: {self.images!r}; legal: a directory")

    @property
    def engine_settings(self) -> EngineSettings:
        """What a worker needs of it."""
        names = [field.name for field in dataclasses.fields(EngineSettings)]
        return EngineSettings(**{name: getattr(self, name) for name in names})


def load_settings(source: str, changes: Mapping[str, Any]) -> FleetSettings:
    """The settings in a scenario's file, with some of them replaced; a preset has the defaults.

    Args:
      source: a preset or a TOML file, which has been read as a scenario before.

    Raises:
      InputError: there is no such setting, or a value is not legal.
    """
    table: dict[str, Any] = {}
    if source not in PRESETS:
        path = Path(source)
        table = tomllib.loads(text_of(path.read_bytes())).get("fleet", {})
        if not isinstance(table, dict):
            raise InputError(f"fleet: {table!r}; legal: a table")
        if isinstance(table.get("images"), str) and table["images"]:
            table["images"] = str(path.parent / table["images"])
    check_fields("fleet", (*table, *changes), (field.name for field in dataclasses.fields(FleetSettings)))
    return FleetSettings(**{**table, **changes})


def kernel_rates(scenario: Scenario, settings: FleetSettings) -> list[float]:
    """The real rate of each base station's link, Mbit/s, at which images take the time of the scenario.

    Workers get raw pixels, 32 bits of each to them and 24 back. If images are smaller than those of the
    scenario, or time passes faster, links are slower or faster in proportion.

    Raises:
      InputError: the rate of a link depends on the server, or the sizes of the scenario are in another ratio.
    """
    service = scenario.service
    assert service is not None
    pixels = (settings.size or service.resolution) ** 2 / 1e6
    there, back = pixels * INPUT_BITS / service.input_mbit, pixels * RESULT_BITS / service.result_mbit
    if not 0.99 < there / back < 1.01:
        raise InputError(
            f"service.input_mbit: {service.input_mbit:g} with a result_mbit of {service.result_mbit:g}; "
            "legal with netns: in the ratio of raw images, 4 to 3"
        )
    rates = []
    for station, row in enumerate(scenario.link_rates):
        others = np.delete(row, station)
        if len(others) and np.ptp(others) > 0:
            raise InputError(
                f"link_rate: {others.min():g} to {others.max():g} from base station {station}; "
                "legal with netns: one rate for each base station"
            )
        rates.append(float(others[0] if len(others) else row[0]) * there * settings.speed)
    return rates


def in_fleet(scenario: Scenario) -> Scenario:
    """The scenario as a fleet runs it, which is in continuous time.

    Raises:
      InputError: it has no image service, splits images, loads models for each request, or has a warm-up.
    """
    service = scenario.service
    if service is None:
        raise InputError("service: none; legal for a fleet: an image service, as in the preset jetson-sd15")
    if service.split != "whole":
        raise InputError(f"service.split: {service.split}; legal for a fleet: whole")
    if not service.resident:
        raise InputError("service.resident: false; legal for a fleet: true, as workers keep their models")
    if scenario.warmup is not None:
        raise InputError(f"warmup: {scenario.warmup}; legal for a fleet: none, as it counts all slots")
    return scenario.replace(timing="continuous", order="stations")
