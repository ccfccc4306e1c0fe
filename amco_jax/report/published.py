"""Learning curves in files with the authors' names and format, for scripts that read the authors' files."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amco_jax.errors import InputError
from amco_jax.files import FileNames, made, replacing
from amco_jax.metrics import MAKESPAN
from amco_jax.report.studies import SavedStudy
from amco_jax.stats.summaries import learning_curve

_NAMES = {
    "amcoedge": "AMCoEdge",
    "smcoedge": "SMCoEdge",
    "drlcoedge": "DRLCoEdge",
    "randcoedge": "RandCoEdge",
    "optimal": "Optimal",
}


def write_published(studies: Sequence[SavedStudy], out: Path) -> list[Path]:
    """Write one file for each study, physics and method.

    A file has one line per episode, the mean makespan over seeds in seconds with four decimals. The files are
    written to `out/<study>/<physics>/`, because the authors' names do not distinguish studies and physics.

    Raises:
      InputError: no study has training episodes, or `out` cannot be written.
    """
    paths = []
    for study in studies:
        if study.curves is None:
            continue
        scenario = study.manifest["scenario"]
        fleet = scenario["capacity"]
        variants, taken = FileNames(), collections.defaultdict(FileNames)
        folders = {each: variants.take(str(each)) for each in study.curves["condition"].unique()}
        groups: Any = study.curves.groupby(["condition", "method"], sort=False)
        for (physics, method), rows in groups:
            base, *variant = str(method).replace("+", "-").split("-", 1)
            name = "-".join([_NAMES.get(base, base), *variant])
            path = made(out / study.name / folders[physics]) / (
                f"AveMakeSpan_{taken[physics].take(name)}_tasks{scenario['num_tasks']}_prob{scenario['arrival_prob']:g}"
                f"_deadline{float(scenario['deadline'])}_f{min(fleet):g}-{max(fleet):g}"
                f"_episode{study.manifest['episodes']}.csv"
            )  # fmt: skip
            with replacing(path) as draft:
                np.savetxt(draft, learning_curve(rows, MAKESPAN)[2].estimate, fmt="%.4f")
            paths.append(path)
    if not paths:
        raise InputError("published_csv: no episodes of training; legal: results of compare or train")
    return paths
