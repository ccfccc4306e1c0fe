"""The claims of the papers about AMCoEdge, checked against the studies of a reproduction."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.metrics import MAKESPAN, MISS_RATE, TASK, Column
from amco_jax.report.names import paper_name
from amco_jax.report.studies import SavedStudy
from amco_jax.report.tables import Cell, Table, bracket
from amco_jax.report.warnings import published_episodes

CONFERENCE, JOURNAL = "ICDCS 2024", "journal version"
_JUDGED = ("amcoedge", "amcoedge-stable", "amcoedge-regret")
"""The methods of which claims are judged"""
NEAR = 0.03
"""The share above `optimal` up to which a makespan counts as close to it"""

CLAIMS_NOTE = (
    "A claim holds where the 95 % intervals of the reductions against all of its baselines lie at or beyond "
    "the claimed figure, fails where the whole interval against one of them falls short of it, and is open "
    f"otherwise. Close to Optimal means at most {100 * NEAR:.0f} % above it. Reductions are of means per "
    "task."
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper: the least relative reduction of a metric by AMCoEdge against each baseline."""

    text: str
    source: str
    share: float
    baselines: tuple[str, ...]
    """The names of the baselines, as `paper_name` gives them"""
    metric: Column = MAKESPAN


CLAIMS = (
    Claim("28 % less makespan than RandCoEdge", CONFERENCE, 0.28, ("randcoedge",)),
    Claim("17 % less makespan than DRLCoEdge", CONFERENCE, 0.17, ("drlcoedge",)),
    Claim("12 % less makespan than SMCoEdge", CONFERENCE, 0.12, ("smcoedge",)),
    Claim("makespan close to Optimal", CONFERENCE, -NEAR, ("optimal",)),
    Claim(
        "at least 11.04 % less makespan", JOURNAL, 0.1104, ("randcoedge", "drlcoedge", "smcoedge")
    ),
    Claim(
        "at least 44.86 % lower failure rate", JOURNAL, 0.4486,
        ("randcoedge", "drlcoedge", "smcoedge"), MISS_RATE,
    ),
)  # fmt: skip


def claims_table(studies: Sequence[SavedStudy], compared: pd.DataFrame) -> Table:
    """The table of claims, with a row for each claim, study, variant of AMCoEdge and condition.

    The row shows the decisive baseline, which is the one with the smallest lower bound or, if the claim
    fails, with the smallest upper bound. Failure rates are judged only if every baseline misses at least one
    task in a hundred, and makespans only in studies other than sweeps, since the claims are about the default
    setting.
    """
    rows = []
    for claim, study in itertools.product(CLAIMS, studies):
        if claim.metric is MAKESPAN and study.kind == "sweep":
            continue
        of_study = compared.loc[(compared["study"] == study.name) & (compared["metric"] == claim.metric.name)]
        records: list[dict[str, Any]] = of_study.to_dict("records")
        for condition, method in itertools.product(study.conditions, _JUDGED):
            found = [
                r for r in records
                if r["condition"] == condition
                and r["method"] == method
                and paper_name(r["baseline"]) in claim.baselines
            ]  # fmt: skip
            rare = claim.metric is MISS_RATE and any(
                _misses(study, condition, r["baseline"]) < 0.01 for r in found
            )
            if found and not rare:
                rows.append(_row(claim, study, condition, found))
    columns = [
        "claim", "verdict", "physics", "measured reduction [%]", "method", "decisive baseline",
        "episodes of training", "study", "source",
    ]  # fmt: skip
    return Table(columns, rows, texts=len(columns))


def _row(claim: Claim, study: SavedStudy, condition: Any, records: Sequence[dict[str, Any]]) -> list[Cell]:
    present = {paper_name(r["baseline"]) for r in records}
    short = [r for r in records if r["reduction_high"] < claim.share]
    if short:
        verdict, record = "fails", min(short, key=lambda r: r["reduction_high"])
    else:
        holds = all(r["reduction_low"] >= claim.share for r in records) and present == {*claim.baselines}
        verdict = "holds" if holds else "open"
        record = min(records, key=lambda r: np.nan_to_num(r["reduction_low"], nan=-np.inf))
    value, low, high = (record[k] for k in ("reduction", "reduction_low", "reduction_high"))
    where, physics = study.name, str(condition)
    if study.kind == "sweep":
        where, physics = f"{study.name}, {study.axis_label} {condition}", study.manifest["physics"]
    measured = Cell(bracket(100 * value, 100 * low, 100 * high, digits=1), value)
    methods = [record["method"], *(r["baseline"] for r in records)]
    others = (record["method"], record["baseline"], _episodes(study, methods), where, claim.source)
    return [Cell(claim.text), Cell(verdict), Cell(physics), measured, *map(Cell, others)]


def _episodes(study: SavedStudy, methods: Sequence[str]) -> str:
    """The numbers of episodes, and the methods whose published runs had a different number."""
    trained = {m: n for m, n in study.training_episodes.items() if m in methods}
    numbers = {*trained.values()}
    each = [f"{m} {n}" for m, n in trained.items()] if len(numbers) > 1 else map(str, numbers)
    episodes = ", ".join(each)
    published = {m: published_episodes(m) for m in trained}
    other = [f"{m} {n}" for m, n in published.items() if n not in (None, trained[m])]
    return f"{episodes} (published: {', '.join(other)})" if other else episodes


def _misses(study: SavedStudy, condition: Any, method: str) -> float:
    episodes = study.groups[method, condition]
    missed, tasks = episodes.sums([(MISS_RATE, TASK)])
    return float(np.nansum(missed) / np.nansum(tasks))
