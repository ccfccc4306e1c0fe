"""Measure how fast this machine simulates; see --help."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from amco_jax.cli import ScenarioArguments, load_method, run
from amco_jax.experiment.bench import bench
from amco_jax.experiment.sweep import DEFAULT_METHODS
from amco_jax.files import replacing
from amco_jax.report.terminal import print_bench


@dataclasses.dataclass(frozen=True)
class Arguments(ScenarioArguments):
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Names, or module:attribute for an amco_jax.Method of your own."""
    seeds: int = 4096
    """Simulated side by side."""
    trained_seeds: int = 128
    """Trained side by side; 1000 is the published scale on accelerators."""
    repeats: int = 5
    """Of each measurement."""
    compilation_cache: bool = False
    """Take programs from the cache, where their compilation takes no time."""
    json: Path | None = None
    """Write all figures to this file."""


def main(args: Arguments) -> None:
    methods = [load_method(m) for m in args.methods]
    result = bench(methods, args.seeds, args.repeats, args.load_scenario(), args.trained_seeds)
    print_bench(result)
    if args.json is not None:
        with replacing(args.json) as file:
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(Arguments, main, "Measure how fast this machine simulates.")
