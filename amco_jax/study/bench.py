"""Benchmarks of simulation speed, and of the growth of time and memory, with a process per measurement."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method, get_method, get_methods
from amco_jax.compile.runtime import configure
from amco_jax.errors import InputError, check_list, check_whole
from amco_jax.progress import progress_bar
from amco_jax.report.figures import growth_figure
from amco_jax.report.speed import speed_tables, to_markdown
from amco_jax.report.tables import Table
from amco_jax.results.provenance import provenance
from amco_jax.scenario import Scenario
from amco_jax.study.measure import Job, can_play, measure, measure_plain
from amco_jax.study.output import Output

GROWTH_SEEDS = (1, 10, 100, 1_000, 10_000, 100_000)
GROWTH_SERVERS = (5, 8, 16, 32, 64, 128, 256)
GROWTH_SLOTS = 6
"""Maximum number of slots per episode in measurements of growth; the time is proportional to it."""

GROWTH_EPISODES = 5
"""Training episodes per repeat"""

MAX_TRAINED = {"seeds": 1_000, "num_servers": 16}
"""Maximum values for the growth of training, which takes 100 times as long as a rule, and 5 MB per seed."""


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """The outcome of a benchmark."""

    growth: pd.DataFrame
    """One row per method, axis (`seeds` or `num_servers`) and value, see docs/files.md; may be empty"""
    tables: dict[str, Table]
    """The tables by title"""
    manifest: dict[str, Any]
    """All measurements with every repeat, the scenario, versions and the device"""
    out: Path | None = None


def bench(
    methods: Sequence[str],
    *,
    seeds: int = 4096,
    repeats: int = 5,
    scenario: Scenario | None = None,
    trained_seeds: int = 128,
    growth: Sequence[str] = (),
    growth_seeds: Sequence[int] = GROWTH_SEEDS,
    growth_servers: Sequence[int] = GROWTH_SERVERS,
    load: Callable[[str], Method] = get_method,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BenchResult:
    """Measure the speed, compile time and peak memory of methods, and the speed of the plain loop.

    A script that calls this function must guard its own code with `if __name__ == "__main__":`, as the
    measuring processes import the script.

    Args:
      methods: names of methods, which the measuring processes look up themselves.
      seeds: the number of seeds simulated in parallel, rounded up to whole blocks on every device.
      repeats: the number of repeats of each measurement, after one that is discarded.
      trained_seeds: the number of seeds trained in parallel, rounded up likewise.
      growth: names of methods whose time and memory are also measured over seeds and servers.
      growth_seeds, growth_servers: the values for `growth`; fleets that a method cannot handle are left out.
      load: returns the method of a name; must be a function that other processes can import.
      out: a directory for summary.md, manifest.json, growth.csv and the figure.
      overwrite: replace the results in `out`.
      progress: show a progress bar on stderr.

    Raises:
      InputError: a method is unknown or given twice, a number is out of range, or there is a warm-up.
    """
    for name, value in (("seeds", seeds), ("repeats", repeats), ("trained_seeds", trained_seeds)):
        check_whole(name, value)
    started, scenario = time.time(), scenario or Scenario()
    if scenario.warmup is not None:
        raise InputError(f"warmup: {scenario.warmup}; legal in a benchmark: none, as it counts all slots")
    chosen = _load_all(methods, load)
    for method in chosen.values():
        method.check(scenario.num_servers)
        if method.training is not None:
            scenario.check_training()
    rules = [Job(name, scenario, seeds, repeats) for name, m in chosen.items() if m.training is None]
    trained = [Job(name, scenario, trained_seeds, repeats) for name, m in chosen.items() if m.training]
    plain = [job for job in rules if can_play(job.method, scenario)]
    growing = _load_all(growth, load) if growth else {}
    points = list(_points(growing, growth_seeds, growth_servers, scenario, repeats)) if growth else []

    with contextlib.ExitStack() as stack:
        output = None if out is None else stack.enter_context(Output(out, overwrite))
        bar = stack.enter_context(progress_bar(progress, "measurements"))
        task = bar.add_task("", total=len(rules) + len(trained) + len(plain) + len(points))

        def run(function: Callable[..., Any], job: Job, *others: Any) -> dict[str, Any]:
            bar.update(task, description=job.method)
            row = alone(function, job, *others)
            bar.advance(task)
            return row

        loops = [run(measure_plain, job) for job in plain]
        speed = {row["method"]: row["decisions_per_s"] for row in loops}
        rows = [run(measure, job, load) for job in rules]
        for row in rows:
            loop = speed.get(row["method"])
            row["ratio_to_plain"] = None if loop is None else row["rollout_decisions_per_s"] / loop
        figures = {
            "methods": rows,
            "training": [run(measure, job, load) for job in trained],
            "plain": loops,
            "growth": [{"axis": axis, "value": n} | run(measure, job, load) for axis, n, job in points],
        }
        # Last, as this starts JAX in this process, which reserves the memory of an accelerator.
        manifest = {"kind": "bench", "scenario": scenario.to_dict()} | figures | provenance(started, scenario)
        rows = growth_rows(manifest["growth"])
        tables = speed_tables(manifest, exponents(rows))
        if output is not None:
            output.path("summary.md").write_text(to_markdown(manifest, tables), encoding="utf-8")
            if points:
                rows.to_csv(output.path("growth.csv"), index=False)
                output.draw("growth", lambda: growth_figure(rows))
            output.finish(manifest)
    return BenchResult(rows, tables, manifest, None if out is None else Path(out))


def growth_rows(measured: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Medians and ranges of the measurements of growth: of the kernel alone for a rule, else of training."""
    rows = []
    for row in measured:
        seconds = row["rollout_s"] if "rollout_s" in row else row["train_s"]
        kept = ("method", "axis", "value", "seeds", "num_servers", "decisions", "peak_memory_mb")
        rows.append(
            {name: row[name] for name in kept}
            | {"compile_s": row.get("compile_s"), "seconds": statistics.median(seconds)}
            | {"seconds_min": min(seconds), "seconds_max": max(seconds)}
        )
    return pd.DataFrame(rows)


