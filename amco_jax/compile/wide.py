"""Sums over any number of slots, in two words: integers that do not wrap, and floats that do not drift.

JAX computes in 32 bits. The sum over a slot fits into 32 bits, but the sum over an episode may not: an int32
wraps at 2³¹, and a float32 sum n times as large as a term keeps only 24 - log₂ n binary digits of that term.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wide:
    """A sum, or an array of sums. On the host, NumPy reads it as int64 or float64."""

    high: Array
    """The upper 32 bits of an integer sum, int32; or the rounded sum of floats"""
    low: Array
    """The lower 32 bits of an integer sum, uint32; or the (rounded) rounding error of the sum of floats"""

    @classmethod
    def zero(cls, like: Array) -> Wide:
        """The empty sum of numbers with the shape and dtype of `like`."""
        whole = jnp.issubdtype(like.dtype, jnp.integer)
        return cls(jnp.zeros_like(like), jnp.zeros_like(like, jnp.uint32 if whole else like.dtype))

    def add(self, term: Array) -> Wide:
        """The sum with one more term; a whole one must be int32.

        Source for floats: Dekker, "A floating-point technique for extending the available precision" (1971);
        the exact error of a sum is from Knuth, TAOCP vol. 2, section 4.2.2, theorem B.
        """
        if jnp.issubdtype(self.high.dtype, jnp.integer):
            low = self.low + term.astype(jnp.uint32)
            # A negative term is one less in the upper word, and its complement in the lower one.
            return Wide(self.high + (low < self.low) - (term < 0), low)
        total = self.high + term
        taken = total - self.high
        low = self.low + ((self.high - (total - taken)) + (term - taken))
        high = total + low
        return Wide(high, low - (high - total))

    def rounded(self, dtype: Any) -> Array:
        """The sum in one word of a floating-point dtype, for further computation on the device."""
        weight = 2.0**32 if jnp.issubdtype(self.high.dtype, jnp.integer) else 1
        return self.high.astype(dtype) * jnp.asarray(weight, dtype) + self.low.astype(dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it is always a new one
        high, low = np.asarray(self.high), np.asarray(self.low)
        if np.issubdtype(high.dtype, np.integer):
            total = (high.astype(np.int64) << 32) + low.astype(np.int64)
        else:
            total = high.astype(np.float64) + low.astype(np.float64)
        return np.asarray(total, dtype)


def on_host(tree: Any) -> Any:
    """The pytree as NumPy arrays, its `Wide` sums as single 64-bit numbers."""
    return jax.tree.map(np.asarray, tree, is_leaf=lambda node: isinstance(node, Wide))
