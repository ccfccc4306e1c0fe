"""A `vmap` whose lanes stay the last axis: `lanes_last(fn)` computes what `fn` computes.

Under `vmap`, an array over the servers of a fleet becomes `[seeds, num_servers]`. A sum over the servers then
runs along the contiguous axis, one number after the other, as the order of a sum is part of its result; and
XLA:CPU vectorises no reduction of another axis either. Here arrays are `[num_servers, seeds]` throughout all
loops, and a reduction is a loop over the servers, each step of which is one vector operation over the seeds.

For up to a few servers, `unroll.py` is as fast. The time to compile grows with its number of scalars, while
here it does not depend on the number of servers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
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

_AT_ONCE = 2
"""Steps of a reduction per iteration of its loop, which saves half of the accesses to its result"""

_MAX_DEPTH = 5
"""The most operations that a reduction repeats, one upon the other, instead of reading their result"""


class _Lanes:
    """An array whose last axis is that of the lanes; what is the same for all of them is held without it.

    A reduction of a vector over the servers is a loop, which XLA does not fuse with the operations before it.
    So it repeats cheap ones for each row, rather than read what they have written.
    """

    def __init__(self, array: Any, row: Callable[[Any, dict[int, Any]], Any] | None = None, depth: int = 0):
        """Hold an array.

        Args:
          row: how to compute a row from its index, and from the rows of others that are known by then.
          depth: the number of operations, one upon the other, that this takes.
        """
        self.array, self._row, self.depth = array, row, depth

    def at(self, i: Any, axis: int, known: dict[int, Any]) -> Any:
        """The part at an index of an axis."""
        if self._row is None:
            return lax.dynamic_index_in_dim(self.array, i, axis, keepdims=False)
        if id(self) not in known:
            known[id(self)] = self._row(i, known)
        return known[id(self)]


def lanes_last(fn: Callable) -> Callable:
    """Return `fn`, whose `vmap` keeps the mapped axis last.

    Results can differ from those of `vmap` in the last bits, since sums run in index order. The function
    cannot be differentiated under `vmap`.

    Args:
      fn: a function of pytrees of arrays, traceable by JAX.
    """
    function = jax.custom_batching.custom_vmap(lambda *args: fn(*args))

    @function.def_vmap
    def on_lanes(size: int, mapped: Any, *args: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(args)
        flags = jax.tree.leaves(mapped)
        one = [
            jax.ShapeDtypeStruct(x.shape[flag:], x.dtype)
            for x, flag in zip(map(jnp.asarray, leaves), flags, strict=True)
        ]
        program, out_shape = jax.make_jaxpr(fn, return_shape=True)(*jax.tree.unflatten(tree, one))
        held = [_Lanes(jnp.moveaxis(x, 0, -1)) if flag else x for x, flag in zip(leaves, flags, strict=True)]
        lanes = _Interpreter(size)
        outs = [jnp.moveaxis(lanes.full(y), -1, 0) for y in lanes.run(program, held)]
        outs = jax.tree.unflatten(jax.tree.structure(out_shape), outs)
        return outs, jax.tree.map(lambda _: True, outs)

    return function


class _Interpreter:
    """The rules of primitives for a number of lanes."""

    def __init__(self, size: int):
        self._size = size

    def full(self, x: Any) -> Any:
        """The array of all lanes."""
        if isinstance(x, _Lanes):
            return x.array
        x = jnp.asarray(x)
        return jnp.broadcast_to(x[..., None], (*x.shape, self._size))

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        return evaluate(program.jaxpr, program.consts, args, self._apply)

    def _apply(self, eqn: Any, args: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if not any(isinstance(a, _Lanes) for a in args):
            return bind(eqn, args)
        if name in _LOOPS:
            # A loop would repeat in each iteration what its operands take.
            args = [_Lanes(a.array) if isinstance(a, _Lanes) else a for a in args]
            return getattr(self, _LOOPS[name])(eqn, args)
        if (inner := inner_program(eqn)) is not None:
            return self.run(inner, args)
        if name in ELEMENTWISE:
            return [self._elementwise(eqn, args)]
        if name == "broadcast_in_dim" and args[0].array.ndim == 1 and len(eqn.params["shape"]) == 1:
            scalar = args[0].array
            whole = jnp.broadcast_to(scalar, (*eqn.params["shape"], self._size))
            return [_Lanes(whole, lambda i, known: scalar)]
        if name in _REDUCTIONS and args[0].array.size:
            # From the last axis on, so that the numbers of those that are left do not change.
            axes = sorted(eqn.params["axes"], reverse=True)
            return [functools.reduce(_REDUCTIONS[name], axes, args[0])]
        if name == "reduce":
            return self._reduce(eqn, args)
        if name in _SEARCHES:
            (axis,) = eqn.params["axes"]
            return [_search(_SEARCHES[name], args[0], axis, eqn.params["index_dtype"])]
        if name == "dynamic_slice" and not any(_flags(args[1:])):
            # For which the rule of `vmap` would look up each lane's own place.
            sizes = (*eqn.params["slice_sizes"], self._size)
            return [_Lanes(lax.dynamic_slice(args[0].array, [*args[1:], 0], sizes))]
        axes = [-1 if isinstance(a, _Lanes) else None for a in args]
        mapped = jax.vmap(lambda *args: bind(eqn, args), axes, -1)
        return [_Lanes(out) for out in mapped(*map(_held, args))]

    def _elementwise(self, eqn: Any, args: list[Any]) -> _Lanes:
        shape = (*eqn.outvars[0].aval.shape, self._size)
        whole = bind(eqn, [jnp.broadcast_to(self.full(a), shape) for a in args])[0]
        depth = 1 + max(a.depth for a in args if isinstance(a, _Lanes))
        if len(shape) != 2 or eqn.primitive.name not in _CHEAP or depth > _MAX_DEPTH:
            return _Lanes(whole)

        def row_of(x: Any, i: Any, known: dict[int, Any]) -> Any:
            if not isinstance(x, _Lanes):
                x = _Lanes(self.full(x))
            return x.array if x.array.ndim == 1 else x.at(i, 0, known)

        return _Lanes(whole, lambda i, known: bind(eqn, [row_of(a, i, known) for a in args])[0], depth)

    def _reduce(self, eqn: Any, args: list[Any]) -> list[Any]:
        """Reduce several arrays at once by an operation of the user's own."""
        arrays, starts = args[: len(args) // 2], args[len(args) // 2 :]
        function = jex.jaxpr_as_fun(closed(eqn.params["jaxpr"]))

        def along(arrays: list[_Lanes], axis: int) -> list[_Lanes]:
            whole = arrays[0].array.shape
            shape = whole[:axis] + whole[axis + 1 :]
            combine = functools.reduce(lambda fn, _: jax.vmap(fn), shape, function)

            def step(i: Any, now: list[Any]) -> list[Any]:
                known: dict[int, Any] = {}
                return combine(*now, *(x.at(i, axis, known) for x in arrays))

            start = [jnp.broadcast_to(self.full(x), shape) for x in starts]
            return [_Lanes(x) for x in lax.fori_loop(0, whole[axis], step, start)]

        axes = sorted(eqn.params["dimensions"], reverse=True)
        return functools.reduce(
            along, axes, [x if isinstance(x, _Lanes) else _Lanes(self.full(x)) for x in arrays]
        )

    def _scan(self, eqn: Any, args: list[Any]) -> list[Any]:
        inner = inner_program(eqn)
        assert inner is not None
        ends = list(itertools.accumulate(scan_arity(eqn)))
        consts, carry, xs = _divided(args, ends)
        fixed, carried, scanned = _divided(_flags(args), ends)

        def after(now: list[bool]) -> tuple[list[bool], list[bool]]:
            outs = _dependent(inner.jaxpr, [*fixed, *now, *scanned])
            return outs[: len(now)], outs[len(now) :]

        carried = _settled(lambda now: after(now)[0], carried)
        stacked = after(carried)[1]

        def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outs = self.run(inner, [*consts, *_wrapped(carry, carried), *_wrapped(x, scanned)])
            later, y = outs[: len(carry)], outs[len(carry) :]
            return self._unwrapped(later, carried), self._unwrapped(y, stacked)

        start = self._unwrapped(carry, carried)
        carry, ys = lax.scan(body, start, [_held(x) for x in xs], **scan_options(eqn))
        return [*_wrapped(carry, carried), *_wrapped(ys, stacked)]

    def _while(self, eqn: Any, args: list[Any]) -> list[Any]:
        condition, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])
        ends = list(itertools.accumulate((eqn.params["cond_nconsts"], eqn.params["body_nconsts"])))
        of_condition, of_body, carry = _divided(args, ends)

        def after(now: list[bool]) -> list[bool]:
            (own,) = _dependent(condition.jaxpr, [*_flags(of_condition), *now])
            # Where lanes end at different times, all that the loop carries differs between them.
            return [own or flag for flag in _dependent(body.jaxpr, [*_flags(of_body), *now])]

        carried = _settled(after, _flags(carry))

        def unfinished(carry: list[Any]) -> Any:
            return self.run(condition, [*of_condition, *_wrapped(carry, carried)])[0]

        def step(carry: list[Any]) -> list[Any]:
            outs = self.run(body, [*of_body, *_wrapped(carry, carried)])
            later, on = self._unwrapped(outs, carried), unfinished(carry)
            if isinstance(on, _Lanes):
                later = [jnp.where(on.array, new, old) for new, old in zip(later, carry, strict=True)]
            return later

        start = self._unwrapped(carry, carried)
        end = lax.while_loop(lambda carry: jnp.any(_held(unfinished(carry))), step, start)
        return _wrapped(end, carried)

    def _cond(self, eqn: Any, args: list[Any]) -> list[Any]:
        index, operands = args[0], args[1:]
        branches = [closed(branch) for branch in eqn.params["branches"]]
        if isinstance(index, _Lanes):
            outs = [[self.full(out) for out in self.run(branch, operands)] for branch in branches]
            return [_Lanes(_chosen(index.array, of_branches)) for of_branches in zip(*outs, strict=True)]
        flags = _flags(operands)

        def branch(program: Any) -> Callable:
            return lambda values: [self.full(out) for out in self.run(program, _wrapped(values, flags))]

        outs = lax.switch(index, [branch(each) for each in branches], [_held(a) for a in operands])
        return [_Lanes(out) for out in outs]

    def _unwrapped(self, values: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
        return [self.full(x) if flag else x for x, flag in zip(values, flags, strict=True)]


def _held(x: Any) -> Any:
    return x.array if isinstance(x, _Lanes) else x


def _divided(values: Sequence[Any], ends: Sequence[int]) -> tuple[list[Any], list[Any], list[Any]]:
    first, second = ends
    return [*values[:first]], [*values[first:second]], [*values[second:]]


def _flags(values: Sequence[Any]) -> list[bool]:
    return [isinstance(x, _Lanes) for x in values]


def _wrapped(arrays: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    return [_Lanes(x) if flag else x for x, flag in zip(arrays, flags, strict=True)]


def _dependent(jaxpr: Any, flags: Sequence[bool]) -> list[bool]:
    """Which outputs may differ between lanes, given which inputs do."""

    def apply(eqn: Any, flags: list[Any]) -> list[bool]:
        return [any(flag is True for flag in flags)] * len(eqn.outvars)

    outs = evaluate(jaxpr, [False] * len(jaxpr.constvars), flags, apply, lambda _: False)
    return [bool(out) for out in outs]


def _settled(after: Callable[[list[bool]], list[bool]], flags: list[bool]) -> list[bool]:
    """Which carries of a loop differ between lanes after any number of steps."""
    while (later := [a or b for a, b in zip(flags, after(flags), strict=True)]) != flags:
        flags = later
    return flags


def _chosen(index: Any, values: Sequence[Any]) -> Any:
    """The values of the branches that lanes have taken."""
    chosen = values[-1]
    for i, value in enumerate(values[:-1]):
        chosen = jnp.where(index == i, value, chosen)
    return chosen


def _reduction(combine: Callable) -> Callable:
    def reduce(x: _Lanes, axis: int) -> _Lanes:
        """In index order."""

        def step(i: Any, now: Any) -> Any:
            return combine(now, x.at(i, axis, {}))

        return _Lanes(lax.fori_loop(1, x.array.shape[axis], step, x.at(0, axis, {}), unroll=_AT_ONCE))

    return reduce


def _search(better: Callable, x: _Lanes, axis: int, dtype: Any) -> _Lanes:
    """The first index of an extremum."""

    def step(i: Any, now: tuple[Any, Any]) -> tuple[Any, Any]:
        (best, place), value = now, x.at(i, axis, {})
        wins = better(value, best)  # strict, so that ties keep the first index
        return jnp.where(wins, value, best), jnp.where(wins, i.astype(dtype), place)

    first = x.at(0, axis, {})
    start = first, jnp.zeros(first.shape, dtype)
    return _Lanes(lax.fori_loop(1, x.array.shape[axis], step, start, unroll=_AT_ONCE)[1])


# fmt: off
_CHEAP = {
    "abs", "add", "and", "clamp", "convert_element_type", "copy", "eq", "ge", "gt", "le", "lt", "max", "min",
    "mul", "ne", "neg", "not", "or", "select_n", "stop_gradient", "sub", "xor",
}
# fmt: on

_LOOPS = {"scan": "_scan", "while": "_while", "cond": "_cond"}

_REDUCTIONS = {
    "reduce_sum": _reduction(lax.add),
    "reduce_prod": _reduction(lax.mul),
    "reduce_max": _reduction(lax.max),
    "reduce_min": _reduction(lax.min),
    "reduce_and": _reduction(lax.bitwise_and),
    "reduce_or": _reduction(lax.bitwise_or),
}

_SEARCHES = {"argmax": lax.gt, "argmin": lax.lt}
