"""Quantiles over the tasks of an episode, such as those of makespans: exact, or from a histogram.

On CPUs they are computed by NumPy, whose vectorised sort is twenty times faster than XLA's. An accelerator
sorts exact ones itself, because the transfer of all values would take many times as long as the episodes.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

_PER_MILLE = (
    *(0, 1, 2, 5, 10, 15, 20, 30, 40, 50, 75),
    *range(100, 900, 50),
    *(900, 925, 950, 960, 970, 980, 985, 990, 995, 998, 999, 1000),
)

LEVELS = np.asarray(_PER_MILLE) / 1000
"""`[K]`, the levels of the quantiles of each episode, from 0, the minimum, to 1, the maximum"""

EXACT_POSITIONS = 2**18
"""The largest number of task positions of an episode, over all slots and base stations, for which all values
are kept. It depends on the scenario alone, so that a seed's results do not depend on the number of seeds."""

_DIGITS = 12
"""Number of binary digits after the leading one that a histogram resolves"""

RELATIVE_ERROR = 2.0 ** -(_DIGITS + 1)
"""Largest relative error of a quantile from a histogram"""

_SPARSE = 0.1
"""The share of positions with a task in the first episode below which the others are left out before values
are sorted, which costs more than to sort them, too, unless nearly all are empty"""

_CACHED_BYTES = 2**20
"""Bytes of values that are sorted at a time, which fit into the second-level cache of a core"""

_SHIFT = 23 - _DIGITS
"""Number of low bits of a float32 that a histogram ignores"""


@runtime_checkable
class Values(Protocol):
    """One number per task for a batch of episodes, collected piece by piece."""

    def add(self, values: np.ndarray) -> None:
        """Add `[episodes, ...]`: float32, at least 0, and inf at empty positions."""
        ...

    def quantiles(self) -> np.ndarray:
        """`[episodes, K]`, float64: the quantiles at `LEVELS`, NaN for episodes without tasks."""
        ...


def is_exact(num_positions: int) -> bool:
    """Whether quantiles are exact for episodes with this number of task positions."""
    return num_positions <= EXACT_POSITIONS


def values_of(num_positions: int, of_users: bool = False) -> Values:
    """A collector for episodes with this number of task positions.

    Args:
      of_users: whether to collect pairs of a value and a user, for the quantiles over users.
    """
    if of_users:
        return OfUsers()
    return Kept() if is_exact(num_positions) else Counted()


