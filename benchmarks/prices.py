"""The shipped prices, and how they carry over: `python benchmarks/prices.py train` or `... unseen`.

`train` finds the coefficients `SHIPPED` of `agents/pricing.py` by a direct search over simulated episodes: it
changes one coefficient at a time by a factor, and keeps what improves the mean score over tuning scenarios.
`unseen` compares `amco-priced` with `optimal-admission` in 20 scenarios that no choice has seen, drawn from
another seed: fleets of other sizes, capacities, links, deadlines, numbers of positions, loads and arrival
processes. Each takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from amco_jax import METHODS, Scenario, Sweep, configure, run_study
from amco_jax.agents.methods import Method
from amco_jax.agents.pricing import Prices
from amco_jax.env import UNIFIED
from amco_jax.kernel import rollout
from amco_jax.metrics import MAKESPAN, NUM_TASKS
from amco_jax.metrics.registry import MISS_RATE
from amco_jax.random import Stream, stream
from amco_jax.stats import reduction_interval
from amco_jax.workload import tables_of, workload_of

TRAINING_SEED, TRAINING_SEEDS, TRAINING_SLOTS = 2**20, 32, 20
TEST_SEED, TEST_SEEDS = 8_000_000, 256
START = Prices(*map(np.float32, (1, 0.5, 0.5, 0.5, 4, 0.5, 2)))
FACTORS = (2.0, 2**0.5, 2**0.25, 2**0.125)
"""By how much a coefficient changes, in each of four passes over the coefficients"""
FLEETS = (("bernoulli", 5), ("bursty", 4), ("poisson", 10), ("bernoulli", 16), ("bursty", 6), ("poisson", 3))
"""Arrivals and numbers of servers of the tuning scenarios, for both orders of service"""
PER_FLEET = 5
"""Tuning scenarios of each kind; those with 5 servers are the default one at other loads"""
METRICS = (MAKESPAN, NUM_TASKS, MISS_RATE)


@dataclasses.dataclass
class Kind:
    """Tuning scenarios of one shape, which share a program."""

    scenarios: Sequence[Scenario]

    def __post_init__(self):
        most = max(scenario.shape().max_tasks for scenario in self.scenarios)
        self.shape = self.scenarios[0].shape()._replace(max_tasks=most)
        self.tables = tables_of(self.scenarios, self.shape)
        self.params = [scenario.params() for scenario in self.scenarios]
        self.play = self.program(METHODS["amco-priced-trained"])
        self.base = self.totals(self.program(METHODS["optimal-admission"]), None)

    def program(self, method: Method) -> Callable[..., Any]:
        """A program for the sums of `METRICS` over an episode, of each seed."""

        def of_seed(params: Any, tables: Any, agent: Any, seed: Any) -> Any:
            workload = workload_of(self.shape, params, tables, seed, 1, training=True)
            out = rollout(
                self.shape, params, UNIFIED, method=method, workload=workload, agent=agent, metrics=METRICS,
                key=stream(seed, Stream.POLICY),
            )  # fmt: skip
            return [out.totals[metric.name].rounded(np.float32) for metric in METRICS]

        return jax.jit(jax.vmap(of_seed, (None, None, None, 0)))

    def totals(self, program: Callable[..., Any], agent: Any) -> np.ndarray:
        """`[scenarios, metrics]`, sums over all seeds."""
        seeds = np.arange(TRAINING_SEED, TRAINING_SEED + TRAINING_SEEDS, dtype=np.uint32)
        given = enumerate(self.params)
        return np.array(
            [np.sum(program(params, self.tables.of(i), agent, seeds), axis=1) for i, params in given]
        )

    def scores(self, known: Prices) -> np.ndarray:
        """The score of each scenario, in percent.

        It is the reduction of the makespan, which counts half beyond 2 % and fivefold where it is negative,
        and three tenths of the reduction of misses up to 3 points; a point of more misses costs 30.
        """
        agent = jax.tree.map(lambda x: np.broadcast_to(x, self.shape.num_servers), known)
        found = self.totals(self.play, agent)
        gain = 100 * (1 - found[:, 0] / self.base[:, 0])
        fewer = 100 * (self.base[:, 2] - found[:, 2]) / self.base[:, 1]
        score = np.minimum(gain, 2) + 0.5 * np.maximum(gain - 2, 0) + 4 * np.minimum(gain, 0)
        return score + 0.3 * np.clip(fewer, 0, 3) + 30 * np.minimum(fewer, 0)


def train() -> None:
    """Print the coefficients, whenever they improve."""
    draw = np.random.default_rng(4)
    kinds = []
    for order in ("stations", "turns"):
        for arrivals, servers in FLEETS:
            if servers == 5:
                loads = (0.1, 0.3, 0.6, 0.8, 1.0)
                scenarios = [Scenario(order=order, arrival_prob=p) for p in loads]
            else:
                scenarios = [drawn(draw, servers, arrivals, order) for _ in range(PER_FLEET)]
            kinds.append(Kind([scenario.replace(num_slots=TRAINING_SLOTS) for scenario in scenarios]))

    def score(known: Prices) -> float:
        return float(np.mean(np.concatenate([kind.scores(known) for kind in kinds])))

    known, best = START, score(START)
    for factor in FACTORS:
        for name in Prices._fields:
            for step in (factor, 1 / factor):
                while True:
                    trial = known._replace(**{name: np.float32(getattr(known, name) * step)})
                    found = score(trial)
                    if found <= best:
                        break
                    known, best = trial, found
                    shown = ", ".join(f"{key} {value:.2f}" for key, value in known._asdict().items())
                    print(f"score {best:.3f}: {shown}", flush=True)


def unseen() -> None:
    """Print a line per scenario: its load, makespans and miss rates of both methods, and the reduction."""
    draw = np.random.default_rng(21)
    for number in range(20):
        scenario = drawn(draw)
        rows = run_study(
            Sweep(
                "deadline",
                values=[scenario.deadline],
                methods=["amco-priced", "optimal-admission"],
                seeds=TEST_SEEDS,
                first_seed=TEST_SEED,
                scenario=scenario,
            )
        ).rows
        by_method = {name: each.set_index("seed").sort_index() for name, each in rows.groupby("method")}
        priced, greedy = by_method["amco-priced"], by_method["optimal-admission"]
        gain = reduction_interval(priced.makespan_mean_s.to_numpy(), greedy.makespan_mean_s.to_numpy())
        print(
            f"| {number + 1} | {scenario.num_servers} | {scenario.order} | {scenario.process.name} | "
            f"{scenario.offered_load:.2f} | {scenario.deadline:.2f} | {greedy.makespan_mean_s.mean():.4f} | "
            f"{priced.makespan_mean_s.mean():.4f} | {100 * gain.estimate:.2f} [{100 * gain.low:.2f}, "
            f"{100 * gain.high:.2f}] | {100 * greedy.miss_rate.mean():.3f} | "
            f"{100 * priced.miss_rate.mean():.3f} |",
            flush=True,
        )


def drawn(
    draw: np.random.Generator,
    servers: int | None = None,
    arrivals: str | None = None,
    order: str | None = None,
) -> Scenario:
    """A scenario of random fleet, load and arrivals, as far as they are not given.

    Its capacities are scaled to the drawn load.
    """
    servers = servers or int(draw.choice([2, 3, 4, 6, 8, 10, 16]))
    scenario = Scenario(
        num_servers=servers,
        capacity=tuple(draw.uniform(8, 60, servers)),
        link_rate=float(draw.uniform(200, 900)),
        deadline=float(draw.uniform(0.6, 1.5)),
        num_tasks=int(draw.choice([6, 10, 15])),
        arrival_prob=float(draw.uniform(0.2, 1)),
        arrivals=arrivals or str(draw.choice(["bernoulli", "poisson", "bursty"])),
        order=order or str(draw.choice(["stations", "turns"])),
    )
    scale = scenario.offered_load / float(draw.uniform(0.1, 1.1))
    return scenario.replace(capacity=tuple(scenario.capacities * scale))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "unseen"])
    configure()
    {"train": train, "unseen": unseen}[parser.parse_args().what]()
