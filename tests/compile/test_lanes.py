"""`lanes_last(fn)` computes under `vmap` what `fn` computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.programs import CASES, X, assert_same, lanes_of
from jax import lax

from amco_jax import Scenario, get_method
from amco_jax.compile.lanes import lanes_last
from amco_jax.compile.unroll import unroll
from amco_jax.env import UNIFIED
from amco_jax.kernel import rollout
from amco_jax.kernel.slot import ways_to_scalarise
from amco_jax.metrics import NUM_TASKS
from amco_jax.random import Stream, stream
from amco_jax.workload import tables_of, workload_of


@pytest.mark.parametrize("case", CASES)
def test_it_equals_vmap(case: str):
    fn, args = CASES[case]
    lanes = lanes_of(args)
    assert_same(jax.jit(jax.vmap(lanes_last(fn)))(*lanes), jax.jit(jax.vmap(fn))(*lanes))


def test_without_vmap_nothing_changes():
    fn, args = CASES["scan-carries"]
    assert_same(lanes_last(fn)(*args), fn(*args), rtol=0)


def test_lanes_may_have_random_keys():
    def fn(seed: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, other = jax.random.split(jax.random.fold_in(jax.random.key(seed), 3))
        return jax.random.uniform(key, x.shape) * x, jax.random.permutation(other, x)

    lanes = jnp.arange(2, dtype=jnp.uint32), jnp.stack([X, -X])
    assert_same(jax.jit(jax.vmap(lanes_last(fn)))(*lanes), jax.jit(jax.vmap(fn))(*lanes))


def test_arguments_may_be_the_same_for_all_lanes():
    def fn(x: jax.Array, shared: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = lax.fori_loop(0, 3, lambda i, now: now + shared[i] * x, jnp.zeros_like(x))
        return total, jnp.max(shared)

    lanes = jnp.stack([X, -X])
    found, expected = (jax.jit(jax.vmap(f, (0, None)))(lanes, X) for f in (lanes_last(fn), fn))
    assert_same(found, expected)


def test_what_is_the_same_for_all_lanes_stays_a_scalar():
    """The counter of a loop, with which each lane would otherwise look up its own row."""

    def fn(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, x.shape[0], lambda i, now: now * 0.5 + x[i], jnp.zeros(()))

    plain = str(jax.make_jaxpr(jax.vmap(lanes_last(fn)))(jnp.ones((7, 40))))
    assert "dynamic_slice" in plain
    assert "gather" not in plain


def test_lanes_are_the_last_axis_of_everything_in_loops():
    def fn(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 3, lambda _, now: jnp.where(now > jnp.mean(now), now - 1, now * 2), x)

    plain, last = (str(jax.make_jaxpr(jax.vmap(f))(jnp.ones((7, 40)))) for f in (fn, lanes_last(fn)))
    assert "f32[7,40] = select_n" in plain
    assert "f32[40,7] = select_n" in last
    assert "reduce_sum" not in last


@pytest.mark.parametrize("order", ["stations", "turns"])
@pytest.mark.parametrize("method", ["optimal", "randcoedge", "amco-priced", "best-2", "two-choices"])
def test_episodes_equal_those_of_vmap(method: str, order: str):
    scenario = Scenario(num_servers=9, num_tasks=4, num_slots=3, arrival_prob=0.5, order=order)
    shape, params = scenario.shape(), scenario.params()
    tables = tables_of([scenario], shape).of(0)

    def sums(way):
        def of_seed(seed):
            workload = workload_of(shape, params, tables, seed, 0, training=False)
            key = stream(seed, Stream.POLICY)
            out = rollout(
                shape, params, UNIFIED, method=get_method(method), workload=workload, key=key, scalarise=way
            )
            return {name: total.rounded(np.float32) for name, total in out.totals.items()}

        return jax.jit(jax.vmap(of_seed))(np.arange(5, dtype=np.uint32))

    expected = sums(unroll)
    assert np.all(expected[NUM_TASKS.name] > 0)
    assert_same(sums(lanes_last), expected, rtol=1e-5)


def test_on_cpus_large_fleets_keep_lanes_last(monkeypatch: pytest.MonkeyPatch):
    assert [ways_to_scalarise(n) for n in (5, 9, 40)] == [[unroll], [lanes_last], [lanes_last]]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [ways_to_scalarise(n)[-1] for n in (5, 9, 40)] == [unroll] * 3