class Kept:
    """A collector that keeps all values; its quantiles equal those of `numpy.quantile`."""

    def __init__(self):
        self._pieces: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        self._pieces.append(values)

    def quantiles(self) -> np.ndarray:
        num_episodes = len(self._pieces[0])
        row_bytes = sum(piece.nbytes for piece in self._pieces) // num_episodes
        most = max(_CACHED_BYTES // row_bytes, 1)
        return np.concatenate([self._some(slice(i, i + most)) for i in range(0, num_episodes, most)])

    def _some(self, episodes: slice) -> np.ndarray:
        """The quantiles of a few episodes, whose values are sorted in the processor's cache."""
        pieces = [np.array(p[episodes], order="C") for p in self._pieces]
        rows = [piece.reshape(len(piece), -1) for piece in pieces]
        values = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
        beyond = values.dtype.type(np.inf)  # of the same type, or each row would be converted
        if np.count_nonzero(values[0] < beyond) < _SPARSE * values.shape[1]:
            rows = [np.sort(row[row < beyond]) for row in values]
            count = np.array(list(map(len, rows)))
            return _interpolated(count, lambda rank: np.stack(list(map(_at, rows, rank))))
        values.sort(axis=1)
        count = np.array([np.searchsorted(row, beyond) for row in values])
        return _interpolated(count, lambda rank: np.take_along_axis(values, rank, axis=1))


def _at(ordered: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The values at ranks, or inf if there are none; ranks beyond the last one take the last."""
    return ordered[np.minimum(rank, len(ordered) - 1)] if len(ordered) else np.full(len(rank), np.inf)


class KeptOnDevice:
    """A collector like `Kept`, for values of blocks of episodes that stay on an accelerator."""

    def __init__(self):
        self._pieces: list[Any] = []

    def add(self, values: Any) -> None:
        """Add `[blocks, steps, episodes, positions]`, see `Values.add`."""
        self._pieces.append(values)

    def quantiles(self) -> np.ndarray:
        """`[blocks, episodes, K]`, see `Values.quantiles`."""
        ordered, count = _in_order(self._pieces)
        return _interpolated(
            np.asarray(count), lambda rank: np.asarray(_at_ranks(ordered, rank.astype(np.int32)))
        )


@jax.jit
def _in_order(pieces: list[Any]) -> tuple[jax.Array, jax.Array]:
    each = [jnp.moveaxis(piece, -3, -2) for piece in pieces]
    values = jnp.concatenate([x.reshape(*x.shape[:-2], -1) for x in each], axis=-1)
    return jnp.sort(values, axis=-1), jnp.sum(jnp.isfinite(values), axis=-1, dtype=jnp.int32)


@jax.jit
def _at_ranks(ordered: jax.Array, rank: jax.Array) -> jax.Array:
    return jnp.take_along_axis(ordered, rank, axis=-1)


class OfUsers:
    """A collector of the mean value of each user; its quantiles, over users, are exact."""

    def __init__(self):
        self._pieces: list[list[np.ndarray]] = []

    def add(self, values: np.ndarray) -> None:
        """Add `[episodes, ...]`, in which each value is followed by its user; inf where empty."""
        pairs = values.reshape(len(values), -1, 2)
        self._pieces.append([each[np.isfinite(each[:, 0])] for each in pairs])

    def quantiles(self) -> np.ndarray:
        return np.stack([_of_users(*np.concatenate(each).T) for each in zip(*self._pieces, strict=True)])


def _of_users(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.full(len(LEVELS), np.nan)
    _, user, count = np.unique(users, return_inverse=True, return_counts=True)
    return np.quantile(np.bincount(user, values) / count, LEVELS)


class Counted:
    """A collector that keeps a histogram with `_DIGITS` binary digits of resolution.

    The bit patterns of positive floats are ordered like their values, so the upper bits of a value are the
    index of its bin, and the relative width of a bin is at most 2^-`_DIGITS`. The middle of a bin represents
    all its values. The minimum and the maximum are exact, the latter for all tasks that attain it.

    Source: the logarithmic bins are those of DDSketch (Masson, Rim and Lee, 2019).
    """

    def __init__(self):
        self._episodes: list[_Histogram] = []

    def add(self, values: np.ndarray) -> None:
        if not self._episodes:
            self._episodes = [_Histogram() for _ in values]
        for histogram, row in zip(self._episodes, values, strict=True):
            histogram.add(row[np.isfinite(row)])

    def quantiles(self) -> np.ndarray:
        count = np.array([np.sum(each.counts) for each in self._episodes])
        return _interpolated(
            count, lambda rank: np.stack([e.at(r) for e, r in zip(self._episodes, rank, strict=True)])
        )


class _Histogram:
    """The counts of one episode, from the first to the last bin in use."""

    def __init__(self):
        self.first, self.counts = 0, np.zeros(0, np.int64)
        self.least, self.most, self.num_most = np.float32(np.inf), np.float32(0), 0

    def add(self, values: np.ndarray) -> None:
        if not len(values):
            return
        self.least = min(self.least, values.min())
        if values.max() > self.most:
            self.most, self.num_most = values.max(), 0
        self.num_most += np.count_nonzero(values == self.most)
        low, high = (int(bound.view(np.int32)) >> _SHIFT for bound in (self.least, self.most))
        if not len(self.counts):
            self.first = low
        after = high + 1 - self.first - len(self.counts)
        self.counts = np.pad(self.counts, (self.first - low, max(after, 0)))
        self.first = low
        self.counts += np.bincount((values.view(np.int32) >> _SHIFT) - low, minlength=len(self.counts))

    def at(self, rank: np.ndarray) -> np.ndarray:
        """The values at ranks, which are counted from 0."""
        if not len(self.counts):
            return np.full(len(rank), np.inf)
        place = self.first + np.searchsorted(np.cumsum(self.counts), rank, side="right")
        middle = ((place << _SHIFT) + (1 << (_SHIFT - 1))).astype(np.int32).view(np.float32)
        middle = np.where(rank == 0, self.least, np.clip(middle, self.least, self.most))
        # The largest makespan is usually the deadline, and all missed tasks attain it.
        return np.where(rank >= np.sum(self.counts) - self.num_most, self.most, middle)


def _interpolated(count: np.ndarray, at) -> np.ndarray:
    """`[..., K]`: linear interpolation between neighbouring ranks, as in `numpy.quantile`.

    Args:
      count: `[...]`, the number of values of each episode.
      at: maps ranks `[..., K]`, from 0, to values; the result is arbitrary beyond the last rank.
    """
    last = np.maximum(count - 1, 0)[..., None]
    rank = LEVELS * last
    below = np.floor(rank).astype(np.int64)
    low, high = (at(ranks).astype(np.float64) for ranks in (below, np.minimum(below + 1, last)))
    with np.errstate(invalid="ignore"):  # inf - inf where nothing arrived
        return np.where(count[..., None] > 0, low + (rank - below) * (high - low), np.nan)
