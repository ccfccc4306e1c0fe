"""Run a program on many lanes as one GPU kernel: `fuse(fn)` is a `vmap` of `fn`, loops included.

XLA launches several kernels for each step of a scan, and an episode has thousands of steps. Here a whole
episode, or at least the service of a slot, is one kernel of JAX's Mosaic GPU backend (Hopper and later): each
lane is a thread, its state stays in registers, and only the requested outputs are written to memory.

This is not a second simulator: the function is traced and unrolled to scalars (`unroll.py`), and its jaxpr
is emitted into the kernel with every scalar as an array of lanes. Two things need special rules, since a
kernel can neither index an array held in registers nor scan over one: arrays stay in memory, where indexing
selects a part (`views.py`), and a scan becomes a counted loop that reads its inputs from memory and writes
its outputs to memory. Any other operation that is not elementwise raises NotImplementedError when the kernel
is built.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from amco_jax.compile.jaxprs import inner_program, scan_arity
from amco_jax.compile.unroll import unroll
from amco_jax.compile.views import VIEW_RULES, Row, View, is_packed, packed_words, stored_dtype

LANES = 128
"""Threads in a kernel block: four warps, which Mosaic GPU programs as one warpgroup."""

SWITCH = "AMCO_JAX_FUSED"
"""The environment variable that disables these kernels when it is 0."""


@functools.cache
def fusing() -> bool:
    """Whether the default device supports these kernels, and they are not disabled."""
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "none"))  # "9.0"; "gfx90a" on AMD
    able = capability.split(".")[0].isdigit() and float(capability) >= 9
    return able and os.environ.get(SWITCH) != "0"


def fuse_under_vmap(fn: Callable) -> Callable:
    """Return `unroll(fn)`, whose `vmap` is computed by kernels of `fuse`; other axes become their grid.

    Arguments that are not mapped are held once for all lanes. Lanes of padding, up to a multiple of `LANES`,
    compute the last lane again.

    Args:
      fn: a function of pytrees of arrays, with outputs as `fuse` supports them.
    """
    fused = jax.custom_batching.custom_vmap(unroll(fn))

    @fused.def_vmap
    def on_lanes(size: int, mapped: Any, *args: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(args)
        is_mapped = jax.tree.leaves(mapped)
        blocks = -(-size // LANES)

        def in_blocks(x: Any) -> Any:
            padded = jnp.pad(x, [(0, blocks * LANES - size)] + [(0, 0)] * (x.ndim - 1), mode="edge")
            return padded.reshape(blocks, LANES, *x.shape[1:])

        def of_lane(common: list[Any], laned: list[Any]) -> Any:
            rest = {False: iter(common), True: iter(laned)}
            return fn(*jax.tree.unflatten(tree, [next(rest[flag]) for flag in is_mapped]))

        pairs = [*zip(leaves, is_mapped, strict=True)]
        common, laned = [x for x, flag in pairs if not flag], [in_blocks(x) for x, flag in pairs if flag]
        outs = jax.vmap(fuse(of_lane), (None, 0))(common, laned)
        outs = jax.tree.map(lambda y: y.reshape(blocks * LANES, *y.shape[2:])[:size], outs)
        return outs, jax.tree.map(lambda _: True, outs)

    return fused


def fuse(fn: Callable, interpret: Any = None) -> Callable:
    """Return a function of `(common, laned)` that computes `vmap(fn, (None, 0))` in one kernel.

    It takes exactly `LANES` lanes. Under `vmap` it is still one kernel, with a block of threads per element.

    Args:
      fn: `fn(common, laned)` for one lane, from pytrees of arrays to a pytree of arrays. Each output must be
        a scalar, a vector that is split into scalars, or the stacked output of scans, with the scanned axes
        in order.
      interpret: parameters of Pallas' interpreter for GPU kernels; None compiles for the GPU.

    Raises:
      NotImplementedError: `fn` uses an operation that a kernel does not support; raised when the result is
        traced or lowered.
    """

    @functools.wraps(fn)
    def fused(common, laned):
        from jax.experimental.pallas import mosaic_gpu as plgpu  # an unstable API, needed only here

        layout = plgpu.Layout.WG_STRIDED((LANES,), vec_size=1)
        leaves, tree = jax.tree.flatten((common, laned))
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        num_common = len(jax.tree.leaves(common))
        one = [jax.ShapeDtypeStruct(x.shape[i >= num_common :], x.dtype) for i, x in enumerate(leaves)]
        closed, out_shape = jax.make_jaxpr(unroll(fn), return_shape=True)(*jax.tree.unflatten(tree, one))
        outs, out_tree = jax.tree.flatten(out_shape)

        def kernel(*refs):
            views = [View(refs[i], x, laned=i >= num_common, packed=is_packed(x)) for i, x in enumerate(one)]
            goals = [[View(ref, x, laned=True)] for ref, x in zip(refs[len(one) :], outs, strict=True)]
            # The interpreter does not support layouts.
            _Emitter(lambda x: x if interpret else plgpu.layout_cast(x, layout)).program(closed, views, goals)

        call = plgpu.kernel(
            kernel,
            out_type=[jax.ShapeDtypeStruct((*x.shape, LANES), stored_dtype(x.dtype)) for x in outs],
            # No thread reads what another has written.
            compiler_params=plgpu.CompilerParams(
                unsafe_no_auto_barriers=True, lowering_semantics=plgpu.LoweringSemantics.Lane
            ),
            interpret=interpret,
        )
        # Lanes come last in memory, so that a warp reads and writes neighbouring words.
        stored = [
            packed_words(x) if is_packed(of) else x.astype(stored_dtype(x.dtype))
            for x, of in zip(leaves, one, strict=True)
        ]
        results = call(*stored[:num_common], *(jnp.moveaxis(x, 0, -1) for x in stored[num_common:]))
        lanes_first = (jnp.moveaxis(y, -1, 0).astype(x.dtype) for y, x in zip(results, outs, strict=True))
        return jax.tree.unflatten(out_tree, list(lanes_first))

    return fused


_Goals = Sequence[list[View] | None]
"""Where each output must be stored, besides being returned as a value; None if it is not needed."""


class _Emitter:
    """Emits a jaxpr into a kernel.

    A value is a scalar or an array `[LANES]`, a NumPy array if it is known at compile time, a view of an
    array in memory, or a row.
    """

    def __init__(self, settle: Callable[[Any], Any]):
        self._settle = settle

    def _spread(self, x: Any) -> Any:
        """A value per lane, in a register of each thread, as loops must carry it."""
        x = jnp.asarray(x)
        return self._settle(x if x.shape else lax.broadcast(x, (LANES,)))

    def program(self, closed: jex.ClosedJaxpr, args: Sequence[Any], goals: _Goals) -> list[Any]:
        """The outputs of a program; None for those that are only stored to memory, or not needed at all."""
        jaxpr = closed.jaxpr
        targets: dict[Any, list[View]] = {}
        for var, goal in zip(jaxpr.outvars, goals, strict=True):
            if goal is not None and not isinstance(var, jex.Literal):
                targets.setdefault(var, []).extend(goal)
        live, eqns = set(targets), []
        for eqn in reversed(jaxpr.eqns):
            if not live.isdisjoint(eqn.outvars):
                live.update(v for v in eqn.invars if not isinstance(v, jex.Literal))
                eqns.append(eqn)
        env = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        env |= dict(zip(jaxpr.invars, args, strict=True))

        def read(var):
            if isinstance(var, jex.Literal):
                return np.asarray(var.val, var.aval.dtype)  # pyright: ignore
            value = env[var]
            return value.load() if isinstance(value, View) and not value.shape else value

        for var, goal in zip(jaxpr.outvars, goals, strict=True):
            if isinstance(var, jex.Literal) or var in env:
                self._deliver(read(var), goal or [])
        for eqn in reversed(eqns):
            wanted = [targets.get(v, [] if v in live else None) for v in eqn.outvars]
            outs = self._equation(eqn, [read(v) for v in eqn.invars], wanted)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [None if goal is None else read(var) for var, goal in zip(jaxpr.outvars, goals, strict=True)]

    def _deliver(self, value: Any, places: Sequence[View]) -> None:
        if places and isinstance(value, View):
            raise NotImplementedError("an array returned unchanged from a kernel")
        for place in places:
            if isinstance(value, Row):
                for k, element in enumerate(value):
                    place.at(k).store(self._spread(element))
            else:
                place.store(self._spread(value))

    def _equation(self, eqn, args: list[Any], goals: _Goals) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self._loop(eqn, args, goals)
        if (inner := inner_program(eqn)) is not None:
            return self.program(inner, args, goals)
        outs = self._values(eqn, name, params, args)
        for out, goal in zip(outs, goals, strict=True):
            self._deliver(out, goal or [])
        return outs

    def _values(self, eqn, name: str, params, args: list[Any]) -> list[Any]:
        if name in ("copy", "reshard", "stop_gradient"):
            return args
        if name == "stack" and not any(v.aval.shape for v in eqn.invars):
            return [Row(args)]
        if any(isinstance(a, View | Row) for a in args):
            if name not in VIEW_RULES or not isinstance(args[0], View):
                raise NotImplementedError(f"{name} of an array in a kernel")
            return VIEW_RULES[name](params, *args)
        if all(isinstance(a, np.ndarray | np.generic | jax.Array) and not _traced(a) for a in args):
            with jax.ensure_compile_time_eval():
                outs = eqn.primitive.bind(*args, **params)
            return list(map(np.asarray, outs if eqn.primitive.multiple_results else [outs]))
        if name in ("while", "cond"):
            raise NotImplementedError(f"a {name} in a kernel")
        if any(v.aval.shape for v in (*eqn.invars, *eqn.outvars)):
            raise NotImplementedError(f"{name} of {[str(v.aval) for v in eqn.invars]} in a kernel")
        if any(np.shape(a) for a in args):
            args = [a if np.shape(a) else lax.broadcast(jnp.asarray(a), (LANES,)) for a in args]
            if name == "broadcast_in_dim":
                return args
        if name in _EQUIVALENTS:
            return [_EQUIVALENTS[name](*args)]
        outs = eqn.primitive.bind(*args, **params)
        return list(outs) if eqn.primitive.multiple_results else [outs]

    def _loop(self, eqn, args: list[Any], goals: _Goals) -> list[Any]:
        inner, (n_consts, n_carry) = inner_program(eqn), scan_arity(eqn)
        assert inner is not None
        consts, carry, xs = args[:n_consts], args[n_consts : n_consts + n_carry], args[n_consts + n_carry :]
        length, kept = eqn.params["length"], goals[n_carry:]

        def body(step, carry):
            i = length - 1 - step if eqn.params["reverse"] else step
            places = [None if goal is None else [view.at(i) for view in goal] for goal in kept]
            inputs = [_element(x, i) for x in xs]
            outs = self.program(inner, [*consts, *carry, *inputs], [*[[]] * n_carry, *places])
            return [self._spread(out) for out in outs[:n_carry]]

        bounds = np.int32(0), np.int32(length)
        carry = lax.fori_loop(*bounds, body, [self._spread(c) for c in carry])
        for value, goal in zip(carry, goals, strict=False):
            self._deliver(value, goal or [])
        return [*carry, *[None] * len(kept)]


def _sqrt(x: Any) -> Any:
    """The square root, to the last bit or the one before it."""
    root = x * lax.rsqrt(x)
    # A step of Newton's method mends the last bits of the product.
    root = root + (x - root * root) / (root + root)
    return jnp.where((x > 0) & (x < np.inf), root, jnp.where(x < 0, np.asarray(np.nan, x.dtype), x))


def _floor(x: Any) -> Any:
    nearest = lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.where(nearest > x, nearest - 1, nearest)


_EQUIVALENTS: dict[str, Callable[..., Any]] = {
    "ceil": lambda x: -_floor(-x),
    "floor": _floor,
    "is_finite": lambda x: lax.abs(x) < np.asarray(np.inf, x.dtype),
    "sqrt": _sqrt,
}
"""Functions for operations that Mosaic does not lower, by the names of their primitives"""


def _traced(x: Any) -> bool:
    return isinstance(x, Tracer)


def _element(x: Any, i: Any) -> Any:
    """Element `i` of an array that a scan runs over."""
    if isinstance(x, View | Row):
        return x.at(i)
    if not _traced(x):
        x = np.asarray(x)
        steps = set(np.diff(x).tolist()) if x.ndim == 1 and x.dtype.kind in "iu" else {None, 0}
        if len(steps) <= 1:  # a counter
            return (i * (steps.pop() if steps else 0) + int(x[0])).astype(x.dtype)
    raise NotImplementedError("a scan over an array that is computed inside the kernel")
