"""The allocators: feasibility and invariance, and optimality against independent solvers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from amco_jax.alloc import (
    ALLOCATORS,
    Allocator,
    check_allocator,
    cwa,
    priced,
    priced_support,
    waterfill,
    waterfill_support,
)
from amco_jax.alloc.waterfill import water_level
from amco_jax.errors import InputError

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]

every_allocator = pytest.mark.parametrize("allocate", ALLOCATORS.values(), ids=ALLOCATORS)
invariant_allocator = pytest.mark.parametrize("allocate", [cwa, waterfill])

WAITS = st.floats(0, 100) | st.sampled_from([0.0, 0.5])  # the second half makes ties
COSTS = st.floats(1e-3, 10)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    size = draw(st.sampled_from([1, 2, 5, 8]))
    return (
        draw(arrays(np.float64, size, elements=WAITS)),
        draw(arrays(np.float64, size, elements=COSTS)),
        draw(arrays(np.bool_, size)),
    )


@pytest.mark.parametrize(
    "allocate",
    [
        lambda wait, cost, selected: 0.5 * waterfill(wait, cost, selected),
        lambda wait, cost, selected: jnp.ones_like(wait) / wait.size,
        lambda wait, cost, selected: jnp.where(jnp.any(selected), cwa(wait, cost, selected), jnp.nan),
        lambda wait, cost, selected: 2 * waterfill(wait, cost, selected) - selected / 3,
    ],
    ids=["half", "beyond the set", "nan", "negative"],
)
def test_an_allocator_of_the_user_that_does_not_split_the_task_is_refused(allocate: Allocator):
    with pytest.raises(InputError, match=r"allocator: .*; legal: fractions of at least 0 that sum to 1"):
        check_allocator(allocate, 3)
    with jax.numpy_dtype_promotion("strict"):  # which studies set to their own
        check_allocator(lambda *task: cwa(*task) * task[2], 3)


@functools.cache
def compiled(allocate: Callable) -> Callable:
    return jax.jit(allocate)


def fractions(allocate: Allocator, problem: Problem, dtype: type = np.float64) -> np.ndarray:
    wait, cost, selected = problem
    with jax.enable_x64(True):
        return np.asarray(compiled(allocate)(wait.astype(dtype), cost.astype(dtype), selected))


def finish(problem: Problem, fraction: np.ndarray, counts: np.ndarray) -> float:
    wait, cost, _ = problem
    return np.max(fraction * cost + wait, where=counts, initial=0)


def random_problem(seed: int, size: int) -> Problem:
    """Waits spread over a few costs, so that some servers stay dry; everyone is selected."""
    random = np.random.default_rng(seed)
    return random.uniform(0, 0.5, size), random.uniform(0.02, 0.5, size), np.ones(size, bool)


@every_allocator
@given(problem=problems())
def test_fractions_are_a_split_over_the_set(allocate: Allocator, problem: Problem):
    selected = problem[2]
    fraction = fractions(allocate, problem)
    assert (fraction >= 0).all()
    assert (fraction[~selected] == 0).all()
    assert fraction.sum() == pytest.approx(1 if selected.any() else 0, abs=1e-12)


@every_allocator
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_servers_have_no_order(allocate: Allocator, problem: Problem, seed: int):
    order = np.random.default_rng(seed).permutation(problem[0].size)
    wait, cost, selected = (a[order] for a in problem)
    permuted = fractions(allocate, (wait, cost, selected))
    np.testing.assert_allclose(permuted, fractions(allocate, problem)[order], atol=1e-9)


@invariant_allocator
@given(problem=problems(), shift=st.floats(0, 1000))
def test_only_differences_of_waits_matter(allocate: Allocator, problem: Problem, shift: float):
    wait, cost, selected = problem
    shifted = fractions(allocate, (wait + shift, cost, selected))
    np.testing.assert_allclose(shifted, fractions(allocate, problem), atol=1e-8)


@invariant_allocator
@given(
    ticks=arrays(np.int32, 5, elements=st.integers(0, 4096)),
    cost=arrays(np.float32, 5, elements=st.floats(1 / 64, 1, width=32)),
    selected=arrays(np.bool_, 5),
)
def test_float32_keeps_its_digits_under_a_backlog_of_minutes(
    allocate: Allocator, ticks: np.ndarray, cost: np.ndarray, selected: np.ndarray
):
    # Waits in steps of 2^-12 s stay exact at 100 s, so a plain formula's loss of digits is all that shows.
    wait = ticks / 4096
    near = fractions(allocate, (wait, cost, selected), np.float32)
    # Servers outside the set may be idle, which must not matter.
    far = fractions(allocate, (np.where(selected, wait + 100, 0), cost, selected), np.float32)
    np.testing.assert_allclose(far, near, atol=1e-6)


@every_allocator
def test_float32_agrees_with_float64_under_heavy_backlog(allocate: Allocator):
    for seed in range(50):
        wait, cost, selected = random_problem(seed, size=5)
        problem = wait + 100, cost, selected
        exact = fractions(allocate, problem)
        np.testing.assert_allclose(fractions(allocate, problem, np.float32), exact, atol=1e-3)


@given(problem=problems())
def test_water_filling_is_never_worse_than_cwa(problem: Problem):
    selected = problem[2]
    ours, theirs = fractions(waterfill, problem), fractions(cwa, problem)
    assert finish(problem, ours, ours > 0) <= finish(problem, theirs, theirs > 0) + 1e-9
    assert finish(problem, ours, selected) <= finish(problem, theirs, selected) + 1e-9


@pytest.mark.parametrize("size", range(1, 9))
def test_water_filling_is_the_best_of_all_subsets(size: int):
    subsets = np.array([s for s in itertools.product([False, True], repeat=size) if any(s)])
    cwa_on_all = jax.jit(jax.vmap(cwa, (None, None, 0)))
    for seed in range(10):
        problem = random_problem(seed, size)
        wait, cost, _ = problem
        with jax.enable_x64(True):
            splits = np.asarray(cwa_on_all(wait, cost, subsets))
            support = np.asarray(compiled(waterfill_support)(wait, cost))
        makespans = np.max(np.where(subsets, splits * cost + wait, 0), axis=1)
        fraction = fractions(waterfill, problem)
        assert finish(problem, fraction, fraction > 0) == pytest.approx(makespans.min(), rel=1e-12)
        np.testing.assert_array_equal(support, subsets[makespans.argmin()])
        np.testing.assert_array_equal(support, fraction > 0)


@pytest.mark.parametrize("size", [12, 20, 40])
def test_water_filling_solves_its_linear_program(size: int):
    # With level T, server i can do at most max(T - wait_i, 0) / cost_i, so the least feasible T has these
    # sum to 1. The sum grows with T, so that is also the largest T at which it is at most 1, and "at most"
    # makes it a linear program: maximise T over (u, T) with u_i >= 0, u_i cost_i >= T - wait_i, sum u <= 1.
    for seed in range(10):
        wait, cost, everyone = random_problem(seed, size)
        bounds_u = np.hstack([-np.diag(cost), np.ones((size, 1))])
        total = np.append(np.ones(size), 0)
        solution = linprog(
            np.append(np.zeros(size), -1),
            A_ub=np.vstack([bounds_u, total]),
            b_ub=np.append(wait, 1),
            bounds=[(0, None)] * size + [(None, None)],
        )
        fraction = fractions(waterfill, (wait, cost, everyone))
        level = finish((wait, cost, everyone), fraction, fraction > 0)
        assert level == pytest.approx(-solution.fun, rel=1e-9)
        np.testing.assert_allclose(fraction, solution.x[:-1], atol=1e-8)
        assert 0 < (fraction == 0).sum() < size  # the cases are not trivial


def test_cwa_is_the_published_dense_solve():
    clipped = []
    for seed in range(40):
        wait, cost, everyone = random_problem(seed, size=4)
        wait *= 0.1 if seed % 2 else 1
        # Unknowns x_1..x_n, T: equal finish times x_i cost_i - T = -wait_i, and sum x = 1.
        system = np.block([[np.diag(cost), -np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
        solved = np.linalg.solve(system, np.append(-wait, 1))[:-1]
        clipped.append((solved < 0).any())
        expected = np.maximum(solved, 0) / np.maximum(solved, 0).sum()
        np.testing.assert_allclose(fractions(cwa, (wait, cost, everyone)), expected, atol=1e-12)
    assert 5 < sum(clipped) < 35  # both kinds occur


@st.composite
def priced_problems(draw: st.DrawFn) -> Problem:
    size = draw(st.sampled_from([1, 2, 3, 6, 9]))
    prices = st.floats(0, 5) | st.sampled_from([0.0, 1.0])
    return tuple(
        draw(arrays(np.float64, size, elements=values))
        for values in (st.floats(0, 5) | st.sampled_from([0.0, 0.5]), st.floats(1e-2, 5), prices)
    )  # pyright: ignore[reportReturnType]


def cheapest(wait: np.ndarray, cost: np.ndarray, price: np.ndarray) -> float:
    """The least makespan plus prices over all sets, a linear program each, in which each member may idle."""
    best, size = np.inf, wait.size
    for k in range(1, size + 1):
        for members in map(list, itertools.combinations(range(size), k)):
            finishing = np.hstack([np.diag(cost[members]), -np.ones((k, 1))])
            found = linprog(
                [*price[members], 1.0], A_ub=finishing, b_ub=-wait[members], A_eq=[[1.0] * k + [0.0]],
                b_eq=[1.0], bounds=[(0, None)] * k + [(None, None)],
            )  # fmt: skip
            best = min(best, found.fun)
    return best


@settings(max_examples=40)
@given(priced_problems())
def test_the_priced_set_is_the_cheapest_of_all(problem: Problem):
    wait, cost, price = problem
    with jax.enable_x64(True):
        selected, total = map(np.asarray, compiled(priced_support)(wait, cost, price))
    np.testing.assert_allclose(total, cheapest(wait, cost, price), rtol=1e-9, atol=1e-9)
    x = fractions(waterfill, (wait, cost, selected))
    assert np.all((x > 0) == selected)
    np.testing.assert_allclose(finish((wait, cost, selected), x, selected) + x @ price, total, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 17, 40, 200])
@pytest.mark.parametrize("scale", [0, 0.1, 3])
def test_large_fleets_get_the_set_that_small_ones_get(size: int, scale: float):
    """Steps from prefix to prefix find what sums over each find, whatever waits and prices are."""
    random = np.random.default_rng(3)
    for highest in (np.inf, 1.2, 1e-3):
        lead, cost = scale * random.exponential(size=size), random.uniform(0.1, 3, size)
        lead -= lead.min()
        price = random.exponential(size=size) * (random.random(size) < 0.8)
        with jax.enable_x64(True):
            operands = lead, 1 / cost, price, highest * np.asarray(compiled(water_level)(lead, 1 / cost))
            ways = priced._cheapest_of_many, priced._cheapest_of_few
            found, expected = ([np.asarray(x) for x in compiled(way)(*operands)] for way in ways)
            gradients = [
                jax.jit(jax.grad(lambda *x, way=way: way(*x)[2], (0, 1, 2)))(*operands) for way in ways
            ]
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-12)
        assert np.isinf(expected[2]) == (highest < 1)
        if highest > 1:
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
            np.testing.assert_array_equal(price <= found[0], price <= expected[0])
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), *gradients)


def test_a_limit_leaves_the_cheapest_set_within_it():
    wait, cost, price = np.zeros(3), np.ones(3), np.array([0, 2.0, 9.0])
    choose = compiled(priced_support)
    for limit, expected, total in ((1.0, [1, 0, 0], 1.0), (0.6, [1, 1, 0], 0.5 + 1), (0.4, [1, 1, 1], 4.0)):
        selected, found = choose(wait, cost, price, limit=limit)
        assert selected.tolist() == [bool(x) for x in expected]
        np.testing.assert_allclose(found, total, rtol=1e-6)
    selected, found = choose(wait, cost, price, limit=0.3)
    assert not selected.any()
    assert np.isinf(found)


def test_without_prices_the_set_is_that_of_waterfilling():
    for size in (1, 2, 5, 40):
        wait, cost, _ = random_problem(size, size)
        with jax.enable_x64(True):
            selected, _ = compiled(priced_support)(wait, cost, np.zeros(size))
            np.testing.assert_array_equal(selected, compiled(waterfill_support)(wait, cost))
