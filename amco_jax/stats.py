"""Statistics over seeds: intervals, paired comparisons, and how many seeds it takes.

Arrays have the seeds on their first axis; whatever other axes they have, such as swept values, are worked on
side by side. All entries must be finite. Where randomness enters, the caller hands in the generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from amco_jax.errors import InputError, check_number

RESAMPLES = 9999
CONFIDENCE = 0.95

_CHUNK = 2**24
"""Most entries of a matrix of resamples, 128 MiB"""
_DISTRUST = 12
"""Seeds at which a sample's skewness counts half: its variance is 6/n where the truth is 0, so this is the
shrinkage towards 0 for true skewnesses that vary by 1/2"""


class Interval(NamedTuple):
    """An estimate and its confidence interval, arrays of one shape."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass
class Moments:
    """Count, mean and sums of squared and cubed deviations, accumulated batch by batch; NaNs are left out.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979); for cubes Pébay, "Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments" (2008).
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    cubes: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in a batch of observations."""
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        if values.size == 0:
            return
        new, old, count = values.size, self.count, self.count + values.size
        mean = values.mean()
        squared = np.square(values - mean)
        squares, cubes = squared.sum(), (squared * (values - mean)).sum()
        shift = mean - self.mean
        self.cubes += (
            cubes
            + shift**3 * old * new * (old - new) / count**2
            + 3 * shift * (old * squares - new * self.squares) / count
        )
        self.squares += squares + shift**2 * old * new / count
        self.mean += shift * new / count
        self.count = count

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
        """Mean and the interval of `mean_interval`: (mean, low, high).

        NaN where there is nothing to tell: all three without observations, the bounds with only one.
        """
        if self.count == 0:
            return np.nan, np.nan, np.nan
        if self.count == 1:
            return self.mean, np.nan, np.nan
        below, above = _skewed_half_widths(self.squares, self.cubes, self.count, confidence)
        return self.mean, float(self.mean - below), float(self.mean + above)


def mean_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the mean, `[seeds, ...]` → `[...]`: Student's t adjusted for skewness.

    Of skewed values Student's interval misses the mean on the side of the long tail. Here t is transformed so
    that its own skewness cancels, and the interval reaches further on that side. The sample's skewness is
    shrunk by n / (n + 12), as few seeds tell little of it; without skewness it is `t_interval`. NaN bounds
    for a single seed. Of differences `a - b` of two methods on the same seeds it is the paired interval.

    Source: Hall, "On the removal of skewness by transformation" (1992); the shrinkage is ours.

    Example:
      >>> estimate, low, high = mean_interval(np.array([1.0, 1.2, 0.9, 1.1]))
      >>> print(f"{estimate:.2f} [{low:.2f}, {high:.2f}]")
      1.05 [0.84, 1.26]
    """
    values = _seeds_first(values, confidence)
    mean = values.mean(axis=0)
    if len(values) == 1:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    centred = values - mean
    squared = centred * centred
    squares, cubes = squared.sum(axis=0), (squared * centred).sum(axis=0)
    below, above = _skewed_half_widths(squares, cubes, len(values), confidence)
    return Interval(mean, mean - below, mean + above)


def t_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean, `[seeds, ...]` → `[...]`; NaN bounds for a single seed."""
    values = _seeds_first(values, confidence)
    mean = values.mean(axis=0)
    if len(values) == 1:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = _half_width(values.var(axis=0, ddof=1), len(values), confidence)
    return Interval(mean, mean - half, mean + half)


STATISTICS: dict[str, Callable[[int], int]] = {
    "mean": lambda n: 0,
    "median": lambda n: (n - 1) // 2,
    "iqm": lambda n: n // 4,  # as `scipy.stats.trim_mean` with a quarter
}
"""How many of n values each leaves out at either end; it is the mean of the others."""


