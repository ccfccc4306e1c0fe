"""Evaluate trained agents greedily on fresh arrivals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from amco_jax.cli.arguments import (
    ProgramArguments,
    SettingsArguments,
    StudyArguments,
    TraceArguments,
    load_method,
    load_metrics,
    physics_argument,
)
from amco_jax.report.terminal import print_evaluation
from amco_jax.scenario.axes import apply_settings, load_with_settings
from amco_jax.study.evaluate import BASELINES, Evaluation, EvaluationSize, load_run


@dataclasses.dataclass(frozen=True)
class Arguments(EvaluationSize, SettingsArguments, TraceArguments, ProgramArguments, StudyArguments):
    run: Annotated[Path, tyro.conf.Positional]
    """The output directory of train."""
    scenario: str | None = None
    """A preset or a TOML file; by default, the scenario of the training, provided it needs no other files."""
    method: str | None = None
    """module:attribute of the trained method, if it is your own."""
    methods: tuple[str, ...] = BASELINES
    """Rules to run on the same arrivals."""
    physics: Annotated[str | None, physics_argument("; by default, that of the training")] = None


def main(args: Arguments) -> None:
    method = None if args.method is None else load_method(args.method)
    settings = args.settings()
    if args.scenario is None:
        trained = load_run(args.run, method=method)
        fields = args.trace_fields()
        log = {} if fields is None else {"arrivals": "trace", "trace": fields}
        scenario = apply_settings(trained.scenario, log | settings)
    else:
        scenario = load_with_settings(args.scenario, settings, args.trace_fields())
        trained = load_run(args.run, method=method, scenario=scenario)
    study = Evaluation(
        trained,
        methods=[load_method(m) for m in args.methods],
        physics=args.physics,
        scenario=scenario,
        metrics=load_metrics(args.metrics),
        **args.fields_of(EvaluationSize),
    )
    if result := args.carry_out(study, "evaluate"):
        print_evaluation(result.summary, result.manifest)
        print(f"Results, summary and manifest are in {result.out}")
