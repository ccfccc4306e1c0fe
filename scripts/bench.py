"""Measure how fast this machine simulates; see --help."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from amco_jax.cli import load_method, run
from amco_jax.experiment.axes import apply_settings, parse_settings
from amco_jax.experiment.bench import bench
from amco_jax.experiment.sweep import DEFAULT_METHODS
from amco_jax.files import replacing
from amco_jax.report.table import print_bench
from amco_jax.scenario import load_scenario


@dataclasses.dataclass(frozen=True)
class Arguments:
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Names, or module:attribute for an amco_jax.Method of your own."""
    seeds: int = 4096
    """Simulated side by side."""
    repeats: int = 5
    """Of each measurement."""
    scenario: str = "default"
    """A preset or a TOML file."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value ..., on top of the scenario."""
    json: Path | None = None
    """Write all figures to this file."""


def main(args: Arguments) -> None:
    scenario = apply_settings(load_scenario(args.scenario), parse_settings(args.set))
    result = bench([load_method(m) for m in args.methods], args.seeds, args.repeats, scenario)
    print_bench(result)
    if args.json is not None:
        with replacing(args.json) as file:
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(Arguments, main, "Measure how fast this machine simulates.")
