"""Saved runs as studies: the episodes of each method under each condition, whatever command made them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.kernel.metrics import QUANTILES
from amco_jax.kernel.quantiles import LEVELS
from amco_jax.results.saved import SavedRun, open_run
from amco_jax.stats import jain_index
from amco_jax.stats.summaries import Episodes

KINDS = ("sweep", "compare", "train", "evaluate")
LAST_EPISODES = 50
"""Whose mean counts as the outcome of a training, as in the paper's figures"""


@dataclasses.dataclass(frozen=True)
class Study:
    """One saved run, in the form that statistics take."""

    name: str
    """Unique within a report"""
    kind: str
    manifest: dict[str, Any]
    axis_label: str
    """What the conditions are, with the unit; empty where there is only one"""
    results: pd.DataFrame
    """One row per episode: columns condition, method, seed, num_tasks, metrics; also episode, stretch"""
    curves: pd.DataFrame | None = None
    """Columns condition, method, seed, episode and metrics; None where no episodes of training were kept"""
    quantiles: np.ndarray | None = None
    """`[rows, levels]`, of the makespan, s, at `quantiles.LEVELS`"""

    @functools.cached_property
    def conditions(self) -> list[Any]:
        """Swept values, or variants of the physics, in their order."""
        return self.results["condition"].unique().tolist()

    @functools.cached_property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return self.results["method"].unique().tolist()

    @functools.cached_property
    def metrics(self) -> list[str]:
        """Columns of `results` that are measured."""
        return list(next(iter(self.groups.values())).metrics)

    @functools.cached_property
    def cluster_name(self) -> str:
        """What the intervals take for independent."""
        by_seed = all(np.array_equal(e.cluster, e.seed) for e in self.groups.values())
        return "seeds" if by_seed else "stretches of the log"

    @functools.cached_property
    def groups(self) -> dict[tuple[str, Any], Episodes]:
        """The episodes of each method under each condition, in their order."""
        codes = [pd.Index(names).get_indexer(pd.Index(self.results[column]))
                 for names, column in ((self.methods, "method"), (self.conditions, "condition"))]  # fmt: skip
        code = codes[0] * len(self.conditions) + codes[1]
        order = np.argsort(code, kind="stable")
        ends = np.flatnonzero(np.diff(code[order], append=-1)) + 1
        groups = {}
        for places in np.split(order, ends[:-1]):
            method, condition = divmod(int(code[places[0]]), len(self.conditions))
            quantiles = None if self.quantiles is None else self.quantiles[places]
            rows = self.results.iloc[places]
            groups[self.methods[method], self.conditions[condition]] = Episodes.of(rows, quantiles)
        return groups


def load_studies(directories: list[Path]) -> list[Study]:
    """The studies of some directories.

    Raises:
      InputError: no directory, one that holds no finished run or a damaged one, or one given twice.
    """
    if not directories:
        raise InputError("run: none; legal: at least one directory of results")
    if len({d.resolve() for d in directories}) < len(directories):
        raise InputError("run: a directory is given twice; legal: each once")
    studies: list[Study] = []
    for directory in directories:
        study = _study(open_run(directory, KINDS))
        taken = sum(other.name.partition("~")[0] == study.name for other in studies)
        studies.append(dataclasses.replace(study, name=f"{study.name}~{taken + 1}") if taken else study)
    return studies


def _study(run: SavedRun) -> Study:
    manifest, kind, label, curves, quantiles = run.manifest, run.manifest["kind"], "", None, None
    if kind == "sweep":
        results, quantiles = _results(run)
        label = manifest["param_label"]
        results = results.rename(columns={"value": "condition"}).drop(columns="param")
    elif kind == "evaluate":
        results, quantiles = _results(run)
        results.insert(0, "condition", "")
    else:
        curves = run.table("curves.parquet")
        if kind == "compare":
            curves, label = curves.rename(columns={"physics": "condition"}), "physics"
        else:
            curves.insert(0, "condition", manifest["physics"])
        last = manifest.get("last", min(LAST_EPISODES, manifest["episodes"]))
        results = curves.loc[curves["episode"] >= manifest["episodes"] - last]
        results = results.drop(columns=["loss", "epsilon"], errors="ignore")
    if "num_tasks" not in results:
        raise InputError(f"run: {run.directory} has no column num_tasks; legal: results of this version")
    name = run.directory.resolve().name
    return Study(name, kind, manifest, label, _with_utilisation(results), curves, quantiles)


def _results(run: SavedRun) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The rows of a run without the quantiles, and those, `[rows, levels]`."""
    table = run.arrow("results.parquet")
    if QUANTILES not in table.column_names:
        return table.to_pandas(use_threads=False), None
    column = table.column(QUANTILES).combine_chunks()
    quantiles = np.asarray(column.flatten()).reshape(len(column), -1)
    if quantiles.shape[1] != len(LEVELS):
        raise InputError(
            f"run: {run.directory} has quantiles at other levels; legal: results of this version"
        )
    return table.drop_columns([QUANTILES]).to_pandas(use_threads=False), quantiles


def _with_utilisation(results: pd.DataFrame) -> pd.DataFrame:
    """The utilisation of the fleet and its fairness in place of the servers'."""
    servers = [c for c in results.columns if c.startswith("utilisation_")]
    if not servers:
        return results
    shares = np.asarray(results[servers], np.float64)
    mean = np.nanmean(shares, axis=1)
    return results.drop(columns=servers).assign(
        utilisation=mean, utilisation_max=np.nanmax(shares, axis=1), fairness=jain_index(shares)
    )
