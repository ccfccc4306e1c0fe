"""Small request logs, and scenarios that play them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax import Scenario, get_method
from amco_jax.traces.stretches import Stretches
from amco_jax.workload.trace import TraceArrivals

HEADER = "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,num_images_per_prompt"


QUICK = get_method("drlcoedge").with_settings(hidden=(4,), batch_size=4, learn_after=5)


def small_rows(num: int = 400) -> list[str]:
    """Bursty requests from 30 users over about an hour."""
    draw = np.random.default_rng(1)
    gaps = draw.exponential(9.0, num) * draw.choice([0.2, 3.0], num)
    times = pd.Timestamp("2024-11-20 08:00") + pd.to_timedelta(np.cumsum(gaps).round(), unit="s")
    users = draw.integers(0, 30, num)
    seconds = draw.integers(5, 60, num)
    images = draw.choice([1, 4, 8], num)
    return [
        f"{t:%Y-%m-%d %H:%M:%S},TXT_2_IMG,SUCCEED,{s}.0,G{u:04d},{k}.0"
        for t, s, u, k in zip(times, seconds, users, images, strict=True)
    ]


def write(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows, ""]))
    return path


def scenario_of(path: Path, **changes: Any) -> Scenario:
    fields = {"num_servers": 3, "num_slots": 6, "time_scale": 60.0} | changes
    table = fields.pop("table", {})
    return Scenario(trace={"file": str(path)} | table, **fields)  # pyright: ignore[reportArgumentType]


def played(scenario: Scenario) -> TraceArrivals:
    """The arrival process of a scenario that plays a log."""
    assert isinstance(scenario.process, TraceArrivals)
    return scenario.process


def cuts_of(scenario: Scenario) -> Stretches:
    return played(scenario).cuts(scenario)


def stretches_of(scenario: Scenario, seeds: np.ndarray, episode: int) -> np.ndarray:
    return scenario.process.stretches(scenario, seeds, episode)
