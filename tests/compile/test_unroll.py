"""`unroll(fn)` computes what `fn` computes, for every kind of operation that the kernel or a policy uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from amco_jax.compile.unroll import MAX_SIZE, unroll

X = jnp.asarray([0.5, -1.25, 3.0, 0.0, 2.5])
TIED = jnp.asarray([2.0, -1.0, 3.0, -1.0, 3.0, 2.0])
M = jnp.asarray([[1.5, -2.0, 0.25], [0.5, 4.0, -3.0]])
I = jnp.asarray([7, -3, 0, 12, -8], jnp.int32)  # noqa: E741
U = jnp.asarray([7, 4_000_000_000, 0, 12], jnp.uint32)
F = jnp.asarray([True, False, True, True, False])
LARGE = jnp.linspace(-2, 2, MAX_SIZE + 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    left: jax.Array
    right: dict[str, jax.Array]


def running_sum(x: jax.Array) -> Any:
    return lax.scan(lambda carry, v: (carry + v, carry * v), jnp.float32(0), x)


def several_carries(m: jax.Array) -> Any:
    def body(carry, row):
        total, count = carry
        return (total + row, count + 1), {"row": row * count, "sum": jnp.sum(total)}

    return lax.scan(body, (jnp.zeros(m.shape[1]), 0), m)


CASES: dict[str, tuple[Callable, tuple]] = {
    "elementwise": (lambda x: jnp.exp(-jnp.abs(x)) * 2 - x / 3 + jnp.sqrt(x * x + 1), (X,)),
    "where": (lambda x: jnp.where(x > 0, x, jnp.inf), (X,)),
    "clip": (lambda x: jnp.clip(x, 0.0, jnp.max(x) / 2), (X,)),
    "sums": (lambda m: (jnp.sum(m), jnp.sum(m, axis=0), jnp.sum(m, axis=1), jnp.mean(m)), (M,)),
    "extremes": (lambda m: (jnp.max(m, axis=0), jnp.min(m, axis=1), jnp.max(m), jnp.prod(m)), (M,)),
    "flags": (lambda m: (jnp.any(m > 3, axis=0), jnp.all(m > -3, axis=1), jnp.sum(m > 0)), (M,)),
    "argmin-ties": (lambda x: (jnp.argmin(x), jnp.argmax(x)), (TIED,)),
    "argmin-axes": (lambda m: (jnp.argmin(m, axis=0), jnp.argmax(m, axis=1)), (M,)),
    "cumulative": (lambda x: (jnp.cumsum(x), lax.cumsum(x, reverse=True), lax.cummax(x)), (X,)),
    "cumulative-axes": (lambda m: (jnp.cumsum(m, axis=0), lax.cumprod(m, axis=1, reverse=True)), (M,)),
    "sort": (lambda x: (jnp.sort(x), jnp.sort(x, descending=True), jnp.argsort(x)), (TIED,)),
    "sort-rows": (lambda m: jnp.sort(m, axis=1), (M,)),
    "sort-signed-zeros": (jnp.argsort, (jnp.asarray([0.0, -0.0, jnp.inf, 0.0, -jnp.inf]),)),
    "index": (lambda x, i: x[i], (X, jnp.int32(3))),
    "index-from-the-end": (lambda x, i: x[i], (X, jnp.int32(-2))),
    "index-clamped": (lambda x, i: lax.dynamic_slice(x, (i,), (1,)), (X, jnp.int32(9))),
    "index-row": (lambda m, i: m[i], (M, jnp.int32(1))),
    "gather-scatter": (lambda x, i: x.at[i[0] % 5].set(9.0)[jnp.abs(i) % 5], (X, I)),
    "shapes": (lambda m: jnp.concatenate([m.T.reshape(2, 3)[::-1], m[:, 1:2] * jnp.ones((2, 1))], 1), (M,)),
    "one-hot": (lambda x, i: jnp.arange(x.size) == i, (X, jnp.int32(2))),
    "outer": (lambda x: x[:, None] - x[None, :], (X,)),
    "rows-and-columns": (lambda m: m * m[:1] + m[:, :1], (M,)),
    "scan": (running_sum, (X,)),
    "scan-reverse": (lambda x: lax.scan(lambda c, v: (c * v, c), 1.0, x, reverse=True), (X,)),
    "scan-carries": (several_carries, (M,)),
    "scan-length": (lambda x: lax.scan(lambda c, _: (c[::-1] * 2, None), x, None, length=3), (X,)),
    "scan-consts": (lambda x, m: lax.scan(lambda c, r: (c + r * x[0], jnp.max(r)), m[0], m), (X, M)),
    "scan-nested": (lambda m: lax.scan(lambda c, row: (c + running_sum(row)[0], c), 0.0, m), (M,)),
    "scan-wide-rows": (lambda x: lax.scan(lambda c, r: (c + r, r), x, jnp.stack([x, x])), (LARGE,)),
    "loops": (lambda x: lax.fori_loop(0, 4, lambda i, c: c * 2 + i, x), (X,)),
    "loop-until": (lambda x: lax.while_loop(lambda c: jnp.sum(c) < 99, lambda c: c * c + x[0], x), (X,)),
    "loops-side-by-side": (
        jax.vmap(lambda x: lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 2, c[1] * x), (x, x))),
        (X,),
    ),
    "cond": (lambda x: lax.cond(x[0] > 0, lambda y: y + 1, lambda y: y * 2, x), (X,)),
    "jit": (lambda x: jax.jit(lambda y: jnp.sum(jax.jit(jnp.abs)(y)))(x) + x, (X,)),
    "relu": (jax.nn.relu, (X,)),
    "softmax": (jax.nn.softmax, (X,)),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(x) * x), (X,)),
    "stop-gradient": (lambda x: x * lax.stop_gradient(jnp.max(x)), (X,)),
    "whole": (lambda x, y: (jnp.cumsum(x) + jnp.sum(y), jnp.sort(-x), x[:3] * y[:3]), (LARGE, X)),
    "matmul": (lambda m, x: jax.nn.relu(m @ x[:3]) @ m, (M, X)),
    "integers": (lambda i: (i // 3, i % 3, i * i, jnp.sum(i), i.astype(jnp.float32) / 2), (I,)),
    "unsigned": (lambda u: ((u * u) ^ (u >> 3), u + jnp.uint32(2**31), ~u, jnp.max(u)), (U,)),
    "booleans": (lambda f, x: (f & (x > 0), ~f | (x == 0), f ^ (x < 1), jnp.where(f, x, -x)), (F, X)),
    "pytree": (
        lambda p: Pair(p.right["a"], {"a": p.left, "b": p.right["b"] + 1}),
        (Pair(X, {"a": I, "b": M}),),
    ),
    "unused-and-constant": (lambda x, y: (x, jnp.float32(1.5), jnp.arange(3)), (X, I)),
    "empty": (lambda x: (jnp.sum(x[:0]), x[:0] * 2, jnp.concatenate([x[:0], x])), (X,)),
    "nan": (lambda x: (jnp.max(x), jnp.sum(x), x < 0), (X.at[1].set(jnp.nan),)),
}

every_case = pytest.mark.parametrize("case", CASES)


def assert_same(found: Any, expected: Any, rtol: float = 1e-6) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@every_case
def test_unrolled_equals_plain(case: str):
    fn, args = CASES[case]
    assert_same(jax.jit(unroll(fn))(*args), jax.jit(fn)(*args))


@every_case
def test_unrolled_equals_plain_under_vmap_and_jit(case: str):
    fn, args = CASES[case]
    lanes = jax.tree.map(lambda x: jnp.stack([x, x[::-1] if x.ndim else x, x]), args)
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
