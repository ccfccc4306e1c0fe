"""False alarms of pilot runs: `python benchmarks/stationarity.py`, in four minutes on two cores.

Each line is about 400 pilot runs of 128 seeds each of episodes that are steady from the first slots on:
quantiles of the warm-up that is left out, by MSER-5 or none, and the share of p-values of a trend below some
levels.
"""

from __future__ import annotations

import itertools

import numpy as np

from amco_jax import METHODS, Scenario, configure
from amco_jax.study.grid import Cell
from amco_jax.study.pilot import pilots_of

RUNS = 400
QUANTILES = (0.5, 0.9, 1.0)
LEVELS = (0.05, 0.01, 0.001)


def main() -> None:
    configure()
    for prob, warmup in itertools.product((0.3, 0.6), ("auto", 0)):
        scenario = Scenario(arrival_prob=prob, warmup=warmup)
        cells = (
            Cell(scenario=scenario, method=METHODS["optimal"], first_seed=1000 * k, num_seeds=128, plays=(0,))
            for k in range(RUNS)
        )
        pilots = [pilot for cell in cells for pilot in pilots_of([cell], None)]
        found = np.quantile([pilot.warmup for pilot in pilots], QUANTILES)
        p = np.array([pilot.trend_p for pilot in pilots])
        shares = ", ".join(f"{np.mean(p < level):.2%} below {level:g}" for level in LEVELS)
        print(f"p = {prob:g}, {warmup}: warm-up {found} slots at {QUANTILES}; p-values {shares}")


if __name__ == "__main__":
    main()