def bootstrap_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    statistic: str = "mean",
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    expand: bool = True,
) -> Interval:
    """BCa bootstrap interval of a statistic, `[seeds, ...]` → `[...]`; NaN bounds for a single seed.

    Args:
      statistic: a name in `STATISTICS`.
      expand: widen the percentiles, so that the interval of the mean is as wide as Student's where the data
        are normal. Without it, as in `scipy.stats.bootstrap`, intervals of few seeds are too narrow.

    Raises:
      InputError: an unknown statistic, or a confidence out of range.

    Source: Efron, "Better bootstrap confidence intervals" (1987); expanded percentiles from Hesterberg, "What
    teachers should know about the bootstrap" (2015).
    """
    if statistic not in STATISTICS:
        raise InputError(f"statistic: {statistic!r}; legal: {', '.join(STATISTICS)}")
    values = np.sort(_seeds_first(values, confidence), axis=0)
    columns, n, left_out = values.reshape(len(values), -1), len(values), STATISTICS[statistic]
    estimate = columns[left_out(n) : n - left_out(n)].mean(axis=0)
    low = high = np.full_like(estimate, np.nan)
    if n > 1:
        drawn = np.sort(_resampled(columns, rng, left_out(n), resamples), axis=0)
        rounding = 1e-12 * np.abs(estimate)
        below = (drawn < estimate - rounding).sum(axis=0) + (drawn <= estimate + rounding).sum(axis=0)
        # The jackknife: leaving out a value moves the statistic as the value moves the winsorised mean.
        end = left_out(n - 1)
        influence = np.clip(columns, columns[end], columns[n - 1 - end])
        influence -= influence.mean(axis=0)
        tail = (1 - confidence) / 2
        z = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, tail) if expand else special.ndtri(tail)
        with np.errstate(divide="ignore", invalid="ignore"):
            bias = special.ndtri(below / (2 * resamples))
            skew = np.nan_to_num((influence**3).sum(axis=0) / (6 * (influence**2).sum(axis=0) ** 1.5))
            levels = [special.ndtr(bias + (bias + side) / (1 - skew * (bias + side))) for side in (z, -z)]
        constant = drawn[-1] - drawn[0] <= rounding
        low, high = (np.where(constant, estimate, _quantile(drawn, level)) for level in levels)
    return Interval(*(x.reshape(values.shape[1:])[()] for x in (estimate, low, high)))


