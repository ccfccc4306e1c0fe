"""Measure how fast this machine simulates."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tyro

from amco_jax.cli.arguments import OutputArguments, ScenarioArguments, load_method
from amco_jax.report.terminal import print_bench
from amco_jax.study.bench import GROWTH_SEEDS, GROWTH_SERVERS, bench
from amco_jax.study.sweep import DEFAULT_METHODS


@dataclasses.dataclass(frozen=True)
class Arguments(ScenarioArguments, OutputArguments):
    methods: tuple[str, ...] = (*DEFAULT_METHODS, "amcoedge")
    """Names, or module:attribute for an amco_jax.Method of your own."""
    seeds: int = 4096
    """Simulated side by side."""
    trained_seeds: int = 128
    """Trained side by side; 1000 is the published scale on accelerators."""
    repeats: int = 5
    """Of each measurement."""
    growth: tuple[str, ...] = ()
    """Methods whose time and memory are measured at --growth-seeds and --growth-servers too."""
    compilation_cache: tyro.conf.Suppress[bool] = False  # compilation is measured
    growth_seeds: tuple[int, ...] = GROWTH_SEEDS
    """Of trained methods those up to 1,000."""
    growth_servers: tuple[int, ...] = GROWTH_SERVERS
    """As far as a method can handle them; of trained methods those up to 16."""
    starts_jax: ClassVar[bool] = False  # JAX would take an accelerator's memory from those that measure


def main(args: Arguments) -> None:
    result = bench(
        args.methods,
        seeds=args.seeds,
        repeats=args.repeats,
        scenario=args.load_scenario(),
        trained_seeds=args.trained_seeds,
        growth=args.growth,
        growth_seeds=args.growth_seeds,
        growth_servers=args.growth_servers,
        load=load_method,
        out=args.destination("bench"),
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if not args.quiet:
        print_bench(result.manifest, result.tables)
        print(f"Tables, figures and manifest are in {result.out}")
