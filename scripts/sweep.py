"""Sweep one quantity of the scenario over methods and seeds; see --help."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Annotated

import tyro

from amco_jax.cli import load_method, run
from amco_jax.experiment.axes import apply_settings, parse_settings, parse_value
from amco_jax.experiment.sweep import DEFAULT_METHODS, sweep
from amco_jax.report.table import print_summary
from amco_jax.scenario import load_scenario


@dataclasses.dataclass(frozen=True)
class Arguments:
    param: str
    """What to sweep: a scenario field (arrival_prob, deadline, num_tasks, num_servers, capacity, link_rate,
    ...) or a scale (capacity_scale, link_rate_scale, task_size_scale, density_scale)."""
    values: tuple[str, ...] | None = None
    """Values to take; capacities are written as 10-20-30-40-50. By default a range of the quantity."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Names, or module:attribute for an amco_jax.Method of your own."""
    seeds: int = 1000
    """Seeds per method and value; each draws the same arrivals for all of them."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    physics: str = "unified"
    """unified: one model for all methods; published: each method's own published code."""
    scenario: str = "default"
    """A preset or a TOML file."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value ..., on top of the scenario."""
    out: Path | None = None
    """Directory for the results; by default a new one under results/."""
    overwrite: bool = False
    """Replace the results in --out."""
    quiet: bool = False
    """No progress bar and no table."""


def main(args: Arguments) -> None:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    result = sweep(
        args.param,
        None if args.values is None else [parse_value(v) for v in args.values],
        [load_method(m) for m in args.methods],
        seeds=args.seeds,
        first_seed=args.first_seed,
        scenario=apply_settings(load_scenario(args.scenario), parse_settings(args.set)),
        physics=args.physics,
        out=args.out or Path("results") / f"{args.param}-{stamp}",
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if not args.quiet:
        print_summary(result.summary, result.manifest)
        print(f"Results, summary, figures and manifest are in {result.out}")


if __name__ == "__main__":
    run(Arguments, main, "Sweep one quantity of the scenario over methods and seeds.")
