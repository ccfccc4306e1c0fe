"""What the papers claim of AMCoEdge, set against the studies of a reproduction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.report.studies import Study
from amco_jax.report.tables import Cell, Table, bracket

CONFERENCE, JOURNAL = "ICDCS 2024", "journal version"
NEAR = 0.03
"""Above `optimal`, what counts as close to it"""

CLAIMS_NOTE = (
    "A claim holds where the whole 95 % interval of what is measured lies at or beyond the claimed figure, "
    "is possible where the interval contains it, and fails where the whole interval falls short of it. "
    f"Close to Optimal means at most {100 * NEAR:.0f} % above it."
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """One figure of a paper: by what share AMCoEdge's metric lies below each of the baselines' at least."""

    text: str
    source: str
    share: float
    baselines: tuple[str, ...]
    """By their names without `-stable`"""
    metric: str = "makespan_mean_s"


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
        ("randcoedge", "drlcoedge", "smcoedge"), "miss_rate",
    ),
)  # fmt: skip


def claims_table(studies: Sequence[Study], compared: pd.DataFrame) -> Table:
    """One row per claim, study that AMCoEdge is in, and condition: measured, and whether it holds.

    Of a claim over several baselines, the one of which it is least true. Failure rates are judged where the
    baseline misses at least one task in a hundred, and makespans where the study does not sweep (the claims
    are of the default setting).
    """
    rows = []
    for claim in CLAIMS:
        for study in studies:
            if claim.metric == "makespan_mean_s" and study.kind == "sweep":
                continue
            of_study = compared.loc[(compared["study"] == study.name) & (compared["metric"] == claim.metric)]
            records: list[dict[str, Any]] = of_study.to_dict("records")
            for condition in study.conditions:
                found = [
                    r for r in records
                    if r["condition"] == condition
                    and r["method"] in ("amcoedge", "amcoedge-stable")
                    and r["baseline"].removesuffix("-stable") in claim.baselines
                    and (claim.metric != "miss_rate" or _misses(study, condition, r["baseline"]) >= 0.01)
                ]  # fmt: skip
                if found:
                    rows.append(_row(claim, study, condition, min(found, key=lambda r: r["reduction"])))
    columns = [
        "claim", "verdict", "physics", "measured reduction [%]", "method", "baseline", "study", "source",
    ]  # fmt: skip
    return Table(columns, rows, texts=len(columns))


def _row(claim: Claim, study: Study, condition: Any, record: dict[str, Any]) -> list[Cell]:
    value, low, high = (record[k] for k in ("reduction", "reduction_low", "reduction_high"))
    verdict = "holds" if low >= claim.share else "fails" if high < claim.share else "possible"
    where, physics = study.name, str(condition)
    if study.kind == "sweep":
        where, physics = f"{study.name}, {study.axis_label} {condition}", study.manifest["physics"]
    measured = Cell(bracket(100 * value, 100 * low, 100 * high, digits=1), value)
    others = (record["method"], record["baseline"], where, claim.source)
    return [Cell(claim.text), Cell(verdict), Cell(physics), measured, *map(Cell, others)]


def _misses(study: Study, condition: Any, method: str) -> float:
    return float(np.nanmean(np.asarray(study.by_seed(method, "miss_rate")[condition])))
