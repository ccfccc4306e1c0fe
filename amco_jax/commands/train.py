"""Train one method with many seeds."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from amco_jax.cli.arguments import (
    ScenarioArguments,
    StudyArguments,
    allocator_argument,
    load_metrics,
    load_trained_method,
    physics_argument,
)
from amco_jax.report.terminal import print_training
from amco_jax.study.train import Training, TrainingSize


@dataclasses.dataclass(frozen=True)
class Arguments(TrainingSize, ScenarioArguments, StudyArguments):
    method: str = "amcoedge"
    """Name of a trained method, or module:attribute for an amco_jax.Method of your own."""
    physics: Annotated[str, physics_argument()] = "unified"
    allocator: Annotated[str | None, allocator_argument("the method's own")] = None
    learn: tuple[str, ...] = ()
    """Changes to the method's settings, as field=value ..., such as discount=0 hidden=64-64."""


def main(args: Arguments) -> None:
    study = Training(
        load_trained_method(args.method, args.learn, args.allocator),
        physics=args.physics,
        scenario=args.load_scenario(),
        metrics=load_metrics(args.metrics),
        **args.fields_of(TrainingSize),
    )
    if result := args.carry_out(study, f"train-{args.method}"):
        print_training(result.rows, result.manifest)
        print(f"Curves, figure, agents and manifest are in {result.out}")
