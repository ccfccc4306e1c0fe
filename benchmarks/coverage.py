"""Measure the coverage of the intervals of rates and of their differences, of shares and of pooled quantiles.

It prints the tables of docs/statistics.md. Rates come from beta-binomial seeds of about 450 tasks, and from
seeds of which only few have any miss. `--quick` draws a tenth of the samples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from amco_jax.metrics import LEVELS
from amco_jax.stats import (
    Interval,
    beyond_bounds,
    mean_interval,
    pooled_quantiles,
    rate_difference_interval,
    rate_interval,
    rate_reduction_interval,
    ratio_interval,
)

TASKS = 450
SEEDS = (10, 32, 100, 1000)
RATES = (0.001, 0.01, 0.05, 0.3)
CORRELATIONS = (0.0, 0.01, 0.1, 0.5)
SAMPLES = {10: 4000, 32: 4000, 100: 4000, 1000: 1000}

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def latent(rate: float, correlation: float) -> Draw:
    """Rates of seeds from a beta distribution with this mean and intraclass correlation."""
    if correlation == 0:
        return lambda rng, shape: np.full(shape, rate)
    spread = (1 - correlation) / correlation
    return lambda rng, shape: rng.beta(rate * spread, (1 - rate) * spread, shape)


def few(rate: float, share: float) -> Draw:
    """Rates of seeds that are exponential in a share of the seeds, and 0 in the others."""
    scale = rate / share
    return lambda rng, shape: np.minimum(rng.exponential(scale, shape), 1) * (rng.random(shape) < share)


def tasks_of(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Numbers of tasks of seeds with Bernoulli arrivals."""
    return rng.binomial(3 * TASKS, 1 / 3, shape)


def quantiles_of(values: np.ndarray) -> np.ndarray:
    """The quantiles that a row of results contains."""
    return np.quantile(values, LEVELS) if len(values) else np.full(len(LEVELS), np.nan)


def covers(interval: Interval, truth: float) -> float:
    """The share of samples, in %, whose interval contains the truth."""
    low, high = interval[1:]
    return 100 * float(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high)))


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(f"{c:.1f}" if isinstance(c, float) else str(c) for c in cells), "|", flush=True)


def rates(samples: dict[int, int]) -> None:
    """Coverage of `rate_interval` and of the interval of the seeds' mean rate, and samples without events."""
    row("seeds' rates", *(f"n = {n}: rate, mean, none [%]" for n in SEEDS))
    row(*["---"] * (1 + len(SEEDS)))
    cases = {f"beta, mean {p:g}, correlation {c:g}": (p, latent(p, c)) for p in RATES for c in CORRELATIONS}
    for p, share in ((0.001, 0.05), (0.001, 0.3), (0.02, 0.1), (0.02, 0.3)):
        cases[f"0 in {100 * (1 - share):g} % of the seeds, mean {p:g}"] = p, few(p, share)
    for name, (p, draw) in cases.items():
        cells = []
        for n in SEEDS:
            rng, shape = np.random.default_rng(n), (n, samples[n])
            tasks = tasks_of(rng, shape)
            events = rng.binomial(tasks, draw(rng, shape))
            found, usual = rate_interval(events, tasks), mean_interval(events / tasks)
            none = 100 * np.mean(events.sum(axis=0) == 0)
            cells.append(f"**{covers(found, p):.1f}** {covers(usual, p):.1f} {none:.0f}")
        row(name, *cells)


def differences(samples: dict[int, int]) -> None:
    """Coverage of the difference and the reduction of two rates, and of the paired t of the difference."""
    row("baseline", "method", *(f"n = {n}: difference, reduction, paired t" for n in SEEDS))
    row(*["---"] * (2 + len(SEEDS)))
    for p, correlation in ((0.001, 0.01), (0.01, 0.01), (0.01, 0.5), (0.05, 0.1), (0.3, 0.1)):
        for kind, share in (
            ("same misses", 1.0),
            ("part of them", 0.9),
            ("part of them", 0.5),
            ("rate", 0.7),
        ):
            cells = []
            for n in SEEDS:
                rng, shape = np.random.default_rng(n), (n, samples[n])
                tasks, rate = tasks_of(rng, shape), latent(p, correlation)(rng, shape)
                theirs = rng.binomial(tasks, rate)
                ours = rng.binomial(tasks, rate * share) if kind == "rate" else rng.binomial(theirs, share)
                difference = rate_difference_interval(ours, theirs, tasks)
                _, low, high = rate_reduction_interval(ours, theirs, tasks)
                reduction = Interval(low, np.nan_to_num(low, nan=-np.inf), np.nan_to_num(high, nan=1.0))
                paired = ratio_interval(ours - theirs, tasks)
                truth = p * (share - 1)
                cells.append(
                    f"**{covers(difference, truth):.1f}** {covers(reduction, 1 - share):.1f} "
                    f"{covers(paired, truth):.1f}"
                )
            row(f"{p:g}, {correlation:g}", f"{kind} × {share:g}", *cells)


