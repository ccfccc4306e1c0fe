"""Spaces of observations and actions in pure JAX: Gymnasium's own draw with NumPy, and not under `jit`."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array


@runtime_checkable
class Space(Protocol):
    """A set of arrays of one shape and dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> type: ...

    def sample(self, key: Array) -> Array:
        """A member, drawn with a key of `jax.random`."""
        ...

    def contains(self, x: Array) -> Array:
        """Whether an array is a member."""
        ...

    def part(self) -> Space:
        """The space of an entry along the first axis, such as an agent's part of a joint action."""
        ...


@dataclasses.dataclass(frozen=True)
class Box:
    """Numbers from `low` to `high`, which may be infinite."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype = jnp.float32

    def sample(self, key: Array) -> Array:
        """Uniform between the bounds; exponential above the lower one where the upper one is infinite."""
        if self.high == float("inf"):
            return self.low + jax.random.exponential(key, self.shape, self.dtype)
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

    def contains(self, x: Array) -> Array:
        """Whether the shape is right and all entries lie within the bounds."""
        return (jnp.shape(x) == self.shape) & jnp.all((x >= self.low) & (x <= self.high))

    def part(self) -> Box:
        """The space of an entry along the first axis."""
        return dataclasses.replace(self, shape=self.shape[1:])


@dataclasses.dataclass(frozen=True)
class MultiBinary:
    """Booleans."""

    shape: tuple[int, ...]
    dtype = jnp.bool_

    def sample(self, key: Array) -> Array:
        """Each entry is True with probability 1/2."""
        return jax.random.bernoulli(key, shape=self.shape)

    def contains(self, x: Array) -> Array:
        """Whether the shape is right and all entries are 0 or 1."""
        return (jnp.shape(x) == self.shape) & jnp.all((x == 0) | (x == 1))

    def part(self) -> MultiBinary:
        """The space of an entry along the first axis."""
        return dataclasses.replace(self, shape=self.shape[1:])


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Whole numbers from 0 to n - 1: one, or an array of them."""

    n: int
    shape: tuple[int, ...] = ()
    dtype = jnp.int32

    def sample(self, key: Array) -> Array:
        """Uniform."""
        return jax.random.randint(key, self.shape, 0, self.n, self.dtype)

    def contains(self, x: Array) -> Array:
        """Whether the shape is right and all entries are less than n."""
        return (jnp.shape(x) == self.shape) & jnp.all((x >= 0) & (x < self.n))

    def part(self) -> Discrete:
        """The space of an entry along the first axis."""
        return dataclasses.replace(self, shape=self.shape[1:])
