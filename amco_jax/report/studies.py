"""Saved runs as studies: the episodes of each method under each condition, for the runs of any command."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import BOUND
from amco_jax.errors import InputError, check_list
from amco_jax.metrics import (
    LEVELS,
    NUM_TASKS,
    REJECT_RATE,
    Column,
    Reduction,
    Shown,
    columns_for_tables,
    columns_in,
    estimated_columns,
    shown_in,
)
from amco_jax.results.saved import SavedRun, open_run
from amco_jax.stats.summaries import Episodes

KINDS = ("sweep", "compare", "train", "evaluate", "tune", "sensitivity")
_QUOTIENTS = 5
"""The first format of results in which metrics over slots that are taken over others hold quotients"""
LAST_EPISODES = 50
"""The number of last episodes whose mean is the outcome of a training, as in the paper's figures"""


@dataclasses.dataclass(frozen=True)
class SavedStudy:
    """A saved run in the form that the statistics require."""

    name: str
    """The name, which is unique within a report"""
    kind: str
    manifest: dict[str, Any]
    axis_label: str
    """The label of the conditions with its unit; empty if there is only one condition"""
    columns: tuple[Column, ...]
    """The columns of the metrics"""
    results: pd.DataFrame
    """A row for each episode, with columns condition, method, seed and those of the metrics, and for some
    runs also episode and stretch"""
    curves: pd.DataFrame | None = None
    """Columns condition, method, seed, episode and metrics; None if no training episodes were kept"""
    lists: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Lists by the name of the metric: quantiles `[rows, levels]` at `metrics.LEVELS`, or values over slots
    `[rows, slots]`, or one array per row if episodes differ in length"""

    @functools.cached_property
    def conditions(self) -> list[Any]:
        """Swept values, or variants of the physics, in their order."""
        return self.results["condition"].unique().tolist()

    @property
    def example(self) -> Any:
        """The condition whose numbers a report quotes in its text, which is the middle one."""
        return self.conditions[(len(self.conditions) - 1) // 2]

    @functools.cached_property
    def every(self) -> list[str]:
        """The methods and the lower bound, if there is one, in the order of the run."""
        return self.results["method"].unique().tolist()

    @functools.cached_property
    def methods(self) -> list[str]:
        """The methods in the order of the run; the bound is among them only if there is nothing else."""
        return [method for method in self.every if method != BOUND] or self.every

    @property
    def has_bound(self) -> bool:
        """Whether there are methods, and a lower bound on them."""
        return self.methods != self.every

    @property
    def estimated_columns(self) -> list[Column]:
        """The metrics that have estimates, except those of single servers."""
        return estimated_columns(self.columns)

    @property
    def first(self) -> Column:
        """The metric that a report discusses first."""
        return shown_in(self.columns, Shown.EVERYWHERE)[0]

    @property
    def derivatives(self) -> dict[str, list[Column]]:
        """The columns of derivatives, by parameter; empty in studies of other kinds."""
        columns = {column.name: column for column in self.columns}
        found = self.manifest.get("derivatives", {})
        return {parameter: [columns[name] for name in names] for parameter, names in found.items()}

    @property
    def trained(self) -> list[str]:
        """The methods whose agents were trained, in the study or before it."""
        if self.kind in ("tune", "evaluate"):
            return [self.manifest["method"]]
        return self.methods if self.kind == "train" else list(self._training.get("settings", ()))

    @property
    def training_episodes(self) -> dict[str, int]:
        """The number of episodes of the training of each of them."""
        found: Any = self._training.get("episodes", 0)
        return found if isinstance(found, dict) else {method: found for method in self.trained}

    @property
    def _training(self) -> dict[str, Any]:
        """The part of the manifest that describes the training; empty if there is none."""
        if self.kind == "sensitivity":  # whose episodes are those of rules
            return {}
        part = {"sweep": "training", "evaluate": "trained"}.get(self.kind)
        return self.manifest if part is None else self.manifest[part]

    @functools.cached_property
    def cluster_name(self) -> str:
        """The name of the clusters, which intervals treat as independent."""
        by_seed = all(np.array_equal(e.cluster, e.seed) for e in self.groups.values())
        if "batch" in self.results:
            return "batches of one episode"
        return "seeds" if by_seed else "stretches of the log"

    @functools.cached_property
    def groups(self) -> dict[tuple[str, Any], Episodes]:
        """The episodes of each method under each condition, in their order."""
        codes = [pd.Index(names).get_indexer(pd.Index(self.results[column]))
                 for names, column in ((self.every, "method"), (self.conditions, "condition"))]  # fmt: skip
        code = codes[0] * len(self.conditions) + codes[1]
        order = np.argsort(code, kind="stable")
        ends = np.flatnonzero(np.diff(code[order], append=-1)) + 1
        groups = {}
        for places in np.split(order, ends[:-1]):
            method, condition = divmod(int(code[places[0]]), len(self.conditions))
            lists = {name: table[places] for name, table in self.lists.items()}
            rows = self.results.iloc[places]
            groups[self.every[method], self.conditions[condition]] = Episodes.of(rows, lists)
        return groups


def load_studies(directories: list[Path]) -> list[SavedStudy]:
    """Load the studies that are saved in the given directories.

    Raises:
      InputError: no directory is given, one is given twice, or one holds no finished run or a damaged one.
    """
    if len({d.resolve() for d in check_list("run", directories)}) < len(directories):
        raise InputError("run: a directory is given twice; legal: each once")
    studies: list[SavedStudy] = []
    for directory in directories:
        study = _study(open_run(directory, KINDS))
        taken = sum(other.name.partition("~")[0] == study.name for other in studies)
        studies.append(dataclasses.replace(study, name=f"{study.name}~{taken + 1}") if taken else study)
    return studies


def _study(run: SavedRun) -> SavedStudy:
    manifest, kind, label, curves, lists = run.manifest, run.manifest["kind"], "", None, {}
    columns = columns_in(manifest)
    if kind == "sweep":
        results, lists = _results(run, columns)
        label = manifest["param_label"]
        results = results.rename(columns={"value": "condition"}).drop(columns="param")
    elif kind in ("evaluate", "sensitivity"):
        results, lists = _results(run, columns)
        results.insert(0, "condition", "")
    elif kind == "tune":
        results, lists = _results(run, columns)
        results = _combinations(results, manifest)
    else:
        curves = run.table("curves.parquet")
        if kind == "compare":
            curves, label = curves.rename(columns={"physics": "condition"}), "physics"
        else:
            curves.insert(0, "condition", manifest["physics"])
        last = manifest.get("last", min(LAST_EPISODES, manifest["episodes"]))
        results = curves.loc[curves["episode"] >= manifest["episodes"] - last]
        results = results.drop(columns=manifest["logs"], errors="ignore")
    if NUM_TASKS.name not in results:
        raise InputError(
            f"run: {run.directory} has no column {NUM_TASKS.name}; legal: results of this version"
        )
    name = run.directory.resolve().name
    some_rejected = REJECT_RATE.name in results and bool(np.any(results[REJECT_RATE.name] > 0))
    columns = columns_for_tables(columns, some_rejected)
    if has_uneven_windows(manifest):
        columns = tuple(
            dataclasses.replace(column, better=None) if column.reduction is Reduction.SUM else column
            for column in columns
        )
    return SavedStudy(name, kind, manifest, label, columns, results, curves, lists)


def warmups_of(manifest: dict[str, Any]) -> list[int]:
    """The numbers of slots that pilot runs have excluded, in ascending order and each once."""
    return sorted({pilot["warmup"] for pilot in manifest.get("pilots", [])})


def has_uneven_windows(manifest: dict[str, Any]) -> bool:
    """Whether methods are measured over different numbers of slots, so that their sums are not comparable."""
    windows: dict[Any, set[int]] = {}
    for pilot in manifest.get("pilots", []):
        windows.setdefault(pilot.get("value"), set()).add(pilot["warmup"])
    return any(len(of_value) > 1 for of_value in windows.values())


def _combinations(results: pd.DataFrame, manifest: dict[str, Any]) -> pd.DataFrame:
    """The rows of a tuning, with the reference and each combination of settings as methods."""
    names = list(manifest["settings"])
    settings = [[f"{name}={value}" for value in results[name]] for name in names]
    combined = [", ".join(each) for each in zip(*settings, strict=True)]
    of_reference = np.all([results[name] == "" for name in names], axis=0)
    method = np.where(of_reference, manifest["reference"], combined)
    return results.drop(columns=names).assign(method=method, condition="")


def _results(run: SavedRun, columns: tuple[Column, ...]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows of a run without the columns that hold lists, and the lists as `SavedStudy.lists`."""
    table = run.arrow("results.parquet")
    held = {each.name: each for each in columns if each.is_list and each.name in table.column_names}
    lists = {}
    for name, each in held.items():
        column = table.column(name).combine_chunks()
        lengths = np.diff(np.asarray(column.offsets, np.int64))
        values = np.asarray(column.flatten())
        if np.all(lengths == lengths[0]):
            lists[name] = values.reshape(len(column), -1)
        else:
            lists[name] = np.empty(len(column), object)
            lists[name][:] = np.split(values, np.cumsum(lengths)[:-1])
        if each.is_over_slots and run.manifest["format"] < _QUOTIENTS:
            raise InputError(f"run: {run.directory} has sums over slots; legal: results of this version")
        if not each.is_over_slots and lists[name].shape[1:] != LEVELS.shape:
            raise InputError(
                f"run: {run.directory} has quantiles at other levels; legal: results of this version"
            )
    return table.drop_columns(list(held)).to_pandas(use_threads=False), lists
