"""Jain's fairness index."""

from __future__ import annotations

import numpy as np


def jain_index(shares: np.ndarray) -> np.ndarray:
    """Jain's fairness index of the shares on the last axis, `[..., servers]` → `[...]`, from 1/servers to 1.

    (Σx)² / (n·Σx²) over the n shares that are not NaN; NaN if all are 0.

    Source: Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination" (1984).
    """
    shares = np.asarray(shares, np.float64)
    count = np.count_nonzero(~np.isnan(shares), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(shares, axis=-1) ** 2 / (count * np.nansum(shares**2, axis=-1))
