"""Sweep one quantity of the scenario, for several methods and many seeds."""

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
from amco_jax.report.terminal import print_summary
from amco_jax.scenario.axes import parse_value
from amco_jax.study.sweep import DEFAULT_METHODS, Sweep, SweepSize


@dataclasses.dataclass(frozen=True)
class Arguments(SweepSize, ScenarioArguments, StudyArguments):
    param: str
    """The quantity to sweep: the offered load (load), a scenario field (arrival_prob, deadline, num_tasks,
    num_servers, capacity, link_rate, arrivals, time_scale of a trace, ...), a scale (capacity_scale,
    link_rate_scale, task_size_scale, density_scale), or a parameter of your own arrival process."""
    values: tuple[str, ...] | None = None
    """The values of the quantity; capacities are written as 10-20-30-40-50. By default, a range that suits
    the quantity."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Names of methods, or module:attribute for an amco_jax.Method of your own."""
    physics: Annotated[str, physics_argument()] = "unified"


def main(args: Arguments) -> None:
    study = Sweep(
        args.param,
        None if args.values is None else [parse_value(v) for v in args.values],
        methods=[load_method(m) for m in args.methods],
        physics=args.physics,
        scenario=args.load_scenario(args.param),
        metrics=load_metrics(args.metrics),
        **args.fields_of(SweepSize),
    )
    if result := args.carry_out(study, args.param):
        print_summary(result.summary, result.manifest)
        print(f"Results, summary, figures and manifest are in {result.out}")
