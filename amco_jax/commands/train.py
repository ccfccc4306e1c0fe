"""Train one method with many seeds."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from amco_jax.alloc import ALLOCATORS
from amco_jax.cli.arguments import ScenarioArguments, StudyArguments, load_metrics, load_trained_method
from amco_jax.report.terminal import print_training
from amco_jax.study.train import Training


@dataclasses.dataclass(frozen=True)
class Arguments(ScenarioArguments, StudyArguments):
    method: str = "amcoedge"
    """Name of a trained method, or module:attribute for an amco_jax.Method of your own."""
    seeds: int = 64
    """Number of seeds, trained in parallel."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    episodes: int | None = None
    """Number of training episodes; by default, the method's own: for the paper's
    methods, that of the published run."""
    physics: str = "unified"
    """unified: one model for all methods; published: the model of the method's published code; conserving or
    serial: the unified model with links that carry over, or that also send one thing after another."""
    allocator: Annotated[
        str | None, tyro.conf.arg(help=f"{', '.join(ALLOCATORS)}; by default, the method's own.")
    ] = None
    learn: tuple[str, ...] = ()
    """Changes to the method's settings, as field=value ..., such as discount=0 hidden=64-64."""


def main(args: Arguments) -> None:
    study = Training(
        load_trained_method(args.method, args.learn, args.allocator),
        seeds=args.seeds,
        first_seed=args.first_seed,
        episodes=args.episodes,
        physics=args.physics,
        scenario=args.load_scenario(),
        metrics=load_metrics(args.metrics),
    )
    if result := args.carry_out(study, f"train-{args.method}"):
        print_training(result.rows, result.manifest)
        print(f"Curves, figure, agents and manifest are in {result.out}")
