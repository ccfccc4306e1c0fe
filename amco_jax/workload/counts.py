"""Poisson counts of tasks, each drawn from 32 random bits by inversion with tables from the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int, UInt32

from amco_jax.env import Task
from amco_jax.params import Params
from amco_jax.random import Key, Stream, bits, fold_in, stream
from amco_jax.workload.tasks import DrawnTasks

DRAWS = 2.0**32
"""Number of possible values of a draw"""


def positions_for(rate: float) -> int:
    """The least M ≥ 1 with P(K > M) < 2⁻³² for K ~ Poisson(rate): no draw gives a larger count."""
    low, high = 1, 2
    while scipy.special.pdtrc(high, rate) * DRAWS >= 1:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if scipy.special.pdtrc(middle, rate) * DRAWS >= 1 else (low, middle)
    return low


def thresholds(rate: float, num_positions: int) -> np.ndarray:
    """`[num_positions]`, uint32: K > n if and only if a 32-bit draw is larger than entry n.

    This inverts the distribution function: P(K > n) is that of Poisson(rate), rounded down to a multiple of
    2⁻³², and a larger rate never makes a count smaller.
    """
    above = np.floor(scipy.special.pdtrc(np.arange(num_positions), rate) * DRAWS)
    return np.maximum(DRAWS - 1 - above, 0).astype(np.uint32)


def expected_beyond(passed: Array, mean: Float[Array, " rates"], known: bool) -> Float[Array, " rates"]:
    """About E[K - n | K ≥ n] for K ~ Poisson(λ), or E[max(K - n, 0)] if it is not known that K ≥ n.

    Both are the positive root m of m² - x·m = c/4, where x is what remains of λ, and c, from the spread of K,
    decides where x is about 0 or negative. They are exact at n = 0. The first is within 5 % above and 45 %
    below up to n = 1.8·λ, and lowest at the end: to expect too few there only means to charge too little.

    Args:
      passed: n, one number or one for each rate.
      mean: `[rates]`, λ.
      known: which of the two.
    """
    some = passed + mean
    some = jnp.where(some > 0, some, 1)
    if known:
        x, c = mean - passed - passed / some, 4 * mean * passed / (passed + 0.57 * some)
    else:
        x, c = mean - passed, 0.6 * mean * passed / (passed + 0.2 * some)
    return (x + jnp.sqrt(x * x + c)) / 2


class CountTables(NamedTuple):
    """The distributions of the counts of one scenario."""

    num_positions: Int[Array, ""]
    """The largest possible count"""
    threshold: UInt32[Array, "rates max_tasks"]
    """See `thresholds`; one row for each rate of the process"""


def count_tables(rates: Sequence[float] | np.ndarray, max_tasks: int) -> CountTables:
    """The tables of Poisson counts, as NumPy arrays.

    Args:
      rates: the mean number of tasks per base station and slot, for each state of the process.
      max_tasks: the number of positions, including padding.
    """
    threshold = np.stack([thresholds(rate, max_tasks) for rate in rates])
    return CountTables(np.int32(positions_for(max(rates))), threshold)  # pyright: ignore[reportArgumentType]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counted:
    """A count for each slot and base station; its tasks take the first positions.

    In every slot, the rate is the first one of the tables; subclasses may choose another by slot and base
    station.
    """

    arrivals: Key
    counts: Key
    tasks: DrawnTasks
    tables: CountTables

    @classmethod
    def drawn(
        cls, tables: CountTables, seed: UInt32[Array, ""], episode: int | Array, **fields: Any
    ) -> Counted:
        """The workload of a seed: kinds of tasks are drawn once, arrivals anew in each episode.

        Args:
          fields: further fields of a subclass.
        """
        return cls(
            arrivals=fold_in(stream(seed, Stream.ARRIVAL), episode),
            counts=fold_in(stream(seed, Stream.COUNT), episode),
            tasks=DrawnTasks(stream(seed, Stream.DENSITY)),
            tables=tables,
            **fields,
        )

    def threshold(self, t: Array, b: Array) -> UInt32[Array, " max_tasks"]:
        """The row of the tables that applies in slot `t` at base station `b`."""
        del t, b
        return self.tables.threshold[0]

    def thresholds(self, t: Array, b: Array) -> tuple[Any, Callable[[Any], Array]]:
        """Entries with a leading axis over positions, and the function from an entry to its threshold."""
        return self.threshold(t, b), lambda entry: entry

    def num_positions(self, params: Params) -> Array:
        """The largest possible count, see `positions_for`."""
        del params
        return self.tables.num_positions

    def expected_after(self, params: Params, passed: Array, mean: Array, known: bool) -> Array:
        """The expected rest of a Poisson count, since the tasks take the first positions."""
        del params
        return expected_beyond(passed, mean, known)

    def row(self, params: Params, t: Array, b: Array) -> tuple[tuple[Array, Any], Callable[..., Task]]:
        """The tasks of base station `b` in slot `t`."""
        key = fold_in(fold_in(self.arrivals, t), b)
        draw = bits(fold_in(self.counts, t), b)
        entries, threshold_of = self.thresholds(t, b)

        def task_at(position: tuple[Array, Any]) -> Task:
            n, entry = position
            size, density = self.tasks.draw(params, bits(key, n))
            return Task(present=draw > threshold_of(entry), size=size, work=size * density)

        return (jnp.arange(self.tables.threshold.shape[-1]), entries), task_at
