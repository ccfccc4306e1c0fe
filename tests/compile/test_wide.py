"""Sums over any number of slots, wherever there are some: integers do not wrap, floats do not drift."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compiled_training import EPISODES, METHOD, compiled_training, hyper_of
from helpers.episodes import OPTIMAL, SMALL, arrivals, run
from helpers.tiny_training import TINY
from jax import lax

from amco_jax.agents.methods import get_method
from amco_jax.compile.wide import Wide, on_host
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.kernel import Progress, episode, rollout, training
from amco_jax.metrics import CURVE_METRICS, EPISODE_METRICS, Metrics, Sums, zero_slot_sums
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.study.simulate import simulate
from amco_jax.workload import bernoulli

BEFORE = 2**32 - 3
"""A sum of which one more slot changes the upper word"""
LONG = 2.0**24
"""s, a sum of makespans to which a float32 adds none below half a second"""


@functools.partial(jax.jit, static_argnums=1)
def summed(term: jax.Array, count: int) -> tuple[Wide, jax.Array]:
    """A term added so many times, and the same in one word."""

    def add(sums, _):
        return (sums[0].add(term), sums[1] + term), None

    return lax.scan(add, (Wide.zero(term), jnp.zeros_like(term)), None, length=count)[0]


def test_integers_do_not_wrap():
    term, count = 2**31 - 1, 5000
    wide, word = summed(jnp.int32(term), count)
    assert np.asarray(wide) == term * count
    assert np.asarray(wide).dtype == np.int64
    assert int(word) != term * count
    np.testing.assert_allclose(wide.rounded(jnp.float32), float(term * count), rtol=1e-6)


def test_whole_numbers_of_both_signs():
    terms = np.random.default_rng(0).integers(-(2**31), 2**31, 5000, np.int32)
    for own in (terms, -np.abs(terms[terms > -(2**31)]), np.abs(terms[terms > -(2**31)])):
        wide = jax.jit(lambda x: lax.scan(lambda s, t: (s.add(t), None), Wide.zero(x[0]), x)[0])(own)
        assert np.asarray(wide) == own.sum(dtype=np.int64)
        np.testing.assert_allclose(wide.rounded(jnp.float32), own.sum(dtype=np.int64), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_do_not_drift(dtype: type):
    count = 2**20
    with jax.enable_x64(dtype == np.float64):
        wide, word = summed(jnp.asarray(15.3, dtype), count)
        exact = math.fsum([float(dtype(15.3))] * count)
        assert float(np.asarray(wide)) == pytest.approx(exact, rel=1e-9 if dtype is np.float32 else 1e-15)
        np.testing.assert_allclose(wide.rounded(dtype), exact, rtol=float(2 * np.finfo(dtype).eps))
    if dtype is np.float32:
        assert abs(float(word) / exact - 1) > 1e-4


def test_terms_of_all_sizes_count():
    terms = np.random.default_rng(0).lognormal(0, 6, 10_000).astype(np.float32)
    wide = jax.jit(lambda x: lax.scan(lambda s, t: (s.add(t), None), Wide.zero(x[0]), x)[0])(terms)
    assert np.asarray(wide, np.float64) == pytest.approx(math.fsum(terms.tolist()), rel=1e-10)


def far_along(totals: Sums) -> Sums:
    """The totals of an episode that has run for a long time."""

    def ahead(wide: Wide) -> Wide:
        if jnp.issubdtype(wide.high.dtype, jnp.integer):
            return Wide(wide.high, wide.low + jnp.uint32(BEFORE))
        return Wide(wide.high + jnp.asarray(LONG, wide.high.dtype), wide.low)

    return jax.tree.map(ahead, totals, is_leaf=lambda node: isinstance(node, Wide))


def assert_ahead(found: Sums, expected: Sums, metrics: Metrics) -> None:
    for metric in metrics:
        if metric.is_sum and metric.whole:
            assert np.all(found[metric.name] == expected[metric.name] + BEFORE), metric.name
        elif metric.is_sum:
            np.testing.assert_allclose(found[metric.name] - LONG, expected[metric.name], rtol=1e-6)


def old_totals(metrics: Metrics, num_servers: int, dtype: type) -> Sums:
    return far_along(zero_slot_sums(metrics, num_servers, dtype))


@pytest.fixture
def old_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes begin with the sums of long ones."""
    monkeypatch.setattr(episode, "zero_slot_sums", old_totals)


def test_rollout_sums_beyond_32_bits():
    shape, params = SMALL.shape(), SMALL.params()
    start = Progress.start(3, np.float32, EPISODE_METRICS)
    start = Progress(start.backlog, far_along(start.totals))
    key = stream(jnp.uint32(0), Stream.POLICY)

    @jax.jit
    def long_running():
        return rollout(
            shape,
            params,
            UNIFIED,
            method=OPTIMAL,
            workload=bernoulli(params, 4, jnp.uint32(0)),
            key=key,
            start=start,
        )

    fresh, found = run(), on_host(long_running())
    assert fresh.totals["mean_servers_used"] > 20
    assert_ahead(found.totals, fresh.totals, EPISODE_METRICS)
    # And nothing is held for each slot.
    assert found.decisions is found.backlog is found.slot_load is found.link_delay is None


def test_sweeps_and_evaluations_sum_beyond_32_bits(old_sums):
    busy = SMALL.replace(num_slots=7)
    (found,) = (b.metrics for b in simulate([busy], OPTIMAL, UNIFIED, 0, 3))
    tasks = [int(arrivals(busy.shape(), busy.params(), np.uint32(s)).present.sum()) for s in range(3)]
    np.testing.assert_array_equal(found["num_tasks"], [BEFORE + n for n in tasks])
    assert (found["miss_rate"] > 0.99).all()
    np.testing.assert_allclose(found["makespan_mean_s"], LONG / BEFORE, rtol=1e-5)


def test_curves_of_training_sum_beyond_32_bits(monkeypatch: pytest.MonkeyPatch):
    hyper = hyper_of(METHOD)
    fresh = compiled_training(METHOD, TINY, EPISODES, 2)(hyper, np.uint32(0))[2]
    monkeypatch.setattr(training, "zero_slot_sums", old_totals)
    found = compiled_training(METHOD, TINY, EPISODES, 2)(hyper, np.uint32(0))[2]
    assert_ahead(found.totals, fresh.totals, CURVE_METRICS)
    assert found.logs == fresh.logs


def test_a_slot_is_counted_in_32_bits():
    """400 servers in 3,500 slots give 2.24e9 servers used; a slot alone must stay below 2^31."""
    with pytest.raises(InputError, match=r"^num_servers: 6554 .*legal: at most 6553 servers$"):
        Scenario(num_servers=6554)
    assert 6553**2 * 50 < 2**31 <= 6554**2 * 50


def test_every_server_is_counted_in_a_large_fleet():
    """1.6e5 servers used in each of 7 slots, started where 32 bits would end."""
    fleet = Scenario(num_servers=400, num_tasks=1, num_slots=7, arrival_prob=1.0)
    (found,) = (b.metrics for b in simulate([fleet], get_method("all-servers"), UNIFIED, 0, 1))
    assert found["mean_servers_used"] == 400
    assert found["num_tasks"] == 2800
