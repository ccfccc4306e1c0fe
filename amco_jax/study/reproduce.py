"""Reproduce the whole paper: convergence, the published sweeps, allocators, set sizes, and the claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amco_jax.agents.methods import PAPER_METHODS
from amco_jax.errors import InputError
from amco_jax.metrics import Metric
from amco_jax.report.claims import claims_table
from amco_jax.report.page import Report, make_report
from amco_jax.report.studies import load_studies
from amco_jax.study.base import Study
from amco_jax.study.compare import Comparison
from amco_jax.study.engines import Execution
from amco_jax.study.run import run_studies
from amco_jax.study.sweep import Sweep

STABLE_METHODS = ("amcoedge-stable", "smcoedge-stable", "drlcoedge-stable", "randcoedge", "optimal")
ABLATIONS = {
    "allocators": ("amcoedge-stable", "amcoedge-stable+hecwa", "randcoedge", "randcoedge+hecwa"),
    "set-sizes": tuple(f"smcoedge-stable-{k}" for k in range(1, 6)),
}
"""Studies to which none of the claims refers"""

TITLE = "Reproduction of the AMCoEdge paper"
QUICK_WARNING = (
    "Made with --quick, at few values and with few episodes of training: it shows how the reproduction "
    "works, and neither numbers nor verdicts are a basis for conclusions."
)


@dataclasses.dataclass(frozen=True)
class Effort:
    """The sizes of all studies."""

    seeds: int
    convergence_episodes: int
    sweep_episodes: int
    points: int | None
    """Number of values per sweep, spread over its range; None for all values"""


FULL = Effort(seeds=32, convergence_episodes=300, sweep_episodes=300, points=None)
QUICK = Effort(seeds=32, convergence_episodes=60, sweep_episodes=20, points=2)


def reproduce(
    out: str | Path,
    *,
    quick: bool = False,
    metrics: Sequence[str | Metric] = (),
    execution: Execution = Execution(),  # noqa: B008  # immutable
    progress: bool = False,
) -> Report | None:
    """Run or resume every study of the paper, each in its own subdirectory of `out`.

    All studies run as one job: finished units are not run again, and agents that several studies need are
    trained once.

    Args:
      metrics: metrics to measure in addition to the usual ones, each a name or a `Metric`.
      execution: the engine and the shard; an unfinished run in `out` is always resumed.

    Returns:
      The report; None while other shards still have units to compute.

    Raises:
      InputError: `out` cannot be written, or contains other files, results of other code, or damaged files.
    """
    home, effort = Path(out), QUICK if quick else FULL
    studies = studies_of(effort, metrics)
    if home.is_dir() and any(home.iterdir()) and not any((home / name).is_dir() for name in studies):
        raise InputError(f"out: {home} is not empty; legal: a new directory")
    outcomes = run_studies(studies, home, dataclasses.replace(execution, resume=True), progress)
    if any(outcome.missing for outcome in outcomes.values()):
        return None
    loaded = load_studies([home / name for name in studies])
    # In studies without any of the paper's baselines, the first method serves as the baseline.
    report = make_report(loaded)
    claims = claims_table([s for s in loaded if s.name not in ABLATIONS], report.compared)
    note = QUICK_WARNING if quick else ""
    return dataclasses.replace(report, title=TITLE, note=note, claims=claims)


def studies_of(effort: Effort, metrics: Sequence[str | Metric] = ()) -> dict[str, Study]:
    """The studies to run, by the name of their directory."""
    studies: dict[str, Study] = {}

    def add_sweep(name: str, param: str, values: Sequence[Any], methods: Sequence[str], physics: str) -> None:
        if effort.points is not None:
            last = len(values) - 1
            places = [round((i + 0.5) * last / effort.points) for i in range(effort.points)]
            values = [values[place] for place in places]
        studies[name] = Sweep(
            param, values, methods=methods, seeds=effort.seeds, trained_seeds=effort.seeds,
            physics=physics, episodes=effort.sweep_episodes, metrics=metrics,
        )  # fmt: skip

    for name, methods in (("convergence", PAPER_METHODS), ("convergence-stable", STABLE_METHODS)):
        studies[name] = Comparison(
            methods=methods, seeds=effort.seeds, episodes=effort.convergence_episodes,
            last=max(effort.convergence_episodes // 6, 1), metrics=metrics,
        )  # fmt: skip
    tenths = [k / 10 for k in range(1, 11)]
    fleets = [(10.0, *(10.0 + i * step for i in range(1, 5))) for step in (5, 10, 15, 20)]
    for physics in ("published", "unified"):
        for param, values in (
            ("deadline", tenths),
            ("arrival_prob", tenths),
            ("num_tasks", list(range(10, 101, 10))),
            ("capacity", fleets),
        ):
            add_sweep(f"{param}-{physics}", param, values, STABLE_METHODS, physics)
    for name, methods in ABLATIONS.items():
        add_sweep(name, "arrival_prob", tenths, methods, "unified")
    return studies
