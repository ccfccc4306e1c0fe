"""Run array code as scalar code: `unroll(fn)` computes what `fn` computes, one scalar at a time.

The kernel's arrays are short: five servers, a handful of flags. Under `vmap` over thousands of seeds
such an array becomes `[seeds, 5]`, and every reduction over the short axis breaks XLA's fusion. Split into
scalars, each element becomes a contiguous `[seeds]` vector, reductions become chains of elementwise
operations, and a whole decision compiles to a few long vector loops (5 to 10 times faster on CPUs, see
benchmarks/).

The model can therefore be written as plain `jnp` code over `[num_servers]` arrays, and this transformation
does the unrolling. It walks the function's jaxpr with every small array held as a NumPy object array of
scalars: shape operations are then NumPy's and cost nothing, elementwise primitives are applied scalar by
scalar, reductions become chains and sorts become sorting networks. A primitive without a rule here is
applied to the reassembled array, so every function is supported.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.compile.jaxprs import (
    ELEMENTWISE,
    bind,
    closed,
    evaluate,
    inner_program,
    scan_arity,
    scan_options,
)

MAX_SIZE = 32
"""Larger arrays are not split, because code size and compile time grow with the number of elements."""


@jax.tree_util.register_pytree_node_class
class _Split:
    """A small array as a NumPy object array of scalars; a pytree whose leaves are the scalars."""

    def __init__(self, scalars: np.ndarray, whole: Any = None):
        self.scalars = scalars
        self.whole = whole
        """The array that was split, if there was one, so that it need not be reassembled"""

    def tree_flatten(self):
        return tuple(self.scalars.flat), self.scalars.shape

    @classmethod
    def tree_unflatten(cls, shape, leaves):
        return cls(_object_array(leaves, shape))


def unroll(fn: Callable) -> Callable:
    """Return a function that computes what `fn` computes, scalar by scalar.

    Args:
      fn: a function of pytrees of arrays, traceable by JAX.

    Results can differ from those of `fn` in the last bits, since reductions run in index order, and if
    arrays with NaNs are sorted or searched for an extremum. Custom derivative rules inside `fn` are
    replaced by the derivatives of the functions that they belong to.
    """

    @functools.wraps(fn)
    def unrolled(*args):
        program, out_shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        flat = [jnp.asarray(leaf) for leaf in jax.tree.leaves(args)]
        outs = _evaluate(program.jaxpr, program.consts, [_split(x) for x in flat])
        return jax.tree.unflatten(jax.tree.structure(out_shape), [_whole(out) for out in outs])

    return unrolled


def _object_array(items: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        out[i] = item
    return out.reshape(shape)


def _split(x: Any) -> Any:
    """An array of 1 to `MAX_SIZE` elements as a `_Split`; any other array unchanged."""
    if isinstance(x, _Split) or not 0 < x.size <= MAX_SIZE:
        return x
    if x.shape == ():
        return _Split(_object_array([x], ()), x)
    axes = range(x.ndim)
    scalars = [lax.squeeze(lax.slice(x, i, [k + 1 for k in i]), axes) for i in np.ndindex(x.shape)]
    return _Split(_object_array(scalars, x.shape), x)


def _whole(x: Any) -> Any:
    """The inverse of `_split`."""
    if not isinstance(x, _Split):
        return x
    if x.whole is not None:
        return jnp.asarray(x.whole)
    if x.scalars.shape == ():
        return jnp.asarray(x.scalars.item())
    if all(isinstance(s, np.generic) for s in x.scalars.flat):
        return jnp.asarray(np.asarray(list(x.scalars.flat)).reshape(x.scalars.shape))
    return jnp.stack([jnp.asarray(s) for s in x.scalars.flat]).reshape(x.scalars.shape)


def _evaluate(jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    return evaluate(jaxpr, consts, args, _apply, _split)


def _apply(eqn, args: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        return _scan(eqn, args)
    if name == "while":
        return _while(params, args)
    if name == "cond":
        return _cond(params, args)
    if (inner := inner_program(eqn)) is not None:
        return _evaluate(inner.jaxpr, inner.consts, args)
    small = all(0 < v.aval.size <= MAX_SIZE for v in eqn.outvars)
    if name == "reduce" and small and all(isinstance(a, _Split) and a.scalars.size for a in args):
        return _reduce(eqn, args)
    if small and all(isinstance(a, _Split) for a in args):
        arrays = [a.scalars for a in args]
        if name in ELEMENTWISE:
            return [_Split(_elementwise(eqn, arrays))]
        if name in _RULES and (outs := _RULES[name](params, *arrays)) is not None:
            return [_Split(o) for o in outs]
    return [_split(out) for out in bind(eqn, [_whole(a) for a in args])]


def _elementwise(eqn, arrays: list[np.ndarray]) -> np.ndarray:
    shape = eqn.outvars[0].aval.shape
    # Axes of size 1 are broadcast, and some primitives mix a scalar with arrays.
    columns = (np.broadcast_to(a, shape).flat for a in arrays)
    scalars = [eqn.primitive.bind(*column, **eqn.params) for column in zip(*columns, strict=True)]
    return _object_array(scalars, shape)


def _scan(eqn, args: list[Any]) -> list[Any]:
    """A scan whose carry, inputs and outputs are split within a step; the scanned axis stays an axis."""
    inner = inner_program(eqn)
    assert inner is not None
    n_consts, n_carry = scan_arity(eqn)
    consts, carry, xs = args[:n_consts], args[n_consts : n_consts + n_carry], args[n_consts + n_carry :]

    def column_split(x):
        if isinstance(x, _Split) and x.whole is None:
            # Without making the array whole, which a kernel cannot.
            rest = x.scalars.shape[1:]
            columns = [_whole(_Split(x.scalars[:, *i])) for i in np.ndindex(rest)]
        else:
            x = _whole(x)
            rest = x.shape[1:]
            if np.prod(rest) > MAX_SIZE:
                return x
            columns = [x[:, *i] for i in np.ndindex(rest)]
        return _Split(_object_array(columns, rest))

    def column_join(y):
        if not isinstance(y, _Split):
            return y
        if y.scalars.shape == ():
            return y.scalars.item()
        return jnp.stack(list(y.scalars.flat), axis=1).reshape(eqn.params["length"], *y.scalars.shape)

    def body(carry, x):
        outs = _evaluate(inner.jaxpr, inner.consts, [*consts, *carry, *x])
        return outs[:n_carry], outs[n_carry:]

    carry, ys = lax.scan(body, carry, [column_split(x) for x in xs], **scan_options(eqn))
    return [*carry, *map(column_join, ys)]


def _while(params, args: list[Any]) -> list[Any]:
    """A loop whose carry is split."""
    condition, body = closed(params["cond_jaxpr"]), closed(params["body_jaxpr"])
    n_condition, n_consts = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    side_by_side = bool(condition.out_avals[0].shape)

    def unfinished(carry):
        (out,) = _evaluate(condition.jaxpr, condition.consts, [*args[:n_condition], *carry])
        return _whole(out)

    def step(carry):
        later = _evaluate(body.jaxpr, body.consts, [*args[n_condition:n_consts], *carry])
        if side_by_side:  # of a `vmap`: each element stays as it is once its own condition is false
            on = unfinished(carry)
            pairs = [(_whole(new), _whole(old)) for new, old in zip(later, carry, strict=True)]
            kept = [jnp.where(lax.expand_dims(on, range(on.ndim, a.ndim)), a, b) for a, b in pairs]
            later = [_split(x) for x in kept]
        return later

    return lax.while_loop(lambda carry: jnp.any(unfinished(carry)), step, args[n_consts:])


def _cond(params, args: list[Any]) -> list[Any]:
    """A conditional whose operands and results are split."""

    def branch(program) -> Callable:
        def run(operands):
            outs = _evaluate(program.jaxpr, program.consts, operands)
            return [_split(out) for out in outs]  # alike in all branches

        return run

    return lax.switch(_whole(args[0]), [branch(closed(each)) for each in params["branches"]], args[1:])


def _reduce(eqn, args: list[Any]) -> list[Any]:
    """A reduction of several arrays at once by an operation of the user's own."""
    operands, starts = args[: len(args) // 2], args[len(args) // 2 :]
    combine, axes = closed(eqn.params["jaxpr"]), eqn.params["dimensions"]
    rows = [_rows(a.scalars, axes) for a in operands]
    outs = []
    for index in range(len(rows[0])):
        now = list(starts)
        for column in zip(*(row[index] for row in rows), strict=True):
            now = _evaluate(combine.jaxpr, combine.consts, [*now, *map(_split, map(jnp.asarray, column))])
        outs.append([out.scalars.item() for out in now])
    shapes = [v.aval.shape for v in eqn.outvars]
    return [
        _Split(_object_array(column, shape))
        for column, shape in zip(zip(*outs, strict=True), shapes, strict=True)
    ]


# Rules on object arrays. ---------------------------------------------------------------------------


def _broadcast_in_dim(params, operand):
    shape = [1] * len(params["shape"])
    for axis, dim in enumerate(params["broadcast_dimensions"]):
        shape[dim] = operand.shape[axis]
    return [np.broadcast_to(operand.reshape(shape), params["shape"])]


def _iota(params):
    shape, axis = params["shape"], params["dimension"]
    index = np.indices(shape)[axis].astype(params["dtype"])
    return [_object_array(list(index.flat), shape)]


def _slice(params, operand):
    strides = params["strides"] or (1,) * operand.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [operand[tuple(slice(*b) for b in bounds)]]


def _dynamic_slice(params, operand, *starts):
    """One element of a vector at a computed position, as a chain of selects; other slices have no rule."""
    if operand.ndim != 1 or params["slice_sizes"] != (1,):
        return None
    position, chosen = starts[0].item(), operand[0]
    for i in range(1, operand.size):
        chosen = lax.select(lax.ge(position, lax.full_like(position, i)), operand[i], chosen)
    return [_object_array([chosen], (1,))]


def _unstack(params, operand):
    parts = np.split(operand, operand.shape[params["axis"]], params["axis"])
    return [np.squeeze(part, params["axis"]) for part in parts]


def _reduction(combine: Callable) -> Callable:
    def rule(params, operand):
        axes = params["axes"]
        shape = tuple(n for axis, n in enumerate(operand.shape) if axis not in axes)
        return [_object_array([functools.reduce(combine, row) for row in _rows(operand, axes)], shape)]

    return rule


def _rows(operand: np.ndarray, axes: Sequence[Any]) -> np.ndarray:
    """What a reduction over some axes reduces to one element each."""
    kept = [axis for axis in range(operand.ndim) if axis not in axes]
    size = int(np.prod([operand.shape[axis] for axis in kept]))
    return np.transpose(operand, (*kept, *axes)).reshape(size, -1)


def _arg_reduction(better: Callable) -> Callable:
    def rule(params, operand):
        dtype = params["index_dtype"]

        def combine(a, b):
            wins = better(b[0], a[0])  # strict, so that ties keep the first index
            return lax.select(wins, b[0], a[0]), lax.select(wins, b[1], a[1])

        (axis,) = params["axes"]
        rows = np.moveaxis(operand, axis, -1)
        shape = rows.shape[:-1]
        best = [
            functools.reduce(combine, [(x, jnp.asarray(i, dtype)) for i, x in enumerate(row)])[1]
            for row in rows.reshape(-1, rows.shape[-1])
        ]
        return [_object_array(best, shape)]

    return rule


def _cumulative(combine: Callable) -> Callable:
    def rule(params, operand):
        out = np.empty_like(operand)
        step = -1 if params["reverse"] else 1
        source, target = (np.moveaxis(a, params["axis"], -1)[..., ::step] for a in (operand, out))
        for index in np.ndindex(source.shape[:-1]):
            for i, value in enumerate(itertools.accumulate(source[index], combine)):
                target[(*index, i)] = value
        return [out]

    return rule


def _sort(params, *operands):
    """Batcher's odd-even merge sorting network; the index, as the last key, makes it stable."""
    if operands[0].ndim != 1:
        return None
    n, num_keys = operands[0].size, params["num_keys"]
    rows = [[*(o[i] for o in operands), jnp.int32(i)] for i in range(n)]
    keys = [*range(num_keys), len(operands)] if params["is_stable"] else list(range(num_keys))

    def precedes(a, b):
        before = lax.lt(a[keys[-1]], b[keys[-1]])
        for k in reversed(keys[:-1]):
            before = lax.bitwise_or(lax.lt(a[k], b[k]), lax.bitwise_and(lax.eq(a[k], b[k]), before))
        return before

    for i, j in _batcher_pairs(n):
        a, b = rows[i], rows[j]
        swap = precedes(b, a)
        rows[i] = [lax.select(swap, y, x) for x, y in zip(a, b, strict=True)]
        rows[j] = [lax.select(swap, x, y) for x, y in zip(a, b, strict=True)]
    return [_object_array([row[k] for row in rows], (n,)) for k in range(len(operands))]


def _batcher_pairs(n: int) -> list[tuple[int, int]]:
    """Comparators of the odd-even merge sort for any n (Knuth, TAOCP vol. 3, algorithm 5.2.2 M)."""
    pairs, top = [], 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if (i & p) == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return pairs


_RULES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": lambda params, x: None if params["dimensions"] else [x.reshape(params["new_sizes"])],
    "squeeze": lambda params, x: [np.squeeze(x, params["dimensions"])],
    "expand_dims": lambda params, x: [np.expand_dims(x, params["dimensions"])],
    "transpose": lambda params, x: [np.transpose(x, params["permutation"])],
    "rev": lambda params, x: [np.flip(x, params["dimensions"])],
    "concatenate": lambda params, *xs: [np.concatenate(xs, params["dimension"])],
    "stack": lambda params, *xs: [np.stack(xs, params["axis"])],
    "unstack": _unstack,
    "reshard": lambda params, x: [x],  # JAX 0.11 adds it within a mesh; scalars have nothing to shard
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "iota": _iota,
    "sort": _sort,
    "reduce_sum": _reduction(lax.add),
    "reduce_prod": _reduction(lax.mul),
    "reduce_max": _reduction(lax.max),
    "reduce_min": _reduction(lax.min),
    "reduce_and": _reduction(lax.bitwise_and),
    "reduce_or": _reduction(lax.bitwise_or),
    "argmax": _arg_reduction(lax.gt),
    "argmin": _arg_reduction(lax.lt),
    "cumsum": _cumulative(lax.add),
    "cumprod": _cumulative(lax.mul),
    "cummax": _cumulative(lax.max),
    "cummin": _cumulative(lax.min),
}