def reduction_interval(method: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """By which share a method's mean is below a baseline's on the same seeds, with its paired interval.

    1 - ρ with ρ = mean(method) / mean(baseline), `[seeds, ...]` each → `[...]`. The interval holds the ρ for
    which `mean_interval` of method - ρ·baseline holds 0, so it covers as often as that one does. NaN bounds
    where the baseline's own interval holds 0, as any ρ is possible then; all NaN where its mean is 0. Where
    no value is negative, no ρ is, and the interval ends at 1.

    Raises:
      InputError: different shapes, no seeds, or a confidence outside (0, 1).

    Source: Fieller, "Some problems in interval estimation" (1954), here with the skewness adjusted for.

    Example:
      >>> method, baseline = np.array([0.8, 0.9, 0.7, 0.85]), np.array([1.0, 1.2, 0.9, 1.1])
      >>> reduction, low, high = reduction_interval(method, baseline)
      >>> print(f"{reduction:.1%} [{low:.1%}, {high:.1%}]")
      22.6% [18.8%, 25.6%]
    """
    method, baseline = _seeds_first(method, confidence), _seeds_first(baseline, confidence)
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
        skew = _shrunk_skewness(squares, cubes, n)
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
    method, baseline = _seeds_first(method, confidence), _seeds_first(baseline, confidence)
    share = ((method < baseline) + 0.5 * (method == baseline)).mean(axis=0)
    n, z = len(method), special.ndtri((1 + confidence) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def paired_p_value(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Two-sided p of the paired t-test, `[seeds, ...]` each → `[...]`.

    1 where the two agree in every seed; NaN for a single seed.
    """
    method, baseline = _seeds_first(method), _seeds_first(baseline)
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

    Example:
      >>> holm(np.array([0.01, 0.04, 0.03]))
      array([0.03, 0.06, 0.06])
    """
    p_values = np.asarray(p_values, np.float64)
    flat, corrected = p_values.ravel(), np.full(p_values.size, np.nan)
    order = np.argsort(flat)[: np.count_nonzero(~np.isnan(flat))]  # NaNs are sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * flat[order]), 1.0)
    return corrected.reshape(p_values.shape)


def seeds_needed(values: np.ndarray, half_width: Any, confidence: float = CONFIDENCE) -> np.ndarray:
    """Seeds for a t interval of the mean of ± `half_width`, if they spread as these do.

    `[seeds, ...]` → `[...]`, at least 2. `half_width` is a number or an array that fits `[...]`.

    Raises:
      InputError: a single seed, or a half width that is not above 0.

    Example:
      >>> print(seeds_needed(np.array([1.0, 1.2, 0.9, 1.1]), half_width=0.01))
      643
    """
    values = _seeds_first(values, confidence)
    if len(values) < 2:
        raise InputError(f"values: {len(values)} seed; legal: at least 2")
    if not np.all(np.asarray(half_width) > 0):
        raise InputError("half_width: not above 0; legal: a number > 0")
    variance, half_width = np.broadcast_arrays(values.var(axis=0, ddof=1), half_width)
    # What a normal quantile asks for, with room for Student's wider ones, which few seeds need.
    normal = variance * (special.ndtri((1 + confidence) / 2) / half_width) ** 2
    low, high = np.ones(variance.shape, np.int64), (np.minimum(2 * normal, 1e15) + 1000).astype(np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        enough = _half_width(variance, middle, confidence) <= half_width
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def jain_index(shares: np.ndarray) -> np.ndarray:
    """Jain's fairness of the shares on the last axis, `[..., servers]` → `[...]`, from 1/servers to 1.

    (Σx)² / (n·Σx²), over the n that are not NaN; NaN where all are 0.

    Source: Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination" (1984).

    Example:
      >>> jain_index(np.array([[0.5, 0.5], [1.0, 0.0]]))
      array([1. , 0.5])
    """
    shares = np.asarray(shares, np.float64)
    count = np.count_nonzero(~np.isnan(shares), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(shares, axis=-1) ** 2 / (count * np.nansum(shares**2, axis=-1))


def seed_matrix(table: pd.DataFrame, metric: str) -> np.ndarray:
    """`[seeds, episodes]`: a column of tidy rows with columns seed and episode, both in rising order."""
    return np.asarray(table.pivot(index="seed", columns="episode", values=metric), np.float64)


def _seeds_first(values: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    check_number("confidence", confidence, 1e-9, 1 - 1e-9)
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise InputError(f"values: shape {values.shape}; legal: at least one seed")
    return values


def _half_width(variance: Any, count: Any, confidence: float) -> Any:
    return special.stdtrit(count - 1, (1 + confidence) / 2) * np.sqrt(variance / count)


def _skewed_half_widths(squares: Any, cubes: Any, count: int, confidence: float) -> tuple[Any, Any]:
    """How far `mean_interval` reaches below and above the mean."""
    skew = _shrunk_skewness(squares, cubes, count)
    quantile = special.stdtrit(count - 1, (1 + confidence) / 2) / np.sqrt(count)
    widths = []
    for side in (quantile, -quantile):
        # The inverse of t + skew·t²/3 + skew²·t³/27 + skew / (6·count), which is (3/skew)·(root - 1).
        shifted = side - skew / (6 * count)
        root = np.cbrt(1 + skew * shifted)
        widths.append(3 * shifted / (root**2 + root + 1))
    deviation = np.sqrt(squares / (count - 1))
    return deviation * widths[0], -deviation * widths[1]


def _shrunk_skewness(squares: Any, cubes: Any, count: int) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = cubes / count / (squares / count) ** 1.5
    return np.where(squares > 0, np.nan_to_num(skew), 0.0) * count / (count + _DISTRUST)


def _resampled(columns: np.ndarray, rng: np.random.Generator, cut: int, resamples: int) -> np.ndarray:
    """`[resamples, columns]`: means of resamples of the rows without `cut` values at either end.

    The rows of each column are in rising order, so how often a resample has each row tells its order, and one
    matrix of weights serves all columns.
    """
    n = len(columns)
    rows = max(_CHUNK // n, 1)
    drawn = []
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        picks = rng.integers(0, n, (number, n)) + n * np.arange(number)[:, None]
        counts = np.bincount(picks.ravel(), minlength=number * n).reshape(number, n)
        if cut:
            end = np.clip(np.cumsum(counts, axis=1), cut, n - cut)
            counts = np.diff(end, axis=1, prepend=cut)
        drawn.append(counts @ columns / (n - 2 * cut))
    return np.concatenate(drawn)


def _quantile(ordered: np.ndarray, level: np.ndarray) -> np.ndarray:
    """`numpy.quantile` of each column of sorted rows at a level of its own."""
    place = np.nan_to_num(level) * (len(ordered) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[below, columns], ordered[above, columns]
    return np.where(np.isnan(level), np.nan, low + (place - below) * (high - low))
