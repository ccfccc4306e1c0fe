"""Observation and action spaces in pure JAX; Gymnasium's sample with NumPy and do not work under `jit`."""

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
        """Draw a member with a `jax.random` key."""
        ...

    def contains(self, x: Array) -> Array:
        """Whether an array is a member."""
        ...

    def part(self) -> Space:
        """The space of one entry along the first axis, such as an agent's part of a joint action."""
        ...


@dataclasses.dataclass(frozen=True)
class Box:
    """Numbers from `low` to `high`, which may be infinite."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype = jnp.float32

    def sample(self, key: Array) -> Array:
        """Draw uniformly between the bounds, or exponentially above `low` if `high` is infinite."""
        if self.high == float("inf"):
            return self.low + jax.random.exponential(key, self.shape, self.dtype)
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

    def contains(self, x: Array) -> Array:
        """Whether the shape is right and all entries are within the bounds."""
        return (jnp.shape(x) == self.shape) & jnp.all((x >= self.low) & (x <= self.high))

    def part(self) -> Box:
        """The space of an entry along the first axis."""
        return dataclasses.replace(self, shape=self.shape[1:])


@dataclasses.dataclass(frozen=True)
class MultiBinary:
    """Arrays of booleans."""

    shape: tuple[int, ...]
    dtype = jnp.bool_

    def sample(self, key: Array) -> Array:
        """Draw each entry as True with probability 1/2."""
        return jax.random.bernoulli(key, shape=self.shape)

    def contains(self, x: Array) -> Array:
        """Whether the shape is right and all entries are 0 or 1."""
        return (jnp.shape(x) == self.shape) & jnp.all((x == 0) | (x == 1))

    def part(self) -> MultiBinary:
        """The space of an entry along the first axis."""
        return dataclasses.replace(self, shape=self.shape[1:])


@dataclasses.dataclass(frozen=True)
class Discrete:
    """A whole number from 0 to n - 1, or an array of them."""

    n: int
    shape: tuple[int, ...] = ()
    dtype = jnp.int32

    def sample(self, key: Array) -> Array:
        """Draw uniformly."""
        return jax.random.randint(key, self.shape, 0, self.n, self.dtype)

    def contains(self, x: Array) -> Array:
        """Whether the shape is right and all entries are from 0 to n - 1."""
        return (jnp.shape(x) == self.shape) & jnp.all((x >= 0) & (x < self.n))

    def part(self) -> Discrete:
        """The space of an entry along the first axis."""
        return dataclasses.replace(self, shape=self.shape[1:])
