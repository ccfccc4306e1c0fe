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
    """Names of methods, or module:attribute for an amco_jax.Method of your own."""
    seeds: int = 4096
    """Number of seeds simulated in parallel."""
    trained_seeds: int = 128
    """Number of seeds trained in parallel; on accelerators, 1000 is the published scale."""
    repeats: int = 5
    """Number of repeats of each measurement."""
    growth: tuple[str, ...] = ()
    """Methods whose time and memory are also measured at --growth-seeds and --growth-servers."""
    compilation_cache: tyro.conf.Suppress[bool] = False  # compile time is measured
    growth_seeds: tuple[int, ...] = GROWTH_SEEDS
    """Numbers of seeds for --growth; trained methods use only those up to 1,000."""
    growth_servers: tuple[int, ...] = GROWTH_SERVERS
    """Numbers of servers for --growth, as far as a method supports them; trained methods use only those up
    to 16."""
    warmup: tyro.conf.Suppress[str | None] = None  # a benchmark counts all slots
    starts_jax: ClassVar[bool] = False  # JAX would reserve accelerator memory that the measurements need


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
