"""Intervals of means over seeds, and how many seeds a wished interval takes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from amco_jax.errors import InputError, check_number

CONFIDENCE = 0.95

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
    """
    values = seeds_first(values, confidence)
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
    values = seeds_first(values, confidence)
    mean = values.mean(axis=0)
    if len(values) == 1:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = _half_width(values.var(axis=0, ddof=1), len(values), confidence)
    return Interval(mean, mean - half, mean + half)


def seeds_needed(values: np.ndarray, half_width: Any, confidence: float = CONFIDENCE) -> np.ndarray:
    """Seeds for a t interval of the mean of ± `half_width`, if they spread as these do.

    `[seeds, ...]` → `[...]`, at least 2. `half_width` is a number or an array that fits `[...]`.

    Raises:
      InputError: a single seed, or a half width that is not above 0.
    """
    values = seeds_first(values, confidence)
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


def seeds_first(values: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    check_number("confidence", confidence, 1e-9, 1 - 1e-9)
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise InputError(f"values: shape {values.shape}; legal: at least one seed")
    return values


def _half_width(variance: Any, count: Any, confidence: float) -> Any:
    return special.stdtrit(count - 1, (1 + confidence) / 2) * np.sqrt(variance / count)


def _skewed_half_widths(squares: Any, cubes: Any, count: int, confidence: float) -> tuple[Any, Any]:
    """How far `mean_interval` reaches below and above the mean."""
    skew = shrunk_skewness(squares, cubes, count)
    quantile = special.stdtrit(count - 1, (1 + confidence) / 2) / np.sqrt(count)
    widths = []
    for side in (quantile, -quantile):
        # The inverse of t + skew·t²/3 + skew²·t³/27 + skew / (6·count), which is (3/skew)·(root - 1).
        shifted = side - skew / (6 * count)
        root = np.cbrt(1 + skew * shifted)
        widths.append(3 * shifted / (root**2 + root + 1))
    deviation = np.sqrt(squares / (count - 1))
    return deviation * widths[0], -deviation * widths[1]


def shrunk_skewness(squares: Any, cubes: Any, count: int) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = cubes / count / (squares / count) ** 1.5
    return np.where(squares > 0, np.nan_to_num(skew), 0.0) * count / (count + _DISTRUST)
