"""The episode kernel as a program: how it is run never changes what it computes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import OPTIMAL, SMALL, episode, run

from amco_jax.agents.methods import METHODS, Method
from amco_jax.compile.unroll import unroll
from amco_jax.compile.wide import on_host
from amco_jax.env import UNIFIED, Physics
from amco_jax.kernel import Episode
from amco_jax.params import Params, Shape

SEEDS = np.arange(8, dtype=np.uint32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def lanes(shape: Shape, method: Method, params: Params, physics: Physics, seeds: jax.Array) -> Episode:
    return jax.vmap(lambda seed: episode(shape, method, params, physics, seed, seed))(seeds)


def assert_same(found: Episode, expected: Episode, rtol: float = 0) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("method", ["optimal", "randcoedge"])
def test_compiled_equals_eager(method: str):
    scenario = SMALL.replace(num_tasks=2, num_slots=2)
    with jax.disable_jit():
        eager = episode(
            scenario.shape(),
            METHODS[method],
            scenario.params(),
            UNIFIED,
            jnp.uint32(3),
            jnp.uint32(0),
        )
    assert_same(run(METHODS[method], seed=3, scenario=scenario), on_host(eager), rtol=1e-5)


@pytest.mark.parametrize("method", ["optimal", "randcoedge"])
def test_lanes_equal_episodes_on_their_own(method: str):
    together = on_host(lanes(SMALL.shape(), METHODS[method], SMALL.params(), UNIFIED, SEEDS))
    for seed in SEEDS:
        lane = jax.tree.map(lambda x, seed=seed: x[seed], together)
        assert_same(run(METHODS[method], int(seed), int(seed)), lane, rtol=1e-5)


def test_a_lane_does_not_see_its_neighbours():
    def lane_3(seeds: np.ndarray) -> Episode:
        out = lanes(SMALL.shape(), OPTIMAL, SMALL.params(), UNIFIED, seeds)
        return jax.tree.map(lambda x: np.asarray(x)[3], out)

    others = np.where(SEEDS == 3, SEEDS, SEEDS + 100).astype(np.uint32)
    assert_same(lane_3(others), lane_3(SEEDS))


@pytest.mark.parametrize("method", ["optimal", "two-choices"])
def test_unrolling_changes_nothing(method: str):
    def plain(fn: Callable) -> Callable:
        return fn

    ways = [
        functools.partial(episode, SMALL.shape(), METHODS[method], scalarise=way) for way in (plain, unroll)
    ]
    arguments = SMALL.params(), UNIFIED, np.uint32(5), np.uint32(0)
    programs = [str(jax.make_jaxpr(way)(*arguments)) for way in ways]
    assert programs[0] != programs[1]
    found, expected = (on_host(jax.jit(way)(*arguments)) for way in ways)
    assert_same(found, expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["optimal", "randcoedge"])
def test_padding_the_positions_changes_no_bit(method: str):
    exact = run(METHODS[method], seed=2)
    padded = run(METHODS[method], seed=2, max_tasks=7)
    assert not padded.decisions.present[..., 4:].any()
    assert exact.decisions.present.any()
    present = exact.decisions.present
    for a, b in zip(jax.tree.leaves(padded.decisions), jax.tree.leaves(exact.decisions), strict=True):
        np.testing.assert_array_equal(a[:, :, :4][present], b[present])
    for name in ("end", "backlog", "slot_load", "link_delay"):
        for a, b in zip(*(jax.tree.leaves(getattr(e, name)) for e in (padded, exact)), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("method", ["optimal", "two-choices"])
def test_slots_of_the_warm_up_are_played_but_not_counted(method: str):
    whole = run(METHODS[method], seed=4)
    for warmup in (0, 2, 4):
        found = run(METHODS[method], seed=4, scenario=SMALL.replace(warmup=warmup))
        for a, b in zip(jax.tree.leaves(found.decisions), jax.tree.leaves(whole.decisions), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(found.backlog, whole.backlog)
        rest = jax.tree.map(lambda x, w=warmup: x[w:], whole.decisions)
        assert found.totals["num_tasks"] == rest.present.sum() > 0
        assert found.totals["miss_rate"] == rest.missed[rest.present].sum()
        np.testing.assert_allclose(found.totals["makespan_mean_s"], rest.makespan[rest.present].sum(), 1e-6)
        busy = np.minimum((whole.backlog + whole.slot_load) / SMALL.capacities, 1)
        np.testing.assert_allclose(found.totals["utilisation"], busy[warmup:].sum(axis=0), rtol=1e-6)
        (values,) = found.of_tasks.values()
        assert np.all(np.isinf(values[:warmup]))
        np.testing.assert_array_equal(
            np.sort(values[np.isfinite(values)]), np.sort(rest.makespan[rest.present])
        )
