"""Random numbers by coordinate: a draw is a pure function of (seed, purpose, coordinates).

Nothing depends on call order, on the number of seeds or on the method, so that two methods, two physics
variants or two chunk sizes see exactly the same arrivals (common random numbers). The generator is a keyed
32-bit permutation of a counter: multiply-xorshift rounds with two key words. On CPUs a draw costs about
2 ns, against 20 ns with threefry, and the generator runs inside GPU kernels, where `jax.random` has no
lowering. The statistical tests are in `tests/test_random.py`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from amco_jax.errors import check_whole


class Stream(enum.IntEnum):
    """The purposes of random draws. Each has its own stream, so an extra draw in one never shifts another."""

    DENSITY = 1
    ARRIVAL = 2
    POLICY = 3
    INIT = 4
    EXPLORATION = 5
    LEARNING = 6
    COUNT = 7
    BURST = 8
    TRACE = 9
    TIME = 10
    TRIALS = 11


class Key(NamedTuple):
    """Two `uint32` key words of the same batch shape."""

    word0: UInt32[Array, "*batch"]
    word1: UInt32[Array, "*batch"]


MAX_SEED = 2**32 - 1

MAX_COORDINATE = 2**31 - 1
"""The largest coordinate of `fold_in`, which takes two counters for each; larger ones would repeat keys."""

FIRST_TUNING_SEED = 2**31
"""The smallest seed that settings are searched on. All other studies are restricted to smaller ones, so that
the episodes that they report are never those on which a setting was chosen."""


def check_seed(field: str, seed: object) -> int:
    """The seed as an int; InputError unless it is a whole number from 0 to `MAX_SEED`."""
    return check_whole(field, seed, 0, MAX_SEED)


def check_seeds(first_seed: object, num_seeds: object) -> None:
    """Raise InputError unless first_seed, ..., first_seed + num_seeds - 1 are all legal seeds of a study."""
    first = check_whole("first_seed", first_seed, 0, FIRST_TUNING_SEED - 1)
    check_whole("seeds", num_seeds, 1, FIRST_TUNING_SEED - first)


def stream(seed: UInt32[Array, "*batch"], purpose: Stream) -> Key:
    """The key of one purpose of one seed."""
    # The seed enters both words: with only one, (seed, purpose) pairs of equal sum would coincide.
    return fold_in(Key(_u32(seed), rehash(_u32(seed) + jnp.uint32(0x2545F491))), purpose)


def fold_in(key: Key, coordinate: jax.typing.ArrayLike) -> Key:
    """The key of one coordinate (a slot, a base station, ...) under `key`, from 0 to `MAX_COORDINATE`."""
    counter = _u32(coordinate) * jnp.uint32(2)
    return Key(bits(key, counter), bits(key, counter + jnp.uint32(1)))


def bits(key: Key, counter: jax.typing.ArrayLike) -> UInt32[Array, "..."]:
    """32 random bits: a permutation of the counter, selected by both key words.

    The multipliers and shifts come from the two- and three-round hashes of C. Wellons' "hash prospector"
    (the lowest bias found for these round structures); the key words are mixed in between the rounds.
    """
    x = _u32(counter) * jnp.uint32(0x9E3779B9) + key.word0
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) + key.word1
    x = (x ^ (x >> 17)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


def rehash(x: UInt32[Array, "*batch"]) -> UInt32[Array, "*batch"]:
    """A second draw derived from the first at half the cost: one more round of the permutation."""
    x = (x ^ (x >> 14)) * jnp.uint32(0x2C1B3C6D)
    return x ^ (x >> 12)


def unit(x: UInt32[Array, "*batch"], dtype: jax.typing.DTypeLike) -> Float[Array, "*batch"]:
    """The top 24 bits as a number in [0, 1): the same number in float32 and in float64."""
    return (x >> 8).astype(jnp.int32).astype(dtype) * jnp.asarray(2.0**-24, dtype)


def uniform(key: Key, counter: jax.typing.ArrayLike, dtype: jax.typing.DTypeLike) -> Float[Array, "..."]:
    """A draw from Uniform[0, 1)."""
    return unit(bits(key, counter), dtype)


def _u32(x: jax.typing.ArrayLike) -> UInt32[Array, "..."]:
    return jnp.asarray(x).astype(jnp.uint32)
