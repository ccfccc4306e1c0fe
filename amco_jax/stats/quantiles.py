"""Quantiles over the pooled tasks of all episodes, from the quantiles of each episode."""

from __future__ import annotations

import numpy as np

from amco_jax.errors import InputError
from amco_jax.stats.clusters import cluster_totals
from amco_jax.stats.intervals import Interval
from amco_jax.stats.proportions import rate_interval


def pooled_quantiles(
    quantiles: np.ndarray,
    levels: np.ndarray,
    tasks: np.ndarray,
    *,
    clusters: np.ndarray,
    at: np.ndarray,
) -> Interval:
    """Quantiles over all tasks, with intervals, `[len(at)]`.

    The distribution function of each episode is linear between its quantiles, where the task of rank j of n
    has the level (j + ½) / n; in an episode of few tasks, each task is a separate step. The distribution
    function of all tasks is the mean of these, weighted by the number of tasks. The interval of a quantile
    contains the values at which that function is within the `rate_interval`, over clusters, of the share of
    tasks at or below the quantile.

    Args:
      quantiles: `[episodes, levels]`, ascending in each episode; one with a NaN is left out.
      levels: `[levels]`, increasing from 0 to 1.
      tasks: `[episodes]`, the number of tasks.
      clusters: `[episodes]`, the number of each episode's cluster.
      at: the levels of the requested quantiles, in [0, 1].

    Raises:
      InputError: levels do not increase from 0 to 1, or shapes do not match.

    Source: Woodruff, "Confidence intervals for medians and other position measures" (1952).
    """
    levels, at = np.asarray(levels, np.float64), np.asarray(at, np.float64)
    if levels[0] != 0 or levels[-1] != 1 or np.any(np.diff(levels) <= 0):
        raise InputError("levels: not increasing from 0 to 1; legal: 0, ..., 1")
    if np.shape(quantiles) != (len(tasks), len(levels)) or len(clusters) != len(tasks):
        raise InputError(
            f"quantiles: shape {np.shape(quantiles)}; legal: one row per episode, {len(levels)} columns"
        )
    some = (np.asarray(tasks) > 0) & ~np.isnan(quantiles).any(axis=1)
    if not np.any(some):
        return Interval(*np.full((3, len(at)), np.nan))
    weights, values = np.asarray(tasks, np.float64)[some], np.asarray(quantiles, np.float64)[some]
    values, shares = _functions(values, levels, weights)
    knots, cumulative = _mixture(values, shares, weights / weights.sum())
    estimate = np.interp(at, cumulative, knots)
    own = np.asarray(clusters)[some]
    of_all = cluster_totals(np.broadcast_to(weights[:, None], (len(weights), len(at))), own)

    def share(side: str) -> Interval:
        """The share of tasks below the quantiles, or at or below them, since many makespans may be equal."""
        below = np.stack([_share_below(values, shares, q, side) for q in estimate], axis=1)
        return rate_interval(cluster_totals(below * weights[:, None], own), of_all)

    under, until = share("left"), share("right")
    reach = under.low + np.maximum(at - under.estimate, 0), until.high - np.maximum(until.estimate - at, 0)
    low, high = (np.interp(np.nan_to_num(x), cumulative, knots) + 0 * x for x in reach)
    return Interval(estimate, np.minimum(low, estimate), np.maximum(high, estimate))


def _functions(quantiles: np.ndarray, levels: np.ndarray, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each episode's distribution function at its knots: values and shares, `[episodes, knots]` each."""
    num_knots = len(levels)
    # The quantile of level l is the task of rank l·(n - 1).
    values, shares = quantiles.copy(), levels + (0.5 - levels) / tasks[:, None]
    for n in range(1, num_knots // 2 + 1):
        rows = np.flatnonzero(tasks == n)
        if len(rows) == 0:
            continue
        ranks = np.arange(n) / max(n - 1, 1)
        weights = np.stack([np.interp(ranks, levels, one) for one in np.eye(num_knots)], axis=1)
        ends = (0, num_knots - 2 * n)
        values[rows] = np.pad(np.repeat(quantiles[rows] @ weights.T, 2, axis=1), ((0, 0), ends), mode="edge")
        shares[rows] = np.pad(np.repeat(np.arange(n + 1), 2)[1:-1] / n, ends, mode="edge")
    return values, shares


def _mixture(values: np.ndarray, shares: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distribution function of all tasks at its knots, with jumps: (values, shares), both ascending."""
    rises, width = weights[:, None] * np.diff(shares, axis=1), np.diff(values, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(width > 0, rises / width, 0.0)
    bend = np.diff(density, axis=1, prepend=0.0, append=0.0)
    jump = np.zeros_like(values)
    jump[:, :-1] = np.where(width > 0, 0.0, rises)
    jump[:, 0] += weights * shares[:, 0]
    jump[:, -1] += weights * (1 - shares[:, -1])
    order = np.argsort(values, axis=None)
    knots, jump = values.ravel()[order], jump.ravel()[order]
    slope = np.maximum(np.cumsum(bend.ravel()[order])[:-1], 0.0)
    after = np.cumsum(jump) + np.concatenate([[0.0], np.cumsum(slope * np.diff(knots))])
    steps = np.stack([after - jump, after], axis=1).ravel()
    return np.repeat(knots, 2), np.maximum.accumulate(steps) / steps[-1]


def _share_below(values: np.ndarray, shares: np.ndarray, q: float, side: str) -> np.ndarray:
    """The share of each episode's tasks below a value (`left`), or at or below it (`right`), `[episodes]`."""
    rows = np.arange(len(values))
    place = np.count_nonzero(values < q if side == "left" else values <= q, axis=1)
    left, right = np.maximum(place - 1, 0), np.minimum(place, values.shape[1] - 1)
    start, end = values[rows, left], values[rows, right]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.clip(np.nan_to_num((q - start) / (end - start)), 0.0, 1.0)
    inside = shares[rows, left] + part * (shares[rows, right] - shares[rows, left])
    return np.where(place == 0, 0.0, np.where(place == values.shape[1], 1.0, inside))
