"""Programs of every kind of operation that the kernel or a policy uses, for tests of interpreters of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.compile.unroll import MAX_SIZE

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


def several_at_once(m: jax.Array, x: jax.Array) -> Any:
    def combine(a: tuple, b: tuple) -> tuple:
        return a[0] + b[0], lax.min(a[1], b[1])

    operands, start = (m, m * x), (0.0, jnp.inf)
    return [lax.reduce(operands, start, combine, axes) for axes in ((0,), (1,), (0, 1))]


CASES: dict[str, tuple[Callable, tuple]] = {
    "elementwise": (lambda x: jnp.exp(-jnp.abs(x)) * 2 - x / 3 + jnp.sqrt(x * x + 1), (X,)),
    "where": (lambda x: jnp.where(x > 0, x, jnp.inf), (X,)),
    "clip": (lambda x: jnp.clip(x, 0.0, jnp.max(x) / 2), (X,)),
    "sums": (lambda m: (jnp.sum(m), jnp.sum(m, axis=0), jnp.sum(m, axis=1), jnp.mean(m)), (M,)),
    "extremes": (lambda m: (jnp.max(m, axis=0), jnp.min(m, axis=1), jnp.max(m), jnp.prod(m)), (M,)),
    "flags": (lambda m: (jnp.any(m > 3, axis=0), jnp.all(m > -3, axis=1), jnp.sum(m > 0)), (M,)),
    "several-at-once": (several_at_once, (M, X[:3])),
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
    "loop-counter": (
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + x[c[0]]), (0, 0.0)),
        (X,),
    ),
    "switch": (
        lambda i: lax.switch(jnp.abs(i[0]) % 3, [jnp.abs, lambda j: j + 1, lambda j: jnp.sum(j) + j], i),
        (I,),
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


def lanes_of(args: tuple) -> tuple:
    """Three different lanes of the arguments of a case."""
    return jax.tree.map(lambda x: jnp.stack([x, x[::-1] if x.ndim else x, x]), args)


def assert_same(found: Any, expected: Any, rtol: float = 1e-6) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
