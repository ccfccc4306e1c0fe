"""Tune a trained method by sweeping its settings."""

from __future__ import annotations

import dataclasses

from amco_jax.cli.arguments import ScenarioArguments, StudyArguments, load_metrics, load_trained_method
from amco_jax.report.terminal import print_tuning
from amco_jax.scenario.axes import parse_assignments, parse_value
from amco_jax.study.tune import Tuning


@dataclasses.dataclass(frozen=True)
class Arguments(ScenarioArguments, StudyArguments):
    vary: tuple[str, ...] = ("discount=0.9,0",)
    """The settings to vary, each as field=value,value,...; all combinations are trained."""
    method: str = "amcoedge"
    """Name of a trained method, or module:attribute for an amco_jax.Method of your own."""
    learn: tuple[str, ...] = ()
    """Changes to the method's other settings, as field=value ..."""
    seeds: int = 64
    """Number of seeds for each combination."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    episodes: int = 300
    """Number of training episodes."""
    within: float = 0.03
    """A seed counts as good if its makespan exceeds the reference's by at most this share."""
    reference: str = "optimal"
    """The rule whose makespan is the reference."""
    physics: str = "unified"
    """unified or published."""


def main(args: Arguments) -> None:
    vary = parse_assignments("vary", args.vary)
    study = Tuning(
        load_trained_method(args.method, args.learn),
        {name: [parse_value(v) for v in values.split(",")] for name, values in vary.items()},
        seeds=args.seeds,
        first_seed=args.first_seed,
        episodes=args.episodes,
        within=args.within,
        physics=args.physics,
        reference=args.reference,
        scenario=args.load_scenario(),
        metrics=load_metrics(args.metrics),
    )
    if result := args.carry_out(study, "tune"):
        print_tuning(result.summary, result.manifest)
        print(f"Results, summary and manifest are in {result.out}")
