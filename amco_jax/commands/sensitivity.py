"""Differentiate the mean makespan of rules in capacities, link rates and more."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from amco_jax.cli.arguments import (
    ScenarioArguments,
    StudyArguments,
    load_method,
    load_metrics,
    physics_argument,
)
from amco_jax.report.terminal import print_sensitivity
from amco_jax.study.sensitivity import DEFAULT_METHODS, Sensitivity, SensitivitySize


@dataclasses.dataclass(frozen=True)
class Arguments(SensitivitySize, ScenarioArguments, StudyArguments):
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Names of methods without training, or module:attribute for an amco_jax.Method of your own."""
    of: tuple[str, ...] = ()
    """Parameters in which to differentiate besides capacity and link_rate: deadline, slot_duration,
    task_size_min, task_size_max, density_min, density_max."""
    physics: Annotated[str, physics_argument()] = "unified"


def main(args: Arguments) -> None:
    study = Sensitivity(
        [load_method(m) for m in args.methods],
        of=args.of,
        physics=args.physics,
        scenario=args.load_scenario(),
        metrics=load_metrics(args.metrics),
        **args.fields_of(SensitivitySize),
    )
    if result := args.carry_out(study, "sensitivity"):
        print_sensitivity(result.summary, result.manifest)
        print(f"Results, summary and manifest are in {result.out}")
