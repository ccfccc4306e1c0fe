"""The whole paper in one run: convergence, the published sweeps, allocators, set sizes, and the claims."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from amco_jax.agents.methods import PHYSICS
from amco_jax.errors import InputError
from amco_jax.experiment.compare import PAPER_METHODS, compare
from amco_jax.experiment.engines import Execution
from amco_jax.experiment.sweep import sweep
from amco_jax.experiment.units import code_version
from amco_jax.report.claims import claims_table
from amco_jax.report.page import Report, make_report
from amco_jax.report.studies import load_studies
from amco_jax.saved import MANIFEST, open_run

STABLE_METHODS = ("amcoedge-stable", "smcoedge-stable", "drlcoedge-stable", "randcoedge", "optimal")
ABLATIONS = {
    "allocators": ("amcoedge-stable", "amcoedge-stable+hecwa", "randcoedge", "randcoedge+hecwa"),
    "set-sizes": tuple(f"smcoedge-stable-{k}" for k in range(1, 6)),
}
"""What the claims do not speak of"""

TITLE = "Reproduction of the AMCoEdge paper"
QUICK_WARNING = (
    "Made with --quick, at few values and with few episodes of training: it shows how the reproduction "
    "works, and neither numbers nor verdicts are a basis for conclusions."
)

PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much of everything."""

    seeds: int
    convergence_episodes: int
    sweep_episodes: int
    points: int | None
    """Values per sweep, spread over its range; None for all of them"""


FULL = Effort(seeds=32, convergence_episodes=300, sweep_episodes=300, points=None)
QUICK = Effort(seeds=32, convergence_episodes=60, sweep_episodes=20, points=2)


def reproduce(out: str | Path, *, quick: bool = False, progress: bool = False) -> Report:
    """Run, or go on with, every study of the paper, each in a directory of its own in `out`.

    A study that has ended is not run again. A sweep that was interrupted goes on with its next unit of work,
    a comparison begins anew.

    Raises:
      InputError: `out` cannot be written, or holds something else, results of other code, or damaged ones.
    """
    home, effort = Path(out), QUICK if quick else FULL
    _begin(home, effort)
    studies = studies_of(effort)
    for name, run in studies.items():
        if (home / name / MANIFEST).exists():
            open_run(home / name, ["sweep", "compare"])
        else:
            run(home / name, progress)
    loaded = load_studies([home / name for name in studies])
    # Their own first methods are the baselines of the studies that have none of the paper's.
    report = make_report(loaded)
    claims = claims_table([s for s in loaded if s.name not in ABLATIONS], report.compared)
    warnings = [QUICK_WARNING, *report.warnings] if quick else report.warnings
    return dataclasses.replace(report, title=TITLE, warnings=warnings, claims=claims)


def studies_of(effort: Effort) -> dict[str, Callable[[Path, bool], Any]]:
    """What to run, by the name of its directory."""
    studies: dict[str, Callable[[Path, bool], Any]] = {}

    def add_sweep(name: str, param: str, values: Sequence[Any], methods: Sequence[str], physics: str) -> None:
        if effort.points is not None:
            last = len(values) - 1
            places = [round((i + 0.5) * last / effort.points) for i in range(effort.points)]
            values = [values[place] for place in places]

        def run(out: Path, progress: bool) -> Any:
            return sweep(
                param, values=values, methods=methods, seeds=effort.seeds, trained_seeds=effort.seeds,
                physics=physics, episodes=effort.sweep_episodes, out=out, execution=Execution(resume=True),
                progress=progress,
            )  # fmt: skip

        studies[name] = run

    for name, methods in (("convergence", PAPER_METHODS), ("convergence-stable", STABLE_METHODS)):
        studies[name] = lambda out, progress, methods=methods: compare(
            methods, seeds=effort.seeds, episodes=effort.convergence_episodes,
            last=max(effort.convergence_episodes // 6, 1), out=out, progress=progress,
        )  # fmt: skip
    tenths = [k / 10 for k in range(1, 11)]
    fleets = [(10.0, *(10.0 + i * step for i in range(1, 5))) for step in (5, 10, 15, 20)]
    for physics in PHYSICS:
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


def _begin(home: Path, effort: Effort) -> None:
    """Write the plan, or check that the one that stands there is the same."""
    plan = {"effort": dataclasses.asdict(effort), "code": code_version()}
    text = json.dumps(plan, indent=2) + "\n"
    path = home / PLAN
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(home.iterdir()):
                raise InputError(f"out: {home} is not empty; legal: a new directory")
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            raise InputError(f"out: {home} was begun with other code or the other --quick; legal: a new one")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"out: {home} cannot be used: {error}") from error
