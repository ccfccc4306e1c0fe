"""Compare methods over the episodes of training."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from amco_jax.agents.methods import PAPER_METHODS
from amco_jax.cli.arguments import (
    ScenarioArguments,
    StudyArguments,
    load_method,
    load_metrics,
    physics_argument,
)
from amco_jax.report.terminal import print_comparison
from amco_jax.study.compare import Comparison, ComparisonSize


@dataclasses.dataclass(frozen=True)
class Arguments(ComparisonSize, ScenarioArguments, StudyArguments):
    methods: tuple[str, ...] = PAPER_METHODS
    """The methods; the first is compared with each of the others."""
    physics: Annotated[tuple[str, ...], physics_argument(". Methods are compared within each one")] = (
        "published",
        "unified",
    )


def main(args: Arguments) -> None:
    study = Comparison(
        [load_method(m) for m in args.methods],
        physics=args.physics,
        scenario=args.load_scenario(),
        metrics=load_metrics(args.metrics),
        **args.fields_of(ComparisonSize),
    )
    if result := args.carry_out(study, "compare"):
        print_comparison(result.summary, result.manifest)
        print(f"Curves, figures, table and manifest are in {result.out}")
