"""Paired comparisons of two methods on the same seeds, and Holm's correction over many of them."""

from __future__ import annotations

import numpy as np
from scipy import special

from amco_jax.errors import InputError
from amco_jax.stats.intervals import CONFIDENCE, Interval, seeds_first, shrunk_skewness


def reduction_interval(method: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """By which share a method's mean is below a baseline's on the same seeds, with its paired interval.

    1 - ρ with ρ = mean(method) / mean(baseline), `[seeds, ...]` each → `[...]`. The interval holds the ρ for
    which `mean_interval` of method - ρ·baseline holds 0, so it covers as often as that one does. NaN bounds
    where the baseline's own interval holds 0, as any ρ is possible then; all NaN where its mean is 0. Where
    no value is negative, no ρ is, and the interval ends at 1.

    Raises:
      InputError: different shapes, no seeds, or a confidence outside (0, 1).

    Source: Fieller, "Some problems in interval estimation" (1954), here with the skewness adjusted for.
    """
    method, baseline = seeds_first(method, confidence), seeds_first(baseline, confidence)
    if method.shape != baseline.shape:
        raise InputError(f"baseline: shape {baseline.shape}; legal: that of method, {method.shape}")
    n = len(method)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = method.mean(axis=0) / baseline.mean(axis=0)
    ratio = np.where(np.isfinite(ratio), ratio, np.nan)
    if n == 1:
        return Interval(1 - ratio, np.full_like(ratio, np.nan), np.full_like(ratio, np.nan))
    scales = [np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0) for x in (method, baseline)]
    x, y = method / scales[0], baseline / scales[1]
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean_x, y - mean_y
    xx, xy, yy = ((a * b).sum(axis=0) for a, b in ((x, x), (x, y), (y, y)))
    xxx, xxy, xyy, yyy = ((a * b).sum(axis=0) for a, b in ((x * x, x), (x * x, y), (x, y * y), (y * y, y)))
    bound = special.stdtrit(n - 1, (1 + confidence) / 2) / np.sqrt(n)

    def rejected(angle: np.ndarray) -> np.ndarray:
        """Whether the interval of cos·x - sin·y lies beside 0."""
        c, s = np.cos(angle), np.sin(angle)
        squares = np.maximum(c * c * xx - 2 * c * s * xy + s * s * yy, 0.0)
        cubes = c**3 * xxx - 3 * c * c * s * xxy + 3 * c * s * s * xyy - s**3 * yyy
        skew = shrunk_skewness(squares, cubes, n)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = (c * mean_x - s * mean_y) / np.sqrt(squares / (n - 1))
            t = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * n)
        return ~(np.abs(t) <= bound)

    known = rejected(np.full_like(ratio, np.pi / 2)) & ~np.isnan(ratio)
    bounds = []
    for end in (np.pi / 2, -np.pi / 2):  # where ρ is infinite, and the test is that of the baseline's mean
        inside, outside = np.arctan(ratio * scales[1] / scales[0]), np.full_like(ratio, end)
        for _ in range(60):
            middle = (inside + outside) / 2
            out = rejected(middle)
            inside, outside = np.where(out, inside, middle), np.where(out, middle, outside)
        at = np.where(np.all(method == baseline, axis=0), 1.0, np.tan(inside) * scales[0] / scales[1])
        bounds.append(np.where(known, 1 - at, np.nan))
    most = np.where((method.min(axis=0) >= 0) & (baseline.min(axis=0) >= 0), 1.0, np.inf)
    return Interval((1 - ratio)[()], bounds[0][()], np.minimum(bounds[1], most)[()])


def probability_of_improvement(
    method: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """How probably a method is below a baseline on the same seed, `[seeds, ...]` each → `[...]`.

    A tie counts half. The interval is Wilson's, which stays inside [0, 1] and is not empty at its ends; with
    ties it is wider than need be.

    Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021),
    here for pairs; Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    method, baseline = seeds_first(method, confidence), seeds_first(baseline, confidence)
    share = ((method < baseline) + 0.5 * (method == baseline)).mean(axis=0)
    n, z = len(method), special.ndtri((1 + confidence) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def paired_p_value(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Two-sided p of the paired t-test, `[seeds, ...]` each → `[...]`.

    1 where the two agree in every seed; NaN for a single seed.
    """
    method, baseline = seeds_first(method), seeds_first(baseline)
    difference = method - baseline
    if len(difference) == 1:
        return np.full(difference.shape[1:], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference.mean(axis=0) / np.sqrt(difference.var(axis=0, ddof=1) / len(difference))
    p = 2 * special.stdtr(len(difference) - 1, -np.abs(t))
    return np.where(np.all(difference == 0, axis=0), 1.0, p)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction of p-values for all comparisons of a report, any shape; NaNs stay and do not count.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    p_values = np.asarray(p_values, np.float64)
    flat, corrected = p_values.ravel(), np.full(p_values.size, np.nan)
    order = np.argsort(flat)[: np.count_nonzero(~np.isnan(flat))]  # NaNs are sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * flat[order]), 1.0)
    return corrected.reshape(p_values.shape)
