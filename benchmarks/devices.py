"""Compare the results of a GPU with those of the CPU beside it, for every kind of scenario and method.

`python benchmarks/devices.py --out results/devices` runs each case on both, in processes of its own, and
prints how far the results are apart. The rows of both devices are kept in the output directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.cli.arguments import run
from amco_jax.files import replacing
from amco_jax.metrics import MAKESPAN

RULES = (
    "optimal",
    "optimal-admission",
    "best-2",
    "best-2-local",
    "amco-priced",
    "randcoedge",
    "randcoedge+hecwa",
    "local",
    "all-servers",
    "fastest-3",
    "least-wait",
    "two-choices",
)
SOME = ("optimal", "amco-priced", "least-wait", "randcoedge")
LEARNERS = (
    "amcoedge",
    "amcoedge+hecwa",
    "drlcoedge",
    "amcoedge-stable",
    "smcoedge-regret",
    "amcoedge-regret",
    "amcoedge-factorised",
    "ppo-sets",
    "amco-priced-trained",
    "amcoedge-plus",
)

SEEDS, TRAINED_SEEDS, EPISODES = 256, 32, 6
"""Seeds of rules, seeds of learners, and training episodes"""

_LOG = 12_000
"""Requests of the log that one of the cases plays, one every half a second on average"""

_EXACT = ("num_tasks", "miss_rate", "mean_servers_used")
"""Metrics that depend on whole numbers alone"""

_EQUAL, _ROUNDED = 1e-5, 1e-4
"""Relative differences of mean makespans that rounding explains: of single rows with equal counts, and of the
means over all seeds, where rounding may have changed decisions between sets that are equally good"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A scenario and the methods that are compared in it."""

    methods: tuple[str, ...]
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The fields of the scenario that differ from the default, or from the preset"""
    preset: str = "default"
    physics: str = "unified"
    log: bool = False
    """Whether the tasks come from a request log"""
    trained: bool = False
    """Whether the episodes are those of training"""


CASES = {
    "default": Case(RULES),
    "overload": Case(SOME, {"arrival_prob": 0.9}),
    "16 servers": Case(SOME, {"num_servers": 16}),
    "64 servers": Case(SOME, {"num_servers": 64, "num_slots": 10}),
    "long deadline": Case(SOME, {"deadline": 3.0, "arrival_prob": 0.9}),
    "turns": Case((*SOME, "best-2-local", "two-choices"), {"order": "turns"}),
    "random order": Case(SOME, {"order": "random"}),
    "continuous": Case((*SOME, "best-2", "two-choices"), {"timing": "continuous"}),
    "poisson": Case(SOME, {"arrivals": "poisson"}),
    "bursty": Case(SOME, {"arrivals": "bursty"}),
    "log": Case(SOME, {"time_scale": 20.0, "num_slots": 30}, log=True),
    "published physics": Case(("optimal", "randcoedge", "local"), physics="published"),
    "conserving": Case(SOME, {"link_rate": 20.0}, physics="conserving"),
    "serial": Case(SOME, {"link_rate": 20.0}, physics="serial"),
    "jetson-sd15": Case(SOME, preset="jetson-sd15"),
    "gpu-sd14": Case((*SOME, "best-2"), preset="gpu-sd14"),
    "gpu-sd14-loading": Case((*SOME, "best-2"), preset="gpu-sd14-loading"),
    "steady state": Case(SOME, {"num_slots": 400, "warmup": 100}),
    "planner and bound": Case(("planner", "bound"), {"num_slots": 8}),
    **{f"training, {name}": Case((name,), trained=True) for name in LEARNERS},
    "training, turns": Case(("amcoedge-stable",), {"order": "turns"}, trained=True),
    "training, bursty": Case(("amcoedge-stable",), {"arrivals": "bursty"}, trained=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the comparison."""

    out: Path
    """The directory for the rows of both devices and the table of differences."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """The platforms of JAX to run on; the first two are compared. What is in --out already is not run again,
    so that each may be run on a machine of its own."""
    cases: tuple[str, ...] = tuple(CASES)
    """Names of cases."""
    workers: int = 4
    """Number of processes on each device at a time."""


def main(args: Arguments) -> None:
    """Run the cases on both devices, and compare them as results arrive."""
    args.out.mkdir(parents=True, exist_ok=True)
    _write_log(args.out / "log.csv")
    with contextlib.ExitStack() as stack:
        pools = {d: stack.enter_context(ThreadPoolExecutor(args.workers)) for d in args.devices}
        pending = [
            (name, {d: pools[d].submit(_alone, name, d, args.out) for d in args.devices})
            for name in args.cases
        ]
        found = pd.DataFrame([_compared(name, futures, args) for name, futures in pending])
    with replacing(args.out / "differences.csv") as draft:
        found.to_csv(draft, index=False)
    states = list(found["state"])
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    if "failed" in states:
        sys.exit(1)


def _alone(name: str, device: str, out: Path) -> tuple[float, str]:
    """Run a case in a process of its own; its seconds, and what it wrote to stderr if it failed."""
    if _rows(out, name, device).exists():
        return 0.0, ""
    variables = os.environ | {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--case", name, str(_rows(out, name, device)), str(out / "log.csv")],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return time.monotonic() - began, done.stderr if done.returncode else ""


def _compared(name: str, futures: dict[str, Any], args: Arguments) -> dict[str, Any]:
    results = {device: future.result() for device, future in futures.items()}
    row = {"case": name} | {f"{d}_s": round(seconds, 1) for d, (seconds, _) in results.items()}
    if failures := [f"{d}: {error.strip()[-1500:]}" for d, (_, error) in results.items() if error]:
        row |= {"state": "failed", "notes": "\n".join(failures)}
    else:
        rows = [pd.read_parquet(_rows(args.out, name, d)) for d in args.devices]
        row |= _differences(*rows[:2]) if len(rows) > 1 else {"state": "run"}
        row |= {"notes": " ".join(dict.fromkeys(rows[-1].attrs["warnings"]))}
    print(*(f"{key}: {value}" for key, value in row.items()), sep="; ", flush=True)
    return row


def _differences(one: pd.DataFrame, two: pd.DataFrame) -> dict[str, Any]:
    """How far rows are apart: those with unequal counts, and relative differences of mean makespans."""
    counts = [np.nan_to_num(x[[*_EXACT]].to_numpy(float)) for x in (one, two)]
    makespans = [np.nan_to_num(x[MAKESPAN.name].to_numpy(float)) for x in (one, two)]
    means = [_means(x) for x in (one, two)]
    unequal = int(np.any(counts[0] != counts[1], axis=1).sum())
    largest = _largest(*makespans)
    mean = _largest(*means)
    rounded = "equal" if unequal == 0 and largest < _EQUAL else "rounded"
    return {
        "state": rounded if mean < _ROUNDED else "different",
        "rows": len(one),
        "unequal_counts": unequal,
        "largest_makespan": largest,
        "largest_mean": mean,
    }


def _means(rows: pd.DataFrame) -> np.ndarray:
    """The mean makespan of each method, s."""
    return np.asarray(rows.pivot_table(MAKESPAN.name, "method"), float)


def _largest(one: np.ndarray, two: np.ndarray) -> float:
    """The largest relative difference."""
    return float(np.max(np.abs(two - one) / np.maximum(np.abs(one), 1e-9)))


def _rows(out: Path, name: str, device: str) -> Path:
    return out / f"{name.replace(' ', '-').replace(',', '')}-{device}.parquet"


def _write_log(path: Path) -> None:
    draw = np.random.default_rng(0)
    times = np.cumsum(draw.exponential(0.5, _LOG))
    log = pd.DataFrame({"gmt_create": pd.Timestamp("2026-01-01") + pd.to_timedelta(times, unit="s")}).assign(
        exec_time_seconds=draw.integers(5, 60, _LOG), num_images_per_prompt=draw.choice([1, 2, 4], _LOG)
    )
    with replacing(path) as draft:
        log.to_csv(draft, index=False)


def _worker(name: str, out: Path, log: Path) -> None:
    import amco_jax
    from amco_jax.compile.runtime import configure

    configure(compilation_cache=False)
    case = CASES[name]
    scenario = amco_jax.load_scenario(case.preset, case.fields, str(log) if case.log else None)
    with _warnings() as warnings:
        if case.trained:
            study: Any = amco_jax.Comparison(
                case.methods, seeds=TRAINED_SEEDS, episodes=EPISODES, last=1, physics=[case.physics],
                scenario=scenario,
            )  # fmt: skip
        else:
            count = SEEDS if "planner" not in case.methods else TRAINED_SEEDS
            study = amco_jax.Sweep(
                "deadline", [scenario.deadline], methods=case.methods, seeds=count, trained_seeds=count,
                physics=case.physics, scenario=scenario,
            )  # fmt: skip
        rows = amco_jax.run_study(study).rows
    rows.attrs = {"warnings": warnings}
    with replacing(out) as draft:  # a file of this name is taken for all rows of the case
        rows.to_parquet(draft)


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    emit: Callable[[logging.LogRecord], None] = lambda record: found.append(record.getMessage())  # noqa: E731
    handler.emit = emit
    logging.getLogger("amco_jax").addHandler(handler)
    yield found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        _worker(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        run(Arguments, main, __doc__ or "")
