"""How often least-wait decides otherwise than the simulator if items are late, by rule of ties.

In virtual time, each item takes some milliseconds longer than its pace, as in a run of workers. A rule says
which server is chosen where waits are nearly equal: the first one within a tolerance of the shortest wait, or
the first one after waits have been cut to multiples of a step. Such a rule helps only if fewer decisions
depend on these milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from amco_jax import Method, get_method, load_scenario, per_task
from amco_jax.cli.arguments import ProgramArguments, run
from edge_fleet.configuration import in_fleet
from edge_fleet.decisions import Decider
from edge_fleet.virtual import run_virtually


@dataclasses.dataclass(frozen=True)
class Arguments(ProgramArguments):
    scenario: str = "jetson-sd15"
    """A preset or a TOML file."""
    rate: float = 20.0
    """The rate of all links, Mbit/s."""
    slots: int = 20
    """Slots of an episode."""
    episodes: int = 5
    """Episodes of each rule."""
    delay: float = 0.03
    """What an item takes longer than its pace on average, s of the scenario."""
    widths: tuple[float, ...] = (0.1, 0.5, 1.0, 3.0)
    """Tolerances and steps, s."""


def rules(widths: tuple[float, ...]) -> Iterator[tuple[str, Method]]:
    """The method with its own rule, by which the first of exactly equal waits is chosen, and with others."""
    yield "first of equal waits", get_method("least-wait")
    for width in widths:
        for words, of in (("within", _within), ("steps of", _in_steps)):
            yield f"{words} {width:g} s", Method(f"{of.__name__}-{width:g}", per_task(of(width)))


def _within(width: float) -> Callable[[Any], Any]:
    def choose(view: Any) -> Any:
        return jnp.arange(view.wait.size) == jnp.argmax(view.wait <= jnp.min(view.wait) + width)

    return choose


def _in_steps(width: float) -> Callable[[Any], Any]:
    def choose(view: Any) -> Any:
        return jnp.arange(view.wait.size) == jnp.argmin(jnp.floor(view.wait / width))

    return choose


def main(args: Arguments) -> None:
    """Play all episodes by each rule, and print a table."""
    fields = {"num_slots": args.slots, "link_rate": args.rate}
    scenario = in_fleet(load_scenario(args.scenario, fields))
    print("rule, decided otherwise, requests, 95th percentile of the errors of the simulator alone, mean [s]")
    for words, method in rules(args.widths):
        decider = Decider(scenario, method, method.physics("serial"))
        otherwise, errors, times = 0, [], []
        for episode in range(args.episodes):
            arrivals, draw = decider.arrivals(0, episode), np.random.default_rng(episode)
            # Never below zero, and of a spread of half its mean.
            took, choices = run_virtually(
                decider, 0, episode, arrivals, late=lambda draw=draw: float(draw.gamma(4.0, args.delay / 4))
            )
            simulated = decider.simulate(0, episode, arrivals)
            otherwise += sum(
                not np.array_equal(choice.counts > 0, counts > 0)
                for choice, counts in zip(choices, simulated.counts, strict=True)
            )
            errors.append(np.quantile(np.abs(took / simulated.finish - 1), 0.95))
            times.append(took)
        total = np.concatenate(times)
        error = f"{100 * np.mean(errors):.1f} %"
        print(f"{words}, {otherwise}, {len(total)}, {error}, {total.mean():.2f}", flush=True)


if __name__ == "__main__":
    run(Arguments, main, __doc__ or "")
