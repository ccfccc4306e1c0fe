"""The shipped prices, and how they carry over: `python benchmarks/prices.py train` or `... unseen`.

`train` prints the coefficients `SHIPPED` of `agents/pricing.py`: one regression over 32 seeds in each of two
orders of service, which all practise variations of the default scenario. `unseen` compares `amco-priced` with
`optimal-admission` in 20 scenarios that training has not seen, drawn from a fixed seed: other sizes of
fleets, capacities, links, deadlines, numbers of positions, loads and arrival processes. Each takes about
three minutes on two cores.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

from amco_jax import METHODS, Scenario, Sweep, configure, run_study
from amco_jax.agents.pricing import regression
from amco_jax.stats import reduction_interval
from amco_jax.study.blocks import blocks_of
from amco_jax.study.grid import Cell
from amco_jax.study.trainer import LANES, SEGMENT, Trainer

EPISODES, VARIATION, RIDGE = 32, 0.8, 0.01
TRAINING_SEED, TEST_SEED, SEEDS = 2**20, 3_000_000, 256


def train() -> None:
    """Print the shipped coefficients."""
    method = METHODS["amco-priced-trained"].with_settings(variation=VARIATION, ridge=RIDGE)
    sums = []
    for order in ("stations", "turns"):
        scenario = Scenario(arrival_prob=0.4, order=order)
        cell = Cell(scenario=scenario, method=method, train_episodes=EPISODES, num_seeds=LANES)
        trainer = Trainer(scenario.shape(), [cell], blocks_of(1, TRAINING_SEED, LANES, LANES), 1)
        while trainer.episode < EPISODES:
            trainer.advance(min(SEGMENT, EPISODES - trainer.episode))
        # All base stations of a seed share their memory.
        # All base stations of a seed share their memory.
        sums.append(jax.tree.map(lambda x: np.sum(x[0, :, 0], axis=0), trainer.state.memory))
    memory = jax.tree.map(lambda *each: np.sum(each, axis=0), *sums)
    print("work", np.round(regression(memory.work_work, memory.work_price, RIDGE), 3).tolist())
    print("link", np.round(regression(memory.link_link, memory.link_price, RIDGE), 3).tolist())


def unseen() -> None:
    """Print a line per scenario: its load, makespans and miss rates of both methods, and the reduction."""
    draw = np.random.default_rng(20)
    for number in range(20):
        scenario = drawn(draw)
        rows = run_study(
            Sweep(
                "deadline",
                values=[scenario.deadline],
                methods=["amco-priced", "optimal-admission"],
                seeds=SEEDS,
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
            f"{priced.makespan_mean_s.mean():.4f} | {100 * gain.estimate:.1f} [{100 * gain.low:.1f}, "
            f"{100 * gain.high:.1f}] | {greedy.miss_rate.mean():.4f} | {priced.miss_rate.mean():.4f} |",
            flush=True,
        )


def drawn(draw: np.random.Generator) -> Scenario:
    """A scenario of random fleet, load and arrivals; its capacities are scaled to the drawn load."""
    servers = int(draw.choice([2, 3, 4, 6, 8, 10, 16]))
    scenario = Scenario(
        num_servers=servers,
        capacity=tuple(draw.uniform(8, 60, servers)),
        link_rate=float(draw.uniform(200, 900)),
        deadline=float(draw.uniform(0.6, 1.5)),
        num_tasks=int(draw.choice([6, 10, 15])),
        arrival_prob=float(draw.uniform(0.2, 1)),
        arrivals=str(draw.choice(["bernoulli", "poisson", "bursty"])),
        order=str(draw.choice(["stations", "turns"])),
    )
    scale = scenario.offered_load / float(draw.uniform(0.1, 1.1))
    return scenario.replace(capacity=tuple(scenario.capacities * scale))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "unseen"])
    configure()
    {"train": train, "unseen": unseen}[parser.parse_args().what]()
