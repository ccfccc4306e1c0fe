"""Measure simulators beside ours, in turns on one core (of Linux), by the drivers in `peer_drivers.py`.

They are models of different things, so speeds say what a study with each costs, not who does the same work
faster; benchmarks/README.md says what one decision covers in each.

A simulator is measured if its interpreter and the folders that its driver takes are given:

- `--edgesimpy`: an interpreter with Mesa 1.2.1, networkx 3.4.2 and msgpack, a checkout of EdgeSimPy/EdgeSimPy
  (76eb5ea), and one of EdgeSimPy/edgesimpy-tutorials (cb3ea08);
- `--raycloudsim`: an interpreter with networkx 2.8.8, simpy 4.1.1 and NumPy 1.24.4, and a checkout of
  ZhangRui111/RayCloudSim (359a6c6);
- `--edgecloudsim`: `java`, and CagataySonmez/EdgeCloudSim at its tag v4.0, compiled by its own script;
- `--xlron`: an interpreter of Python 3.12 with the versions in its own uv.lock, and a checkout of
  micdoh/XLRON (158ef03).

gymnax and our environment are always measured, with the extra `rl` of this package.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from amco_jax.cli.arguments import run
from amco_jax.errors import InputError, check_whole

ROOT = Path(__file__).resolve().parents[1]
OURS = "AMCo-JAX"
REFERENCES = {"decisions": "randcoedge, kernel", "steps": "GymnaxEnv"}
"""Our setting with which others are compared: simulators with one seed, environments with as many"""
KEY = ["unit", "simulator", "setting", "parallel"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    edgesimpy: tuple[str, str, str] | None = None
    """Interpreter, checkout of EdgeSimPy, checkout of its tutorials."""
    raycloudsim: tuple[str, str] | None = None
    """Interpreter and checkout of RayCloudSim."""
    edgecloudsim: tuple[str, str] | None = None
    """The command `java`, and a compiled checkout of EdgeCloudSim."""
    xlron: tuple[str, str] | None = None
    """Interpreter and checkout of XLRON."""
    seeds: int = 4096
    """Number of seeds of our rules in parallel, beside one."""
    environments: int = 1024
    """Number of environments in parallel, beside one."""
    rounds: int = 3
    """Number of times that all are measured, in turns."""
    out: str = "peers.csv"
    """File for the measurements."""


def command_lines(args: Arguments) -> list[list[str]]:
    """The interpreter of each driver, its name and its arguments."""
    parallel = [*dict.fromkeys(["1", str(args.environments)])]
    lines = [
        [sys.executable, "amco", str(args.seeds)],
        [sys.executable, "amco_environment", *parallel],
        [sys.executable, "gymnax", *parallel],
    ]
    if args.xlron:
        lines.append([args.xlron[0], "xlron", args.xlron[1], *parallel])
    if args.edgesimpy:
        lines.append([args.edgesimpy[0], "edgesimpy", *args.edgesimpy[1:]])
    if args.raycloudsim:
        lines.append([args.raycloudsim[0], "raycloudsim", args.raycloudsim[1]])
    if args.edgecloudsim:  # which no interpreter of Python runs
        lines.append([sys.executable, "edgecloudsim", *args.edgecloudsim])
    return lines


def measured(line: list[str]) -> list[dict[str, Any]]:
    """The measurements of one driver, each with the load of the machine before it.

    Raises:
      InputError: the driver fails.
    """
    interpreter, *words = line
    load = round(os.getloadavg()[0], 1)
    # -P: no script of this folder is taken for a package of the same name.
    command = [interpreter, "-P", str(ROOT / "benchmarks" / "peer_drivers.py"), *words]
    # Without our options for XLA, which `run` has set for this process, and our own drivers set themselves.
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = inherited | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{words[0]}: {error}") from error
    rows = (json.loads(printed) for printed in done.stdout.splitlines() if printed.startswith('{"unit"'))
    return [row | {"load": load} for row in rows]


def speeds_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Speeds over the rounds, and their ratios to our reference in the same round.

    Args:
      rows: measurements, with columns round, unit, simulator, setting, parallel, count, wall_s, processor_s.

    Returns:
      A row per measurement with `wall` and `processor`, the count per second by both clocks, and `ratio`,
      that of the second to our reference; each is (median, lowest, highest).
    """
    rows = rows.assign(wall=rows["count"] / rows["wall_s"], processor=rows["count"] / rows["processor_s"])
    is_reference = (rows["simulator"] == OURS) & rows["setting"].isin(list(REFERENCES.values()))
    speeds = rows.loc[is_reference].set_index(["round", "unit", "parallel"])["processor"]
    beside = rows["parallel"].where(rows["unit"] == "steps", 1)
    keys = zip(rows["round"], rows["unit"], beside, strict=True)
    rows["ratio"] = rows["processor"] / [speeds[key] for key in keys]
    found = []
    for _, group in rows.groupby(KEY, sort=False):
        each = {name: tuple(group[name].quantile([0.5, 0, 1])) for name in ("wall", "processor", "ratio")}
        found.append(group.iloc[0][KEY].to_dict() | each)
    return pd.DataFrame(found)


def main(args: Arguments) -> None:
    """Measure in turns, on the first core that this process may use, and print a table."""
    for name in ("seeds", "environments", "rounds"):
        check_whole(name, getattr(args, name))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for number in range(args.rounds):
        lines = command_lines(args)
        for line in lines if number % 2 == 0 else reversed(lines):
            rows += [{"round": number} | row for row in measured(line)]
            pd.DataFrame(rows).to_csv(args.out, index=False)
        print(f"{number + 1} of {args.rounds} rounds", file=sys.stderr)
    print_table(speeds_table(pd.DataFrame(rows)))


def print_table(table: pd.DataFrame) -> None:
    """Print the result of `speeds_table` for a page, with three digits of each number."""
    print("|", " | ".join([*KEY, "per second", "per second of processor time", "ratio"]), "|")
    print("| --- " * 7 + "|")
    for row in table.to_dict("records"):
        digits = {
            name: [f"{float(f'{x:.3g}'):,.12g}" for x in row[name]] for name in ("wall", "processor", "ratio")
        }
        numbers = (f"{median} ({low} to {high})" for median, low, high in digits.values())
        print("|", " | ".join([*(str(row[name]) for name in KEY), *numbers]), "|")


if __name__ == "__main__":
    run(Arguments, main, __doc__ or "")
