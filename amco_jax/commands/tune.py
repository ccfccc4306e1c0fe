"""Tune a trained method by a search over its settings, on seeds that no other study uses."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd

from amco_jax.cli.arguments import (
    ProgramArguments,
    ScenarioArguments,
    StudyArguments,
    load_metrics,
    load_trained_method,
    physics_argument,
)
from amco_jax.errors import InputError
from amco_jax.report.terminal import print_tuning
from amco_jax.scenario.axes import parse_assignments, parse_value
from amco_jax.study.tune import Tuning, TuningSize


@dataclasses.dataclass(frozen=True)
class Arguments(TuningSize, ScenarioArguments, StudyArguments):
    vary: tuple[str, ...] = ("discount=0.9,0",)
    """The settings to vary, each as field=value,value,..."""
    method: str = "amcoedge"
    """Name of a trained method, or module:attribute for an amco_jax.Method of your own."""
    learn: tuple[str, ...] = ()
    """Changes to the method's other settings, as field=value ..."""
    reference: str = "optimal"
    """The rule whose makespan is the reference."""
    physics: Annotated[str, physics_argument()] = "unified"


def main(args: Arguments) -> None:
    texts = {name: values.split(",") for name, values in parse_assignments("vary", args.vary).items()}
    if both := texts.keys() & parse_assignments("learn", args.learn).keys():
        raise InputError(f"vary: {', '.join(sorted(both))}; legal: settings that --learn does not set")
    study = Tuning(
        load_trained_method(args.method, args.learn),
        {name: [parse_value(text) for text in each] for name, each in texts.items()},
        physics=args.physics,
        reference=args.reference,
        scenario=args.load_scenario(),
        metrics=load_metrics(args.metrics),
        **args.fields_of(TuningSize),
    )
    if result := args.carry_out(study, "tune"):
        print_tuning(result.summary, result.manifest)
        print(f"Results, summary and manifest are in {result.out}")
        print(_next_step(args, texts, result.summary))


def _next_step(args: Arguments, texts: Mapping[str, Sequence[str]], summary: pd.DataFrame) -> str:
    """How to measure the combination of the smallest mean gap on seeds on which it was not chosen."""
    gaps = np.asarray(summary["gap_mean"])
    if np.isnan(gaps).all():
        return "There are no tasks, and so no best combination."
    best = summary.iloc[int(np.nanargmin(gaps))]
    chosen = [
        next(f"{name}={text}" for text in each if str(parse_value(text)) == best[name])
        for name, each in texts.items()
    ]
    scenario, episodes = _scenario_options(args), str(args.episodes)
    train = ["--method", args.method, "--learn", *args.learn, *chosen, *scenario, "--episodes", episodes]
    own = ["--method", args.method] if ":" in args.method else []
    return (
        f"Smallest mean gap on the tuning seeds: {' '.join(chosen)}. To measure it on fresh seeds, in the "
        f"same scenario: train.py {shlex.join(train)} --physics {args.physics} --out DIR, then "
        f"{shlex.join(['evaluate.py', 'DIR', *own, *scenario])}"
    )


def _scenario_options(args: Arguments) -> list[str]:
    """The options that describe the scenario, as a user writes them; none for the default one.

    If there are any, --scenario is among them, as evaluations read no file that only a training names.
    """
    words, others = [], {field.name for field in dataclasses.fields(ProgramArguments)} | {"scenario"}
    for field in dataclasses.fields(ScenarioArguments):
        given = getattr(args, field.name)
        if field.name not in others and given != field.default:
            values = given if isinstance(given, tuple) else [str(given)]
            words += [f"--{field.name.replace('_', '-')}", *values]
    return ["--scenario", args.scenario, *words] if words or args.scenario != "default" else []
