"""What a paced fleet of this machine measures: errors of the predictions, and a comparison of methods.

`errors` sets what is measured beside what both link models predict, with and without links. `compare` plays
the paper's comparison on its own prototype, three fast devices and two slow ones. Nothing else may run on the
machine meanwhile: what is measured is time. Runs in which an image took its worker longer than its pace are
marked as invalid. Both go on where they were interrupted if the same command is given again, and with
`--virtual` both take no workers but exact paces and transfers in virtual time, which shows what is due to the
model alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from amco_jax import Training, get_method, load_scenario, run_study
from amco_jax.cli.arguments import ProgramArguments, run
from amco_jax.errors import InputError
from amco_jax.files import FileNames, replacing
from amco_jax.results.saved import SavedRun, open_run
from amco_jax.scenario import Scenario
from amco_jax.stats import Interval, mean_interval, rate_interval, reduction_interval
from amco_jax.study.engines import Execution
from edge_fleet.columns import KIND
from edge_fleet.configuration import FleetSettings, in_fleet
from edge_fleet.launching import local_workers
from edge_fleet.results import summary_table
from edge_fleet.run import Plan, run_fleet
from edge_fleet.virtual import virtual_requests

AGENT_SEED = 1000
"""The seed of the first agents that are trained; arrivals that are played have seeds from 0 on"""
PAPER = {
    "makespan_s": "prototype: 9.23 to 31.98 % less; simulation: at least 11.04 % less",
    "failure_rate": "simulation: 44.86 % lower",
}
"""What the paper (journal version) claims of AMCoEdge against its baselines"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(ProgramArguments):
    """Arguments of both benchmarks."""

    out: Path
    """Directory of the runs, which finished ones stay in, and of the tables."""
    scenario: str = "jetson-sd15"
    """A preset or a TOML file."""
    virtual: bool = False
    """Without workers, in virtual time."""

    def requests(self, plan: Plan, name: str) -> tuple[pd.DataFrame, bool]:
        """The requests of a run, which is played unless it is finished; and whether it is valid."""
        if self.virtual:
            return virtual_requests(plan), True
        out = self.out / name
        if not (out / "manifest.json").exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            print(out, file=sys.stderr)
            run_fleet(
                plan, lambda: local_workers(plan.settings.engine_settings, plan.names, False), out,
                resume=True,
            )  # fmt: skip
        saved = open_run(out, [KIND])
        check_same(saved, {name: value for name, value in plan.describe().items() if name != "depends_on"})
        return saved.table("requests.parquet"), not saved.manifest["facts"]["overruns"]

    def write(self, table: pd.DataFrame, name: str) -> None:
        """Keep and print a table."""
        self.out.mkdir(parents=True, exist_ok=True)
        with replacing(self.out / f"{name}{'-virtual' if self.virtual else ''}.csv") as file:
            table.to_csv(file, index=False)
        print(table.to_string(index=False, float_format="{:.4g}".format))


