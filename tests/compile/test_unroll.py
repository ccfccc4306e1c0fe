"""`unroll(fn)` computes what `fn` computes, for every kind of operation that the kernel or a policy uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.programs import CASES, LARGE, M, X, assert_same, lanes_of
from jax import lax

from amco_jax.compile.unroll import MAX_SIZE, unroll

every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_unrolled_equals_plain(case: str):
    fn, args = CASES[case]
    assert_same(jax.jit(unroll(fn))(*args), jax.jit(fn)(*args))


@every_case
def test_unrolled_equals_plain_under_vmap_and_jit(case: str):
    fn, args = CASES[case]
    lanes = lanes_of(args)
    expected = jax.jit(jax.vmap(fn))(*lanes)
    assert_same(jax.jit(jax.vmap(unroll(fn)))(*lanes), expected)


@pytest.mark.parametrize("size", range(1, 10))
def test_sort_is_stable_at_every_size(size: int):
    random = np.random.default_rng(size)

    def two_keys(a, b, c):
        return lax.sort((a, b, c), num_keys=2)

    def one_key(a, b, c):
        return lax.sort((a, b, c), num_keys=1)

    # Few distinct keys make ties; the last operand tells apart what is tied.
    keys = random.integers(0, 3, (2, 50, size)).astype(np.float32)
    label = np.broadcast_to(np.arange(size), (50, size))
    for fn in (one_key, two_keys):
        found, expected = (jax.jit(jax.vmap(f))(keys[0], keys[1], label) for f in (unroll(fn), fn))
        assert_same(found, expected, rtol=0)


def test_gradients_pass_through():
    def loss(x, m):
        level = jnp.min(jnp.cumsum(jnp.sort(x)) / (1 + jnp.arange(x.size)))
        share = jax.nn.relu(level + 2 - x) * lax.stop_gradient(jnp.max(x))
        return jnp.sum(lax.scan(lambda c, row: (c * 0.5 + row, jnp.max(c)), m[0], m)[0] ** 2) + jnp.sum(
            share**2
        )

    found, expected = (jax.jit(jax.grad(f, (0, 1)))(X, M) for f in (unroll(loss), loss))
    assert_same(found, expected, rtol=1e-5)


def test_no_operation_over_a_short_axis_is_left():
    def kernel(x, i):
        order = lax.sort((x, x * 2), num_keys=1)
        picked = jnp.where(jnp.arange(x.size) == jnp.argmin(x), x[i], jnp.max(x))
        return jnp.cumsum(order[1]) + picked, jnp.any(x > 0) & jnp.all(x < 9)

    plain, unrolled = (str(jax.make_jaxpr(f)(X, jnp.int32(1))) for f in (kernel, unroll(kernel)))
    for primitive in ("sort", "argmin", "reduce_max", "reduce_and", "cumsum", "dynamic_slice", "iota"):
        assert f" {primitive}[" in plain
        assert f" {primitive}[" not in unrolled


def test_large_arrays_stay_whole():
    for size, fewest, most in ((MAX_SIZE + 1, 1, 10), (MAX_SIZE, 3 * MAX_SIZE, 10 * MAX_SIZE)):
        lines = str(jax.make_jaxpr(unroll(lambda x: jnp.sum(x * 2 + 1)))(LARGE[:size])).splitlines()
        assert fewest < len(lines) < most
