"""Run a program on many lanes as one GPU kernel: `fuse(fn)` is a `vmap` of `fn`, loops included.

XLA launches several kernels for each step of a scan, and an episode has thousands of steps. Here the whole
episode is one kernel of JAX's Mosaic GPU backend (Hopper and later): each lane is a thread, its state stays
in registers, and only the requested outputs are written to memory.

This is not a second simulator: the function is traced and unrolled to scalars (`unroll.py`), and its jaxpr
is emitted into the kernel with every scalar as an array of lanes. Two things need special rules, since a
kernel can neither index an array held in registers nor scan over one: arrays stay in memory, where indexing
selects a part (`_View`), and a scan becomes a counted loop that reads its inputs from memory and writes its
outputs to memory. Any other operation that is not elementwise raises NotImplementedError when the kernel is
built.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from amco_jax.compile.unroll import inner_program, scan_arity, unroll

log = logging.getLogger(__name__)

LANES = 128
"""Threads in a kernel block: four warps, which Mosaic GPU programs as one warpgroup."""

SWITCH = "AMCO_JAX_FUSED"
"""The environment variable that enables these kernels when it is 1."""


@functools.cache
def fusing() -> bool:
    """Whether these kernels are enabled and the default device supports them."""
    if os.environ.get(SWITCH) != "1":
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "none"))  # "9.0"; "gfx90a" on AMD
    able = capability.split(".")[0].isdigit() and float(capability) >= 9
    if not able:
        log.warning("%s=1 has no effect: it needs a GPU of compute capability 9.0 or later", SWITCH)
    return able


def fuse(fn: Callable, interpret: Any = None) -> Callable:
    """Return a function of `(common, laned)` that computes `vmap(fn, (None, 0))` in one kernel.

    It takes exactly `LANES` lanes. Under `vmap` it is still one kernel, with a block of threads per element.

    Args:
      fn: `fn(common, laned)` for one lane, from pytrees of arrays to a pytree of arrays. Each output must be
        a scalar or the stacked output of scans, with the scanned axes in order.
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
            views = [_View(refs[i], x, laned=i >= num_common) for i, x in enumerate(one)]
            goals = [[_View(ref, x, laned=True)] for ref, x in zip(refs[len(one) :], outs, strict=True)]
            # The interpreter does not support layouts.
            _Emitter(lambda x: x if interpret else plgpu.layout_cast(x, layout)).program(closed, views, goals)

        call = plgpu.kernel(
            kernel,
            out_type=[jax.ShapeDtypeStruct((*x.shape, LANES), _stored(x.dtype)) for x in outs],
            # No thread reads what another has written.
            compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
            interpret=interpret,
        )
        # Lanes come last in memory, so that a warp reads and writes neighbouring words.
        stored = [x.astype(_stored(x.dtype)) for x in leaves]
        results = call(*stored[:num_common], *(jnp.moveaxis(x, 0, -1) for x in stored[num_common:]))
        lanes_first = (jnp.moveaxis(y, -1, 0).astype(x.dtype) for y, x in zip(results, outs, strict=True))
        return jax.tree.unflatten(out_tree, list(lanes_first))

    return fused


def _stored(dtype: Any) -> Any:
    """The dtype in memory: flags take a whole word."""
    return jnp.int32 if dtype == jnp.bool_ else dtype


@dataclasses.dataclass(frozen=True)
class _Range:
    """A contiguous range along an axis."""

    start: Any
    size: int


class _View:
    """A part of an array in memory, with an index or a range per axis; it is read once no axis is left.

    Args:
      of: shape and dtype of one lane's array.
      laned: whether the array has a trailing axis over lanes.
    """

    def __init__(self, ref: Any, of: Any, laned: bool, index: tuple | None = None):
        self.ref, self.of, self.laned = ref, of, laned
        self.index = tuple(_Range(0, n) for n in of.shape) if index is None else index

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(i.size for i in self.index if isinstance(i, _Range))

    def _replace(self, axis: int, change: Callable[[_Range], Any]) -> _View:
        position = [k for k, i in enumerate(self.index) if isinstance(i, _Range)][axis]
        index = [change(i) if k == position else i for k, i in enumerate(self.index)]  # pyright: ignore
        return _View(self.ref, self.of, self.laned, tuple(index))

    def at(self, i: Any, axis: int = 0) -> _View:
        """One element along an axis."""
        return self._replace(axis, lambda r: r.start + i)

    def narrowed(self, starts: Sequence[Any], sizes: Sequence[int]) -> _View:
        """A range along each axis."""
        view = self
        for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            view = view._replace(axis, lambda r, start=start, size=size: _Range(r.start + start, size))
        return view

    def without(self, axes: Sequence[int]) -> _View:
        """The view without some axes, each of size 1."""
        view = self
        for axis in sorted(axes, reverse=True):
            view = view.at(0, axis)
        return view

    @property
    def _place(self) -> tuple:
        assert not self.shape
        return (*self.index, slice(None)) if self.laned else self.index

    def load(self) -> Any:
        value = self.ref[self._place]
        return value != 0 if self.of.dtype == bool else value

    def store(self, value: Any) -> None:
        self.ref[self._place] = value.astype(_stored(self.of.dtype))


