"""Measure the overhead of the store and an engine over the bare program, for units of about a minute.

Both sides run the same compiled units one after another in one process, and take turns in running first,
because the speed of a shared machine drifts.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from amco_jax.agents.methods import get_method
from amco_jax.cli.arguments import run
from amco_jax.errors import InputError, check_choice
from amco_jax.results.store import LOG, Store
from amco_jax.study.agents import AgentStore
from amco_jax.study.engines import ENGINES, Execution, LocalEngine, Work
from amco_jax.study.simulate import simulate
from amco_jax.study.sweep import Sweep
from amco_jax.study.units import Unit, units_of


@dataclasses.dataclass(frozen=True)
class Arguments:
    method: tyro.conf.Positional[str] = "optimal"
    """Name of a rule."""
    seeds: int = 260_000
    """Total number of seeds over all units."""
    unit_seconds: float = 60.0
    """Approximate duration of a unit, s."""
    repeats: int = 2
    """Number of repeats of each side."""
    engine: str = "local"
    """local, or ray, which measures only the time between the units of a worker."""


def bare(unit: Unit) -> None:
    """Run only the episodes and metrics of a unit."""
    first, scenarios = unit.cells[0], [cell.scenario for cell in unit.cells]
    for _ in simulate(scenarios, first.method, first.row, first.first_seed, first.num_seeds):
        pass


class TimedStore(Store):
    """A store that sums the wall-clock time of its commits, including the flush to disk."""

    seconds = 0.0

    def commit(self, unit: str, frame: pd.DataFrame) -> str:
        start = time.perf_counter()
        digest = super().commit(unit, frame)
        TimedStore.seconds += time.perf_counter() - start
        return digest


def stored(units: list[Unit], directory: Path) -> None:
    """Run the units as a study does."""
    store = TimedStore(directory / "units", directory / "results.parquet")
    store.begin({})
    agents = AgentStore(directory / "agents")
    LocalEngine(lambda unit, done: None).run([Work(unit, store, agents) for unit in units])


def seconds(side: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock time and processor time of a call, s."""
    wall, processor = time.perf_counter(), time.process_time()
    side()
    return time.perf_counter() - wall, time.process_time() - processor


def main(args: Arguments) -> None:
    check_choice("engine", args.engine, ENGINES)
    if get_method(args.method).takes_long:
        raise InputError(f"method: {args.method}; legal: a rule")
    study = Sweep(param="arrival_prob", values=[0.3], methods=[args.method], seeds=args.seeds)
    units = units_of(study.cells(), args.unit_seconds)
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=".") as home:
        if args.engine == "ray":
            between_units(units, Path(home))
            return
        bare(units[0])  # compiles
        sides = {
            "bare": lambda: [bare(unit) for unit in units],
            "stored": lambda: stored(units, Path(tempfile.mkdtemp(dir=home))),
        }
        wall, processor = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)
        for repeat in range(args.repeats):
            for name in sorted(sides, reverse=bool(repeat % 2)):
                both = seconds(sides[name])
                wall[name] += both[0]
                processor[name] += both[1]
                print(f"{name}: {both[0] / len(units):.2f} s a unit, processors {both[1] / len(units):.2f} s")
        for what, total in (("wall clock", wall), ("processors", processor)):
            print(f"{what}: {100 * (total['stored'] / total['bare'] - 1):+.2f} %")
        print(f"commits: {TimedStore.seconds / args.repeats / len(units):.2f} s of the wall clock a unit")


def between_units(units: list[Unit], home: Path) -> None:
    """Print the time on Ray between the commit of a unit and the start of the worker's next unit."""
    store = Store(home / "units", home / "results.parquet")
    store.begin({})
    begun = time.time()
    agents = AgentStore(home / "agents")
    Execution(engine="ray").start(lambda unit, done: None).run([Work(unit, store, agents) for unit in units])
    ended = time.time()
    stamps: dict[str, list[float]] = {}
    for line in (store.directory / LOG).read_text().splitlines():
        when, _, pid, *_ = line.split()
        stamps.setdefault(pid, []).append(datetime.datetime.fromisoformat(when).timestamp())
    within, between = [], []
    for of_worker in stamps.values():
        spans = [later - earlier for earlier, later in itertools.pairwise(of_worker)]
        within += spans[::2]
        between += spans[1::2]
    first, last = min(each[0] for each in stamps.values()), max(each[-1] for each in stamps.values())
    print(f"{len(stamps)} workers, {len(units)} units of {sum(within) / len(within):.2f} s")
    print(f"{first - begun:.2f} s to the first unit, {ended - last:.2f} s after the last")
    print(f"between units {1000 * max(between):.0f} ms at most, {sum(between) / sum(within):.3%} of the time")


if __name__ == "__main__":
    run(Arguments, main, "Measure the overhead of the store and an engine over the bare program.")
