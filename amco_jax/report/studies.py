"""Saved runs as studies: tidy rows per condition, method and seed, whatever command made them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.errors import InputError
from amco_jax.metrics import QUANTILES
from amco_jax.saved import SavedRun, open_run
from amco_jax.stats import jain_index

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
    """Columns condition, method, seed and metrics; one row per seed"""
    curves: pd.DataFrame | None = None
    """Columns condition, method, seed, episode and metrics; None where no episodes of training were kept"""

    @functools.cached_property
    def conditions(self) -> list[Any]:
        """Swept values, or variants of the physics, in their order."""
        return self.results["condition"].unique().tolist()

    @functools.cached_property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return self.results["method"].unique().tolist()

    @property
    def metrics(self) -> list[str]:
        """Columns of `results` that are measured."""
        return [c for c in self.results.columns if c not in ("condition", "method", "seed", "stretch")]

    def by_seed(self, method: str, metric: str) -> pd.DataFrame:
        """One row per seed of a method, one column per condition; NaN where an episode has no such number."""
        rows, seeds, places = self._grids[method]
        table = np.full((len(seeds), len(self.conditions)), np.nan)
        table[places] = np.asarray(self.results[metric], np.float64)[rows]
        return pd.DataFrame(table, index=pd.Index(seeds, name="seed"), columns=self.conditions)

    def matched(
        self, methods: Sequence[str], metric: str
    ) -> Iterator[tuple[np.ndarray, Sequence[np.ndarray]]]:
        """The numbers of methods on the seeds for which all of them have one.

        Yields:
          Places of conditions in which those are the same seeds, mostly all of them, and for each method
          `[seeds, conditions]`.
        """
        tables = [self.by_seed(method, metric) for method in methods]
        common = functools.reduce(pd.Index.intersection, [table.index for table in tables])
        values = [table.loc[common].to_numpy() for table in tables]
        missing = np.logical_or.reduce([np.isnan(x) for x in values])
        groups: dict[bytes, list[int]] = {}
        for place, column in enumerate(missing.T):
            groups.setdefault(column.tobytes(), []).append(place)
        for places in map(np.asarray, groups.values()):
            kept = np.flatnonzero(~missing[:, places[0]])
            if len(kept):
                yield places, [x[np.ix_(kept, places)] for x in values]

    @functools.cached_property
    def _grids(self) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]]:
        """For each method: its rows of `results`, its seeds, and each row's place by seed and condition."""
        grids, condition = {}, pd.Index(self.conditions).get_indexer(pd.Index(self.results["condition"]))
        method, seed = np.asarray(self.results["method"]), np.asarray(self.results["seed"])
        for name in self.methods:
            rows = np.flatnonzero(method == name)
            seeds, places = np.unique(seed[rows], return_inverse=True)
            grids[name] = rows, seeds, (places, condition[rows])
        return grids


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
    manifest, kind, label, curves = run.manifest, run.manifest["kind"], "", None
    if kind == "sweep":
        label = manifest["param_label"]
        results = run.table("results.parquet").rename(columns={"value": "condition"})
        results = results.drop(columns=["param", "episode", QUANTILES], errors="ignore")
    elif kind == "evaluate":
        rows = run.table("results.parquet")
        rows = rows.drop(columns=["episode", QUANTILES], errors="ignore")
        results = _means(rows, ["method", "seed"])
        results.insert(0, "condition", "")
    else:
        curves = run.table("curves.parquet")
        if kind == "compare":
            curves, label = curves.rename(columns={"physics": "condition"}), "physics"
        else:
            curves.insert(0, "condition", manifest["physics"])
        last = manifest.get("last", min(LAST_EPISODES, manifest["episodes"]))
        tail = curves.loc[curves["episode"] >= manifest["episodes"] - last]
        keep = ["makespan_mean_s", "miss_rate", "mean_servers_used"]
        keys = ["condition", "method", "seed"]
        results = _means(tail[keys + keep], keys)
    name = run.directory.resolve().name
    return Study(name, kind, manifest, label, _with_utilisation(results), curves)


def _means(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over the rows that share the keys, which are columns again."""
    means: Any = rows.groupby(keys, sort=False, as_index=False).mean()
    return means


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
