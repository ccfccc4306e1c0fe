"""The provenance of results: versions, device, code and command."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from amco_jax.machine import processor
from amco_jax.scenario import Scenario
from amco_jax.workload import ArrivalProcess

_PACKAGES = ("amco-jax", "jax", "jaxlib", "numpy", "scipy", "pandas", "pyarrow")


def provenance(
    started: float, scenario: Scenario, swept: Sequence[Scenario] = (), elsewhere: float = 0.0
) -> dict[str, Any]:
    """The part of a manifest that records how the results were made.

    Args:
      started: the `time.time()` at which the run started.
      swept: the scenarios of a sweep, one per value.
      elsewhere: the part of the time since then that went to other runs, s.
    """
    device = jax.devices()[0]
    by_process: dict[type[ArrivalProcess], list[Scenario]] = {}
    for each in swept or [scenario]:
        by_process.setdefault(type(each.process), []).append(each)
    arrivals: dict[str, Any] = {
        "arrivals": scenario.process.words(scenario),
        "offered_load": _offered_load(scenario),
    }
    if len(swept) > 1:
        arrivals["offered_loads"] = [_offered_load(each) for each in swept]
    for process, members in by_process.items():
        arrivals |= process.provenance([each.process for each in members], members)
    service = {}
    if scenario.service is not None:
        service["service"] = scenario.service.report(
            scenario.density_min, scenario.density_max, scenario.task_size_max
        )
    return (
        arrivals
        | service
        | {
            "versions": package_versions(),
            "device": {
                "platform": device.platform,
                "kind": device.device_kind,
                "count": jax.local_device_count(),
            },
            "host": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
            "git_commit": _git_commit(),
            "command": sys.argv,
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "wall_time_s": round(time.time() - started - elsewhere, 3),
        }
    )


def _offered_load(scenario: Scenario) -> float | None:
    """ρ; None where a process of the user's own does not state its mean."""
    try:
        return scenario.offered_load
    except NotImplementedError:
        return None


@functools.cache
def package_versions() -> dict[str, str]:
    """The versions of Python and of all packages that results may depend on."""
    packages = {p: importlib.metadata.version(p) for p in _PACKAGES}
    return {"python": platform.python_version()} | packages


def _git_commit() -> str | None:
    """The commit of this code, marked as dirty if files differ from it; None outside a repository."""
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, encoding="utf-8", errors="replace",
            check=True, timeout=10,
        ).stdout.strip()  # fmt: skip

    try:
        # An installed package may lie inside some other repository.
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
