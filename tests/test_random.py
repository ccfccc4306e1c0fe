"""The random numbers: uniform, independent along every axis that is used, the same however they are run.

Seeds are fixed, so a pass is forever. LEVEL is the probability with which one check would refuse an ideal
generator; all checks together would do so with a probability of about one percent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from amco_jax.random import FIRST_TUNING_SEED, Key, Stream, bits, fold_in, rehash, stream, uniform, unit

LEVEL = 1e-4
DRAWS = 2**20
INDEX = jnp.arange(DRAWS, dtype=jnp.uint32)


def draws_along(axis: str) -> np.ndarray:
    """Draws that differ in one coordinate alone, as the simulator derives them."""
    arrivals = stream(INDEX if axis == "seed" else jnp.uint32(7), Stream.ARRIVAL)
    episode = fold_in(arrivals, INDEX if axis == "episode" else 0)
    slot = fold_in(episode, INDEX if axis == "slot" else 3)
    station = fold_in(slot, INDEX if axis == "station" else 2)
    return np.asarray(bits(station, INDEX if axis == "counter" else 11))


every_axis = pytest.mark.parametrize("axis", ["counter", "station", "slot", "episode", "seed"])


def uniformity(cells: np.ndarray, number: int) -> float:
    """The p-value of the chi-square test that all cells are equally likely."""
    return stats.chisquare(np.bincount(cells, minlength=number)).pvalue


def independence(a: np.ndarray, b: np.ndarray, side: int = 64) -> float:
    """The p-value of the chi-square test that (a, b) is uniform over a grid of their top bits."""
    shift = 32 - int(side).bit_length() + 1
    return uniformity((a >> shift).astype(np.int64) * side + (b >> shift), side * side)


@every_axis
def test_top_and_low_bits_are_uniform(axis: str):
    x = draws_along(axis)
    assert uniformity(x >> 20, 2**12) > LEVEL
    assert uniformity(x & 0xFFF, 2**12) > LEVEL


@every_axis
def test_neighbours_are_independent(axis: str):
    x = draws_along(axis)
    for lag in (1, 2, 3, 64):
        assert independence(x[:-lag], x[lag:]) > LEVEL
    # The low bits too: reversed, they are the top bits.
    low = x << 26
    assert independence(low[:-1], low[1:]) > LEVEL


@every_axis
def test_no_serial_correlation(axis: str):
    u = draws_along(axis) / 2.0**32 - 0.5
    for lag in range(1, 9):
        # Under independence this is very nearly standard normal.
        z = np.sum(u[:-lag] * u[lag:]) * 12 / np.sqrt(DRAWS - lag)
        assert 2 * stats.norm.sf(abs(z)) > LEVEL


def test_streams_are_independent_of_each_other():
    draws = [np.asarray(bits(stream(INDEX, purpose), 0)) for purpose in Stream]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert independence(a, b) > LEVEL
    # Nor is one purpose of a seed another purpose of the next seed.
    for a in draws:
        for b in draws:
            assert independence(a[1:], b[:-1]) > LEVEL


@pytest.mark.parametrize("purpose", Stream)
def test_purposes_have_keys_of_their_own(purpose: Stream):
    own = stream(jnp.arange(1000, dtype=jnp.uint32), purpose)
    for other in set(Stream) - {purpose}:
        theirs = stream(jnp.arange(1000, dtype=jnp.uint32), other)
        assert not np.isin(np.asarray(own.word0), np.asarray(theirs.word0)).any()


@pytest.mark.parametrize("part", ["counter", "word0", "word1"])
def test_one_flipped_bit_changes_half_of_the_bits(part: str):
    random = np.random.default_rng(1)
    inputs = {p: random.integers(0, 2**32, 2**14, dtype=np.uint32) for p in ("counter", "word0", "word1")}

    def draw(values: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(
            bits(Key(jnp.asarray(values["word0"]), jnp.asarray(values["word1"])), values["counter"])
        )

    for position in range(32):
        flipped = draw(inputs | {part: inputs[part] ^ np.uint32(1 << position)})
        changed = (flipped ^ draw(inputs))[:, None] >> np.arange(32, dtype=np.uint32) & 1
        # The second key word enters after the first round, so single output bits see less of it.
        assert 0.4 < changed.mean() < 0.6
        if part != "word1":
            z = (changed.mean(axis=0) - 0.5) * 2 * np.sqrt(len(changed))
            assert 2 * stats.norm.sf(np.abs(z).max()) > LEVEL / 32


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_second_draw_is_independent_of_the_first(seed: int):
    first = np.asarray(bits(stream(jnp.uint32(seed), Stream.ARRIVAL), INDEX))
    second = np.asarray(rehash(jnp.asarray(first)))
    assert independence(first, second) > LEVEL
    assert uniformity(second & 0xFFF, 2**12) > LEVEL
    # A task's size is the second draw, given that the first was below the arrival probability.
    for probability in (0.01, 0.1, 0.3, 0.9):
        given_arrival = second[first < probability * 2**32]
        assert uniformity(given_arrival >> 26, 64) > LEVEL
        assert independence(given_arrival[:-1], given_arrival[1:], side=8) > LEVEL


def test_keys_of_different_coordinates_differ():
    seed, t, b = (jnp.asarray(a.reshape(-1), jnp.uint32) for a in np.indices((1000, 100, 10)))
    key = fold_in(fold_in(stream(seed, Stream.ARRIVAL), t), b)
    whole = np.asarray(key.word0).astype(np.uint64) << np.uint64(32) | np.asarray(key.word1)
    assert np.unique(whole).size == 1_000_000


def test_large_seeds_do_not_alias_small_ones():
    seeds = jnp.asarray([0, 1, 2**16, 2**24, 2**31, 2**32 - 1], jnp.uint32)
    key = stream(seeds, Stream.POLICY)
    for word in key:
        assert np.unique(np.asarray(word)).size == seeds.size


def test_draws_of_tuning_seeds_are_independent_of_those_of_other_seeds():
    """The seeds s and 2³¹ + s differ in one bit."""
    keys = (stream(INDEX + np.uint32(first), Stream.ARRIVAL) for first in (0, FIRST_TUNING_SEED))
    other, own = (np.asarray(bits(fold_in(key, 1), 11)) for key in keys)
    assert independence(other, own) > LEVEL


def test_units_are_the_same_in_both_precisions_and_below_one():
    with jax.enable_x64(True):
        x = jnp.asarray([0, 255, 256, 2**31, 2**32 - 1, *np.random.default_rng(0).integers(0, 2**32, 1000)])
        single, double = (np.asarray(unit(x.astype(jnp.uint32), d)) for d in (jnp.float32, jnp.float64))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(single.astype(np.float64), double)
    assert double.min() == 0
    assert double[:3].tolist() == [0, 0, 2**-24]
    assert double[4] == 1 - 2**-24  # the largest: below 1, so that an index drawn from it stays in range


def test_draws_do_not_depend_on_how_they_are_run():
    def draw(seed, t, n):
        return uniform(fold_in(stream(seed, Stream.POLICY), t), n, jnp.float32)

    seeds, slots, positions = (jnp.asarray(a.reshape(-1), jnp.uint32) for a in np.indices((3, 4, 5)))
    eager = np.array([draw(s, t, n) for s, t, n in zip(seeds, slots, positions, strict=True)])
    np.testing.assert_array_equal(jax.jit(draw)(seeds, slots, positions), eager)
    np.testing.assert_array_equal(jax.vmap(draw)(seeds, slots, positions), eager)
    with jax.enable_x64(True):  # integers are 64 bits wide here
        wide = slots.astype(jnp.int64), positions.astype(jnp.int64)
        np.testing.assert_array_equal(jax.jit(draw)(seeds, *wide), eager)
