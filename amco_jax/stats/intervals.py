"""Confidence intervals of ratios of sums over clusters, including means; seeds needed for a given width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from amco_jax.errors import InputError

CONFIDENCE = 0.95
"""The confidence level of all intervals"""

_DISTRUST = 12
"""The number of seeds at which the sample skewness is halved: its variance is 6/n if the true skewness is 0,
so this is the shrinkage towards 0 for true skewnesses that have a variance of 1/2"""
_HALVINGS = 60
"""Steps of a bisection; further steps change no bit"""


class Interval(NamedTuple):
    """An estimate and its confidence interval, arrays of one shape."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


class RatioMoments(NamedTuple):
    """The moments of the clusters that `ratio_interval` needs, arrays of one shape.

    e is the numerator minus ratio · denominator, and d is the denominator minus its mean.
    """

    clusters: np.ndarray
    """The number of clusters"""
    ratio: np.ndarray
    mean_d: np.ndarray
    ee: np.ndarray
    ed: np.ndarray
    dd: np.ndarray
    eee: np.ndarray
    eed: np.ndarray
    edd: np.ndarray
    ddd: np.ndarray

    @classmethod
    def of(cls, numerator: np.ndarray, denominator: np.ndarray) -> RatioMoments:
        """The moments, `[clusters, ...]` each → `[...]`; a cluster with a NaN is left out."""
        n, absent, x, y = without_nans(numerator, denominator)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = x.sum(axis=0) / y.sum(axis=0)
            mean_d = y.sum(axis=0) / n
            ratio = np.where(np.isfinite(ratio), ratio, np.nan)
            e, d = (np.where(absent, 0.0, values) for values in (x - ratio * y, y - mean_d))
        e -= np.where(absent, 0.0, e.sum(axis=0) / np.maximum(n, 1))
        ee, ed, dd = e * e, e * d, d * d
        sums = (ee, ed, dd, ee * e, ee * d, dd * e, dd * d)
        return cls(n, ratio, mean_d, *(values.sum(axis=0) for values in sums))

    @classmethod
    def stack(cls, moments: Iterable[RatioMoments]) -> RatioMoments:
        """Stack moments of equal shape along a new first axis."""
        return cls(*map(np.stack, zip(*moments, strict=True)))

    def interval(self) -> Interval:
        """The interval of `ratio_interval`."""
        n = np.maximum(self.clusters, 2)
        bound = scipy.special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) / np.sqrt(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt(self.ee / n) / np.abs(self.mean_d)

        def rejected(angle: Any) -> np.ndarray:
            """Whether `mean_interval` of numerator - (ratio + scale·tan(angle))·denominator excludes 0."""
            c, s = np.cos(angle), scale * np.sin(angle)
            squares = np.maximum(c * c * self.ee - 2 * c * s * self.ed + s * s * self.dd, 0.0)
            cubes = (
                c**3 * self.eee - 3 * c * c * s * self.eed + 3 * c * s * s * self.edd - s**3 * self.ddd
            )  # fmt: skip
            return ~(np.abs(_adjusted_t(-s * self.mean_d, squares, cubes, n)) <= bound)

        # An infinite ratio is tested by the denominator's mean: if that may be 0, any ratio is possible.
        side = np.reshape([-1.0, 1.0], (2,) + (1,) * np.ndim(self.ratio))
        known = (self.clusters > 1) & ~np.isnan(self.ratio) & ((self.ee == 0) | rejected(np.pi / 2))
        inside, outside = np.zeros((2, *np.shape(self.ratio))), side * np.pi / 2
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            out = rejected(middle)
            inside, outside = np.where(out, inside, middle), np.where(out, middle, outside)
        with np.errstate(invalid="ignore"):
            low, high = np.where(
                known, self.ratio + np.where(self.ee == 0, 0.0, scale * np.tan(inside)), np.nan
            )
        return Interval(np.asarray(self.ratio)[()], low[()], high[()])


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """Interval of sum(numerator) / sum(denominator), `[clusters, ...]` each → `[...]`.

    It contains the ρ for which Student's interval of the mean of numerator - ρ·denominator over independent
    clusters, adjusted for skewness, contains 0. For skewed values, Student's own interval misses the mean on
    the side of the long tail too often; here t is transformed to cancel its skewness, which extends the
    interval on that side. The sample skewness is shrunk by n / (n + 12), as few clusters estimate it poorly.

    A cluster with a NaN is left out. The bounds are NaN for a single cluster, and if the denominator's own
    interval contains 0, since any ρ is then possible; the estimate is NaN too if the denominators sum to 0.

    Raises:
      InputError: shapes differ, or there are no clusters.

    Source: Fieller, "Some problems in interval estimation" (1954); Hall, "On the removal of skewness by
    transformation" (1992); the shrinkage is ours.
    """
    numerator, denominator = same_shape(numerator, denominator)
    return RatioMoments.of(numerator, denominator).interval()


def mean_interval(values: np.ndarray) -> Interval:
    """Interval of the mean, `[seeds, ...]` → `[...]`: `ratio_interval` with a denominator of 1.

    It is Student's t interval adjusted for skewness. Applied to the differences `a - b` of two methods on the
    same seeds, it is the paired interval.
    """
    values = seeds_first(values)
    return ratio_interval(values, np.ones_like(values))


def mean_p_value(values: np.ndarray) -> np.ndarray:
    """Two-sided p-value of the hypothesis that the mean is 0, `[seeds, ...]` → `[...]`.

    It is 1 minus the highest confidence level at which `mean_interval` excludes 0: that of Student's t,
    adjusted for skewness. It is 1 if all values are 0, and NaN for a single seed. A seed with a NaN is left
    out.
    """
    n, absent, filled = without_nans(seeds_first(values))
    mean = filled.sum(axis=0) / np.maximum(n, 1)
    centred = np.where(absent, 0.0, filled - mean)
    squares = (centred**2).sum(axis=0)
    t = _adjusted_t(mean, squares, (centred**3).sum(axis=0), np.maximum(n, 2))
    p = 2 * scipy.special.stdtr(np.maximum(n, 2) - 1, -np.abs(t) * np.sqrt(n))
    p = np.where(squares > 0, p, np.where(mean == 0, 1.0, 0.0))
    return np.where(n < 2, np.nan, p)[()]


def t_interval(values: np.ndarray) -> Interval:
    """Student's t interval of the mean, `[seeds, ...]` → `[...]`; NaN bounds for a single seed.

    A seed with a NaN is left out.
    """
    n, mean, variance = moments(seeds_first(values))
    half = _half_width(variance, n)
    return Interval(mean[()], (mean - half)[()], (mean + half)[()])


def seeds_needed(values: np.ndarray, half_width: Any) -> np.ndarray:
    """Number of seeds for a t interval of the mean of ± `half_width`, at the variance of these seeds.

    `[seeds, ...]` → `[...]`, at least 2. `half_width` is a number, or an array that broadcasts to `[...]`.
    A seed with a NaN is left out.

    Raises:
      InputError: there are fewer than two seeds without a NaN, or a half width is not above 0.
    """
    n, _, variance = moments(seeds_first(values))
    if np.any(n < 2):
        raise InputError(f"values: {np.min(n)} of the seeds without a NaN; legal: at least 2")
    if not np.all(np.asarray(half_width) > 0):
        raise InputError("half_width: not above 0; legal: a number > 0")
    variance, half_width = np.broadcast_arrays(variance, half_width)
    # The number for a normal quantile, with room for Student's, which is larger for few seeds.
    normal = variance * (scipy.special.ndtri((1 + CONFIDENCE) / 2) / half_width) ** 2
    low, high = np.ones(variance.shape, np.int64), (np.minimum(2 * normal, 1e15) + 1000).astype(np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        enough = _half_width(variance, middle) <= half_width
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def seeds_first(values: ArrayLike) -> np.ndarray:
    """The values in float64; InputError unless there is at least one seed on the first axis."""
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise InputError(f"values: shape {values.shape}; legal: at least one seed")
    return values


def same_shape(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays in float64; InputError unless they have the same shape, with clusters on the first axis."""
    first, second = seeds_first(first), seeds_first(second)
    if first.shape != second.shape:
        raise InputError(f"values: shapes {first.shape} and {second.shape}; legal: the same for both")
    return first, second


def without_nans(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The clusters that count: those without a NaN in any of the arrays `[clusters, ...]`.

    Returns:
      Their number, `[...]`; whether each cluster is left out, `[clusters, ...]`; and the arrays, with 0 where
      it is.
    """
    absent = np.any([np.isnan(values) for values in arrays], axis=0)
    count = np.count_nonzero(~absent, axis=0)
    return np.asarray(count), absent, *(np.where(absent, 0.0, values) for values in arrays)


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The number, mean and sample variance of the clusters; NaN where there are too few."""
    n, absent, filled = without_nans(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(axis=0) / n
        variance = np.where(absent, 0.0, (filled - mean) ** 2).sum(axis=0) / (n - 1)
    return n, mean, np.where(n > 1, variance, np.nan)


def _half_width(variance: Any, count: Any) -> Any:
    return scipy.special.stdtrit(count - 1, (1 + CONFIDENCE) / 2) * np.sqrt(variance / count)


def _adjusted_t(mean: Any, squares: Any, cubes: Any, count: Any) -> np.ndarray:
    """t / √count, transformed so that it is not skewed, from the mean and the sums of centred powers."""
    skew = _shrunk_skewness(squares, cubes, count)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = mean / np.sqrt(squares / (count - 1))
        return t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * count)


def _shrunk_skewness(squares: Any, cubes: Any, count: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = cubes / count / (squares / count) ** 1.5
    return np.where(squares > 0, np.nan_to_num(skew), 0.0) * count / (count + _DISTRUST)