class _Row(tuple):
    """A small array whose elements are separate values."""

    def at(self, i: Any) -> Any:
        """Element `i`, as a chain of selects over all elements."""
        return functools.reduce(lambda x, k: jnp.where(i == k, self[k], x), range(1, len(self)), self[0])


def _view_reshape(params, view: _View) -> _View:
    surplus = len(view.shape) - len(params["new_sizes"])
    reshaped = view.without([axis for axis, n in enumerate(view.shape) if n == 1][: max(surplus, 0)])
    if reshaped.shape != params["new_sizes"]:
        raise NotImplementedError(f"reshape from {view.shape} to {params['new_sizes']} in a kernel")
    return reshaped


def _view_slice(params, view: _View) -> _View:
    if any(step != 1 for step in params["strides"] or ()):
        raise NotImplementedError("a strided slice in a kernel")
    starts, limits = params["start_indices"], params["limit_indices"]
    return view.narrowed(starts, [limit - start for start, limit in zip(starts, limits, strict=True)])


def _view_dynamic_slice(params, view: _View, *starts) -> _View:
    sizes = params["slice_sizes"]
    limits = [n - size for n, size in zip(view.shape, sizes, strict=True)]
    clamped = [
        0 if limit == 0 else jnp.clip(jnp.asarray(start, jnp.int32), 0, limit)
        for start, limit in zip(starts, limits, strict=True)
    ]
    return view.narrowed(clamped, sizes)


_VIEW_RULES: dict[str, Callable] = {
    "reshape": _view_reshape,
    "slice": _view_slice,
    "dynamic_slice": _view_dynamic_slice,
    "squeeze": lambda params, view: view.without(params["dimensions"]),
}

_Goals = Sequence[list[_View] | None]
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
        targets: dict[Any, list[_View]] = {}
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
            return value.load() if isinstance(value, _View) and not value.shape else value

        for var, goal in zip(jaxpr.outvars, goals, strict=True):
            if isinstance(var, jex.Literal) or var in env:
                self._deliver(read(var), goal or [])
        for eqn in reversed(eqns):
            wanted = [targets.get(v, [] if v in live else None) for v in eqn.outvars]
            outs = self._equation(eqn, [read(v) for v in eqn.invars], wanted)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [None if goal is None else read(var) for var, goal in zip(jaxpr.outvars, goals, strict=True)]

    def _deliver(self, value: Any, places: Sequence[_View]) -> None:
        if places and isinstance(value, _View | _Row):
            raise NotImplementedError("an array returned unchanged from a kernel")
        for place in places:
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
        if name in ("copy", "stop_gradient"):
            return args
        if name == "stack" and not any(v.aval.shape for v in eqn.invars):
            return [_Row(args)]
        if any(isinstance(a, _View | _Row) for a in args):
            if name not in _VIEW_RULES or not isinstance(args[0], _View):
                raise NotImplementedError(f"{name} of an array in a kernel")
            return [_VIEW_RULES[name](params, *args)]
        if all(isinstance(a, np.ndarray | np.generic | jax.Array) and not _traced(a) for a in args):
            with jax.ensure_compile_time_eval():
                outs = eqn.primitive.bind(*args, **params)
            return list(map(np.asarray, outs if eqn.primitive.multiple_results else [outs]))
        if any(v.aval.shape for v in (*eqn.invars, *eqn.outvars)):
            raise NotImplementedError(f"{name} of {[str(v.aval) for v in eqn.invars]} in a kernel")
        if any(np.shape(a) for a in args):
            args = [a if np.shape(a) else lax.broadcast(jnp.asarray(a), (LANES,)) for a in args]
            if name == "broadcast_in_dim":
                return args
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


def _traced(x: Any) -> bool:
    return isinstance(x, Tracer)


def _element(x: Any, i: Any) -> Any:
    """Element `i` of an array that a scan runs over."""
    if isinstance(x, _View | _Row):
        return x.at(i)
    if not _traced(x):
        x = np.asarray(x)
        steps = set(np.diff(x).tolist()) if x.ndim == 1 and x.dtype.kind in "iu" else {None, 0}
        if len(steps) <= 1:  # a counter
            return (i * (steps.pop() if steps else 0) + int(x[0])).astype(x.dtype)
    raise NotImplementedError("a scan over an array that is computed inside the kernel")
