"""Scenarios by name and from TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amco_jax.errors import InputError
from amco_jax.files import text_of
from amco_jax.scenario import Scenario, as_fields
from amco_jax.service import ALL
from amco_jax.service.latency import is_shipped

_GPUS: dict[str, Any] = {
    "service": {
        "devices": ("NVIDIA H100 PCIe", *("NVIDIA A100 80GB PCIe",) * 2, *("Tesla V100-SXM2-16GB",) * 2),
        "tables": ("published", "estimated"),
        "batch": ALL,
    },
    "trace": {"size": "num_images_per_prompt", "density": "num_inference_steps"},
    "num_tasks": 6,
    "slot_duration": 20.0,
    "deadline": 20.0,
    "task_size_min": 1.0,
    "task_size_max": 8.0,
    "density_min": 30.0,
    "density_max": 30.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "capacity-10-15-20-25-30": {"capacity": (10, 15, 20, 25, 30)},
    "capacity-10-20-30-40-50": {"capacity": (10, 20, 30, 40, 50)},
    "capacity-10-25-40-55-70": {"capacity": (10, 25, 40, 55, 70)},
    "capacity-10-30-50-70-90": {"capacity": (10, 30, 50, 70, 90)},
    "jetson-sd15": {
        "service": {"devices": ("NVIDIA Jetson AGX Orin",) * 3 + ("NVIDIA Jetson Xavier NX",) * 2},
        "trace": {"size": "num_images_per_prompt", "density": "num_inference_steps"},
        "num_tasks": 6,
        "slot_duration": 60.0,
        "deadline": 60.0,
        "task_size_min": 1.0,
        "task_size_max": 4.0,
        "density_min": 20.0,
        "density_max": 20.0,
    },
    "gpu-sd14": _GPUS,
    "gpu-sd14-loading": _GPUS | {"service": _GPUS["service"] | {"resident": False}},
}
"""Named scenarios, as the fields that differ from the defaults; a table `trace` needs a log to be given.

The capacity sets are the published ones. `jetson-sd15` is the published prototype: three Jetson AGX Orin and
two Xavier NX, which repair images with Stable Diffusion 1.5. `gpu-sd14` has GPUs whose times of batches are
published, and in `gpu-sd14-loading` each selected one loads the model. Deadlines, slots and request rates of
the three are not published; they are choices of this package. docs/latency-tables.md says what each can show.
"""


def load_scenario(
    source: str | Path,
    overrides: Mapping[str, Any] | None = None,
    trace: str | Mapping[str, Any] | None = None,
) -> Scenario:
    """A scenario from a preset's name or a TOML file, with some fields replaced.

    A file contains fields of `Scenario` at its top level, and parameters of a user-defined arrival process.
    It may name a preset to start from:

        preset = "capacity-10-30-50-70-90"
        arrival_prob = 0.5

    A table `trace` contains fields of `Trace`, and a table `service` those of `ImageService`; both take
    precedence over those of the preset. Paths in them are relative to the TOML file. A table `fleet` is for
    runs on real workers, and is ignored here.

    Args:
      trace: a request log, or fields of `Trace`, which replace those of the table.

    Raises:
      InputError: no such preset or file, malformed TOML, or a field that `Scenario` refuses.

    Example:
      >>> load_scenario("capacity-10-30-50-70-90", {"deadline": 0.5}).capacity
      (10.0, 30.0, 50.0, 70.0, 90.0)
    """
    preset = str(source) if str(source) in PRESETS else None
    base = {"preset": preset} if preset else _read_toml(source)
    base, given = dict(PRESETS[base.pop("preset")]), base
    if "trace" not in given and trace is None:
        base.pop("trace", None)
    for name in ("trace", "service"):
        if isinstance(given.get(name), dict):
            given[name] = base.get(name, {}) | given[name]
    base |= given
    if trace is not None:
        table, fields = base.get("trace", {}), {"file": trace} if isinstance(trace, str) else dict(trace)
        base |= {"arrivals": "trace", "trace": table | fields if isinstance(table, dict) else table}
    return Scenario(**as_fields({**base, **(overrides or {})}))


def _read_toml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    try:
        fields = tomllib.loads(text_of(path.read_bytes()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"scenario: {path} is not valid TOML: {error}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"scenario: '{source}' is neither a preset ({', '.join(PRESETS)}) nor a readable file: {reason}"
        ) from error
    fleet = fields.pop("fleet", {})  # how real workers run, on which no simulation depends; see edge_fleet
    if not isinstance(fleet, dict):
        raise InputError(f"fleet: {fleet!r}; legal: a table")
    preset = fields.setdefault("preset", "default")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"preset: {preset!r} in {path}; legal: {', '.join(PRESETS)}")
    trace, service = fields.get("trace"), fields.get("service")
    if isinstance(trace, dict) and isinstance(trace.get("file"), str):
        trace["file"] = str(path.parent / trace["file"])
    if isinstance(service, dict) and isinstance(service.get("tables"), list):
        service["tables"] = [
            str(path.parent / table) if isinstance(table, str) and not is_shipped(table) else table
            for table in service["tables"]
        ]
    return fields