def shares(samples: dict[int, int]) -> None:
    """Coverage of the mean of shares that are 1 in most seeds, with and without `beyond_bounds`."""
    row("share of seeds below 1", "their shares", *(f"n = {n}: extended, mean, all 1 [%]" for n in SEEDS))
    row(*["---"] * (2 + len(SEEDS)))
    for q in (0.003, 0.03, 0.1, 0.3):
        for name, a, b in (("0", 1e-9, 1.0), ("uniform", 1.0, 1.0), ("near 0.9", 90.0, 10.0)):
            cells, truth = [], 1 - q + q * a / (a + b)
            for n in SEEDS:
                rng, shape = np.random.default_rng(n), (n, samples[n])
                found = np.where(rng.random(shape) < q, rng.beta(a, b, shape), 1.0)
                usual = mean_interval(found)
                clipped = Interval(usual.estimate, usual.low, np.minimum(usual.high, 1.0))
                extended = beyond_bounds(clipped, n, least=0.0, most=1.0)
                alike = 100 * np.mean(np.all(found == 1.0, axis=0))
                cells.append(f"**{covers(extended, truth):.1f}** {covers(clipped, truth):.1f} {alike:.0f}")
            row(f"{100 * q:g} %", name, *cells)


def quantiles(samples: dict[int, int]) -> None:
    """Coverage of pooled quantiles, and their error relative to the quantiles of the tasks themselves."""
    at = np.array([0.5, 0.95, 0.99])
    row("makespans within a seed", "seeds' scales", *(f"n = {n}: p50, p95, p99 (error [%])" for n in SEEDS))
    row(*["---"] * (2 + len(SEEDS)))
    for name, spread, size in (("lognormal", 0.05, 0.0), ("lognormal", 0.3, 0.0), ("lognormal", 0.3, 1.0)):
        rng = np.random.default_rng(0)

        def seeds(rng: np.random.Generator, n: int, spread=spread, size=size) -> list[np.ndarray]:
            # If sizes differ, busy seeds are also slow, so weights and makespans are correlated.
            load = rng.standard_normal(n)
            counts = rng.poisson(60 * np.exp(size * load))
            scale = np.exp(spread * load)
            return [s * rng.lognormal(0, 0.5, c) for s, c in zip(scale, counts, strict=True)]

        truth = np.quantile(np.concatenate(seeds(rng, 100_000)), at)
        cells = []
        for n in SEEDS:
            hits, error, repeats = np.zeros(3), [], samples[n] // 10
            for _ in range(repeats):
                drawn = seeds(rng, n)
                table = np.array([quantiles_of(x) for x in drawn])
                counts = np.array([len(x) for x in drawn])
                found = pooled_quantiles(
                    table.astype(np.float32), LEVELS, counts, clusters=np.arange(n), at=at
                )
                hits += (found.low <= truth) & (truth <= found.high)
                error.append(np.abs(found.estimate / np.quantile(np.concatenate(drawn), at) - 1))
            shares = " ".join(f"{100 * x / repeats:.1f}" for x in hits)
            cells.append(f"{shares} ({100 * np.mean(error):.2f})")
        row(name, f"σ = {spread:g}, sizes σ = {size:g}", *cells)


if __name__ == "__main__":
    scale = 10 if "--quick" in sys.argv else 1
    chosen = {n: count // scale for n, count in SAMPLES.items()}
    for table in (rates, differences, shares, quantiles):
        table(chosen)
        print()