def exponents(growth: pd.DataFrame) -> pd.DataFrame:
    """Least-squares slopes of log time and log peak memory over log n; NaN if there is only one n.

    The columns are method, axis, time and memory. Over seeds, n is the number of seeds, and the time is that
    of all of them. Over servers, the time is that of one decision, as a larger fleet makes more decisions per
    episode.
    """
    rows = []
    for key in {(row["method"], row["axis"]): None for row in growth.to_dict("records")}:
        points = growth.loc[(growth["method"] == key[0]) & (growth["axis"] == key[1])]
        share = 1 if key[1] == "seeds" else points["decisions"]
        time_and_memory = points["seconds"] / share, points["peak_memory_mb"]
        rows.append((*key, *(_slope(points[key[1]], y) for y in time_and_memory)))
    return pd.DataFrame(rows, columns=["method", "axis", "time", "memory"])


def _slope(x: Any, y: Any) -> float:
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    x = x - x.mean()
    return float(x @ y / (x @ x)) if x.any() else float("nan")


def _load_all(names: Sequence[str], load: Callable[[str], Method]) -> dict[str, Method]:
    names = check_list("methods", names)
    return dict(zip(names, get_methods([load(name) for name in names]), strict=True))


def _points(
    methods: dict[str, Method],
    seeds: Sequence[int],
    servers: Sequence[int],
    scenario: Scenario,
    repeats: int,
) -> Iterator[tuple[str, int, Job]]:
    """The points of measurement, each as axis, value and job."""
    for value in seeds:
        check_whole("growth_seeds", value)
    short = scenario.replace(num_slots=min(scenario.num_slots, GROWTH_SLOTS))
    fleets = {value: short.replace(num_servers=value) for value in servers}
    for name, method in methods.items():
        most = MAX_TRAINED if method.training else {}
        for value in seeds:
            if value <= most.get("seeds", value):
                yield "seeds", value, Job(name, short, value, repeats, GROWTH_EPISODES)
        for value, fleet in fleets.items():
            if value <= most.get("num_servers", value) and _handles(method, value):
                yield "num_servers", value, Job(name, fleet, None, repeats, GROWTH_EPISODES)


def _handles(method: Method, num_servers: int) -> bool:
    try:
        method.check(num_servers)
    except InputError:
        return False
    return True


def alone(function: Callable[..., Any], job: Job, *others: Any) -> Any:
    """Call `function(job, *others)` in a new process, whose peak memory is then that of this call alone.

    Raises:
      InputError: the process was killed, as happens when the system runs out of memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_prepare) as process:
        try:
            return process.submit(function, job, *others).result()
        except BrokenProcessPool as error:
            size = f"{job.scenario.num_servers} servers" + (f", {job.seeds} seeds" if job.seeds else "")
            raise InputError(
                f"{job.method}: the process that measured it ({size}) was ended from outside; "
                "legal: what fits into memory"
            ) from error


def _prepare() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure(compilation_cache=False)  # compile time is measured


def _end_with_parent() -> None:
    """End this process when its parent has died; it would otherwise wait for work forever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
