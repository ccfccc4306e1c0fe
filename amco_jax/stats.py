"""Statistics over seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from scipy import special


@dataclasses.dataclass
class Moments:
    """Count, mean and sum of squared deviations, accumulated batch by batch; NaNs are left out.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in a batch of observations."""
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        if values.size == 0:
            return
        mean, count = values.mean(), self.count + values.size
        shift = mean - self.mean
        self.squares += np.square(values - mean).sum() + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count

    def interval(self, confidence: float = 0.95) -> tuple[float, float, float]:
        """Mean and Student-t confidence interval of the mean: (mean, low, high).

        NaN where there is nothing to tell: all three without observations, the bounds with only one.
        """
        if self.count == 0:
            return np.nan, np.nan, np.nan
        if self.count == 1:
            return self.mean, np.nan, np.nan
        half = _half_width(self.squares / (self.count - 1), self.count, confidence)
        return self.mean, self.mean - half, self.mean + half


def seed_matrix(table: pd.DataFrame, metric: str) -> np.ndarray:
    """`[seeds, episodes]`: a column of tidy rows with columns seed and episode, both in rising order."""
    return np.asarray(table.pivot(index="seed", columns="episode", values=metric), np.float64)


def mean_and_half_width(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half width of its Student-t interval over the first axis; a width of NaN for one row."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return values.mean(axis=0), np.full(values.shape[1:], np.nan)
    return values.mean(axis=0), _half_width(values.var(axis=0, ddof=1), len(values), confidence)


def _half_width(variance: Any, count: int, confidence: float) -> Any:
    return special.stdtrit(count - 1, (1 + confidence) / 2) * np.sqrt(variance / count)
