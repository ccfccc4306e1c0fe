"""Sweep the settings of a trained method."""

from __future__ import annotations

import dataclasses

from amco_jax.cli.arguments import ScenarioArguments, StudyArguments, load_metrics, load_trained_method
from amco_jax.report.terminal import print_tuning
from amco_jax.scenario.axes import parse_assignments, parse_value
from amco_jax.study.tune import tune


@dataclasses.dataclass(frozen=True)
class Arguments(ScenarioArguments, StudyArguments):
    vary: tuple[str, ...] = ("discount=0.9,0",)
    """field=value,value,... for each setting to vary; all combinations are trained."""
    method: str = "amcoedge"
    """A trained method, or module:attribute for an amco_jax.Method of your own."""
    learn: tuple[str, ...] = ()
    """field=value ..., on top of the method's settings."""
    seeds: int = 64
    """For each combination."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    episodes: int = 300
    """Of training."""
    within: float = 0.03
    """A seed is good where its makespan is at most this share above the reference's."""
    reference: str = "optimal"
    """A rule."""
    physics: str = "unified"
    """unified or published."""


def main(args: Arguments) -> None:
    vary = parse_assignments("vary", args.vary)
    result = tune(
        load_trained_method(args.method, args.learn),
        {name: [parse_value(v) for v in values.split(",")] for name, values in vary.items()},
        seeds=args.seeds,
        episodes=args.episodes,
        within=args.within,
        scenario=args.load_scenario(),
        physics=args.physics,
        reference=args.reference,
        out=args.destination("tune"),
        first_seed=args.first_seed,
        metrics=load_metrics(args.metrics),
        execution=args.execution,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if not args.ends(result.missing):
        print_tuning(result.summary, result.manifest)
        print(f"Results, summary and manifest are in {result.out}")
