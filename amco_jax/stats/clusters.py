"""Totals over the rows of each cluster, and tidy rows as a matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd


def cluster_totals(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums of the rows of each cluster, `[rows, ...]` → `[clusters, ...]`, with clusters in ascending order.

    Args:
      clusters: `[rows]`, the number of each row's cluster.
    """
    if np.all(clusters[1:] > clusters[:-1]):
        return values
    order = np.argsort(clusters, kind="stable")
    ordered = clusters[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.add.reduceat(values[order], starts, axis=0)


def seed_matrix(table: pd.DataFrame, metric: str) -> np.ndarray:
    """`[seeds, episodes]`: one column of tidy rows that have columns seed and episode, both ascending."""
    return np.asarray(table.pivot(index="seed", columns="episode", values=metric), np.float64)
