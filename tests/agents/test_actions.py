"""Action spaces: which sets there are, which is best, and how they are drawn."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from amco_jax.agents.actions import (
    MAX_ENUMERATED_SERVERS,
    MAX_SETS,
    ActionSpace,
    Enumerated,
    Factorised,
    argmax_first,
    nonempty_sets,
    partners,
    sets_of,
)
from amco_jax.agents.methods import get_method

LARGEST_DRAW = 1 - 2**-24
ENUMERATED = [
    *(nonempty_sets(b) for b in (1, 5, MAX_ENUMERATED_SERVERS)),
    *(sets_of(3)(b) for b in (2, 3, 5)),
    *(partners(b) for b in (2, 5)),
]
every_list = pytest.mark.parametrize("space", ENUMERATED, ids=lambda s: f"{len(s.members)}-{s.num_servers}")


def tied_outputs(num_outputs: int, num_tasks: int, seed: int = 0) -> np.ndarray:
    """Small whole numbers, so that many are equal and sums are exact."""
    return np.random.default_rng(seed).integers(-2, 3, (num_outputs, num_tasks)).astype(np.float32)


def nobody(num_servers: int) -> jax.Array:
    return jnp.zeros(num_servers, bool)


@pytest.mark.parametrize("num_servers", [1, 2, 3, 4, 5, 8, MAX_ENUMERATED_SERVERS])
def test_nonempty_sets_are_all_of_them_by_size_then_lexicographically(num_servers: int):
    members = nonempty_sets(num_servers).members
    assert len(set(members)) == len(members) == 2**num_servers - 1
    assert list(members) == sorted(members, key=lambda s: (len(s), s))
    assert all(list(s) == sorted(set(s)) and s[-1] < num_servers for s in members)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((), "actions: none with num_servers = 3; legal: at least one set"),
        (((0,), (1, -1)), "actions: (1, -1); legal: sets of the servers 0 to 2"),
        (((0, 3),), "actions: (0, 3); legal: sets of the servers 0 to 2"),
        (((1, 1),), "actions: (1, 1); legal: sets of the servers 0 to 2"),
    ],
)
def test_lists_of_other_than_sets_of_servers_are_refused(members: tuple[tuple[int, ...], ...], words: str):
    refused(lambda: Enumerated(members, 3), words)


def test_tables_list_the_servers_of_each_set():
    table = nonempty_sets(3).table()
    assert [tuple(np.flatnonzero(row)) for row in table] == [
        (0,),
        (1,),
        (2,),
        (0, 1),
        (0, 2),
        (1, 2),
        (0, 1, 2),
    ]
    np.testing.assert_array_equal(partners(4).table(), np.eye(4, dtype=bool))


def test_sets_of_three_are_all_servers_where_there_are_fewer():
    assert sets_of(3)(1).members == ((0,),)
    assert sets_of(3)(2).members == ((0, 1),)
    assert sets_of(3)(3).members == ((0, 1, 2),)
    assert list(sets_of(3)(6).members) == list(itertools.combinations(range(6), 3))


def test_too_many_sets_are_refused_with_a_way_out():
    refused(
        lambda: nonempty_sets(MAX_ENUMERATED_SERVERS + 1),
        "num_servers: 13",
        "at most 12",
        "amcoedge-factorised",
    )
    assert sets_of(2)(362).num_outputs <= MAX_SETS < math.comb(363, 2)
    for size, num_servers in ((2, 363), (3, 200), (20, 40), (30, 100_000)):
        number = f"num_servers: {num_servers}, which makes {math.comb(num_servers, size):,} sets of {size};"
        refused(lambda: sets_of(size)(num_servers), number, "at most 65,536 sets", "amcoedge-factorised")  # noqa: B023
    refused(lambda: get_method("smcoedge").check(200), "num_servers: 200, which makes 1,313,400 sets of 3")


@every_list
def test_the_first_of_equal_sets_is_greedy(space: Enumerated):
    outputs = tied_outputs(space.num_outputs, 200)
    action = jax.jit(space.greedy)(outputs)
    np.testing.assert_array_equal(action, outputs.argmax(axis=0))


@every_list
def test_value_is_that_of_the_action(space: Enumerated):
    random = np.random.default_rng(1)
    outputs = random.normal(size=(space.num_outputs, 50)).astype(np.float32)
    action = random.integers(space.num_outputs, size=50).astype(np.int32)
    value = jax.jit(space.value)(outputs, action)
    np.testing.assert_array_equal(value, outputs[action, np.arange(50)])


@every_list
def test_every_set_is_drawn_equally_often(space: Enumerated):
    each = 7
    grid = (np.arange(each * space.num_outputs) + 0.5) / (each * space.num_outputs)
    draw = jax.jit(space.draw)
    drawn = np.asarray(draw(jnp.asarray(grid[None], jnp.float32)))
    np.testing.assert_array_equal(np.bincount(drawn, minlength=space.num_outputs), each)
    ends = np.asarray(draw(jnp.asarray([[0, LARGEST_DRAW]], jnp.float32)))
    np.testing.assert_array_equal(ends, [0, space.num_outputs - 1])


@pytest.mark.parametrize("num_servers", [1, 2, 5])
def test_the_local_server_joins_its_partners_and_no_other_sets(num_servers: int):
    action = jnp.arange(num_servers)
    for b in range(num_servers):
        local = np.arange(num_servers) == b
        sets = np.asarray(partners(num_servers).sets(action, jnp.asarray(local)))
        np.testing.assert_array_equal(sets, np.eye(num_servers, dtype=bool) | local)
        alone = nonempty_sets(num_servers)
        np.testing.assert_array_equal(alone.sets(action, jnp.asarray(local)), alone.table()[:num_servers])


@pytest.mark.parametrize("rows", [1, 2, 31, 64, 65, 300])
@pytest.mark.parametrize("columns", [1, 40])
def test_argmax_takes_the_first_of_equals(rows: int, columns: int):
    values = tied_outputs(rows, columns, seed=rows)
    values[:, 0] = -np.inf
    found = jax.jit(argmax_first)(values)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, values.argmax(axis=0))


def values_of_all_sets(outputs: np.ndarray) -> np.ndarray:
    """`[sets, tasks]` in the order of `nonempty_sets`: Σ_{i∈S} u_i + v_{|S|}, in float64."""
    num_servers = len(outputs) // 2
    server, size = np.split(outputs.astype(np.float64), [num_servers])
    rows = [server[list(s)].sum(axis=0) + size[len(s) - 1] for s in nonempty_sets(num_servers).members]
    return np.stack(rows)


@functools.cache
def compiled_greedy(num_servers: int) -> Callable[[np.ndarray], tuple[jax.Array, jax.Array]]:
    """The greedy sets and their values."""
    space = Factorised(num_servers)

    def best(outputs):
        action = space.greedy(outputs)
        return action, space.value(outputs, action)

    return jax.jit(best)


def outputs_of(num_servers: int, elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, (2 * num_servers, 4), elements=elements)


fleets = pytest.mark.parametrize("num_servers", [1, 2, 3, 4, 5])


@fleets
@given(st.data())
def test_factorised_greedy_is_the_first_best_set_of_all(num_servers: int, data: st.DataObject):
    """Exact sums, so that ties are real: the smaller set, then the first servers."""
    outputs = data.draw(outputs_of(num_servers, st.integers(-2, 2).map(float)))
    values = values_of_all_sets(outputs)
    action, value = compiled_greedy(num_servers)(outputs)
    np.testing.assert_array_equal(action, nonempty_sets(num_servers).table()[values.argmax(axis=0)])
    np.testing.assert_array_equal(value, values.max(axis=0))


@fleets
@given(st.data())
def test_no_set_is_worth_more_than_the_factorised_greedy(num_servers: int, data: st.DataObject):
    outputs = data.draw(outputs_of(num_servers, st.floats(-1e3, 1e3, width=32)))
    _, value = compiled_greedy(num_servers)(outputs)
    np.testing.assert_allclose(value, values_of_all_sets(outputs).max(axis=0), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("num_servers", [1, 2, 5, 20])
def test_factorised_value_is_the_sum_over_servers_and_the_size(num_servers: int):
    random = np.random.default_rng(num_servers)
    space, tasks = Factorised(num_servers), 100
    outputs = random.normal(size=(2 * num_servers, tasks))
    action = random.random((tasks, num_servers)) < 0.5
    action[:, 0] |= ~action.any(axis=1)
    wanted = [
        outputs[:num_servers][s, i].sum() + outputs[num_servers + s.sum() - 1, i]
        for i, s in enumerate(action)
    ]
    found = jax.jit(space.value)(jnp.asarray(outputs, jnp.float32), action)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_servers", [1, 2, 3, 5])
def test_factorised_draws_every_set_and_never_none(num_servers: int):
    space = Factorised(num_servers)
    corners = np.array(
        list(itertools.product((0, 0.4999, 0.5, LARGEST_DRAW), repeat=num_servers)), np.float32
    )
    drawn = np.asarray(space.draw(jnp.asarray(corners.T)))
    wanted = corners < 0.5
    wanted[~wanted.any(axis=1)] = True
    np.testing.assert_array_equal(drawn, wanted)
    assert len(np.unique(drawn, axis=0)) == 2**num_servers - 1


def test_factorised_draws_each_server_half_of_the_time():
    uniforms = np.random.default_rng(0).random((6, 100_000)).astype(np.float32)
    chosen = np.asarray(Factorised(6).draw(jnp.asarray(uniforms)))
    # 2^-6 of the draws are the whole fleet in place of none.
    rate = 1 / 2 + 2**-6
    for count in chosen.sum(axis=0):
        assert stats.binomtest(int(count), len(chosen), rate).pvalue > 1e-4


def test_factorised_outputs_grow_linearly_and_enumerated_ones_do_not():
    sizes = [1, 5, 14, 40]
    assert [Factorised(b).num_outputs for b in sizes] == [2 * b for b in sizes]
    assert [Factorised(b).num_draws for b in sizes] == sizes
    assert nonempty_sets(MAX_ENUMERATED_SERVERS).num_outputs == 2**MAX_ENUMERATED_SERVERS - 1


@pytest.mark.parametrize(
    "space",
    [nonempty_sets(4), sets_of(3)(4), partners(4), Factorised(4)],
    ids=["all", "three", "pair", "factorised"],
)
def test_all_spaces_follow_one_protocol(space: ActionSpace):
    """Draws, greedy actions and sets fit together, compiled as well as not."""
    uniforms = jnp.asarray(np.random.default_rng(0).random((space.num_draws, 30)), jnp.float32)
    outputs = jnp.asarray(tied_outputs(space.num_outputs, 30))

    def everything(uniforms, outputs):
        drawn, best = space.draw(uniforms), space.greedy(outputs)
        return space.sets(drawn, nobody(4)), space.sets(best, nobody(4)), space.value(outputs, best)

    drawn, best, value = everything(uniforms, outputs)
    for sets in (drawn, best):
        assert sets.shape == (30, 4)
        assert sets.dtype == bool
        assert sets.any(axis=1).all()
    assert value.shape == (30,)
    for plain, compiled in zip((drawn, best, value), jax.jit(everything)(uniforms, outputs), strict=True):
        np.testing.assert_array_equal(plain, compiled)