def check_same(saved: SavedRun, described: Mapping[str, Any]) -> None:
    """Raise InputError unless a finished run is the one that is described."""
    # Tuples have become lists in the file.
    if any(saved.manifest.get(key) != value for key, value in json.loads(json.dumps(described)).items()):
        raise InputError(f"out: {saved.directory} holds another run; legal: another directory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors(Common):
    """Errors of the predictions, by both link models, over several episodes of each method."""

    methods: tuple[str, ...] = ("optimal", "least-wait", "randcoedge")
    """Methods without training."""
    agents: tuple[Path, ...] = ()
    """Directories of finished trainings with timing=continuous, whose first agents decide too."""
    slots: int = 4
    """Slots of an episode."""
    episodes: int = 5
    """Episodes of each method, one after another; they are what counts as independent."""
    speed: float = 5.0
    """Seconds of the scenario per second."""
    links: tuple[float, ...] = (0.0, 200.0, 20.0)
    """Rates of all links, Mbit/s; 0 for links that take no time."""

    def carry_out(self) -> None:
        """Run every method, and print and write the table."""
        names, rows = FileNames(), []
        for rate in self.links:
            fields = {"num_slots": self.slots} | ({"link_rate": rate} if rate else {})
            scenario = in_fleet(load_scenario(self.scenario, fields))
            settings = FleetSettings(links=rate > 0, speed=self.speed, size=128)
            numbers = tuple(range(self.episodes))
            plans = [
                Plan(scenario=scenario, settings=settings, method=get_method(name), episodes=numbers)
                for name in self.methods
            ]
            for path in self.agents:
                plans.append(Plan.of_agents(path, scenario, self.episodes, settings=settings))
            for plan in plans:
                words = f"{rate:g} Mbit per s" if rate else "no links"
                requests, valid = self.requests(plan, names.take(f"{plan.method.name}-{words}"))
                labels = {"method": plan.method.name, "link_mbit_per_s": rate, "valid": valid}
                rows += [labels | row for row in error_rows(requests)]
        self.write(pd.DataFrame(rows), "errors")


def error_rows(requests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The errors of all predictions, makespans and the rate of misses, each with an interval."""
    for row in summary_table(requests).to_dict("records"):
        found = {name: row[name] for name in ("estimate", "low", "high")}
        yield {"measure": f"{row['measure']}, {row['prediction']}"} | found
    by_episode = requests.groupby("episode")
    for name in ("measured_s", "simulated_s", "predicted_s"):
        means = np.asarray(by_episode[name].mean(), float)
        yield {"measure": f"mean {name}"} | _columns(mean_interval(means))
    missed, count = (np.asarray(found, float) for found in (by_episode["missed"].sum(), by_episode.size()))
    yield {"measure": "mean missed"} | _columns(rate_interval(missed, count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """The paper's comparison: the same requests for all methods, measured and predicted."""

    methods: tuple[str, ...] = (
        "amcoedge-regret",
        "smcoedge-regret",
        "drlcoedge-regret",
        "randcoedge",
        "optimal",
    )
    """The method of interest, and those that it is compared with; what needs training is trained first."""
    slots: int = 20
    """Slots of a run, a minute of the scenario each."""
    runs: int = 5
    """Runs of each method, which take turns; each run has its own requests and its own agents."""
    speed: float = 10.0
    """Seconds of the scenario per second."""
    episodes: int | None = None
    """Training episodes; by default, those of each method."""

    def carry_out(self) -> None:
        """Train what is missing, play what is missing, and print and write both tables."""
        scenario = in_fleet(load_scenario(self.scenario, {"num_slots": self.slots}))
        settings = FleetSettings(speed=self.speed, size=128)
        sources = {name: self._source(name, scenario, settings) for name in self.methods}
        runs: dict[str, list[pd.DataFrame]] = {name: [] for name in self.methods}
        valid = dict.fromkeys(self.methods, True)
        for number in range(self.runs):  # in turns, so that a drift of the machine concerns all methods
            for name, source in sources.items():
                requests, fine = self.requests(source(number), f"{name}-{number}")
                runs[name].append(requests)
                valid[name] &= fine
        outcomes = {
            name: np.array([_outcomes(one, scenario.deadline) for one in of]) for name, of in runs.items()
        }
        self.write(
            means_table(outcomes, {name: np.array(list(map(len, of))) for name, of in runs.items()}, valid),
            "compare",
        )
        print()
        self.write(reductions_table(outcomes), "reductions")

    def _source(self, name: str, scenario: Scenario, settings: FleetSettings) -> Callable[[int], Plan]:
        """A function from the number of a run to its plan."""
        method = get_method(name)
        if method.training is None:
            return lambda number: Plan(scenario=scenario, settings=settings, method=method, seed=number)
        agents = self.out / "agents" / name
        # In episodes of the scenario's own length, which is longer than a run.
        study = Training(
            name, seeds=self.runs, first_seed=AGENT_SEED, episodes=self.episodes, physics="serial",
            scenario=in_fleet(load_scenario(self.scenario)),
        )  # fmt: skip
        if not (agents / "manifest.json").exists():
            print(agents, file=sys.stderr)
            run_study(study, agents, execution=Execution(resume=agents.exists()))
        # More seeds would do as well, and agents of other code are played with a warning.
        beside = ("num_seeds", "depends_on")
        check_same(
            open_run(agents, [study.kind]),
            {key: value for key, value in study.describe().items() if key not in beside},
        )
        return lambda number: Plan.of_agents(
            agents, scenario, 1, AGENT_SEED + number, seed=number, settings=settings
        )


SOURCES = {"measured": "measured_s", "simulator alone": "simulated_s", "at decision": "predicted_s"}
"""Where a makespan comes from, and its column"""


def _outcomes(requests: pd.DataFrame, deadline: float) -> list[list[float]]:
    """`[sources][measures]`: of a run, the mean makespan, cut at the deadline, and the failure rate."""
    rejected, found = np.asarray(requests["rejected"], bool), []
    for column in SOURCES.values():
        times = np.asarray(requests[column], float)
        failed = rejected | ~(times <= deadline)
        found.append([float(np.mean(np.where(failed, deadline, times))), float(np.mean(failed))])
    return found


def means_table(
    outcomes: dict[str, np.ndarray], requests: dict[str, np.ndarray], valid: dict[str, bool]
) -> pd.DataFrame:
    """Makespans and failure rates of each method, with intervals over the runs.

    Args:
      requests: the number of requests in each run.
    """

    def interval(measure: str, of_runs: np.ndarray, count: np.ndarray) -> Interval:
        if measure == "failure_rate":
            return rate_interval(np.rint(of_runs * count), count)
        return mean_interval(of_runs)

    return pd.DataFrame([
        {"method": name, "requests": requests[name].sum(), "valid": valid[name], "measure": measure}
        | {"source": source}
        | _columns(interval(measure, values[:, i, k], requests[name]))
        for name, values in outcomes.items()
        for k, measure in enumerate(PAPER)
        for i, source in enumerate(SOURCES)
    ])  # fmt: skip


def reductions_table(outcomes: dict[str, np.ndarray]) -> pd.DataFrame:
    """By what share the first method is below each other one, paired by run."""
    (first, own), *others = outcomes.items()
    rows = []
    for name, values in others:
        for k, measure in enumerate(PAPER):
            for i, source in enumerate(SOURCES):
                with np.errstate(divide="ignore", invalid="ignore"):
                    found = reduction_interval(own[:, i, k], values[:, i, k])
                if not own[:, i, k].any():  # no failure in any run, whose rate may still be above 0
                    found = found._replace(low=np.nan, high=np.nan)
                labels = {"method": first, "baseline": name, "measure": measure, "source": source}
                paper = "" if name == "optimal" else PAPER[measure]
                rows.append(labels | _columns(found) | {"paper": paper})
    return pd.DataFrame(rows)


def _columns(interval: Interval) -> dict[str, float]:
    return {name: float(getattr(interval, name)) for name in ("estimate", "low", "high")}


@dataclasses.dataclass(frozen=True)
class Arguments:
    command: (
        Annotated[Errors, tyro.conf.subcommand("errors")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
    )


def main(args: Errors | Compare) -> None:
    """Carry out the benchmark."""
    args.carry_out()


if __name__ == "__main__":
    run(Arguments, main, __doc__ or "")  # pyright: ignore[reportArgumentType]
