"""Studies of given numbers, which nothing has simulated."""

from __future__ import annotations

from typing import Any

import pandas as pd

from amco_jax.metrics import METRICS
from amco_jax.report.studies import SavedStudy

MANIFEST: dict[str, Any] = {
    "num_seeds": 4, "first_seed": 0, "physics": "unified", "episodes": 10, "last": 5,
    "device": {"count": 1, "kind": "cpu"},
    "versions": {"amco-jax": "0", "jax": "0", "python": "3"}, "git_commit": None, "started": "now",
    "wall_time_s": 1.0, "arrivals": "Bernoulli arrivals", "training": {"settings": {}, "episodes": 10},
    "settings": {},
    "scenario": {"capacity": (1.0, 2.0), "num_servers": 2, "num_slots": 3, "slot_duration": 1, "deadline": 1},
}  # fmt: skip


def study_of(
    makespans: dict[tuple[Any, str], list[float]],
    kind: str = "sweep",
    misses: dict[tuple[Any, str], float] | None = None,
    label: str = "deadline [s]",
    **manifest: Any,
) -> SavedStudy:
    """A study with these makespans of each seed under each condition and method, of ten tasks a seed."""
    rows = [
        (condition, method, seed, 10, value, (misses or {}).get((condition, method), 0.0))
        for (condition, method), values in makespans.items()
        for seed, value in enumerate(values)
    ]
    columns = ["condition", "method", "seed", "num_tasks", "makespan_mean_s", "miss_rate"]
    results = pd.DataFrame(rows, columns=columns)
    given: Any = MANIFEST | manifest
    measured = METRICS["makespan_mean_s"], METRICS["miss_rate"]
    return SavedStudy("study", kind, given, label, measured, results)
