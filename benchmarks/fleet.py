"""Measured against predicted on a paced fleet of this machine, over several runs of each method.

Nothing else may run on the machine meanwhile: what is measured is time. Runs in which an image took its
worker longer than its pace are marked as invalid in the table.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from amco_jax import get_method, load_scenario
from amco_jax.cli.arguments import ProgramArguments, run
from amco_jax.results.files import FileNames, replacing
from amco_jax.stats import t_interval
from edge_fleet.configuration import FleetSettings, in_fleet
from edge_fleet.launching import local_workers
from edge_fleet.run import Plan, Result, run_fleet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(ProgramArguments):
    out: Path
    """Directory of the runs, and of the table errors.csv; finished runs are replaced."""
    methods: tuple[str, ...] = ("optimal", "least-wait", "randcoedge")
    """Methods without training."""
    agents: tuple[Path, ...] = ()
    """Directories of finished trainings with timing=continuous, whose first agents decide too."""
    scenario: str = "jetson-sd15"
    """A preset or a TOML file."""
    slots: int = 4
    """Slots of an episode."""
    episodes: int = 5
    """Episodes of each method, one after another; they are what counts as independent."""
    speed: float = 5.0
    """Seconds of the scenario per second."""
    links: tuple[bool, ...] = (False, True)
    """Whether links take time; both by default."""


def main(args: Arguments) -> None:
    """Run every method, and print and write the table."""
    scenario = in_fleet(load_scenario(args.scenario, {"num_slots": args.slots}))
    names, rows = FileNames(), []
    for links in args.links:
        settings = FleetSettings(links=links, speed=args.speed, size=128)
        numbers = tuple(range(args.episodes))
        plans = [
            Plan(scenario=scenario, settings=settings, method=get_method(name), episodes=numbers)
            for name in args.methods
        ]
        plans += [Plan.of_agents(path, scenario, args.episodes, settings=settings) for path in args.agents]
        for plan in plans:
            out = args.out / names.take(f"{plan.method.name}-{'links' if links else 'no links'}")
            out.parent.mkdir(parents=True, exist_ok=True)
            print(out, file=sys.stderr)
            result = run_fleet(
                plan,
                lambda plan=plan: local_workers(plan.settings.engine_settings, plan.names, False),
                out, overwrite=True,
            )  # fmt: skip
            rows += rows_of(plan.method.name, links, result)
    table = pd.DataFrame(rows)
    with replacing(args.out / "errors.csv") as file:
        table.to_csv(file, index=False)
    print(table.to_string(index=False))


def rows_of(method: str, links: bool, result: Result) -> list[dict[str, object]]:
    """The rows of one method: the errors of both predictions, makespans and the rate of misses."""
    labels = {"method": method, "links": links, "valid": result.facts["overruns"] == 0}
    rows = []
    for row in result.summary.to_dict("records"):
        found = {name: row[name] for name in ("estimate", "low", "high")}
        rows.append(labels | {"measure": f"{row['measure']}, {row['prediction']}"} | found)
    for name in ("measured_s", "simulated_s", "predicted_s", "missed"):
        means = np.asarray(result.requests.groupby("episode")[name].mean(), float)
        interval = t_interval(means)
        rows.append(labels | {
            "measure": f"mean {name}", "estimate": float(interval.estimate), "low": float(interval.low),
            "high": float(interval.high),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    run(Arguments, main, __doc__ or "")
